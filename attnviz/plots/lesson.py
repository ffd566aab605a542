"""A lesson as a file: Markdown with its figures beside it, or one HTML page that holds them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.engine.request import Request
from attnviz.maps.map import map_of
from attnviz.plots.look import Look
from attnviz.show.scale.colors import DARK_PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnviz.maps.map import AttentionMap
    from attnviz.measures.explanation import Explanation
    from attnviz.show.figures.about import About

SUFFIXES = (".html", ".md")
"""What a lesson is written as."""

FIGURES = ("map", "row")
"""The figures of a lesson."""


@dataclass(frozen=True)
class Lesson:
    """A lesson and the map that its figures show.

    Args:
        explanation: the numbers.
        shown: the head's map.
        language: ``en`` or ``ja``.
    """

    explanation: Explanation
    shown: AttentionMap
    language: str = "en"

    @classmethod
    def of(cls, request: Request, explanation: Explanation, look: Look, language: str = "en") -> Lesson:
        """That of a request of one head, in as many cells as its figure has pixels."""
        from attnviz.plots.room import panels

        return cls(explanation, map_of(panels(request, 1, look)), language)

    @property
    def letters(self) -> set[str]:
        """What is written in its figures."""
        from attnviz.show.lessons import LANGUAGES, told

        words = LANGUAGES[self.language]
        tokens = [key.token or "" for key in self.explanation.keys]
        labels = [*(self.shown.query_labels or ()), *(self.shown.key_labels or ())]
        notes = [told(self.explanation, self.language, f"{name}_note") for name in FIGURES]
        return set().union(*tokens, *labels, *notes, *words.figure_words.values())

    def words(self, name: str) -> str:
        """What a figure shows, for those who can't see it."""
        from attnviz.show.lessons import told

        return told(self.explanation, self.language, f"figure_{name}")

    def figure(self, name: str, look: Look, *, title: str | None = None) -> Figure:
        """One of its figures; ``title``: above it, None says what it shows. A look's title is the lesson's."""
        from attnviz.show.figures.lesson import pair_figure, row_figure
        from attnviz.show.lessons import LANGUAGES, shown_keys, told

        words, e = LANGUAGES[self.language].figure_words, self.explanation
        how = look.words([self.shown], e.source, marks=look.marks)
        how["title"] = told(e, self.language, f"{name}_note") if title is None else title
        if name == "map":
            return pair_figure(self.shown, e, words, **how)
        few: dict[str, Any] = {part: how[part] for part in ("title", "width", "cmap")}
        return row_figure(e, shown_keys(e), words, **few)

    def _about(self, name: str, look: Look) -> About:
        """What a figure's file says of itself."""
        from attnviz.show.figures.about import About

        return About(self.words(name), {"kind": "explain", **look.said})

    def write(self, path: Path, look: Look) -> Iterator[Path]:
        """Writes the lesson, and its figures beside it where they are not in it: each file that is written.

        Args:
            path: a .md, whose figures are PNG files beside it, or a .html, which holds them.
            look: how figures look; its title is the lesson's.

        Raises:
            InputError: a path that can't be written.
        """
        from attnviz.show.exports import write_text
        from attnviz.show.lessons import lesson

        if path.suffix.lower() == ".html":
            write_text(path, self.page(look))
            yield path
            return
        files = figure_files(path)
        for name, file in files.items():
            self._save(name, look, file)
            yield file
        links = {name: file.name.replace(" ", "%20") for name, file in files.items()}
        write_text(path, lesson(self.explanation, self.language, figures=links, title=look.title))
        yield path

    def page(self, look: Look) -> str:
        """The lesson as one HTML page that needs nothing else."""
        from markdown_it import MarkdownIt

        from attnviz.show.lessons import lesson

        links = {name: f"figure:{name}" for name in FIGURES}
        text = lesson(self.explanation, self.language, figures=links, title=look.title)
        body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
        for name in FIGURES:
            body = body.replace(f'src="figure:{name}"', f'src="data:image/svg+xml;base64,{self._svg(name, look)}"')
        title = escape(look.title or text.partition("\n")[0].removeprefix("# ").replace("`", ""))
        dark = look.theme == "dark"
        colors = (DARK_PAGE, "#e8e8e8", "#2a2d35") if dark else ("#ffffff", "#1b1b1b", "#f4f3ef")
        style = _STYLE % dict(
            zip(("page", "ink", "code", "scheme"), (*colors, "dark" if dark else "light"), strict=True)
        )
        return (
            f'<!doctype html>\n<html lang="{self.language}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n'
            f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
        )

    def _save(self, name: str, look: Look, file: Path) -> None:
        from attnviz.show.figures.style import save_figure

        about = self._about(name, look)
        save_figure(self.figure(name, look), file, dpi=look.dots, transparent=look.transparent, about=about)

    def _svg(self, name: str, look: Look) -> str:
        """A figure as SVG, in base64."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figure.svg"
            self._save(name, look, file)
            return base64.b64encode(file.read_bytes()).decode()


def figure_files(path: Path) -> dict[str, Path]:
    """The files of a lesson's figures: beside it, by its name."""
    return {name: path.with_name(f"{path.stem}-{name}.png") for name in FIGURES}


_STYLE = """
:root { color-scheme: %(scheme)s; }
body { margin: 0; background: %(page)s; color: %(ink)s; font: 17px/1.6 system-ui, "Hiragino Sans", "Noto Sans CJK JP", sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1, h2, h3 { line-height: 1.3; } h2 { margin-top: 2.4em; }
pre, code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .92em; background: %(code)s; border-radius: 4px; }
code { padding: .1em .25em; } pre { padding: .7em 1em; overflow-x: auto; } pre code { padding: 0; }
table { margin: 1em 0; border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .7em; border-bottom: 1px solid color-mix(in srgb, currentColor 22%%, transparent); }
img { max-width: 100%%; height: auto; }
"""
