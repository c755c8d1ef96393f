"""Finds callbacks and hooks that unfreeze layers, to know whether frozen parameters will be trained later."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

_CALLED = {"requires_grad_", "make_trainable", "unfreeze", "unfreeze_and_add_param_group"}
_LOADS = ("LOAD_METHOD", "LOAD_ATTR", "LOAD_GLOBAL", "LOAD_DEREF")
_FRAMEWORK = ("lightning.", "pytorch_lightning.", "torch.", "lit_distill.")
_HOOKS = ("on_", "training_step", "validation_step", "optimizer_step", "configure_", "lr_scheduler_step", "setup")
_DEPTH = 3  # a hook calls a method, which calls a function


def unfreezes_later(trainer: Any, module: object) -> bool:
    """Return True if the trainer's callbacks, or the module's own hooks, set which parameters train."""
    if trainer is None:
        return False
    return any(_sets_training(type(one)) for one in (*trainer.callbacks, module))


def _sets_training(kind: type) -> bool:
    """Return True if a hook, or what it calls of its class and its file, sets which parameters train."""
    if any(parent.__name__ in ("BaseFinetuning", "Unfreeze") for parent in kind.__mro__):
        return True
    own = [parent for parent in kind.__mro__ if not parent.__module__.startswith(_FRAMEWORK)]
    hooks = [value for parent in own for name, value in vars(parent).items() if name.startswith(_HOOKS)]
    return any(_unfreezes(hook, kind, _DEPTH) for hook in hooks)


def _unfreezes(function: Any, kind: type, depth: int) -> bool:
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    called: set[str] = set()
    steps = list(_steps(code))
    for place, step in enumerate(steps):
        if step.opname == "STORE_ATTR" and step.argval == "requires_grad" and not _freezes(steps[:place]):
            return True
        if step.opname == "LOAD_CONST" and step.argval == "requires_grad":  # setattr(parameter, "requires_grad", …)
            return True
        if step.opname in _LOADS and step.argval in _CALLED and not _freezes(steps[place + 1 : place + 3]):
            return True
        if step.opname in _LOADS:
            called.add(step.argval)
    found = (getattr(kind, name, None) or function.__globals__.get(name) for name in called) if depth else ()
    return any(_is_own(one) and _unfreezes(one, kind, depth - 1) for one in found)


def _freezes(steps: list[dis.Instruction]) -> bool:
    """Return True if the constant next to the call or assignment is False."""
    return any(step.opname == "LOAD_CONST" and step.argval is False for step in steps[-3:])


def _is_own(found: Any) -> bool:
    return inspect.isfunction(found) and not found.__module__.startswith(_FRAMEWORK)


def _steps(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _steps(constant)
