"""A peer's page of random heads. Arguments: bertviz | circuitsvis, layers, heads, tokens, and the file to write.

BertViz's model view takes all layers; CircuitsVis's attention patterns one.
"""

import sys
from pathlib import Path

import torch

peer, layers, heads, T, out = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
generator = torch.Generator().manual_seed(0)
weights = tuple(torch.softmax(torch.randn(1, heads, T, T, generator=generator), dim=-1) for _ in range(layers))
tokens = [f"t{position}" for position in range(T)]
if peer == "bertviz":
    from bertviz import model_view

    page = model_view(weights, tokens, html_action="return").data
else:
    from circuitsvis.attention import attention_patterns

    page = str(attention_patterns(tokens, weights[0][0]))
out.write_text(page)
