"""Every kind of mistake, in the order in which they are tried."""

from __future__ import annotations

from attnviz.compare.faults import (
    backward,
    bands,
    counts,
    documents,
    globals,
    heads,
    keys,
    masks,
    patterns,
    precision,
    rows,
    scores,
    softmax,
    tensors,
)
from attnviz.compare.faults.fault import FAULTS

_TRIED = (
    *(masks, bands, counts, globals, documents, patterns),  # who sees whom
    backward,
    *(heads, rows, keys, tensors),  # what is read
    precision,
    *(scores, softmax),  # what is made of it
)

_PLACES = {module.__name__: place for place, module in enumerate(_TRIED)}

FAULTS.sort(key=lambda fault: _PLACES.get(type(fault).__module__, len(_PLACES)))  # one from elsewhere last
