"""Adds the criteria's parameters to the optimizer of the user's module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer

from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.utils.arguments import check_whole
from lit_distill.utils.notices import warn
from lit_distill.utils.tensors import parameters_in


class TrainedAdditions:
    """Adds the projectors and other parameters of the criteria to a parameter group of the module's first optimizer.

    A new group would not work: the schedulers already exist, and have one entry per group.
    """

    def __init__(self, group: int | None = None) -> None:
        self.group = None if group is None else check_whole("parameter_group", group)
        self._optimizer: Optimizer | None = None
        self._added: list[nn.Parameter] = []

    def around_configure_optimizers(self, module: LightningModule) -> Callable[..., Any]:
        """Return a wrapper that makes the module's optimizer without the additions, and then adds them.

        The projectors are thus in the optimizer before anything runs, including a learning-rate finder's trial steps.
        """

        def make(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            additions = module._modules.pop(ENTRY_KEY, None)
            try:
                made = original(*args, **kwargs)
            finally:
                if additions is not None:
                    module._modules[ENTRY_KEY] = additions
            if additions is not None:
                _refuse_no_optimizer(module, made, additions)
                self.add(_first_optimizer(made), additions)
            return made

        return make

    def add(self, optimizer: Optimizer | None, additions: nn.Module) -> None:
        """Add the trainable parameters that are in no group yet; refuse a group that the optimizer does not have."""
        if optimizer is not self._optimizer:
            self._optimizer, self._added = optimizer, []
        if optimizer is None:
            return
        held = parameters_in([optimizer])
        missing = [p for p in additions.parameters() if p.requires_grad and id(p) not in held]
        if not missing:
            return
        groups = optimizer.param_groups
        index = self.group or 0
        if not -len(groups) <= index < len(groups):
            raise ValueError(
                f"parameter_group is {index}, and the module's optimizer has {len(groups)} parameter groups, 0 to "
                f"{len(groups) - 1}."
            )
        if self.group is None:
            _warn_of_learning_rates(groups, len(missing))
        groups[index]["params"].extend(missing)
        self._added += missing

    def checkpoint_entry(self) -> dict[str, int]:
        """Return what ``strip`` needs: the number of added parameters, and their group."""
        groups = len(self._optimizer.param_groups) if self._optimizer is not None else 1
        return {"in_optimizer": len(self._added), "parameter_group": (self.group or 0) % groups}

    def take_back(self) -> None:
        """Remove the added parameters."""
        if self._optimizer is not None and self._added:
            gone = {id(p) for p in self._added}
            for group in self._optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in gone]
            for parameter in self._added:
                self._optimizer.state.pop(parameter, None)
        self._optimizer, self._added = None, []


def _refuse_no_optimizer(module: LightningModule, made: Any, additions: nn.Module) -> None:
    """Refuse layers of the criteria that no optimizer would train."""
    count = sum(parameter.requires_grad for parameter in additions.parameters())
    if not made and count:
        raise ValueError(
            f"there is no optimizer: {type(module).__name__}.configure_optimizers returned none, and the criteria's own layers "
            f"({count} parameters) need one. Return one, or use criteria without layers."
        )


def _first_optimizer(made: Any) -> Optimizer | None:
    """Return the first optimizer among the return values of ``configure_optimizers``."""
    if isinstance(made, Mapping):
        return _first_optimizer(made.get("optimizer"))
    if isinstance(made, (list, tuple)):
        return _first_optimizer(made[0]) if made else None
    return made if isinstance(made, Optimizer) else None


def _warn_of_learning_rates(groups: list[dict[str, Any]], count: int) -> None:
    rates = [float(group.get("initial_lr", group.get("lr", 0.0))) for group in groups]
    if len(set(rates)) > 1:
        listed = ", ".join(f"{index}: {rate:g}" for index, rate in enumerate(rates))
        warn(
            f"the criteria's own layers ({count} parameters) train at the learning rate {rates[0]:g}, that "
            f"of the optimizer's first parameter group; the groups have {listed}. Choose another group with "
            "Distill(parameter_group=…); parameter_group=0 keeps this one."
        )
