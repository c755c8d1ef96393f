"""Resolves bare class names: ``class_path: DKD`` means ``lit_distill.criteria.DKD``.

jsonargparse takes the bare name of any imported subclass of the type that an option declares. It does not take functions that
return one, such as ``load`` and ``resnet20``, nor any bare name for an option without a type. Both are added here.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import jsonargparse._typehints as parsing
from jsonargparse import Namespace

from lit_distill.utils.names import nearest

_PACKAGES = (  # the first that has a name gives its path
    "lit_distill.models",
    "lit_distill",
    *(f"lit_distill.{name}" for name in ("balance", "callbacks", "criteria", "data", "modules", "optim", "schedules")),
    "lit_distill.teachers",
    "lit_distill.compress",
)
_COPYING = ("timm.", "transformers.")  # older releases bring optimizers of PyTorch's names
_adapt_any: Callable[..., Any] = parsing.adapt_classes_any


@contextmanager
def bare_names() -> Iterator[None]:
    """Let parsers take bare names while this is open."""
    public_names()  # imports the packages: only imported classes are found
    with (
        patch.object(parsing, "resolve_class_path_by_name", full_path),
        patch.object(parsing, "adapt_classes_any", _adapt_bare_any),
    ):
        yield


@functools.cache
def public_names() -> dict[str, str]:
    """Return the import path of each public class and function of the package, by bare name."""
    found: dict[str, str] = {}
    for path in _PACKAGES:
        module = importlib.import_module(path)
        own = [name for name, one in vars(module).items() if getattr(one, "__module__", "") == path and name[0] != "_"]
        for name in getattr(module, "__all__", own):
            found.setdefault(name, f"{path}.{name}")
    return found


def full_path(wanted: Any, name: str) -> str:
    """Return the import path of a kind (``object``: any) that a bare name stands for; an import path stays as it is.

    Raises:
        ImportError: Nothing imported has this name and type, or several things have.
    """
    kinds = tuple(_kinds(wanted))
    if "." in name or not kinds:
        return name
    found = {_path(one) for one in _classes(kinds) if one.__name__ == name and _is_public(one)}
    found |= {path for path in _functions(kinds) if path.endswith(f".{name}")}
    if any(path.startswith("torch.optim.") for path in found):
        found = {path for path in found if not path.startswith(_COPYING)}
    if len(found) > 1:
        raise ImportError(f"{name!r} can be {' or '.join(sorted(found))}; write which, as an import path.")
    if not found and name in public_names() and kinds != (object,):
        needed = " or ".join(kind.__name__ for kind in kinds)
        raise ImportError(f"{public_names()[name]} does not make a {needed}, which is needed here.")
    if not found:
        known = list(public_names()) if kinds == (object,) else [one.__name__ for one in _classes(kinds)]
        known = [*known, *(path.rpartition(".")[2] for path in _functions(kinds))]
        raise ImportError(f"there is no class {name!r} to use here.{nearest(name, known)}")
    return found.pop()


def _kinds(wanted: Any) -> Iterator[type]:
    """Yield the classes in a type hint."""
    origin = typing.get_origin(wanted)
    if isinstance(wanted, tuple) or origin in (typing.Union, types.UnionType):
        for one in wanted if isinstance(wanted, tuple) else typing.get_args(wanted):
            yield from _kinds(one)
    elif isinstance(origin or wanted, type):
        yield origin or wanted


def _classes(kinds: tuple[type, ...]) -> Iterator[type]:
    """Yield the imported classes of some kinds."""
    waiting, seen = list(kinds), set[type]()
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += type.__subclasses__(one)
            yield one


def _is_public(one: type) -> bool:
    """Return True if a class can be imported, from no private module, and not for ``pytorch_lightning``'s command line."""
    if one.__module__ == "lit_distill.pytorch_lightning":
        return False
    return getattr(sys.modules.get(one.__module__), one.__name__, None) is one and "._" not in f".{_path(one)}"


def _path(one: type) -> str:
    """Return the path by which a class is to be imported: the shortest, for one that is not ours."""
    ours = public_names().get(one.__name__)
    if ours is not None and imported(ours) is one:
        return ours
    parts = one.__module__.split(".")
    modules = (".".join(parts[: count + 1]) for count in range(len(parts)))
    return next(
        f"{path}.{one.__name__}" for path in modules if getattr(sys.modules.get(path), one.__name__, None) is one
    )


def _functions(kinds: tuple[type, ...]) -> Iterator[str]:
    """Yield the import paths of our public functions that return one of some kinds."""
    for path in public_names().values():
        one = imported(path)
        returned = tuple(_kinds(_hint(one))) if isinstance(one, types.FunctionType) else ()
        if returned and (kinds == (object,) or issubclass(returned[0], kinds)):
            yield path


@functools.cache
def _hint(function: types.FunctionType) -> Any:
    """Return a function's declared return type; None if it names what is imported only for type checkers."""
    try:
        return typing.get_type_hints(function).get("return")
    except NameError:
        return None


def imported(path: str) -> Any:
    """Return what an import path names; a function rather than a module of the same name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _adapt_bare_any(value: Any, *further: Any, **options: Any) -> Any:
    """Do as jsonargparse for an option without a type, with the full path of a class of ours."""
    named = value.get("class_path") if isinstance(value, (dict, Namespace)) else None
    if named in public_names():
        value["class_path"] = full_path(object, named)
    return _adapt_any(value, *further, **options)
