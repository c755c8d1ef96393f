"""Whether what is frozen now will be trained later: a callback or a hook that unfreezes layers is in the trainer."""

from __future__ import annotations

from typing import Any

_SIGNS = {"requires_grad", "requires_grad_", "make_trainable", "unfreeze", "unfreeze_and_add_param_group"}
_FRAMEWORK = ("lightning.pytorch.core", "pytorch_lightning.core", "torch.nn", "lit_distill.modules")


def unfreezes_later(trainer: Any, module: object) -> bool:
    """Whether the trainer's callbacks, or the module's own hooks, set which parameters train.

    Args:
        trainer: The running trainer; None for none.
        module: The LightningModule.
    """
    if trainer is None:
        return False
    return any(any(_sets_training(kind) for kind in type(one).__mro__) for one in (*trainer.callbacks, module))


def _sets_training(kind: type) -> bool:
    """Whether a hook that Lightning calls during a fit, or a method of a callback that finetunes, names a sign of it."""
    if kind.__module__.startswith(_FRAMEWORK):
        return False
    if kind.__name__ in ("BaseFinetuning", "Unfreeze"):
        return True
    hooks = [value for name, value in vars(kind).items() if name.startswith(("on_train", "training_step", "on_before"))]
    names = {name for hook in hooks for name in getattr(getattr(hook, "__code__", None), "co_names", ())}
    return bool(names & _SIGNS)
