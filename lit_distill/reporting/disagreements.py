"""Where student and teacher disagree: counts by class, and the images on which they are surest of different answers."""

from __future__ import annotations

import heapq
import io
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from lit_distill.batch.batch import IGNORED_LABEL

_EXAMPLES = 4  # of a class
_SIDE = 96  # pixels at most, of an example


@dataclass(frozen=True)
class ClassDisagreement:
    """The samples of one class, and those on which student and teacher differ.

    Attributes:
        label: The class.
        samples: Their number.
        teacher_right: Of those on which they differ, how many the teacher tells rightly.
        student_right: Likewise for the student.
        neither: Likewise for neither.
    """

    label: int
    samples: int
    teacher_right: int
    student_right: int
    neither: int

    @property
    def differing(self) -> int:
        """The number of samples on which they differ."""
        return self.teacher_right + self.student_right + self.neither


@dataclass(frozen=True)
class Example:
    """An image on which student and teacher differ.

    Attributes:
        label: Its class.
        student: The student's answer.
        teacher: The teacher's answer.
        png: The picture, at most 96 pixels high and wide, its colors spread over their range.
    """

    label: int
    student: int
    teacher: int
    png: bytes


class Disagreements:
    """Counts where student and teacher differ, and keeps some images of each class; for one answer a sample."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None  # [classes, 4]: agreed, the teacher right, the student right, neither
        self._kept: dict[int, list[tuple[float, int, int, int, Tensor]]] = {}
        self._range: tuple[Tensor, Tensor] | None = None
        self._place = 0

    def add(self, student: Tensor, teacher: Tensor, labels: Tensor, inputs: Any) -> None:
        """Add a batch: logits ``[B, C]``, labels ``[B]``, and the inputs, of which images are kept."""
        answers = [logits.float().softmax(1).max(1) for logits in (student, teacher)]
        own, taught = (answer.indices for answer in answers)
        kinds = torch.where(own == taught, 0, torch.where(taught == labels, 1, torch.where(own == labels, 2, 3)))
        known = labels != IGNORED_LABEL
        if self._counts is None:
            self._counts = torch.zeros(student.shape[1], 4, dtype=torch.long)
        places = (4 * labels + kinds)[known].cpu()
        self._counts += torch.bincount(places, minlength=self._counts.numel()).reshape(-1, 4)
        if _are_images(inputs, len(labels)):
            sure = answers[0].values + answers[1].values
            self._keep(inputs, sure, torch.stack([labels, own, taught], 1).cpu(), (known & (kinds > 0)).cpu())

    def _keep(self, images: Tensor, sure: Tensor, answers: Tensor, wanted: Tensor) -> None:
        if self._range is None:
            flat = images.detach().float().transpose(0, 1).flatten(1)
            self._range = (flat.amin(1).cpu(), flat.amax(1).cpu())
        for place in wanted.nonzero().flatten().tolist():
            label, own, taught = answers[place].tolist()
            kept = self._kept.setdefault(label, [])
            self._place += 1  # so that equal ones are not compared further
            entry = (float(sure[place]), -self._place, own, taught)
            if len(kept) < _EXAMPLES:
                heapq.heappush(kept, (*entry, _thumbnail(images[place])))
            elif entry > kept[0][:4]:
                heapq.heapreplace(kept, (*entry, _thumbnail(images[place])))

    def by_class(self) -> tuple[ClassDisagreement, ...]:
        """Return the counts of each class that has samples."""
        if self._counts is None:
            return ()
        lines = self._counts.tolist()
        return tuple(ClassDisagreement(label, sum(line), *line[1:]) for label, line in enumerate(lines) if sum(line))

    def examples(self) -> tuple[Example, ...]:
        """Return the images by class, the surest first; none where the inputs are no images."""
        found = []
        for label in sorted(self._kept):
            for _, _, own, taught, image in sorted(self._kept[label], key=lambda one: (-one[0], -one[1])):
                found.append(Example(label, own, taught, self._png(image)))
        return tuple(found)

    def _png(self, image: Tensor) -> bytes:
        assert self._range is not None
        low, high = (end.view(-1, 1, 1) for end in self._range)
        spread = (image - low) / (high - low).clamp(min=1e-12)
        pixels = (255 * spread.clamp(0, 1)).round().to(torch.uint8)
        content = io.BytesIO()
        to_pil_image(pixels).save(content, "PNG")
        return content.getvalue()


def _are_images(inputs: Any, count: int) -> bool:
    """Return True for grey or colored images ``[B, 1 or 3, H, W]``."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3) and len(inputs) == count


def _thumbnail(image: Tensor) -> Tensor:
    image = image.detach().float().cpu()
    larger = max(image.shape[1:])
    if larger <= _SIDE:
        return image.clone()
    size = [max(1, round(side * _SIDE / larger)) for side in image.shape[1:]]
    return F.interpolate(image.unsqueeze(0), size=size, mode="area").squeeze(0)
