"""Who makes an attention: the formula over q and k, weights that were given, reduced maps, or what is derived from others."""

from __future__ import annotations

from attnviz.attention.derived import DerivedInputs, with_pattern
from attnviz.attention.item import AttentionItem
from attnviz.attention.merged import MergedInputs
from attnviz.attention.patterns import GlobalKeys, Pattern
from attnviz.attention.reduced import ReducedMaps
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.combined import Combined
from attnviz.engine.given import Given
from attnviz.engine.merged import Merged
from attnviz.engine.norms import Normed
from attnviz.engine.rollout import Rollout
from attnviz.engine.stored import Stored


def attention_of(item: AttentionItem, pattern: Pattern) -> Attention:
    """The attention of a batch item under a pattern."""
    made = item.inputs
    if isinstance(made, MergedInputs):
        return Merged(item, pattern, attention_of(made.under(item), made.own))
    if isinstance(made, ReducedMaps):
        return Stored(item, pattern)
    if isinstance(item.inputs, DerivedInputs):
        return _derived(item, item.inputs, pattern)
    return Given(item, pattern) if item.given else Computed(item, pattern)


def _derived(item: AttentionItem, inputs: DerivedInputs, pattern: Pattern) -> Attention:
    """What is made of others, each under its own pattern, or under one for all."""
    parts = []
    made = with_pattern(inputs, pattern).parts
    for part, batch in zip(made, inputs.items or [item.batch] * len(made), strict=True):
        rounded = None if item.dtype == inputs.dtype else item.dtype  # layers may be of several dtypes
        parts.append(attention_of(part.item(batch, device=item.device, dtype=rounded), part.pattern or GlobalKeys()))
    if inputs.how == "rollout":
        return Rollout(item, parts)
    if inputs.how in ("norms", "norm-shares"):
        return Normed(item, parts[0], shares=inputs.how == "norm-shares")
    return Combined(item, parts, inputs.how, inputs.heads, "layers" if inputs.items is None else "batch items")
