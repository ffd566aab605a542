"""``attnviz capture``: what went into a model's attention, to a dump."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.console import note
from attnviz.cli.groups import command


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example='attnviz capture ./my-model --text "The animal was tired." -o run.safetensors')
    def capture(
        model: Annotated[str, typer.Argument(help="Folder of a transformers model, or its name on the hub.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="Dump to write: .safetensors.", show_default=False)],
        text: Annotated[
            list[str] | None,
            typer.Option(help="Text to run the model on; several are items of a batch.", show_default=False),
        ] = None,
        pair: Annotated[str | None, typer.Option(help="Second text, for models that read two at once.")] = None,
        file: Annotated[Path | None, typer.Option(help="File of text to run the model on.")] = None,
        lines: Annotated[bool, typer.Option("--lines", help="Each line of the file is an item of a batch.")] = False,
        ids: Annotated[str | None, typer.Option(help="Token ids to run the model on: 101,2023,102.")] = None,
        image: Annotated[Path | None, typer.Option(help="Picture to run the model on.")] = None,
        target: Annotated[str | None, typer.Option(help="Text for the decoder of an encoder-decoder model.")] = None,
        layers: Annotated[str, typer.Option(help="Layers to keep: 0,5-7 or all.")] = "all",
        max_tokens: Annotated[int | None, typer.Option(help="Cut the text to this many tokens.", min=1)] = None,
        global_: Annotated[
            str | None,
            typer.Option("--global", metavar="POSITIONS", help="Global tokens of Longformer and LED: 0  0-3,17."),
        ] = None,
        attn: Annotated[
            str | None, typer.Option(help="Kernel: eager, sdpa, flash_attention_2, …  \\[default: the model's choice]")
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
        dtype: Annotated[
            str | None, typer.Option(help="float16, bfloat16, float32 or float64.  \\[default: the model's own]")
        ] = None,
        no_check: Annotated[
            bool, typer.Option("--no-check", help="Don't hold rows of each layer against the model's own output.")
        ] = False,
        maps: Annotated[
            bool,
            typer.Option(
                "--maps", help="Keep each head's reduced map and statistics, and not q, k and v: small files."
            ),
        ] = False,
        pixels: Annotated[
            int | None, typer.Option(help="Cells a side of the maps of --maps: 256, 512, …  \\[default: 256]")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    ) -> None:
        """Run a model and write what went into its attention: q, k, v, masks and tokens of each layer.

        Each layer is written as soon as it has run, so that memory holds one layer.
        """
        from attnviz.base.writing import check_output

        given = {"--text": text or None, "--file": file, "--image": image, "--ids": ids}
        named = [option for option, value in given.items() if value is not None]
        if len(named) != 1 and named not in (["--text", "--image"], ["--file", "--image"]):
            found = f"{' and '.join(named)} are given" if named else "none is given"
            raise InputError(f"one of --text, --file and --image says what the model runs on; {found}")
        read = [path for path in (file, image) if path is not None]
        out = check_output(out, (".safetensors",), inputs=read, new=not force)
        if pixels is not None and not maps:
            raise InputError(f"--pixels {pixels}: it is of reduced maps; add --maps")
        texts = list(text or ())
        if file is not None:
            texts = [line for line in _read(file).splitlines() if line.strip()] if lines else [_read(file)]
            if not texts:
                raise InputError(f"--file {file}: has no line with text")
        elif lines:
            raise InputError("--lines: it is of a file's lines; name one with --file")
        if pair is not None and not texts:
            raise InputError("--pair: it follows a text; give one with --text")

        import torch

        from attnviz.attention.reduced import LEAST
        from attnviz.base.devices import parse_device, parse_dtype
        from attnviz.base.selections import parse_indices
        from attnviz.captures.pretrained import feed_ids, feed_picture, feed_text, feed_text_and_picture, load_model
        from attnviz.captures.run import capture as capture_run

        where, kind = parse_device(device), parse_dtype(dtype)
        pretrained = load_model(model, dtype=kind, device=where, attention=attn)
        wanted = None
        if layers.strip().lower() != "all":
            wanted = parse_indices(layers, pretrained.layers, option="--layers", noun="layer")
        options: dict[str, Any] = {"target": target, "global_positions": global_}
        if ids is not None:
            fed = feed_ids(pretrained, _ids(ids), **options)
        elif image is not None and texts:
            if len(texts) > 1:
                raise InputError(f"--image: it goes with one text, and {len(texts)} are given")
            fed = feed_text_and_picture(pretrained, texts[0], image)
        elif image is not None:
            fed = feed_picture(pretrained, image)
        else:
            fed = feed_text(pretrained, texts, pair=pair, max_tokens=max_tokens, **options)
        for line in fed.notes:
            note(line)
        name = type(pretrained.model).__name__
        about = {"model": name, "attention": pretrained.config._attn_implementation}
        with (
            torch.no_grad(),
            capture_run(
                pretrained.model,
                wanted,
                tokenizer=fed.tokenizer,
                out=out,
                metadata=about,
                check=not no_check,
                maps=(pixels or LEAST) if maps else None,
            ) as run,
        ):
            if fed.picture is not None:
                run.show(fed.picture, fed.patches)
            pretrained.run(fed)
        positions = run.inputs(run.layers[0]).S
        alone = len(run.weights_only)
        of = "" if alone == len(run.layers) else f" of {alone}"
        what = f", weights alone{of} (it multiplies by itself)" if alone else ""
        what += f", maps of at most {pixels or LEAST} cells a side, without q and k" if maps else ""
        note(f"wrote {out}: {name}, {len(run.layers)} layers of {positions} tokens{what}")


def _ids(text: str) -> list[int]:
    parts = [part.strip() for part in text.replace(" ", ",").split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise InputError(f"--ids {text!r}: write token ids as numbers, 101,2023,102")
    return [int(part) for part in parts]


def _read(path: Path) -> str:
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read().decode()
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"--file {path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--file {path}: is not text in UTF-8 (byte {error.start}); convert it") from error
    except OSError as error:
        raise InputError(f"--file {path}: cannot be read: {error.strerror}") from error
