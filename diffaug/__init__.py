"""Diffusion models inside the augmentation pipeline of image classifiers."""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0.dev0"

#: Public name -> module that has it, as __init__.pyi says. Importing them all would take seconds,
#: since torch comes with them: `diffaug --help` and those who need one name would wait for it.
_MODULE_OF = {
    alias.name: str(node.module)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'diffaug' has no attribute {name!r}")
    module = importlib.import_module(_MODULE_OF[name])
    if module.__name__ == __name__:  # a public module, such as functional
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        value = getattr(module, name)
    globals()[name] = value  # the next time, nobody asks here
    return value


def __dir__() -> list[str]:
    """List the public names, also those that nobody has used yet."""
    return sorted({*globals(), *__all__})
