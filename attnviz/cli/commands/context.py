"""``attnviz context``: softmax carried through to the values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.groups import command
from attnviz.cli.options import Batch, Compute, Heads
from attnviz.cli.source import Source


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz context dump.safetensors --pattern causal -o context.safetensors")
    def context(
        source: Source,
        out: Annotated[
            Path,
            typer.Option("--out", "-o", help="File to write: .safetensors, .npz, .pt or .pth.", show_default=False),
        ],
        batch: Batch = "all",
        head: Heads = "all",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
    ) -> None:
        """Write the context, softmax times v: a tensor called context, (B, H, T, D), B and H as selected.

        A query that sees nothing has a context of NaN.
        """
        import torch

        from attnviz.base.selections import parse_indices
        from attnviz.base.writing import check_output
        from attnviz.cli.console import note
        from attnviz.measures.context import context as compute_context
        from attnviz.sources.files import WRITABLE, write_tensors

        out = check_output(out, WRITABLE, inputs=[*source.paths(), *choice.paths()])
        inputs = source.load(compute.dtype, values=True)
        items = parse_indices(batch, inputs.B, option="--batch", noun="batch item")
        heads = parse_indices(head, inputs.H, option="--head", noun="head")
        inputs, pattern = choice.on(inputs)
        contexts = [
            compute_context(inputs, pattern, batch=item, heads=heads, device=compute.device).cpu() for item in items
        ]
        whole = torch.stack(contexts)
        write_tensors(
            out,
            {"context": whole},
            {"source": inputs.source, "pattern": str(pattern), "heads": list(heads), "batch": list(items)},
        )
        note(f"wrote {out}: context {tuple(whole.shape)}")
