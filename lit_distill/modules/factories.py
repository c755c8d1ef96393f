"""What makes an optimizer or a scheduler, as the user gave it."""

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
    """Refuse what makes no optimizer, or no scheduler.

    Args:
        name: The argument's.
        given: What was given; None where nothing was.
        example: What would be right.

    Raises:
        TypeError: It is made already, cannot be called, or not with the parameters (the optimizer) alone.
    """
    if given is None:
        return
    if not callable(given) or isinstance(given, nn.Module):
        already = " that is made already" * isinstance(given, (Optimizer, LRScheduler))
        raise TypeError(
            f"{name} is {described(given)}{already}; give what makes one, such as {example}: the criteria's own layers are "
            "made later, and it has to hold them too."
        )
    try:
        inspect.signature(given).bind(None)
    except ValueError:  # of builtins that say nothing
        return
    except TypeError as error:
        raise TypeError(
            f"{name} is {described(given)}, which does not take {'an optimizer' if name == 'lr_scheduler' else 'parameters'} "
            f"alone ({error}); give what makes one, such as {example}."
        ) from None


def made_by(name: str, make: Callable[[Any], Any], of: Any) -> Any:
    """What a factory makes; an error of its own says which argument it is of.

    Args:
        name: The argument's.
        make: The factory.
        of: What it is called with.
    """
    try:
        return make(of)
    except (TypeError, ValueError, AttributeError) as error:
        raise type(error)(f"{name}: {described(make)} could not make one: {error}") from error
