"""A peer's page of one random head. Arguments: bertviz | circuitsvis, then the number of tokens."""

import sys

import torch

peer, T = sys.argv[1], int(sys.argv[2])
weights = torch.softmax(torch.randn(1, 1, T, T, generator=torch.Generator().manual_seed(0)), dim=-1)
tokens = [f"t{position}" for position in range(T)]
if peer == "bertviz":
    from bertviz import head_view

    page = head_view((weights,), tokens, html_action="return").data
else:
    from circuitsvis.attention import attention_patterns

    page = str(attention_patterns(tokens, weights[0]))
print(len(page))
