"""Training steps whose losses are differentiated more than once: gradients that are measured, or kept apart.

PyTorch promises only that a compiled network's backward pass runs once. On CPUs with AMX, a graph compiled in the
channels-last layout under bfloat16 autocast has given another, wrong gradient each time that it was run again, without an
error. So nothing here is differentiated twice through a compiled network: the steps that need it run eagerly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lit_distill.utils.compiling import eagerly
from lit_distill.utils.graph import nodes_behind
from lit_distill.utils.notices import warn


class EagerSteps:
    """Runs compiled networks eagerly in the training steps that are differentiated more than once, when it is ``active``."""

    def __init__(self) -> None:
        self.active = False
        self._whole = ExitStack()

    def begin(self, active: bool, whole: bool) -> None:
        """Begin a training step; one that is compiled as a ``whole`` runs eagerly as a whole, not only student and criteria."""
        self.end()
        self.active = active
        if active and whole:
            self._whole.enter_context(eagerly())

    def end(self) -> None:
        """End a step, even an unfinished one."""
        self.active = False
        self._whole.close()

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Run the student and the criteria eagerly in such a step."""
        # A step that is compiled itself may not change the stance, which was set before it began.
        if not self.active or torch.compiler.is_compiling():
            yield
            return
        with eagerly():
            yield


@contextmanager
def kept_buffers(network: nn.Module, but: nn.Module) -> Iterator[None]:
    """Restore a network's buffers on exit: under gradient checkpointing, a backward pass runs BatchNorm again."""
    free = {id(buffer) for buffer in but.buffers()}
    kept = [(buffer, buffer.detach().clone()) for buffer in network.buffers() if id(buffer) not in free]
    yield
    for buffer, before in kept:
        buffer.data.copy_(before)  # by `data`: the step's own backward pass is still to come, and checks versions


def gradients_of(value: Tensor, parameters: Sequence[Tensor], who: str) -> tuple[Tensor | None, ...]:
    """Return a value's gradients in addition to the step's own backward pass; its graph and the random state are kept.

    None stands for a parameter that the value does not depend on. A gradient through a compiled function, which may give
    another one each time, is refused.
    """
    if through_compiled(value):
        raise RuntimeError(
            f"{who} differentiates the losses of a step more than once, and they went through a function that torch.compile "
            "made, whose second gradient cannot be trusted. Run the student and the criteria under "
            "torch.compiler.set_stance('force_eager') in these steps, as the modules of lit_distill and Distill do, or do not "
            "compile them."
        )
    devices = {parameter.device for parameter in parameters if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        return torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)


def through_compiled(*values: Tensor) -> bool:
    """Return True if the gradient of one of the values goes through a compiled function."""
    for node in nodes_behind(values):
        made_by = getattr(node, "_forward_cls", None)
        if made_by is not None and made_by.__module__.startswith("torch._functorch"):
            return True
    return False


def warn_of_eager_steps() -> None:
    """Warn that a student that was compiled by hand gains nothing under an optimizer that differentiates twice."""
    warn(
        "DOT differentiates each step twice, and the second gradient of a compiled network cannot be trusted: the student runs "
        "in training as if it were not compiled."
    )
