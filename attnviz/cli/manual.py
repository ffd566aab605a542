"""``docs/commands.md``, written from the program: every command, its options by group, what they do where nothing is said.

``python -m attnviz.cli.manual docs/commands.md`` writes it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from attnviz.cli.help import EVERY, about, panels, plain, value
from attnviz.cli.main import app

_OPENING = """# Commands

What `attnviz COMMAND --help` says, of every command. This page is written by the program: `make commands`.

An option means the same in every command that has it: layers and heads are lists and ranges with both ends (`0,2-4`,
`all`), positions are `A:B` without B, and a pattern is a name with its settings (`local:window=2`).

Every command also has `--quiet` (nothing on stderr but what goes wrong), `--verbose` (how maps are made, too: in which
tiles, or by which kernel), `--help`, and `--help-all`, which explains the options that few need, too.

What you would type each time can be said once:

| written | is the default of |
|---|---|
| `ATTNVIZ_NORM=log` in the environment | `--norm`, of each command that has it |
| `ATTNVIZ_PLOT_NORM=log` | `--norm` of `attnviz plot` |
| `norm = "log"` under `[tool.attnviz]` of the nearest `pyproject.toml` | `--norm`, of each command that has it |
| `norm = "log"` under `[tool.attnviz.plot]` | `--norm` of `attnviz plot` |

What is typed comes first, then the environment, then the file. An empty variable (`ATTNVIZ_NORM=`) undoes what the file
says, and so does a flag that is `false`. A name that no command has is an error; a default that a figure has no use for
is let be.

The shell completes options, their values, and the layers and tensors of the file that is named:
`attnviz --install-completion`.
"""


def manual() -> str:
    """The page."""
    commands = list(_commands(get_command(app), "attnviz"))
    listed = "\n".join(f"- [`{name}`](#{name.replace(' ', '-')})" for name, _ in commands)
    return "\n".join([_OPENING, listed, "", *(_section(name, command) for name, command in commands)])


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command, those of groups too, by what a user types."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _section(name: str, command: Any) -> str:
    """A command: what it does, an example, and a table of its options for each group."""
    command.fill()
    told = re.sub(r"(?<!\n)\n(?!\n)", " ", plain(command.help or "").replace("\f", ""))
    example = (command.epilog or "").removeprefix("Example:").strip()
    parts = [f"## {name}\n", f"{told}\n", f"```text\n{example}\n```\n"]
    for group, params in panels(command):
        params = [param for param in params if param.name not in EVERY]
        parts += [f"| {group} | | default |\n|---|---|---|", *map(_row, params), ""]
    return "\n".join(parts)


def _row(param: Any) -> str:
    """An option: how it is written, what it does, and what it is where nothing is said."""
    text, default = about(param)
    told = default in ("", "required") or "[default: " in (param.help or "")  # in words, not as a value
    default = default if told else f"`{default}`"
    if param.param_type_name == "argument":
        written = f"`{param.metavar or param.name.upper()}`"
    else:
        written = ", ".join(f"`{option}`" for option in (*param.opts, *param.secondary_opts))
        written += f" `{said}`" if (said := value(param)) else ""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in (written, text, default)) + " |"


if __name__ == "__main__":
    page = manual()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
