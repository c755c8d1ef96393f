"""Checks and calls of the factories that the user gives for the optimizer and the scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_distill.utils.arguments import described

OPTIMIZER = "functools.partial(torch.optim.SGD, lr=0.1)"
SCHEDULER = "functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10)"


def check_makes(name: str, given: Any, example: str) -> None:
    """Refuse an argument that is not a factory of one argument."""
    if given is None:
        return
    if not callable(given) or isinstance(given, nn.Module):
        already = " that is made already" * isinstance(given, (Optimizer, LRScheduler))
        raise TypeError(
            f"{name} is {described(given)}{already}; give what makes one, such as {example}: the criteria's own layers are "
            "made later, and it must hold them too."
        )
    try:
        inspect.signature(given).bind(None)
    except ValueError:  # builtins without a signature
        return
    except TypeError as error:
        raise TypeError(
            f"{name} is {described(given)}, which cannot be called with only "
            f"{'an optimizer' if name == 'lr_scheduler' else 'parameters'} ({error}); give what makes one, such as {example}."
        ) from None


def made_by(name: str, make: Callable[[Any], Any], of: Any) -> Any:
    """Call a factory, and name the argument if it fails.

    Raises:
        TypeError: The factory raised it; so for ``ValueError`` and ``AttributeError``.
    """
    try:
        return make(of)
    except (TypeError, ValueError, AttributeError) as error:
        raise type(error)(f"{name}: {described(make)} could not make one: {error}") from error
