"""DML: deep mutual learning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.base import Citation, Criterion, check_class_task
from lit_distill.criteria.soft_target import soft_target, soft_target_bernoulli
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_temperature, layer_tuple


def mutual(
    peers: Sequence[Tensor],
    temperature: float = 1.0,
    task: Task = "multiclass",
    mask: Tensor | None = None,
    standardize: bool = False,
) -> Tensor:
    r"""Return the mutual learning loss of several peers ([Zhang et al. 2018](https://arxiv.org/abs/1706.00384), section 3).

    $$ \sum_k \frac{1}{K-1} \sum_{l \neq k} T^2\,\mathrm{KL}(p^l \| p^k) $$

    Each $p^l$ is detached: peer ``k`` gets the gradient of the second term of its loss (section 3.3). The paper has T = 1.

    Args:
        peers: Each peer's logits: ``[B, C]``, ``[B, T, C]`` or ``[B, C, H, W]``, all of one shape; 2 or more.
        temperature: The softmax temperature, above 0.
        task: ``multiclass`` (softmax), ``binary`` or ``multilabel`` (sigmoid, mean over classes).
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all if None.
        standardize: Whether to standardize each row first; not for sigmoids.

    Raises:
        ValueError: The shapes differ, or there are fewer than two peers.

    Examples:
        >>> mutual([torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])])
        tensor(1.7492)
    """
    if len(peers) < 2:
        raise ValueError(f"mutual learning takes at least 2 peers, not {len(peers)}.")
    divergence = partial(soft_target, standardize=standardize) if task == "multiclass" else soft_target_bernoulli
    terms = []
    for index, own in enumerate(peers):
        others = [logits.detach() for place, logits in enumerate(peers) if place != index]
        values = [divergence(own, other, temperature, mask=mask) for other in others]
        terms.append(torch.stack(values).mean())
    return torch.stack(terms).sum()


class Mutual(Criterion):
    r"""Peers that match each other's predictions; the sum over peers, as each has its own loss in the paper.

    $$ \sum_k \frac{1}{K-1} \sum_{l \neq k} T^2\,\mathrm{KL}(p^l \| p^k) $$
    ([Zhang et al. 2018](https://arxiv.org/abs/1706.00384)), see ``mutual``.

    It reads the peers' logits as layers of a student that holds them, as ``models.Peers`` does. All peers are updated at
    once, each towards the others' predictions before the step; the paper's algorithm 1 updates one after the other.

    Args:
        peers: The peers' layers, 2 or more.
        temperature: The softmax temperature, above 0; the paper's is 1.
        task: ``multiclass``, ``binary`` or ``multilabel``.
        standardize: Whether to standardize each row of every peer's logits first (Sun et al. 2024); only ``multiclass``.

    Raises:
        ValueError: There are fewer than two peers, one is named twice, or an argument is out of range.

    Examples:
        >>> logits = {"0": torch.tensor([[1.0, 2.0, 0.0]]), "1": torch.tensor([[3.0, 1.0, 0.0]])}
        >>> Mutual(["0", "1"])(Outputs(torch.zeros(1, 3), logits), Outputs.nothing())
        tensor(1.7492)
    """

    citation = Citation(
        "DML",
        'Zhang et al. 2018, "Deep Mutual Learning", CVPR',
        weight=1.0,
        url="https://arxiv.org/abs/1706.00384",
    )
    needs_teacher = False

    def __init__(
        self, peers: list[str], temperature: float = 1.0, task: Task = "multiclass", standardize: bool = False
    ) -> None:
        super().__init__()
        check_class_task("Mutual", task)
        names = layer_tuple(peers, "peers")
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"peers must name at least 2 different layers, not {peers!r}; Peers has '0', '1', ….")
        self.standardize = check_flag("standardize", standardize)
        if self.standardize and task != "multiclass":
            raise ValueError(
                f"standardize compares classes with each other, and the task {task!r} has none to compare."
            )
        self.peers = names
        self.temperature: float = check_temperature(temperature)
        self.task: Task = task

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self.peers

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Check that the peers predict the same classes."""
        shapes = {name: list(student.features[name].shape) for name in self.peers}
        if len({tuple(shape) for shape in shapes.values()}) > 1:
            listed = ", ".join(f"peer {name!r} gives {shape}" for name, shape in shapes.items())
            raise ValueError(f"the peers' logits differ in shape ({listed}); give all the same number of classes.")

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        logits = [student.features[name] for name in self.peers]
        # The mask that comes with [B] or [B, C] logits is that of the inputs' tokens.
        mask = student.mask if logits[0].dim() > 2 else None
        return mutual(logits, self.temperature, self.task, mask, self.standardize)
