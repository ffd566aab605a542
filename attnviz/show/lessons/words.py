"""What a lesson says, apart from its numbers: one :class:`Words` a language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class Count(int):
    """A number of things, whose noun a text may say: ``{keys:key}``.

    >>> f"{Count(1):key}, {Count(1240):key}, {Count(1240)}"
    '1 key, 1,240 keys, 1,240'
    """

    def __format__(self, noun: str) -> str:
        return f"{int(self):,}" + (f" {noun}{'s' * (self != 1)}" if noun else "")


@dataclass(frozen=True)
class Words:
    """The texts of one language, in the order of the lesson. ``{names}`` are filled with numbers."""

    quoted: str
    title: str
    global_key: str
    position_key: str
    settings: str
    global_query: str
    own_projections: str

    shapes_title: str
    sizes_head: tuple[str, str, str]
    size_H: str
    size_H_kv: str
    size_T: str
    size_S: str
    size_G: str
    size_D: str
    size_D_v: str
    shapes_head: tuple[str, str, str]
    batch_of: str
    queries: str
    keys: str
    values: str
    mask: str
    global_keys: str
    global_values: str
    scores: str
    weights: str
    weights_sink: str
    contexts: str
    grouped: str

    einsum_title: str
    letters_head: tuple[str, str, str]
    letter_h: str
    letter_t: str
    letter_s: str
    letter_g: str
    letter_d: str
    letter_kept: str
    letter_summed: str
    similarity: str
    einsum_letters: str
    loop_heads: str
    loop_queries: str
    loop_global: str
    loop_visible: str
    loop_dimensions: str
    einsum_count: str
    einsum_counted: str

    dot_title: str
    dot_head: tuple[str, str, str, str, str, str]
    dot_which: str
    dot_index: str
    others: str
    sum: str
    dot_note: str
    dot_cosine: str

    scale_title: str
    scale_given_title: str
    scale_given: str
    steps_title: str
    steps_head: tuple[str, str, str]
    step_dot: str
    step_scale: str
    step_softcap: str
    step_bias: str
    step_alibi: str

    excerpt_title: str
    excerpt_note: str

    why_title: str
    why_intro: str
    why_divided: str
    why_plain: str
    why_scale: str
    why_variance: str
    why_entropy: str
    why_share: str
    why_gradient: str
    explain_variance: str
    explain_entropy: str
    explain_gradient: str
    gradient_larger: str
    gradient_smaller: str
    gradient_alike: str
    nothing_to_compare: str

    softmax_title: str
    softmax_sees_global: str
    softmax_sees: str
    softmax_max: str
    softmax_max_sink: str
    softmax_head: tuple[str, str, str, str, str, str]
    softmax_sink: str
    softmax_note: str
    softmax_this: str
    sink_note: str

    context_title: str
    context_note: str
    context_norm: str
    no_values: str

    toy_title: str
    toy_note: str
    toy_prints: str

    summary_title: str
    summary: str
    summary_context: str
    next_steps: str

    figure_map: str
    figure_row: str
    map_note: str
    row_note: str
    figure_words: Mapping[str, str]
    """What a figure says, by its English words."""
