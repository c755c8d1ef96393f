"""A warning for students that are LightningModules with an optimizer or a training step of their own."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from lit_distill.utils.notices import warn

_LIGHTNING = ("lightning.pytorch.core.", "pytorch_lightning.core.")


def warn_of_unused_hooks(student: nn.Module, optimizers: Iterable[Optimizer], chosen: bool) -> None:
    """Warn that a distillation calls neither the student's ``configure_optimizers`` nor its ``training_step``."""
    names = ("training_step",) if chosen else ("configure_optimizers", "training_step")
    found = [(type(part).__name__, name) for part in student.modules() for name in names if _defines(part, name)]
    if not found:
        return
    whose = found[0][0]
    own = list(dict.fromkeys(name for kind, name in found if kind == whose))
    instead = ", ".join(f"{type(made).__name__} at {float(made.param_groups[0]['lr']):g}" for made in optimizers)
    ways = [] if chosen else ["give `optimizer=` (and `lr_scheduler=`)"]
    ways.append("keep your module and add the callback Distill(teacher) to its Trainer")
    warn(
        f"the student {whose} is a LightningModule, and its own {' and '.join(own)} {'are' if own[1:] else 'is'} not called "
        f"in a distillation: the optimizer {instead} and the criteria train it. If that is not meant, {', or '.join(ways)}."
    )


def _defines(module: nn.Module, name: str) -> bool:
    """Return True if a LightningModule, of either package, overrides a method."""
    classes = type(module).__mro__
    if not any(cls.__name__ == "LightningModule" and cls.__module__.startswith(_LIGHTNING) for cls in classes):
        return False
    owner = next((cls for cls in classes if name in vars(cls)), None)
    return owner is not None and not owner.__module__.startswith(_LIGHTNING)
