"""Names out of a Python file of the user's own, which is run because they named it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from attnviz.base.errors import InputError, is_memory


@dataclass(frozen=True)
class OwnName:
    """``FILE.py:NAME``: something that a Python file defines.

    Args:
        path: the file.
        name: what it is called there.
        option: what errors call the option that names it.
    """

    path: Path
    name: str
    option: str

    @classmethod
    def parse(cls, text: str, option: str) -> OwnName:
        """The name that ``text`` writes. Raises InputError where it is none."""
        path, colon, name = text.rpartition(":")
        if not colon or not name.isidentifier() or Path(path).suffix != ".py":
            raise InputError(
                f"{option} {text!r}: wanted FILE.py:NAME, a Python file of yours and what it defines there"
            )
        return cls(Path(path), name, option)

    def load(self) -> Any:
        """Runs the file and gives what the name stands for.

        Raises:
            InputError: there is no such file, it fails, or it doesn't define the name.
        """
        said = f"{self.option} {self.path}:{self.name}"
        if not self.path.is_file():
            raise InputError(f"{said}: there is no file {self.path}")
        module = ModuleType(f"attnviz_own_{self.path.stem}")
        module.__file__ = str(self.path)
        try:
            # Not as Python imports it, which would leave a __pycache__ in a folder of the user's.
            exec(compile(self.path.read_bytes(), self.path, "exec"), vars(module))
        except Exception as error:
            if is_memory(error):
                raise
            raise InputError(f"{said}: the file fails with {type(error).__name__}: {error}") from error
        if not hasattr(module, self.name):
            there = [name for name in vars(module) if not name.startswith("_")]
            raise InputError(f"{said}: the file defines no {self.name}; it has {', '.join(there[:12]) or 'nothing'}")
        return getattr(module, self.name)
