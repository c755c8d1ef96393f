"""An extension of Griffe, which reads the docstrings for the API reference."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Module, Object

_EQUATION = re.compile(r"[ \t]*\$\$(.+?)\$\$[ \t]*", re.DOTALL)
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Docstrings(Extension):
    """Fits the docstrings to the site."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Give each equation a paragraph of its own, and a lone example the heading that Griffe reads as code."""
        if obj.docstring is not None:
            text = _EQUATION.sub(r"\n\n$$\1$$\n\n", obj.docstring.value).strip()
            obj.docstring.value = _EXAMPLE.sub("Examples:", text)

    def on_module(self, *, mod: Module, **_: Any) -> None:
        """Leave out what is written for those who work on the package; the formulas' module lists them for everyone."""
        if mod.name != "functional":
            mod.docstring = None
