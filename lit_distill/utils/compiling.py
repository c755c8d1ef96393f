"""Compilation of networks in place, for one batch size."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from lightning.pytorch import LightningModule
from torch import nn

from lit_distill.utils.names import first_line


def compile_in_place(model: nn.Module, backend: str = "inductor") -> None:
    """Compile a model's calls; its class, its keys and its hooks stay as they are.

    Shapes stay static until a second one is seen, which keeps the first graph as fast as it can be.
    """
    see_hooks()
    model.compile(dynamic=None, backend=backend)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the network inside the wrapper of ``torch.compile``; any other as it is."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner


def see_hooks() -> None:
    """Make networks that are compiled from now on respect their hooks."""
    # Compiled code is shared by all networks of a class, and by default used for the same shapes, with hooks or
    # without: a network would run without its hooks. So hooks are checked, and code compiled before is dropped.
    torch.compiler.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = False


def why_not_compile(device: torch.device) -> str | None:
    """Return why nothing can be compiled for a device (no C++ compiler, no Triton, …), or None if it can.

    It compiles one addition, as nothing else tells.
    """
    try:
        torch.compile(_add_one)(torch.zeros(8, device=device))
    except Exception as error:
        return first_line(error)
    return None


def _add_one(values: torch.Tensor) -> torch.Tensor:
    return values + 1


class SteadySize:
    """Runs a compiled network eagerly on batches smaller than usual.

    An epoch's last batch is often smaller. Compiling for its size takes longer than running it eagerly, and a graph
    for any size is slower than one for the usual size.
    """

    def __init__(self) -> None:
        self.usual = 0

    def context(self, size: int) -> AbstractContextManager[None]:
        """Return the context to call the network in."""
        self.usual = max(self.usual, size)
        return eagerly() if size < self.usual else nullcontext()


def eagerly() -> AbstractContextManager[None]:
    """Run compiled networks as if they were not compiled."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


def call_own_methods(copied: LightningModule) -> None:
    """Make the copy of a module, if that was compiled whole, call its own methods instead of the original's."""
    if getattr(copied, "_compiler_ctx", None) is not None:
        for name in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
            vars(copied).pop(name, None)
        copied._compiler_ctx = None


def steps_are_compiled(module: nn.Module) -> bool:
    """Return True if the steps of a LightningModule are compiled, and not only its networks."""
    return any(
        getattr(module, name, None) is not None for name in ("_compiler_ctx", "_orig_mod", "_compiled_call_impl")
    )
