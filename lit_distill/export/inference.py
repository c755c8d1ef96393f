"""The student as it is exported: a copy in evaluation mode that takes tensors and returns logits, and nothing of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, positions_and_names
from lit_distill.capture.formats import format_of
from lit_distill.capture.hooks import InputHook, OutputHook
from lit_distill.export.exported import FileSignature
from lit_distill.models.clustered import write_weights_out
from lit_distill.outputs import OutputKey, read_logits
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.copying import copied
from lit_distill.utils.lightning_names import is_module
from lit_distill.utils.names import unknown_layer
from lit_distill.utils.tensors import usual_layout

LARGEST_BATCH = 64  # samples of a dynamic batch, for runtimes that plan their memory


@dataclass(frozen=True)
class Normalisation:
    """The mean and the standard deviation of each channel, for images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return both as ``[C, 1, 1]``."""
        return torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)


@dataclass(frozen=True)
class Arrangement:
    """How tensors become a student's arguments: so many by position, then those with a name."""

    positional: int
    named: tuple[str, ...]

    @classmethod
    def of(cls, inputs: Inputs) -> Arrangement:
        """Read the arrangement of inputs.

        Raises:
            ValueError: One of them is no tensor.
        """
        positional, named = positions_and_names(inputs)
        for name, value in [*((f"input {place}", one) for place, one in enumerate(positional)), *named.items()]:
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"the student's {name} is a {type(value).__name__}, and an exported file takes tensors only: set it "
                    "inside the student."
                )
        return cls(len(positional), tuple(named))

    def tensors(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return the tensors of inputs of this arrangement, on the CPU, numbers in float32."""
        positional, named = positions_and_names(inputs)
        given = [*positional, *(named[name] for name in self.named)]
        return tuple(one.detach().cpu().float() if one.is_floating_point() else one.detach().cpu() for one in given)

    def names(self) -> tuple[str, ...]:
        """Return a name for each input of the file."""
        first = ("input",) if self.positional == 1 else tuple(f"input_{place}" for place in range(self.positional))
        return first + self.named


class Inference(nn.Module):
    """A copy of a student that takes tensors by position and returns its logits, one tensor a task.

    Args:
        student: The network; it does not change.
        arrangement: How it is called.
        output_key: The entry of its output that holds the logits.
        heads: The layer of each task, by the task's name, if there are several.
        normalisation: Is computed first, on images in [0, 1].

    Raises:
        ValueError: The student is no Python module, or a head is no layer of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        student: nn.Module,
        arrangement: Arrangement,
        output_key: OutputKey | None = None,
        heads: Mapping[str, str] | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        self.student = plain_copy(student)
        self.arrangement, self.output_key, self.heads = arrangement, output_key, dict(heads or {})
        known = dict(self.student.named_modules())
        for layer in self.heads.values():
            if layer not in known:
                raise ValueError(unknown_layer(layer, list(known), f"the student {type(self.student).__name__}"))
        self.normalisation, self.normalises = normalisation, normalisation is not None
        if normalisation is not None:
            mean, std = normalisation.tensors()
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)
        self.eval()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what is returned."""
        return tuple(self.heads) or ("logits",)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each output."""
        given = list(inputs)
        if self.normalises:
            given[0] = (given[0] - self.mean) / self.std
        count = self.arrangement.positional
        with outputs_of(self.student, self.heads) as found:
            raw = self.student(*given[:count], **dict(zip(self.arrangement.named, given[count:], strict=True)))
        return tuple(found.values()) if self.heads else (read_logits(raw, self.output_key, "student"),)

    def raw_images(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return inputs of the student as this module takes them: with the normalisation inside, images in [0, 1]."""
        if not self.normalises:
            return tuple(inputs)
        return (inputs[0] * self.std + self.mean, *inputs[1:])


@contextmanager
def outputs_of(network: nn.Module, layers: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping that gets the outputs of layers, by the names that they are given under, while the network runs."""
    found: dict[str, Any] = dict.fromkeys(layers)
    # Registered anew in each call: torch.export puts a module's attributes back as they were, and hooks would keep a lost one.
    handles = [
        network.get_submodule(layer).register_forward_hook(partial(_keep, found, name))
        for name, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(found: dict[str, Any], name: str, module: nn.Module, given: Any, output: Any) -> None:
    found[name] = output


def plain_copy(student: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode, on the CPU, in float32: not compiled, without hooks of ours.

    Raises:
        ValueError: It is TorchScript or an exported program already.
    """
    inner = uncompiled(student)
    form = format_of(inner)
    if form is not None:
        raise ValueError(
            f"the student is {form}, which cannot be exported again; give the network that it was made from."
        )
    trainers = {id(one): one for part in inner.modules() if is_module(part) for one in [vars(part).get("_trainer")]}
    network = copied(inner, [one for one in trainers.values() if one is not None])
    for part in list(network.modules()):
        _make_plain(part)
    write_weights_out(network)
    network.eval().requires_grad_(False)
    network.to("cpu", torch.float32)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = usual_layout(tensor.data)
    return network


def _make_plain(part: nn.Module) -> None:
    """Take from a module what a fit may have left on it."""
    for name, child in list(part.named_children()):
        if uncompiled(child) is not child:
            setattr(part, name, uncompiled(child))
    vars(part).pop("_compiled_call_impl", None)
    if is_module(part):
        part._trainer = None  # type: ignore[assignment]
    for hooks in (part._forward_hooks, part._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, (InputHook, OutputHook))]:
            del hooks[key]


@dataclass(frozen=True)
class Job:
    """What a target writes.

    Attributes:
        network: The student.
        example: Its inputs: one sample, or two if the batch is dynamic.
        dynamic: ``batch`` and ``size``, where the file takes any.
        precision: ``float32`` or ``int8``.
        calibration: Batches of training inputs, for int8.
        stretch: How many times the example's the largest dynamic size is, where the runtime plans its memory for a largest
            batch and size; None if there is no limit.
        reference: What the file is compared with, if not the student: a student as quantisation-aware training rounds it.
    """

    network: Inference
    example: tuple[Tensor, ...]
    dynamic: frozenset[str] = frozenset()
    precision: str = "float32"
    calibration: Sequence[tuple[Tensor, ...]] = field(default=(), repr=False)
    stretch: int | None = None
    reference: Inference | None = field(default=None, repr=False)

    def expected(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what a file should put out, by name."""
        network = self.reference or self.network
        with torch.no_grad():
            return dict(zip(self.network.outputs, network(*inputs), strict=True))

    def free(self, tensor: Tensor) -> list[int]:
        """Return the dimensions of an input of which any size is taken: the batch, and the sizes of images or texts."""
        sizes = {3: [1], 2: [1], 4: [2, 3], 5: [2, 3, 4]}.get(tensor.dim(), [])
        if tensor.dim() == 2 and tensor.is_floating_point():
            sizes = []  # rows of features, whose number is fixed
        return [0] * ("batch" in self.dynamic) + sizes * ("size" in self.dynamic)

    @property
    def signature(self) -> FileSignature:
        """What the file takes and returns."""
        free = [self.free(tensor) for tensor in self.example]
        shapes = tuple(
            tuple(None if place in any_size else size for place, size in enumerate(tensor.shape))
            for tensor, any_size in zip(self.example, free, strict=True)
        )
        types = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in self.example)
        return FileSignature(self.network.arrangement.names(), shapes, types, self.network.outputs, self._largest())

    def _largest(self) -> tuple[tuple[int, ...], ...] | None:
        if self.stretch is None or not self.dynamic:
            return None
        return tuple(tuple(self._limit(tensor, place) for place in range(tensor.dim())) for tensor in self.example)

    def _limit(self, tensor: Tensor, place: int) -> int:
        if place not in self.free(tensor):
            return tensor.shape[place]
        return LARGEST_BATCH if place == 0 else tensor.shape[place] * (self.stretch or 1)

    def single(self, batch: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """Split a batch into parts that the file takes."""
        size = self.signature.batch
        return [batch] if size is None else list(zip(*(torch.split(each, size) for each in batch), strict=True))


def refuse_unusable(job: Job) -> None:
    """Run the student on the example, and refuse what no file can return."""
    with torch.no_grad():
        try:
            found = job.network(*job.example)
        except ValueError:  # of ours: no logits, or several
            raise
        except Exception as error:
            shapes = ", ".join(str(list(one.shape)) for one in job.example)
            raise ValueError(f"the student fails on its example ({shapes}): {error}") from error
    for name, logits in zip(job.network.outputs, found, strict=True):
        if not torch.isfinite(logits).all():
            raise ValueError(
                f"the student's {name} are not finite on the example: it has diverged, and is not exported."
            )
