"""Outputs to try a criterion on: of the shapes that training has, small and in float64 where possible."""

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
_ELEMENTS = 200_000  # of a sample: above, fewer samples are taken
_CLASSES = 16
_POSITIONS = 4
LOGIT_SCALE = 3.0


@dataclass(frozen=True)
class Sample:
    """Both networks' outputs for a batch, and its labels.

    Attributes:
        student: The student's outputs.
        teacher: The teacher's.
        target: The labels, or None.
    """

    student: Outputs
    teacher: Outputs
    target: Target | None = None

    def map(self, fn: Callable[[Tensor], Tensor]) -> Sample:
        """The same with a function applied to every tensor, masks and labels too."""
        target = self.target
        if isinstance(target, Tensor):
            target = fn(target)
        elif target is not None:
            target = {name: fn(labels) for name, labels in target.items()}
        return Sample(_map(self.student, fn), _map(self.teacher, fn), target)

    def to(self, dtype: torch.dtype) -> Sample:
        """The same with logits and features in another type."""
        return Sample(_to(self.student, dtype), _to(self.teacher, dtype), self.target)

    def part(self, begin: int, end: int) -> Sample:
        """Some of the batch's samples."""
        return self.map(lambda tensor: tensor[begin:end])

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.student.logits)

    def by_sample(self) -> bool:
        """Whether the first dimension of every tensor is the batch."""
        sizes: set[int] = set()
        self.map(lambda tensor: _note(tensor, sizes))
        return sizes == {self.size}

    def inputs(self) -> dict[str, Tensor]:
        """The student's tensors by name; ``logits`` are the logits."""
        features = {name: value for name, value in self.student.features.items() if value.is_floating_point()}
        return {"logits": self.student.logits, **features}

    def with_inputs(self, inputs: Mapping[str, Tensor]) -> Sample:
        """The same with some of the student's tensors replaced."""
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


def _note(tensor: Tensor, sizes: set[int]) -> Tensor:
    sizes.add(len(tensor) if tensor.dim() else 0)
    return tensor


def fewer(sample: Sample) -> Sample:
    """The first few samples of a batch, on the CPU and in float64; all where tensors are not by sample."""
    if sample.by_sample():
        elements = sum(value.numel() for value in [*sample.inputs().values(), *sample.teacher.features.values()])
        count = _BATCH if elements / sample.size * _BATCH <= _ELEMENTS else _FEW
        count = min(count, max(sample.size - sample.size % 2, 1))
        sample = sample.part(0, count)
    return sample.map(lambda tensor: tensor.detach().cpu()).to(torch.float64)


def smaller(sample: Sample) -> Sample | None:
    """Zeros of a few samples, classes and positions, without features: for criteria that read logits alone.

    Returns:
        None where the labels or the teacher's logits have shapes of their own.
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
        # Of no class more than of another, so that probabilities are still known as such.
        shares = are_shares(target, logits)
        share = 1 / small[class_dim(logits)] if shares and target.is_floating_point() else 0
        one_hot = shares and not target.is_floating_point()
        target = torch.full(shapes[target.shape], share, dtype=target.dtype)
        if one_hot:
            target.select(class_dim(logits), 0).fill_(1)

    def outputs(of: Outputs) -> Outputs:
        mask = None
        if of.mask is not None:
            mask = torch.ones(few if of.mask.shape == spots else (_BATCH, *of.mask.shape[1:]), dtype=torch.bool)
        return Outputs(of.logits.new_zeros(small if of.logits.numel() else 0), {}, mask)

    return Sample(outputs(sample.student), outputs(sample.teacher), target)


def draw(like: Sample, seed: int, scale: float = LOGIT_SCALE, right: float = 0.5) -> Sample:
    """A sample at random: normal logits, and features that are drawn from those of training.

    Args:
        like: What it has the shapes of.
        seed: Of the numbers.
        scale: Standard deviation of the logits.
        right: Share of the samples whose label is the teacher's class; the others' are at random.
    """
    generator = torch.Generator().manual_seed(seed)

    def outputs(of: Outputs) -> Outputs:
        logits = scale * torch.randn(of.logits.shape, generator=generator, dtype=of.logits.dtype)
        features = {name: resample(value, value.shape, generator) for name, value in of.features.items()}
        return Outputs(logits, features, of.mask)

    student, teacher = outputs(like.student), outputs(like.teacher)
    return Sample(student, teacher, _labels(like.target, teacher.logits, student.logits, right, generator))


def resample(values: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Values drawn from those of a tensor, so that they keep its range and its zeros."""
    if not values.is_floating_point() or not values.numel():
        return values
    flat = values.flatten()
    if float(flat.std(correction=0)) == 0:  # no example to draw from
        return torch.randn(shape, generator=generator, dtype=values.dtype)
    number = int(torch.Size(shape).numel())
    return flat[torch.randint(len(flat), (number,), generator=generator)].reshape(shape)


def _labels(
    like: Target | None, teacher: Tensor, student: Tensor, right: float, generator: torch.Generator
) -> Target | None:
    if like is None or not isinstance(like, Tensor):
        return like
    logits = teacher if teacher.shape == student.shape else student
    if logits.dim() > 1 and logits.shape[class_dim(logits)] > 1:
        classes, spots = class_dim(logits), positions(logits)
        other = torch.randint(logits.shape[classes], spots, generator=generator)
        labels = torch.where(torch.rand(spots, generator=generator) < right, logits.argmax(classes), other)
        if like.shape == spots and not like.is_floating_point():
            return labels
        if are_shares(like, logits):
            one_hot = F.one_hot(labels, logits.shape[classes]).movedim(-1, classes)
            return one_hot.to(logits.dtype if like.is_floating_point() else like.dtype)
    if like.numel() == logits.numel():
        return (logits > 0).to(like.dtype).reshape(like.shape)
    return like


def are_shares(target: Tensor, logits: Tensor) -> bool:
    """Whether labels are class probabilities or a one-hot: of the logits' shape, and 1 in all at each position."""
    if target.shape != logits.shape or target.dim() < 2:
        return False
    sums = target.double().sum(class_dim(logits))
    return bool(torch.allclose(sums, torch.ones_like(sums), atol=0.02))
