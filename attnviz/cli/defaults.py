"""What options are where nothing is said: ``ATTNVIZ_NORM=log``, or ``[tool.attnviz]`` of the nearest ``pyproject.toml``.

==================================== =========================================
written                              is the default of
==================================== =========================================
``ATTNVIZ_NORM=log``                 ``--norm``, of each command that has it
``ATTNVIZ_PLOT_NORM=log``            ``--norm`` of ``attnviz plot``
``[tool.attnviz]`` ``norm = "log"``  as the first
``[tool.attnviz.plot]``              as the second
==================================== =========================================

What is typed comes first, then the environment, then the file; of each, what is said of one command first. An empty
variable says that nothing is said, whatever the file says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnviz.base.errors import InputError, close_to

PREFIX = "ATTNVIZ_"

_NEVER = {"help", "help_all", "version", "debug", "install_completion", "show_completion"}
"""Options that do something else than run a command."""


@dataclass(frozen=True)
class Default:
    """A value, and where it was said."""

    value: Any
    origin: str


_used: dict[str, Default] = {}


def used(option: str) -> bool:
    """Whether an option (``--norm``) is what it is by a default of this page, and nobody typed it.

    Who refuses an option because a figure or a format has no use for it lets such a value be.
    """
    return option in _used


def origins(message: str) -> str:
    """A message, and where the options in it were said that nobody typed."""
    words = {word.strip(":,;.'\"()") for word in message.split()}
    said = [f"{option} is from {default.origin}" for option, default in _used.items() if option in words]
    return f"{message} ({'; '.join(said)})" if said else message


def of_command(path: str, params: list[Any], everything: Any) -> dict[str, Default]:
    """The defaults of a command's options, by the name of their parameter.

    Args:
        path: what a user types: ``plot``, ``snapshot save``.
        params: the command's.
        everything: gives the options of every command, by its path; asked where a name is none of this command's,
            as every command must be imported to know.

    Raises:
        InputError: a name that no command has, or a value that is no text, number or yes and no.
    """
    options = {written(param): param for param in params if is_option(param)}
    found: dict[str, Default] = {}
    for said in (_of_file(path, options, everything), _of_environment(path, options, everything)):
        for name, default in said.items():
            found.pop(options[name].name, None)
            if default.value != "":
                found[options[name].name] = default
    return found


def note_used(params: list[Any], defaults: Mapping[str, Default], typed: Any) -> None:
    """Keeps which options of a run are what they are by a default.

    Args:
        params: the command's.
        defaults: its defaults, as :func:`of_command` gives them.
        typed: whether a parameter of a name was typed.
    """
    _used.clear()
    for param in params:
        if param.name in defaults and not typed(param.name):
            _used["--" + written(param)] = defaults[param.name]


def is_option(param: Any) -> bool:
    """Whether a parameter may have a default of one's own."""
    return param.param_type_name == "option" and param.name not in _NEVER


def written(param: Any) -> str:
    """What a user types for an option, without its dashes."""
    return str(next(name for name in param.opts if name.startswith("--"))).removeprefix("--")


def _of_environment(path: str, options: Collection[str], everything: Any) -> dict[str, Default]:
    """What variables say of this command's options, those of this command alone last."""
    every = {_variable(option): option for option in options}
    of_this = {_variable(path, option): option for option in options}
    said: dict[str, Default] = {}
    said_of_this: dict[str, Default] = {}
    for variable in sorted(name for name in os.environ if name.startswith(PREFIX)):
        default = Default(os.environ[variable], variable)
        if variable in every:
            said[every[variable]] = default
        elif variable in of_this:
            said_of_this[of_this[variable]] = default
        elif variable not in (known := _variables(everything())):
            raise InputError(f"{variable}: no command has an option of this name{close_to(variable, known)}; unset it")
    return {**said, **said_of_this}


def _variables(commands: Mapping[str, Collection[str]]) -> set[str]:
    """Every variable that speaks of an option."""
    return {_variable(*of, option) for path, options in commands.items() for option in options for of in ((), (path,))}


def _variable(*words: str) -> str:
    return PREFIX + re.sub("[ -]", "_", "_".join(words)).upper()


def _of_file(path: str, options: Collection[str], everything: Any) -> dict[str, Default]:
    """What the nearest ``pyproject.toml`` with a table of ours says of this command's options, that of it alone last."""
    file, table = _table(Path.cwd())
    every: dict[str, Default] = {}
    of_this: dict[str, Default] = {}
    for own, option, value in _entries(table):
        origin = f"{file} [{'.'.join(('tool.attnviz', *own.split()))}]"
        ours = own in ("", path) and option in options
        if not ours:
            _check_known(origin, own, option, everything())
        if not isinstance(value, str | int | float):
            raise InputError(f"{origin} {option} = {value!r}: write it as text, in quotes, as you would type it")
        if ours:
            (of_this if own else every)[option] = Default(value if isinstance(value, bool) else str(value), origin)
    return {**every, **of_this}


def _check_known(origin: str, own: str, option: str, commands: Mapping[str, Collection[str]]) -> None:
    """A name in a table is an option of the command that it is said of, or of any.

    Raises:
        InputError: it is none.
    """
    if own and own not in commands:
        names = [*commands, *(name.split()[0] for name in commands)]
        raise InputError(f"{origin}: there is no command {own}{close_to(own, names)}")
    there = commands[own] if own else {name for names in commands.values() for name in names}
    if option not in there:
        whose = f"attnviz {own} has no" if own else "no command has an"
        raise InputError(f"{origin} {option}: {whose} option of this name{close_to(option, there)}")


def _entries(table: Mapping[str, Any], own: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each option that a table says, and of which command."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _entries(value, f"{own} {name}".strip())
        else:
            yield own, name.replace("_", "-"), value


def _table(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The nearest ``pyproject.toml``, from a folder up, that says something of ours, and what."""
    import tomllib

    for above in (folder, *folder.parents):
        file = above / "pyproject.toml"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError):  # no such file, or none that we may read: it is other programs' too
            continue
        if "tool.attnviz" not in text:
            continue
        try:
            table = tomllib.loads(text).get("tool", {}).get("attnviz")
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{file}: it is no TOML ({error}); mend it, or run from another folder") from error
        if isinstance(table, dict):
            return file, table
    return None, {}
