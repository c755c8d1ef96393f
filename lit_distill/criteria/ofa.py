"""OFA-KD: Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32, expand_layers, in_own_type
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.ops.labelled import labelled_rows, mean_of_labelled
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_number, check_temperature, layer_tuple


def ofa(student: Tensor, teacher: Tensor, target: Tensor, gamma: float = 1.5, temperature: float = 1.0) -> Tensor:
    """``-T² · mean_n sum_c [(p_c^t + y_c)^gamma - y_c] log p_c^s`` with the label's ``y`` (section 3).

    A cross-entropy with the teacher's probabilities, enhanced at the label for ``gamma`` above 1; with 1 it is the plain
    one. It is not 0 where the student equals the teacher. The authors' code has no T², and T = 1.

    Args:
        student: Logits ``[N, C]``.
        teacher: Logits ``[N, C]``.
        target: Class indices ``[N]``; rows of -100 are left out.
        gamma: At least 1.
        temperature: ``T`` above 0.
    """
    need_classes(student)
    log_s = F.log_softmax(student / temperature, dim=-1)
    p_t = F.softmax(teacher / temperature, dim=-1)
    label = torch.zeros_like(p_t).scatter_(1, target.clamp(min=0).unsqueeze(1), 1.0)
    losses = -(((p_t + label) ** gamma - label) * log_s).sum(-1)
    return temperature**2 * mean_of_labelled(losses, target)


class ExitHead(nn.Module):
    """From a stage's feature to the classes.

    A map is halved as many times as stages follow, by depthwise-separable convolutions as in the authors' code (none, and
    one 1x1 convolution, at the last stage), and pooled. Tokens are normalised (LayerNorm) and averaged, vectors taken as
    they are: the authors put patch merging and transformer blocks there.

    Args:
        shape: The feature's shape, batch included: ``[B, C, H, W]``, ``[B, N, D]`` or ``[B, D]``.
        width: Channels before the classes.
        classes: How many classes.
        later: How many stages follow.

    Raises:
        ValueError: It is none of these shapes.
    """

    def __init__(self, shape: Sequence[int], width: int, classes: int, later: int) -> None:
        super().__init__()
        if len(shape) not in (2, 3, 4):
            raise ValueError(f"an exit needs a map, tokens or a vector, and the feature is {list(shape)}.")
        self.body: nn.Module = nn.Identity()
        if len(shape) == 4:
            widths = [shape[1] * 2**halved for halved in range(later)] + [width]
            halvings = [_separable(a, b) for a, b in pairwise(widths)]
            self.body = nn.Sequential(*halvings) if later else nn.Conv2d(shape[1], width, 1)
        elif len(shape) == 3:
            self.body = nn.LayerNorm(shape[2])
        self.classify = nn.Linear(width if len(shape) == 4 else shape[-1], classes)

    def forward(self, feature: Tensor) -> Tensor:
        """The feature's logits, ``[B, classes]``."""
        logits: Tensor = self.classify(pooled(self.body(feature)))
        return logits


def _separable(width: int, out: int) -> nn.Sequential:
    """Two depthwise-separable convolutions, the first of stride 2."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.Conv2d(width, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class OFA(Criterion):
    """Exits at the student's stages, each taught by the teacher's logits; the sum over exits and the student's output.

    What a stage knows is compared in the space of classes, where networks of any kind meet: no teacher's layer is read.
    The exits are this criterion's: trained, saved, and gone from the student. Each term's weight is 1 in the authors'
    code, beside 1 for the labels; ``gamma`` is tuned from 1 to 1.5 for each pair of networks.

    Stages are named from the first to the last, and their order says how deep an exit is. An exit's width is the last
    stage's; the authors take the larger of the two networks', which changes the exits' size alone.

    Args:
        student_layer: The stages, a layer reference, a list of them or a glob.
        gamma: How far the label's part is enhanced, at least 1.
        temperature: Above 0; 1 in the authors' code.
        output: Whether the student's own logits are taught in the same way.
        standardize: Whether to standardize each row of the exits' and the teacher's logits first (Sun et al. 2024, who did
            not try it here).

    Raises:
        ValueError: An argument is out of range.
    """

    about = About(
        "OFA-KD",
        'Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", '
        "NeurIPS",
        weight=1.0,
    )
    needs_target = True
    compares_logits = True
    task: Task = "multiclass"

    def __init__(
        self,
        student_layer: str | list[str],
        gamma: float = 1.5,
        temperature: float = 1.0,
        output: bool = True,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self._student_layers = layer_tuple(student_layer, "student_layer")
        self.gamma = check_number("gamma", gamma, least=1)
        self.output = check_flag("output", output)
        self.standardize = check_flag("standardize", standardize)
        self.temperature = check_temperature(temperature)
        self.stages: list[str] = []
        self.exits = nn.ModuleList()

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self._student_layers

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the exits."""
        stages = expand_layers(self._student_layers, student, "student")
        if not self.stages:
            last = student.features[stages[-1]].shape
            width = last[1] if len(last) == 4 else last[-1]
            for index, name in enumerate(stages):
                later = len(stages) - 1 - index
                self.exits.append(ExitHead(student.features[name].shape, width, teacher.logits.shape[-1], later))
        self.stages = stages

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if not self.stages:
            self.build(student, teacher)
        features = [at_least_float32(student.features[name]) for name in self.stages]
        logits = [in_own_type(head, feature) for head, feature in zip(self.exits, features, strict=True)]
        if self.output:
            logits.append(student.logits)
        values = []
        for found in logits:
            rows_s, rows_t, labels = labelled_rows(replace(student, logits=found), teacher, target, self.standardize)
            values.append(ofa(rows_s, rows_t, labels, self.gamma, self.temperature))
        return torch.stack(values).sum()
