"""Which query sees which key, as options: a pattern by name, a mask, blocks or a function of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern


@dataclass(frozen=True)
class PatternChoice:
    """Which query sees which key."""

    RANK: ClassVar = 2
    RARE: ClassVar = ("dilation", "blocks", "block_size", "mask_mod")

    pattern: Annotated[
        str | None,
        typer.Option(
            help="{patterns}; settings after a colon: local:window=2; joined by & and |: 'documents & causal'.  "
            "\\[default: the dump's own, else global]"
        ),
    ] = None
    window: Annotated[int | None, typer.Option(help="Keys to each side of a query, for local patterns.")] = None
    dilation: Annotated[int | None, typer.Option(help="Steps of the window.  \\[default: 1]")] = None
    causal: Annotated[bool, typer.Option("--causal", help="Hide what comes after the query.")] = False
    mask_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE:NAME",
            help="Mask of your own: (T, S), (B, T, S), (B, H, T, S), or (B, S) of padding; bool, 0 and 1, or added numbers.",
        ),
    ] = None
    blocks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE:NAME", help="Bool matrix of blocks (n_q, n_k), or (H, n_q, n_k): which block sees which."
        ),
    ] = None
    block_size: Annotated[
        str | None, typer.Option(metavar="Q[/K]", help="Queries and keys to a block: 128 or 64/128.  \\[default: 128]")
    ] = None
    mask_mod: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="FlexAttention's mask_mod or BlockMask, or a pattern: runs that file, your own code.",
        ),
    ] = None

    def paths(self) -> list[Path]:
        """The files this reads."""
        from attnviz.base.owncode import OwnName
        from attnviz.sources.naming import TensorRef

        found = [TensorRef.parse(text).path for text in (self.mask_file, self.blocks) if text is not None]
        found += [] if self.mask_mod is None else [OwnName.parse(self.mask_mod, "--mask-mod").path]
        return [path for path in found if path is not None]

    def on(self, inputs: Inputs) -> tuple[Inputs, Pattern]:
        """Inputs and the pattern asked for of them; a mask of one's own may be of padding, or add to their scores.

        Raises:
            InputError: as :meth:`choose`; a mask that doesn't fit the inputs.
        """
        if self.mask_file is None:
            return inputs, self.choose(inputs.pattern)
        from attnviz.attention.masks import with_mask
        from attnviz.attention.patterns import Causal, GlobalKeys
        from attnviz.sources.dumps import read_tensor

        self._alone("--mask-file")
        masked = with_mask(
            inputs, read_tensor(self.mask_file, option="--mask-file"), name=f"--mask-file {self.mask_file}"
        )
        pattern = masked.pattern or GlobalKeys()
        return masked, pattern & Causal() if self.causal else pattern

    def _alone(self, option: str) -> None:
        """Raises InputError where another option says which query sees which key besides ``option``."""
        others = {
            "--pattern": self.pattern,
            "--window": self.window,
            "--dilation": self.dilation,
            "--mask-file": self.mask_file,
            "--blocks": self.blocks,
            "--mask-mod": self.mask_mod,
        }
        for name, value in others.items():
            if value is not None and name != option:
                raise InputError(f"{name} {value}: {option} says which query sees which key already; give one")

    def _own(self) -> Pattern | None:
        """The blocks or the function of pairs that are given."""
        if self.block_size is not None and self.blocks is None:
            raise InputError(
                f"--block-size {self.block_size}: it is of --blocks, and none are given; add --blocks FILE:NAME"
            )
        if self.blocks is not None:
            from attnviz.attention.patterns import Blocks
            from attnviz.sources.dumps import read_tensor

            self._alone("--blocks")
            sizes = (self.block_size or "128").split("/")
            if not all(size.strip().isdecimal() for size in sizes) or len(sizes) > 2:
                raise InputError(
                    f"--block-size {self.block_size!r} is not a number of queries and keys; write 128 or 64/128"
                )
            return Blocks(read_tensor(self.blocks, option="--blocks"), (int(sizes[0]), int(sizes[-1])))
        if self.mask_mod is not None:
            from attnviz.attention.names import pattern_of
            from attnviz.base.owncode import OwnName

            self._alone("--mask-mod")
            return pattern_of(OwnName.parse(self.mask_mod, "--mask-mod").load())
        return None

    def choose(self, own: Pattern | None = None) -> Pattern:
        """The pattern asked for; where none is, ``own`` or the global keys.

        Raises:
            InputError: settings that the pattern has no use for, or options that say it twice.
        """
        from attnviz.attention.names import named_pattern
        from attnviz.attention.patterns import Causal, GlobalKeys

        given = self._own()
        if given is not None:
            return given & Causal() if self.causal else given
        if self.pattern is None and own is not None and not self.given():
            return own
        if self.pattern is None and (self.window is not None or self.dilation is not None):
            raise InputError("--window and --dilation need a local pattern; add --pattern local or local+global")
        if self.pattern is None:
            base = own or GlobalKeys()
            return base & Causal() if self.causal else base
        return named_pattern(self.pattern, window=self.window, dilation=self.dilation, causal=self.causal)

    def given(self) -> bool:
        """Whether anything was asked for."""
        return any(value is not None and value is not False for value in vars(self).values())
