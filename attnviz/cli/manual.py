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

from attnviz.cli.main import app

_OPENING = """# Commands

What `attnviz COMMAND --help` says, of every command. This page is written by the program: `make commands`.

An option means the same in every command that has it: layers and heads are lists and ranges with both ends (`0,2-4`,
`all`), positions are `A:B` without B, and a pattern is a name with its settings (`local:window=2`).
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
    about = re.sub(r"(?<!\n)\n(?!\n)", " ", _plain(command.help or "").replace("\f", ""))
    example = (command.epilog or "").removeprefix("Example:").strip()
    parts = [f"## {name}\n", f"{about}\n", f"```text\n{example}\n```\n"]
    groups: dict[str, list[Any]] = {}
    for param in command.params:
        if not getattr(param, "hidden", False) and "--help" not in param.opts:
            groups.setdefault(_group(param), []).append(param)
    for group, params in groups.items():
        parts += [f"| {group} | | default |\n|---|---|---|", *map(_row, params), ""]
    return "\n".join(parts)


def _group(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    return getattr(param, "rich_help_panel", None) or "Options"


def _row(param: Any) -> str:
    """An option: how it is written, what it does, and what it is where nothing is said."""
    about, _, said = _plain(param.help or "").partition("  [default: ")
    default = said.removesuffix("]") or _default(param)
    if param.param_type_name == "argument":
        written = f"`{param.metavar or param.name.upper()}`"
    else:
        written = ", ".join(f"`{option}`" for option in (*param.opts, *param.secondary_opts))
        written += f" `{value}`" if (value := _value(param)) else ""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in (written, about.strip(), default)) + " |"


def _value(param: Any) -> str:
    """What stands for an option's value; nothing for a flag."""
    if param.is_flag:
        return ""
    if param.metavar:
        return str(param.metavar)
    descriptor = getattr(param, "type_descriptor", None)  # of newer typers; older ones have click's type
    kind = param.type.name if descriptor is None else getattr(descriptor.annotation, "__name__", "list")
    return {"str": "TEXT", "tex": "TEXT", "int": "N", "flo": "X", "pat": "FILE", "lis": "FILE"}[kind.lower()[:3]]


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if param.default in (None, False, (), []) or param.show_default is False:
        return ""
    return f"`{param.default}`"


def _plain(text: str) -> str:
    """Help without the marks of rich."""
    return text.replace("\\[", "[").strip()


if __name__ == "__main__":
    page = manual()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
