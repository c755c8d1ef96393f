"""Training steps whose losses are differentiated more than once: gradients that are measured, or kept apart.

PyTorch promises only that a compiled network's backward pass runs once. On CPUs with AMX, a graph compiled in the
channels-last layout under bfloat16 autocast has given another, wrong gradient each time that it was run again, without an
error. So nothing here is differentiated twice through a compiled network: the steps that need it run eagerly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.utils.compiling import eagerly
from lit_distill.utils.distributed import distributed
from lit_distill.utils.graph import nodes_behind
from lit_distill.utils.notices import warn

NOT_REENTRANT = (
    "needs gradients apart from the backward pass, which gradient checkpointing with use_reentrant=True does not allow: "
    "checkpoint with use_reentrant=False."
)
_SCALES = (2.0**16, 2.0**8, 1.0)  # powers of two change no other bit of a gradient


class OnHost:
    """The values of a tensor on the CPU, read again only if PyTorch has counted a change: a read waits for the device."""

    def __init__(self) -> None:
        self._of: tuple[Tensor, int] | None = None
        self._values: Any = None

    def read(self, tensor: Tensor) -> Any:
        """Return the tensor as a number or a list."""
        if tensor.is_inference():  # has no count of changes
            return tensor.tolist()
        if self._of is None or self._of[0] is not tensor or self._of[1] != tensor._version:
            self.note(tensor, tensor.tolist())
        return self._values

    def note(self, tensor: Tensor, values: Any) -> None:
        """Take these values for the tensor's."""
        self._of = None if tensor.is_inference() else (tensor, tensor._version)
        self._values = values


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
        try:
            return torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise RuntimeError(f"{who} {NOT_REENTRANT}") from error


def mean_gradients(
    value: Tensor, parameters: Sequence[nn.Parameter], who: str, everywhere: bool = True
) -> dict[int, Tensor]:
    """Return a value's gradients in float32, by the place of each parameter that it depends on.

    They are averaged over processes, all of which must call this, or only this one's if not ``everywhere``.

    They are computed at the largest scale at which they are finite: in half precision, small ones would vanish.
    """
    reached: dict[int, Tensor] = {}
    for scale in _SCALES:
        reached = {place: one.float() / scale for place, one in _found(value * scale, parameters, who)}
        if everywhere and distributed():
            reached = _averaged(reached, parameters)
        if not reached or bool(joint_norm(reached.values()).isfinite()):
            break
    return reached


def _found(value: Tensor, parameters: Sequence[nn.Parameter], who: str) -> list[tuple[int, Tensor]]:
    gradients = gradients_of(value, parameters, who) if value.requires_grad else ()
    return [(place, gradient) for place, gradient in enumerate(gradients) if gradient is not None]


def _averaged(reached: dict[int, Tensor], parameters: Sequence[nn.Parameter]) -> dict[int, Tensor]:
    """Average over processes; one that does not reach a parameter counts as 0, and waits for nobody."""
    empty = [parameter.new_zeros(parameter.numel(), dtype=torch.float32) for parameter in parameters]
    flat = [reached[place].flatten() if place in reached else zeros for place, zeros in enumerate(empty)]
    flags = empty[0].new_tensor([float(place in reached) for place in range(len(parameters))])
    together = torch.cat([*flat, flags])
    torch.distributed.all_reduce(together)
    *parts, anywhere = torch.split(together, [*(len(one) for one in flat), len(flags)])
    processes = torch.distributed.get_world_size()
    return {place: part / processes for place, part in enumerate(parts) if anywhere[place]}


def joint_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients together."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    return norm


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
