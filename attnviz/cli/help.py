"""Help, as it is shown in 80 columns: an option a line or two, what is the command's own first, what all share last.

Options that few need are told by name; ``--help-all`` explains these too. ``docs/commands.md`` has the same panels.
"""

from __future__ import annotations

import re
from typing import Any

from attnviz.cli.console import output

EVERY = ("quiet", "verbose", "help_all", "help")
"""Options that every command has."""

NAMES = 25
"""Columns for what a user types; the rest is for what it means."""


def show(command: Any, ctx: Any, *, everything: bool = False) -> None:
    """Prints the help of a command, or of the program.

    Args:
        command: what it is of.
        ctx: click's context of it.
        everything: also what options mean that few need.
    """
    from rich.padding import Padding
    from rich.text import Text

    console = output(80)
    console.width = min(console.width, 100)
    console.print()
    arguments = [_argument(param) for param in command.params if param.param_type_name == "argument"]
    usage = " ".join([ctx.command_path, "[OPTIONS]", *arguments, *["COMMAND ..."] * hasattr(command, "commands")])
    console.print(Padding(Text(f"Usage: {usage}", style="bold"), (0, 1)))
    console.print()
    paragraphs = plain(command.help or "").replace("\f", "").split("\n\n")
    console.print(Padding("\n\n".join(" ".join(one.split()) for one in paragraphs), (0, 1)), highlight=False)
    console.print()
    left_out = False
    for title, params in panels(command, ctx):
        rare = [] if everything else [param for param in params if param.name in _rare(command)]
        rows = [(_typed(param), _meaning(param, ctx)) for param in params if param not in rare]
        left_out = left_out or bool(rare)
        console.print(_panel(title, rows, Text(" ".join(map(_option, rare)), style="cyan") if rare else None))
    if hasattr(command, "commands"):
        commands = [(name, plain(one.help or "").partition("\n\n")[0]) for name, one in command.commands.items()]
        told = [(Text(name, style="bold cyan"), " ".join(about.split())) for name, about in commands]
        console.print(_panel("Commands", told, width=9))
    console.print()
    if left_out:
        console.print(Padding(Text(f"{ctx.command_path} --help-all  explains those that are only named, too"), (0, 1)))
    console.print(Padding(Text(command.epilog or ""), (0, 1)))
    console.print()


def panels(command: Any, ctx: Any = None) -> list[tuple[str, list[Any]]]:
    """The parameters of a command by the panel they stand in, its own first, those that all commands share last."""
    found: dict[str, list[Any]] = {}
    for param in command.params if ctx is None else command.get_params(ctx):
        if not getattr(param, "hidden", False):
            found.setdefault(_title(param), []).append(param)
    if "Options" in found:  # what every command has comes after what this one has
        found["Options"].sort(key=lambda param: param.name in EVERY)
    order = getattr(command, "order", {})
    return sorted(found.items(), key=lambda panel: order.get(panel[0], -1 if panel[0] == "Arguments" else 0))


def plain(text: str) -> str:
    """Help without the marks of rich.

    >>> plain("c of c*tanh(score/c).  \\\\[default: none]")
    'c of c*tanh(score/c).  [default: none]'
    """
    return text.replace("\\[", "[").strip()


def about(param: Any) -> tuple[str, str]:
    """What a parameter does, and what it is where nothing is said.

    >>> from typer.main import get_command
    >>> from attnviz.cli.main import app
    >>> about(next(p for p in get_command(app).commands["score"].params if p.name == "layout"))[1]
    'bhtd'
    """
    text, _, said = plain(param.help or "").partition("  [default: ")
    if said:
        return text.strip(), said.removesuffix("]")
    if param.required:
        return text, "required"
    unset = type(param.default).__name__ == "Sentinel"  # click's, of an option that is only asked for
    if unset or param.default in (None, False, (), []) or param.show_default is False:
        return text, ""
    return text, str((param.secondary_opts and param.opts[0].removeprefix("--")) or param.default)


def value(param: Any) -> str:
    """What stands for an option's value; nothing for a flag."""
    if param.is_flag:
        return ""
    if param.metavar:
        return str(param.metavar)
    descriptor = getattr(param, "type_descriptor", None)  # of newer typers; older ones have click's type
    kind = param.type.name if descriptor is None else getattr(descriptor.annotation, "__name__", "list")
    short = {"int": "N", "flo": "X", "pat": "FILE", "fil": "FILE", "lis": "FILE"}.get(kind.lower()[:3])
    return short or _option(param).rpartition("-")[2].upper()


_ONE = r"[a-z][\w+:-]*"  # a value, as help lists them


def choices(param: Any) -> list[str]:
    """The values that an option's help lists, where it lists them: what a shell completes.

    >>> from types import SimpleNamespace
    >>> choices(SimpleNamespace(help="From value to color: linear, log or row."))
    ['linear', 'log', 'row']
    >>> choices(SimpleNamespace(help="Title of the figure."))
    []
    """
    text = re.sub(r" ?\([^)]*\)", "", plain(param.help or "")).partition("  [")[0]
    text = re.sub(r"^[A-Z][^:]*: ", "", text)
    match = re.match(rf"({_ONE}(?:, {_ONE})*(?:(?:,)? or {_ONE})?)(?=[.;]|$)", text)
    found = re.split(r", or |, | or ", match[1]) if match else []
    return [one for one in found if not one.endswith(":N")] if len(found) > 1 else []


def _title(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    return getattr(param, "rich_help_panel", None) or "Options"


def _rare(command: Any) -> frozenset[str]:
    return getattr(command, "rare", frozenset())


def _option(param: Any) -> str:
    """What a user types for an option, in full."""
    return str(max(param.opts, key=len))


def _typed(param: Any) -> Any:
    """What a user types, colored."""
    from rich.text import Text

    if param.param_type_name == "argument":
        return Text(_argument(param), style="bold yellow")
    written = Text(", ".join(sorted(param.opts, key=len, reverse=True)), style="bold cyan")
    if param.secondary_opts:
        written.append(" " + " ".join(param.secondary_opts), style="cyan")
    if said := value(param):
        written.append(f" {said}", style="yellow")
    return written


def _argument(param: Any) -> str:
    """What stands for an argument: in brackets where it may be left out, with dots where there may be several."""
    name = (param.metavar or param.name or "").upper() + "..." * (param.nargs == -1)
    return name if param.required else f"[{name}]"


def _meaning(param: Any, ctx: Any) -> Any:
    """What it does, and its default."""
    from rich.text import Text

    text, default = about(param)
    own = (getattr(ctx, "default_map", None) or {}).get(param.name)
    default = default if own is None else f"{own}, by your settings"
    meant = Text(text)
    if default:
        meant.append(f" [{default}]" if default == "required" else f" [default: {default}]", style="dim")
    return meant


def _panel(title: str, rows: list[Any], names: Any = None, *, width: int = NAMES) -> Any:
    """A panel of two columns, and under them the names of options that are not explained."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=width, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for row in rows:
        table.add_row(*row)
    shown = [table] * bool(rows) + [names] * (names is not None)
    return Panel(Group(*shown), title=title, title_align="left", border_style="dim")
