"""What people do now: the whole map by einsum and softmax, drawn by seaborn. Arguments: DUMP PNG."""

import sys

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import seaborn
import torch
from safetensors.torch import load_file

dump = load_file(sys.argv[1])
q, k = dump["q"][0], dump["k"][0]
scores = torch.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5
weights = torch.softmax(scores, dim=-1)[0]
seaborn.heatmap(weights.numpy())
plt.savefig(sys.argv[2])
