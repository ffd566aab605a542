"""The kinds of figures, a file each: every file here is one, and importing this package makes all of them known."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
