"""Who makes an attention: the formula over q and k, the weights that were given, or what is derived from either."""

from __future__ import annotations

from attnviz.attention.item import AttentionItem
from attnviz.attention.merged import MergedInputs
from attnviz.attention.patterns import Pattern
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.given import Given
from attnviz.engine.merged import Merged


def attention_of(item: AttentionItem, pattern: Pattern) -> Attention:
    """The attention of a batch item under a pattern."""
    made = item.inputs
    if isinstance(made, MergedInputs):
        return Merged(item, pattern, attention_of(made.under(item), made.own))
    return Given(item, pattern) if item.given else Computed(item, pattern)
