"""An extension of Griffe, which reads the docstrings for the API reference."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Module


class NoModuleDocstrings(Extension):
    """Leaves out the docstrings of modules, which are for those who work on the package; that of the formulas lists them."""

    def on_module(self, *, mod: Module, **_: Any) -> None:
        """Called after a module was read."""
        if mod.name != "functional":
            mod.docstring = None
