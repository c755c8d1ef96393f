"""OFA-KD: one for all, exits of the student taught by the teacher's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.base import Citation, Criterion, at_least_float32, in_own_type
from lit_distill.criteria.layers import AUTO, checked_layers, expand_layers
from lit_distill.criteria.ops.features import channel_dim, pooled
from lit_distill.criteria.ops.labelled import labelled_rows, mean_of_labelled
from lit_distill.criteria.ops.rows import check_same_classes
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_number, check_temperature


def ofa(student: Tensor, teacher: Tensor, target: Tensor, gamma: float = 1.5, temperature: float = 1.0) -> Tensor:
    r"""Return the OFA-KD loss ([Hao et al. 2023](https://arxiv.org/abs/2310.19444), section 3).

    $$ -T^2 \tfrac1N \sum_{n,c} \bigl[(p^t_{nc} + y_{nc})^\gamma - y_{nc}\bigr] \log p^s_{nc} $$

    It is a cross-entropy with the teacher's probabilities, enhanced at the label ``y`` for ``gamma`` above 1, and so not 0
    if the student equals the teacher. The authors' code has no T², and T = 1.

    Args:
        student: Logits ``[N, C]``, in float32 or wider.
        teacher: Logits, the same shape.
        target: Class indices ``[N]``; rows of -100 are left out, and the value is 0 if none is left.
        gamma: The enhancement of the label, at least 1.
        temperature: ``T`` above 0.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> ofa(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
        tensor(2.1530)
    """
    need_classes(student)
    check_same_classes(student, teacher)
    log_s = F.log_softmax(student / temperature, dim=-1)
    p_t = F.softmax(teacher / temperature, dim=-1)
    label = torch.zeros_like(p_t).scatter_(1, target.clamp(min=0).unsqueeze(1), 1.0)
    losses = -(((p_t + label) ** gamma - label) * log_s).sum(-1)
    return temperature**2 * mean_of_labelled(losses, target)


class ExitHead(nn.Module):
    """Maps the feature of a stage, ``[B, C, H, W]``, ``[B, N, D]`` or ``[B, D]``, to logits.

    A map is halved once per later stage, by depthwise-separable convolutions as in the authors' code (one 1x1 convolution at
    the last stage) to ``width`` channels, and pooled. Tokens are normalised (LayerNorm) and averaged, and vectors are used
    as they are, where the authors have patch merging and transformer blocks.
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
        """Return the feature's logits, ``[B, classes]``."""
        logits: Tensor = self.classify(pooled(self.body(feature)))
        return logits


def _separable(width: int, out: int) -> nn.Sequential:
    """Return two depthwise-separable convolutions, the first of stride 2."""
    layers: list[nn.Module] = []
    for stride, channels in ((2, width), (1, out)):
        depthwise = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        layers += [depthwise, nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class OFA(Criterion):
    r"""Exits at the student's stages, each taught by the teacher's logits; the sum over exits and the student's output.

    $$ -\sum_c \bigl[(p^t_c + y_c)^\gamma - y_c\bigr] \log p^s_c $$ ([Hao et al. 2023](https://arxiv.org/abs/2310.19444)),
    see ``ofa``.

    Stages are compared in the space of classes, where networks of any kind meet: no layer of the teacher is read. The exits
    are trained and saved with the criterion, outside the student. Each term has weight 1 in the authors' code, as have the
    labels; ``gamma`` is tuned from 1 to 1.5 for each pair of networks. Name stages from the first to the last: their order
    tells how deep an exit is. All exits have the width of the last stage; the authors take the larger of the two networks'.

    Args:
        student_layer: The stages, a layer reference, a list of them or a glob; or ``auto``, the ends of the stages.
        gamma: The enhancement of the label's part, at least 1.
        temperature: The softmax temperature, above 0; 1 in the authors' code.
        output: Whether the student's own logits are taught in the same way.
        standardize: Whether to standardize each row of the exits' and the teacher's logits first (Sun et al. 2024, untried
            here).

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student = Outputs(torch.tensor([[1.0, 2.0, 0.0]]), {"stage1": torch.zeros(1, 4)})
        >>> criterion = OFA("stage1")
        >>> round(criterion(student, Outputs(torch.tensor([[3.0, 1.0, 0.0]])), torch.tensor([0])).item(), 1)
        4.1
    """

    citation = Citation(
        "OFA-KD",
        'Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", '
        "NeurIPS",
        weight=1.0,
        url="https://arxiv.org/abs/2310.19444",
    )
    needs_target = True
    compares_logits = True
    task: Task = "multiclass"

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        gamma: float = 1.5,
        temperature: float = 1.0,
        output: bool = True,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self._student_layers = checked_layers(student_layer, "student_layer")
        self.gamma = check_number("gamma", gamma, least=1)
        self.output = check_flag("output", output)
        self.standardize = check_flag("standardize", standardize)
        self.temperature: float = check_temperature(temperature)
        self.stages: list[str] = []
        self.exits = nn.ModuleList()

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self._student_layers if self.found_layers is None else self.found_layers[0]

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the exits."""
        stages = expand_layers(self.student_layers, student, "student")
        if not self.stages:
            last = student.features[stages[-1]]
            width = last.shape[channel_dim(last)]
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
