"""Networks that a function or a class of yours makes, by its import path."""

from __future__ import annotations

import inspect
import pkgutil
from typing import Any

from torch import nn

from lit_distill.models.sources.base import Described, Source
from lit_distill.models.sources.from_timm import described_by_timm
from lit_distill.utils.names import first_line, nearest

_CLASSES = ("num_classes", "n_classes", "num_labels", "classes")  # what functions call the number of classes


class ImportPath(Source):
    """``my_package.make_net``: a function or class that needs no argument, but may take ``num_classes``."""

    prefix = "import path"

    def check(self, name: str) -> None:
        self._callable(name)

    def make(self, name: str, num_classes: int | None) -> nn.Module:
        function = self._callable(name)
        taken = _parameter(function)
        options = {taken: num_classes} if taken is not None and num_classes is not None else {}
        try:
            made = function(**options)
        except Exception as error:  # of the user's code
            raise ValueError(f"{name}({_written(options)}) could not make a network: {first_line(error)}") from error
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name} made a {type(made).__name__}, not a torch.nn.Module.")
        return made

    def pretrained(self, name: str, num_classes: int | None, tag: str | None) -> nn.Module:
        if tag is not None:
            raise ValueError(f"{name}@{tag}: {tag!r} is no file here; of your own networks, write {name}@FILE.")
        return self.make(name, num_classes)

    def describe(self, name: str, network: nn.Module) -> Described:
        return described_by_timm(network)

    def _callable(self, name: str) -> Any:
        try:
            found = pkgutil.resolve_name(name)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{name!r} cannot be imported: {first_line(error)}. Is its folder on PYTHONPATH?"
            ) from error
        except AttributeError as error:
            module, _, last = name.rpartition(".")
            known = dir(pkgutil.resolve_name(module)) if module else []
            raise ValueError(f"{name!r} cannot be imported: {first_line(error)}.{nearest(last, known)}") from error
        if not callable(found):
            raise ValueError(f"{name!r} is no function or class; give what makes a network.")
        return found


def _parameter(function: Any) -> str | None:
    """Return the parameter that takes the number of classes; None if there is none."""
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in _CLASSES if name in taken), None)


def _written(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
