"""``attnviz synth``: a dump of random inputs that is the same on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnviz.cli.console import note
from attnviz.cli.groups import command


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz synth dump.safetensors --heads 12 --tokens 512 --global 0,3,7")
    def synth(
        out: Annotated[
            Path, typer.Argument(help="File to write: .safetensors, .npz, .pt or .pth.", show_default=False)
        ],
        heads: Annotated[int, typer.Option(help="Query heads H.")] = 8,
        tokens: Annotated[int, typer.Option(help="Positions T.")] = 10,
        head_dim: Annotated[int, typer.Option(help="Head dimension D.")] = 64,
        global_: Annotated[
            str | None,
            typer.Option(
                "--global",
                metavar="POSITIONS",
                help="Global positions: 0,3,7  0-3,17  every:512  random:16.  \\[default: 0,3,7 as far as there are tokens]",
            ),
        ] = None,
        structure: Annotated[
            str | None,
            typer.Option(
                metavar="NAMES", help="Plant structure: sink, local, induction or needle; several with commas."
            ),
        ] = None,
        batch: Annotated[int, typer.Option(help="Batch items B.")] = 1,
        kv_heads: Annotated[int | None, typer.Option(help="Key heads H_kv, a divisor of H.  \\[default: H]")] = None,
        dtype: Annotated[str, typer.Option(help="float16, bfloat16, float32 or float64.")] = "float32",
        seed: Annotated[int, typer.Option(help="Same seed, same tensors, on every machine.", min=0)] = 0,
        force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    ) -> None:
        """Write a dump of synthetic q, k, v, global mask and token labels."""
        from attnviz.base.selections import parse_positions
        from attnviz.base.writing import check_output
        from attnviz.sources.files import WRITABLE
        from attnviz.sources.saving import save
        from attnviz.sources.synthetic import synthesize

        out = check_output(out, WRITABLE, new=not force)
        inputs = synthesize(
            heads=heads,
            tokens=tokens,
            head_dim=head_dim,
            global_positions=None if global_ is None else parse_positions(global_, tokens, seed=seed),
            structure=() if structure is None else tuple(name.strip() for name in structure.split(",")),
            batch=batch,
            kv_heads=kv_heads,
            dtype=dtype,
            seed=seed,
        )
        save(out, inputs)
        count = int(inputs.global_mask[0].sum()) if inputs.global_mask is not None else 0
        note(f"wrote {out}: q {tuple(inputs.q.shape)}, k and v {tuple(inputs.k.shape)}, {count} global tokens, {dtype}")
