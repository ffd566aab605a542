"""Commands whose options come in groups: each field of a group is an option of its own, written once.

A group is a dataclass whose fields are annotated with typer's options, or said by :func:`attnviz.plots.said.said`; or a
class with a method ``option_group`` that gives its options.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from attnviz.base.errors import InputError
from attnviz.cli import defaults, help
from attnviz.cli.completion import completed
from attnviz.cli.console import quiet, verbose
from attnviz.cli.known import filled
from attnviz.plots.said import option_name


@dataclass(frozen=True)
class Group:
    """The options of a parameter of a command, and what makes the parameter's value of theirs.

    Args:
        parameters: the options.
        make: from their values to the parameter's.
        rank: where its panel stands in help: 0 is with what is the command's own.
        rare: the parameters that few need; help tells them by name.
    """

    parameters: list[inspect.Parameter]
    make: Callable[..., Any]
    rank: int = 0
    rare: frozenset[str] = frozenset()


def command(
    app: typer.Typer, *, name: str | None = None, example: str, rare: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as a command, each field of its option groups an option of its own.

    Args:
        app: the program.
        name: the command's name; None takes the function's.
        example: a line that works, shown under the help.
        rare: options of the function's own that few need; help tells them by name.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def listed() -> None: ...

        listed.__doc__ = function.__doc__
        unread = type("_Unread", (_Unread,), {"read": staticmethod(lambda: _whole(function, name, example, rare))})
        app.command(name or function.__name__, cls=unread, epilog=f"Example:  {example}")(listed)
        return function

    return register


def said_parameter(field: Field[Any], default: Any, panel: str | None = None) -> inspect.Parameter:
    """The option that a field by :func:`attnviz.plots.said.said` is."""
    said = field.metadata
    hint = said["type"] if isinstance(default, said["type"]) else said["type"] | None
    limits = {name: said[name] for name in ("metavar", "min", "max") if name in said}
    names = option_name(field) + (f"/--{said['off']}" if "off" in said else "")
    option = typer.Option(names, help=said["help"], rich_help_panel=panel, **limits)
    name = str(said.get("option", field.name)).replace("-", "_")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, option])


def typed(group: Any, *without: str) -> list[str]:
    """The words of the command line that make a group what it is: its options that are not as usual.

    Args:
        group: a group's value.
        without: fields that are left out.

    >>> from attnviz.cli.options import Seen
    >>> typed(Seen(hide="special", renormalize=True))
    ['--hide', 'special', '--renormalize']
    """
    made = _group(type(group), None)
    words: list[str] = []
    for parameter in () if made is None else made.parameters:
        value = getattr(group, parameter.name)
        if parameter.name in without or value == parameter.default:
            continue
        said = parameter.annotation.__metadata__[0]
        if isinstance(said, typer.models.ArgumentInfo):
            words.insert(0, str(value))
            continue
        words.append(next(iter(said.param_decls or ()), f"--{parameter.name.replace('_', '-')}"))
        words += [] if value is True else [str(value)]
    return words


def _read_late(name: str) -> property:
    """What the command that is read has by this name; what typer sets before is let go."""
    return property(lambda self: getattr(self._command, name), lambda self, value: None)


class _Unread(TyperCommand):
    """A command whose options are read when somebody asks for them: the list of commands needs but their names."""

    read: Callable[[], Any]

    @cached_property
    def _command(self) -> Any:
        return self.read()

    params: Any = _read_late("params")
    callback: Any = _read_late("callback")

    rare: Any = _read_late("rare")
    order: Any = _read_late("order")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {} if ctx.resilient_parsing else self._defaults(ctx, args)
        if ctx.resilient_parsing and args and args[-1].startswith("-"):
            args = args[:-1]  # a shell asks for its value; what stands before it still says which file is meant
        ctx.default_map = {name: default.value for name, default in own.items()}
        left = super().parse_args(ctx, with_values(args, self._command.bare))
        typed = {param.name for param in self.params if _is_typed(ctx, param.name)}
        defaults.note_used(self.params, own, typed.__contains__)
        return left

    def _defaults(self, ctx: Any, args: list[str]) -> dict[str, defaults.Default]:
        """What options are where nobody types them. Raises InputError for what is none, but where help is asked for."""
        try:
            return defaults.of_command(ctx.command_path.partition(" ")[2], self.params, lambda: _options_of(ctx))
        except InputError:
            if {*args} & {"-h", "--help", "--help-all"}:
                return {}
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.fill()
        help.show(self, ctx)

    def fill(self) -> None:
        """Puts names that registries hold into the help, which is read but now."""
        for said in (self, *self.params):
            if getattr(said, "help", None):
                said.help = filled(said.help)


class Program(TyperGroup):
    """A group of commands whose help is :mod:`attnviz.cli.help`'s."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        help.show(self, ctx)


def _is_typed(ctx: Any, name: str) -> bool:
    return getattr(ctx.get_parameter_source(name), "name", None) == "COMMANDLINE"


def _options_of(ctx: Any) -> dict[str, set[str]]:
    """The options of every command of a program, by its path."""
    found: dict[str, set[str]] = {}

    def look(group: Any, path: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                look(command, f"{path}{name} ")
            else:
                found[path + name] = {defaults.written(param) for param in command.params if defaults.is_option(param)}

    look(ctx.find_root().command, "")
    return found


def _explain_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        command: Any = ctx.command
        command.fill()
        help.show(command, ctx, everything=True)
        raise typer.Exit


_EVERY_COMMAND = {
    "quiet": Annotated[bool, typer.Option("--quiet", help="Say nothing on stderr but what goes wrong.")],
    "verbose": Annotated[
        bool, typer.Option("--verbose", help="Say how maps are made, too: in which tiles, or by which kernel.")
    ],
    "help_all": Annotated[
        bool,
        typer.Option("--help-all", help="Explain options that few need, too.", is_eager=True, callback=_explain_all),
    ],
}
"""Options that every command has."""


def with_values(args: list[str], bare: dict[str, str]) -> list[str]:
    """Arguments in which an option that may stand alone has its value: what it means, where none follows.

    >>> with_values(["--mean", "-o", "x.png"], {"--mean": "heads"}), with_values(["--mean", "heads"], {"--mean": "heads"})
    (['--mean=heads', '-o', 'x.png'], ['--mean', 'heads'])
    """
    following = [*args[1:], None]
    return [
        f"{arg}={bare[arg]}" if arg in bare and not _is_over(after or "") else arg
        for arg, after in zip(args, following, strict=False)
    ]


def _is_over(word: str) -> bool:
    """Whether a word says what a map is made over, rightly or not: names of files are there, or have more than letters."""
    return bool(_OVER.fullmatch(word)) or bool(_WORDS.fullmatch(word) and not Path(word).exists())


_OVER = re.compile("(heads|layers|items)(,(heads|layers|items))*")
_WORDS = re.compile("[a-z]+(,[a-z]+)*")


@cache  # most commands have the same groups, and reading their annotations is a good part of --help
def _field_hints(group: type) -> dict[str, Any]:
    return get_type_hints(group, include_extras=True)


def _group(hint: type, given: Any) -> Group | None:
    """The group that a parameter is; None where it is an option itself.

    Args:
        hint: what it is annotated with.
        given: its default.
    """
    if hasattr(hint, "option_group"):
        found: Group = hint.option_group()
        return found
    if not is_dataclass(hint):
        return None
    panel = _panel(hint)
    parameters = []
    rare = set(getattr(hint, "RARE", ()))
    for field in fields(hint):
        default = getattr(given, field.name) if isinstance(given, hint) else field.default
        if "help" in field.metadata:
            parameters.append(said_parameter(field, default, panel))
            rare |= {parameters[-1].name} if field.metadata.get("rare") else set()
            continue
        annotation = _field_hints(hint)[field.name] if str(field.type).startswith("Annotated") else None
        if annotation is not None:
            default = inspect.Parameter.empty if default is MISSING else default
            shown = _in_panel(annotation, panel)
            parameters.append(
                inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=shown)
            )
    return Group(parameters, hint, getattr(hint, "RANK", 0), frozenset(rare))


def _panel(group: type) -> str:
    """What help calls a group: the first words of its docstring."""
    return (group.__doc__ or "").partition(".")[0].partition(":")[0]


def _in_panel(hint: Any, panel: str) -> Any:
    """An annotation whose option stands in a panel of the help; arguments have their own."""
    option = hint.__metadata__[0]
    if isinstance(option, typer.models.ArgumentInfo):
        return hint
    option = copy(option)
    option.rich_help_panel = panel
    return Annotated[hint.__origin__, option]


def _whole(function: Callable[..., Any], name: str | None, example: str, rare: Collection[str]) -> Any:
    """The command that a function is, each field of its option groups an option of its own."""
    groups: dict[str, Group] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        group = _group(hint, parameter.default)
        if group is None:
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            groups[parameter.name] = group
            parameters += group.parameters
    for own, option in _EVERY_COMMAND.items():
        parameters.append(inspect.Parameter(own, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option))
    parameters = [parameter.replace(annotation=completed(parameter.annotation)) for parameter in parameters]

    def run(**given: Any) -> Any:
        quiet(given.pop("quiet"))
        verbose(given.pop("verbose"))
        del given["help_all"]
        whole = {
            name: group.make(**{parameter.name: given.pop(parameter.name) for parameter in group.parameters})
            for name, group in groups.items()
        }
        from attnviz.sources.files import opened_once

        with opened_once():
            return function(**whole, **given)

    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    alone.command(name or function.__name__, epilog=f"Example:  {example}")(run)
    whole: Any = get_command(alone)
    for param in whole.params:  # older typers lose an argument's help to newer clicks
        param.help = getattr(param, "help", None) or _said(run.__annotations__.get(param.name))
    whole.rare = frozenset({*rare, "verbose"}).union(*(group.rare for group in groups.values()))
    whole.order = {_title(group): group.rank for group in groups.values() if group.parameters}
    whole.bare = {"--mean": "heads", "--max": "heads"} if {"mean", "max"} <= {p.name for p in parameters} else {}
    return whole


def _title(group: Group) -> str:
    """The panel of help that the options of a group stand in."""
    titles = (parameter.annotation.__metadata__[0].rich_help_panel for parameter in reversed(group.parameters))
    return next((str(title) for title in titles if title), "Options")


def _said(annotation: Any) -> str | None:
    """The help of an option's annotation, where there is one."""
    return None if annotation is None else annotation.__metadata__[0].help
