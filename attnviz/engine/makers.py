"""Who makes an attention: the formula over q and k, or the weights that were given."""

from __future__ import annotations

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.given import Given


def attention_of(item: AttentionItem, pattern: Pattern) -> Attention:
    """The attention of a batch item under a pattern."""
    return Given(item, pattern) if item.given else Computed(item, pattern)
