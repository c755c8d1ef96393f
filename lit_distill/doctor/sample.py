"""Outputs to try a criterion on: of the shapes of training, small and in float64 if possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.batch import Target
from lit_distill.batch.labels import class_dim, positions
from lit_distill.outputs import Outputs

_BATCH = 8
_FEW = 4
_ELEMENTS = 200_000  # in all; above, fewer samples are taken
_CLASSES = 16
_POSITIONS = 4


@dataclass(frozen=True)
class Sample:
    """Both networks' outputs for a batch, and its labels."""

    student: Outputs
    teacher: Outputs
    target: Target | None = None

    def map(self, fn: Callable[[Tensor], Tensor]) -> Sample:
        """Apply a function to every tensor, including masks and labels."""
        target = self.target
        if target is not None:
            target = fn(target) if isinstance(target, Tensor) else {name: fn(labels) for name, labels in target.items()}
        return Sample(_map(self.student, fn), _map(self.teacher, fn), target)

    def to(self, dtype: torch.dtype) -> Sample:
        """Convert logits and features to another type."""
        return Sample(_to(self.student, dtype), _to(self.teacher, dtype), self.target)

    def part(self, begin: int, end: int) -> Sample:
        """Return some of the batch's samples."""
        return self.map(lambda tensor: tensor[begin:end])

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.student.logits)

    def by_sample(self) -> bool:
        """Return True if the first dimension of every tensor is the batch."""
        tensors: list[Tensor] = []
        self.map(lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return all(tensor.dim() and len(tensor) == self.size for tensor in tensors)

    def inputs(self) -> dict[str, Tensor]:
        """Return the student's tensors by name, with its logits as ``logits``."""
        features = {name: value for name, value in self.student.features.items() if value.is_floating_point()}
        return {"logits": self.student.logits, **features}

    def with_inputs(self, inputs: Mapping[str, Tensor]) -> Sample:
        """Replace some of the student's tensors."""
        features = {name: inputs.get(name, value) for name, value in self.student.features.items()}
        logits = inputs.get("logits", self.student.logits)
        return replace(self, student=replace(self.student, logits=logits, features=features))


def _map(outputs: Outputs, fn: Callable[[Tensor], Tensor]) -> Outputs:
    features = {name: fn(value) for name, value in outputs.features.items()}
    mask = fn(outputs.mask) if outputs.mask is not None else None
    return Outputs(fn(outputs.logits) if outputs.logits.numel() else outputs.logits, features, mask)


def _to(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    features = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in outputs.features.items()
    }
    return replace(outputs, logits=outputs.logits.to(dtype), features=features)


def fewer(sample: Sample) -> Sample:
    """Return the first few samples of a batch, on the CPU and in float64; all if tensors are not by sample."""
    if sample.by_sample():
        elements = sum(value.numel() for value in [*sample.inputs().values(), *sample.teacher.features.values()])
        count = _BATCH if elements / sample.size * _BATCH <= _ELEMENTS else _FEW
        count = min(count, max(sample.size - sample.size % 2, 1))
        sample = sample.part(0, count)
    return sample.map(lambda tensor: tensor.detach().cpu()).to(torch.float64)


def smaller(sample: Sample) -> Sample | None:
    """Return zeros of a few samples, classes and positions, without features: for criteria that read only logits.

    Return None if the labels or the teacher's logits have shapes of their own.
    """
    logits, target = sample.student.logits, sample.target
    spots = positions(logits)
    few = torch.Size([_BATCH, *(min(size, _POSITIONS) for size in spots[1:])])
    small = few
    if logits.dim() > 1:
        place = class_dim(logits)
        small = torch.Size([*few[:place], min(logits.shape[place], _CLASSES), *few[place:]])
    shapes = {logits.shape: small, spots: few}
    if sample.teacher.logits.numel() and sample.teacher.logits.shape != logits.shape:
        return None
    if isinstance(target, Tensor):
        if target.shape not in shapes:
            return None
        shares = _are_shares(target, logits)
        target = torch.zeros(shapes[target.shape], dtype=target.dtype)
        if shares:  # so that probabilities and one-hot labels are still recognised as such
            target.select(class_dim(logits), 0).fill_(1)

    def outputs(of: Outputs) -> Outputs:
        mask = None
        if of.mask is not None:
            mask = torch.ones(few if of.mask.shape == spots else (_BATCH, *of.mask.shape[1:]), dtype=torch.bool)
        return Outputs(of.logits.new_zeros(small if of.logits.numel() else 0), {}, mask)

    return Sample(outputs(sample.student), outputs(sample.teacher), target)


def draw(like: Sample, seed: int, scale: float, right: float) -> Sample:
    """Return a random sample of the same shapes: normal logits, and features that are drawn from those of training.

    Args:
        like: A sample of training.
        seed: The seed of the random numbers.
        scale: Standard deviation of the logits.
        right: Share of the samples whose label is the teacher's class; the others' are random.
    """
    generator = torch.Generator().manual_seed(seed)

    def outputs(of: Outputs) -> Outputs:
        logits = scale * torch.randn(of.logits.shape, generator=generator, dtype=of.logits.dtype)
        features = {name: _resample(value, generator) for name, value in of.features.items()}
        return Outputs(logits, features, of.mask)

    student, teacher = outputs(like.student), outputs(like.teacher)
    return Sample(student, teacher, _labels(like.target, teacher.logits, student.logits, right, generator))


def _resample(values: Tensor, generator: torch.Generator) -> Tensor:
    """Draw values from those of a tensor, so that they keep its range and its zeros."""
    if not values.is_floating_point() or not values.numel():
        return values
    flat = values.flatten()
    if float(flat.std(correction=0)) == 0:  # no example to draw from
        return torch.randn(values.shape, generator=generator, dtype=values.dtype)
    return flat[torch.randint(len(flat), (len(flat),), generator=generator)].reshape(values.shape)


def _labels(
    like: Target | None, teacher: Tensor, student: Tensor, right: float, generator: torch.Generator
) -> Target | None:
    if not isinstance(like, Tensor):
        return like
    logits = teacher if teacher.shape == student.shape else student
    if logits.dim() > 1 and logits.shape[class_dim(logits)] > 1:
        classes, spots = class_dim(logits), positions(logits)
        other = torch.randint(logits.shape[classes], spots, generator=generator)
        labels = torch.where(torch.rand(spots, generator=generator) < right, logits.argmax(classes), other)
        if like.shape == spots and not like.is_floating_point():
            return labels
        if _are_shares(like, logits):
            one_hot = F.one_hot(labels, logits.shape[classes]).movedim(-1, classes)
            return one_hot.to(logits.dtype if like.is_floating_point() else like.dtype)
    if like.numel() == logits.numel():
        return (logits > 0).to(like.dtype).reshape(like.shape)
    return like


def _are_shares(target: Tensor, logits: Tensor) -> bool:
    """Return True if labels are class probabilities or one-hot: of the logits' shape, with the sum 1 at each position."""
    if target.shape != logits.shape or target.dim() < 2:
        return False
    sums = target.double().sum(class_dim(logits))
    return bool(torch.allclose(sums, torch.ones_like(sums), atol=0.02))
