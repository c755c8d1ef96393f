"""Mutual learning: networks that teach each other, without a teacher."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat, given_format
from lit_distill.batch.labels import CLASS_TASKS, Task
from lit_distill.criteria import Criterion, HardTarget, Mutual, OnHead
from lit_distill.engine.named_criteria import Weight
from lit_distill.models.peers import Peers
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import choose, refuse_for_heads, refuse_task, refuse_unused
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.outputs import Outputs
from lit_distill.schedules import Schedule
from lit_distill.utils.arguments import check_temperature
from lit_distill.utils.notices import warn

DEFAULT_TEMPERATURE = 1.0


class MutualDistillation(DistillationModule):
    """Peers learn from the labels and from each other (Zhang et al. 2018, "Deep Mutual Learning").

    The default criteria are ``hard_0``, ``hard_1``, … (each peer's loss on the labels) and ``mutual``, all with weight 1 as
    in the paper. One optimizer holds every peer, so clipping, accumulation and mixed precision work as usual.

    ``module.student`` is the ``Peers``; ``module.student[0]`` is a plain network. The module predicts with the ensemble of
    the peers, which is also ``student`` in the metrics; ``peer_0``, ``peer_1``, … have metrics of their own.

    Args:
        peers: Two networks or more, each with its own weights; their architectures may differ.
        criteria: Criteria by name instead of the defaults; the peers' logits are the student's layers ``0``, ``1``, ….
        weights: A weight for each criterion; found in training if ``auto`` or left out of your ``criteria``.
        temperature: Temperature of the default ``mutual``, above 0.
        task: What the outputs are: ``multiclass``, ``binary``, ``multilabel``, ``regression``, ``embedding`` or ``none``.
        optimizer: Makes the optimizer from the trainable parameters; AdamW at 1e-3 if None.
        lr_scheduler: Makes the learning-rate scheduler from the optimizer; the rate is constant if None.
        batch_format: Names of the entries in dict batches and outputs.
        fast: Compile the student, and give a frozen teacher the fastest runtime of the device.
        schedules: Values that change during training, by key: ``soft.weight``, ``soft.temperature``.
        balance: Finds the weights during training; ``weights`` stay fixed if None.
        metrics: Torchmetrics by name, computed for both networks in validation and test.
        lr_interval: When the scheduler steps: ``epoch`` or ``step``; depends on the scheduler if None.
        lr_monitor: The logged metric that ``ReduceLROnPlateau`` watches, such as ``val/cross_entropy/student``.
        strength: Multiplies the weight of every criterion that needs a teacher; 0 turns it off.

    Raises:
        ValueError: There are fewer than two peers, two share parameters, or an argument is wrong.

    Examples:
        >>> from torch import nn
        >>> module = MutualDistillation([nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3))])
        >>> list(module.criteria.criteria())
        ['hard_0', 'hard_1', 'mutual']
    """

    _evaluates_layers = True

    def __init__(
        self,
        peers: list[nn.Module],
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, Weight] | None = None,
        temperature: float = DEFAULT_TEMPERATURE,
        task: Task = "multiclass",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        batch_format: BatchFormat | None = None,
        fast: bool = False,
        schedules: dict[str, Schedule] | None = None,
        balance: Balance | None = None,
        metrics: Metrics | None = None,
        lr_interval: Interval | None = None,
        lr_monitor: str | None = None,
        strength: float = 1.0,
    ) -> None:
        refuse_task("MutualDistillation", task, CLASS_TASKS, "peers compare and average predictions of classes")
        temperature = check_temperature(temperature)
        refuse_unused({"temperature": None if temperature == DEFAULT_TEMPERATURE else temperature}, criteria)
        layout = given_format(batch_format)
        refuse_for_heads(layout, ("resize_logits",), "peers' logits are compared as they are")
        student = Peers(peers, task, layout.output_key)
        _warn_of_equal_peers(student)
        names = [str(index) for index in range(len(peers))]
        default: dict[str, Criterion] = {f"hard_{name}": OnHead(HardTarget(task=task), name) for name in names}
        default["mutual"] = Mutual(names, temperature, task)
        chosen, weighting = choose(criteria, weights, default, dict.fromkeys(default, 1.0))
        rest = (
            optimizer,
            lr_scheduler,
            batch_format,
            fast,
            schedules,
            balance,
            metrics,
            lr_interval,
            lr_monitor,
            strength,
        )
        super().__init__(student, None, chosen, weighting, task, *rest)
        self._names = names
        record_hyperparameters(self, {"temperature": temperature})

    def _member_logits(self, outputs: Outputs) -> dict[str, Tensor]:
        return {f"peer_{name}": outputs.features[name] for name in self._names}


def _warn_of_equal_peers(peers: Peers) -> None:
    """Warn of peers that start with the same weights: they cannot teach each other anything."""
    for (first, one), (second, other) in combinations(enumerate(peers.children()), 2):
        weights = [list(peer.state_dict().values()) for peer in (one, other)]
        shapes = [[tensor.shape for tensor in tensors] for tensors in weights]
        if shapes[0] and shapes[0] == shapes[1] and all(torch.equal(a, b) for a, b in zip(*weights, strict=True)):
            warn(
                f"peers {first} and {second} start with the same weights, and will stay alike; build each anew rather than "
                "copying one."
            )
