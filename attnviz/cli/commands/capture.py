"""``attnviz capture``: what went into a model's attention, to a dump."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.console import note
from attnviz.cli.groups import command

if TYPE_CHECKING:
    from attnviz.captures.pretrained import Fed, Pretrained
    from attnviz.captures.run import Run


@dataclass(frozen=True)
class RunsOn:
    """What the model runs on."""

    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Text to run the model on; several are items of a batch.", show_default=False
        ),
    ] = None
    pair: Annotated[str | None, typer.Option(help="Second text, for models that read two at once.")] = None
    file: Annotated[Path | None, typer.Option(help="File of text to run the model on.")] = None
    lines: Annotated[bool, typer.Option("--lines", help="Each line of the file is an item of a batch.")] = False
    ids: Annotated[str | None, typer.Option(help="Token ids to run the model on: 101,2023,102.")] = None
    image: Annotated[Path | None, typer.Option(help="Picture to run the model on.")] = None
    target: Annotated[str | None, typer.Option(help="Text for the decoder of an encoder-decoder model.")] = None
    max_tokens: Annotated[int | None, typer.Option(help="Cut the text to this many tokens.", min=1)] = None
    global_: Annotated[
        str | None,
        typer.Option("--global", metavar="POSITIONS", help="Global tokens of Longformer and LED: 0  0-3,17."),
    ] = None

    def check(self) -> None:
        """Raises InputError where it is nothing, or more than a model runs on at once."""
        given = {"--text": self.text or None, "--file": self.file, "--image": self.image, "--ids": self.ids}
        named = [option for option, value in given.items() if value is not None]
        if len(named) != 1 and named not in (["--text", "--image"], ["--file", "--image"]):
            found = f"{' and '.join(named)} are given" if named else "none is given"
            raise InputError(f"one of --text, --file, --ids and --image says what the model runs on; {found}")
        if self.image is not None or self.ids is not None:
            self._check_of_text("--image" if self.ids is None else "--ids")

    def _check_of_text(self, what: str) -> None:
        """Raises InputError for options of a text alone, where there is a picture or there are token ids."""
        of_text: dict[str, Any] = {"--pair": self.pair, "--max-tokens": self.max_tokens}
        if what == "--image":
            of_text |= {"--target": self.target, "--global": self.global_}
        for option, value in of_text.items():
            if value is not None:
                raise InputError(f"{option} {value}: it goes with text alone; leave it out, or {what}")

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        return [path for path in (self.file, self.image) if path is not None]

    def texts(self) -> list[str]:
        """The items of text. Raises InputError for a file without any, and for options that need one."""
        texts = list(self.text or ())
        if self.file is not None:
            whole = _read(self.file)
            texts = [line for line in whole.splitlines() if line.strip()] if self.lines else [whole]
            if not texts:
                raise InputError(f"--file {self.file}: has no line with text")
        elif self.lines:
            raise InputError("--lines: it is of a file's lines; name one with --file")
        if self.pair is not None and not texts:
            raise InputError("--pair: it follows a text; give one with --text")
        return texts

    def feed(self, pretrained: Pretrained, texts: Sequence[str]) -> Fed:
        """As inputs of the model."""
        from attnviz.captures.pretrained import feed_ids, feed_picture, feed_text, feed_text_and_picture

        options: dict[str, Any] = {"target": self.target, "global_positions": self.global_}
        if self.ids is not None:
            return feed_ids(pretrained, _ids(self.ids), **options)
        if self.image is None:
            return feed_text(pretrained, texts, pair=self.pair, max_tokens=self.max_tokens, **options)
        if len(texts) > 1:
            raise InputError(f"--image: it goes with one text, and {len(texts)} are given")
        return (
            feed_text_and_picture(pretrained, texts[0], self.image) if texts else feed_picture(pretrained, self.image)
        )


@dataclass(frozen=True)
class Kept:
    """What is kept."""

    layers: Annotated[str, typer.Option(help="Layers to keep: 0,5-7 or all.")] = "all"
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Don't hold rows of each layer against the model's own output.")
    ] = False
    maps: Annotated[
        bool,
        typer.Option("--maps", help="Keep each head's reduced map and statistics, and not q, k and v: small files."),
    ] = False
    pixels: Annotated[
        int | None, typer.Option(help="Cells a side of the maps of --maps: 256, 512, …  \\[default: 256]")
    ] = None

    def check(self) -> None:
        """Raises InputError for a size of maps that are not kept."""
        if self.pixels is not None and not self.maps:
            raise InputError(f"--pixels {self.pixels}: it is of reduced maps; add --maps")

    @property
    def cells(self) -> int | None:
        """The most cells a side of reduced maps; None where q, k and v are kept."""
        from attnviz.attention.reduced import LEAST

        return (self.pixels or LEAST) if self.maps else None

    def of(self, pretrained: Pretrained) -> Sequence[int] | None:
        """The layers; None is all."""
        from attnviz.base.selections import parse_indices

        if self.layers.strip().lower() == "all":
            return None
        return parse_indices(self.layers, pretrained.layers, option="--layers", noun="layer")


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example='attnviz capture ./my-model --text "The animal was tired." -o run.safetensors')
    def capture(
        model: Annotated[str, typer.Argument(help="Folder of a transformers model, or its name on the hub.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="Dump to write: .safetensors.", show_default=False)],
        runs_on: RunsOn = RunsOn(),
        kept: Kept = Kept(),
        attn: Annotated[
            str | None, typer.Option(help="Kernel: eager, sdpa, flash_attention_2, …  \\[default: the model's choice]")
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
        dtype: Annotated[
            str | None, typer.Option(help="float16, bfloat16, float32 or float64.  \\[default: the model's own]")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    ) -> None:
        """Run a model and write what went into its attention: q, k, v, masks and tokens of each layer.

        Each layer is written as soon as it has run, so that memory holds one layer.
        """
        from attnviz.base.writing import check_output

        runs_on.check()
        out = check_output(out, (".safetensors",), inputs=runs_on.files, new=not force)
        kept.check()
        texts = runs_on.texts()
        from attnviz.base.devices import parse_device, parse_dtype
        from attnviz.captures.pretrained import load_model

        where, kind = parse_device(device), parse_dtype(dtype)
        pretrained = load_model(model, dtype=kind, device=where, attention=attn)
        wanted = kept.of(pretrained)
        run = _run(pretrained, runs_on.feed(pretrained, texts), wanted, kept, out)
        note(f"wrote {out}: {_said(run, type(pretrained.model).__name__, kept)}")


def _run(pretrained: Pretrained, fed: Fed, layers: Sequence[int] | None, kept: Kept, out: Path) -> Run:
    """Runs the model while its attention is written."""
    import torch

    from attnviz.captures.run import capture as capture_run

    for line in fed.notes:
        note(line)
    about = {"model": type(pretrained.model).__name__, "attention": pretrained.config._attn_implementation}
    with (
        torch.no_grad(),
        capture_run(
            pretrained.model,
            layers,
            tokenizer=fed.tokenizer,
            out=out,
            metadata=about,
            check=not kept.no_check,
            maps=kept.cells,
        ) as run,
    ):
        if fed.picture is not None:
            run.show(fed.picture, fed.patches)
        pretrained.run(fed)
    return run


def _said(run: Run, name: str, kept: Kept) -> str:
    """What was written, in words."""
    alone = len(run.weights_only)
    of = "" if alone == len(run.layers) else f" of {alone}"
    what = f", weights alone{of} (it multiplies by itself)" if alone else ""
    what += f", maps of at most {kept.cells} cells a side, without q and k" if kept.maps else ""
    return f"{name}, {len(run.layers)} layers of {run.inputs(run.layers[0]).S} tokens{what}"


def _ids(text: str) -> list[int]:
    parts = [part.strip() for part in text.replace(" ", ",").split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise InputError(f"--ids {text!r}: write token ids as numbers, 101,2023,102")
    return [int(part) for part in parts]


_MOST_TEXT = 1 << 26
"""Bytes of a text: no model reads as many, and what is no file may never end."""


def _read(path: Path) -> str:
    """The text of a file, or of stdin."""
    if str(path) == "-" and sys.stdin is None:
        raise InputError("--file -: stdin is closed; send a text: attnviz capture MODEL --file - < text.txt")
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as stream:
            text = stream.read(_MOST_TEXT + 1)
        if len(text) > _MOST_TEXT:
            raise InputError(f"--file {path}: is longer than {_MOST_TEXT:,} bytes, which no model reads; cut it")
        return io.TextIOWrapper(io.BytesIO(text), "utf-8").read()
    except FileNotFoundError as error:
        raise InputError(f"--file {path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--file {path}: is not text in UTF-8 (byte {error.start}); convert it") from error
    except OSError as error:
        raise InputError(f"--file {path}: cannot be read: {error.strerror}") from error
