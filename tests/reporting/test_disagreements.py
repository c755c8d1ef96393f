"""Where student and teacher disagree, against counts by hand."""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lit_distill.reporting.disagreements import Disagreements, Example


def logits(answers: list[int], confidence: float = 5.0) -> Tensor:
    return confidence * F.one_hot(torch.tensor(answers), 3).float()


def pixels(one: Example) -> Tensor:
    return pil_to_tensor(Image.open(io.BytesIO(one.png)))


def test_counts_by_class() -> None:
    kept = Disagreements()
    labels = torch.tensor([0, 0, 0, 0, 1, 1, -100, 2])
    kept.add(logits([0, 1, 0, 1, 1, 2, 0, 0]), logits([0, 0, 1, 2, 1, 0, 1, 2]), labels, None)
    kept.add(logits([1]), logits([0]), torch.tensor([0]), None)
    found = [(one.label, one.samples, one.teacher_right, one.student_right, one.neither) for one in kept.by_class()]
    assert found == [(0, 5, 2, 1, 1), (1, 2, 0, 0, 1), (2, 1, 1, 0, 0)]
    assert kept.examples() == ()


def test_the_surest_images_are_kept() -> None:
    kept = Disagreements()
    images = torch.linspace(-2, 2, 10).reshape(10, 1, 1, 1).expand(10, 1, 4, 4)
    for place in torch.randperm(10).tolist():
        scores = logits([1], 1.0 + place)
        kept.add(scores, logits([0]), torch.tensor([0]), images[place : place + 1] if place else images[:1])
    assert [(one.student, one.teacher) for one in kept.examples()] == [(1, 0)] * 4


def test_the_colors_are_those_of_the_image_within_the_range_of_the_first_batch() -> None:
    kept = Disagreements()
    images = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).repeat(1, 3, 5, 7)
    kept.add(logits([1, 1, 1]), logits([0, 0, 0]), torch.tensor([0, 0, 0]), images)
    found = sorted(int(pixels(one)[0, 0, 0]) for one in kept.examples())
    assert found == [0, 128, 255]
    assert pixels(kept.examples()[0]).shape == (3, 5, 7)


def test_large_images_become_small() -> None:
    kept = Disagreements()
    kept.add(logits([1]), logits([0]), torch.tensor([0]), torch.rand(1, 3, 400, 200))
    assert pixels(kept.examples()[0]).shape == (3, 96, 48)


def test_what_is_no_image_has_no_examples() -> None:
    for inputs in (torch.rand(1, 4), torch.rand(1, 6, 8, 8), {"x": torch.rand(1, 3, 8, 8)}, torch.rand(2, 3, 8, 8)):
        kept = Disagreements()
        kept.add(logits([1]), logits([0]), torch.tensor([0]), inputs)
        assert kept.examples() == ()
        assert kept.by_class()[0].differing == 1
