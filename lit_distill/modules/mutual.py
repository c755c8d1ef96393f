"""Mutual learning: networks that teach each other, with no teacher."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat, given_format
from lit_distill.batch.labels import CLASS_TASKS, Task
from lit_distill.batch.positions import settle
from lit_distill.criteria import Criterion, HardTarget, Mutual, OnHead
from lit_distill.models.peers import Peers
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import choose, refuse_for_heads, refuse_task, refuse_unused
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.schedules import Schedule
from lit_distill.utils.arguments import check_temperature
from lit_distill.utils.notices import tell

DEFAULT_TEMPERATURE = 1.0


class MutualDistillation(DistillationModule):
    """Peers learn from the labels and from each other (Zhang et al. 2018, "Deep Mutual Learning").

    Starts with ``hard_0``, ``hard_1``, … (each peer's own loss on the labels) and ``mutual``, all of weight 1 as in the
    paper. One optimizer holds every peer, so that clipping, accumulation and mixed precision stay the Trainer's.

    ``module.student`` is the ``Peers``; ``module.student[0]`` is a plain network. What the module predicts, and is measured
    as ``student``, is the peers' ensemble; ``peer_0``, ``peer_1``, … are measured alone.

    Args:
        peers: 2 networks or more, each with weights of its own; they need not be alike.
        criteria: Criteria by name, in place of these; the peers' logits are the student's layers ``0``, ``1``, ….
        weights: A weight for each criterion; needed with ``criteria``.
        temperature: Of the default ``mutual``.
        task: As in ``DistillationModule``.
        optimizer: As in ``DistillationModule``.
        lr_scheduler: As in ``DistillationModule``.
        batch_format: As in ``DistillationModule``.
        fast: As in ``DistillationModule``.
        schedules: As in ``DistillationModule``.
        balance: As in ``DistillationModule``.
        metrics: As in ``DistillationModule``.
        lr_interval: As in ``DistillationModule``.
        lr_monitor: As in ``DistillationModule``.

    Raises:
        ValueError: Fewer than two peers, two that share parameters, or a wrong argument.
    """

    def __init__(
        self,
        peers: list[nn.Module],
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, float] | None = None,
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
    ) -> None:
        refuse_task("MutualDistillation", task, CLASS_TASKS, "peers compare and average predictions of classes")
        temperature = check_temperature(temperature)
        refuse_unused({"temperature": None if temperature == DEFAULT_TEMPERATURE else temperature}, criteria)
        layout = given_format(batch_format)
        refuse_for_heads(layout, ("resize_logits",), "peers' logits are compared as they are")
        student = Peers(peers, task, layout.output_key)
        _warn_of_twins(student)
        names = [str(index) for index in range(len(peers))]
        default: dict[str, Criterion] = {f"hard_{name}": OnHead(HardTarget(task=task), name) for name in names}
        default["mutual"] = Mutual(names, temperature, task)
        chosen, weighting = choose(criteria, weights, default, dict.fromkeys(default, 1.0))
        super().__init__(
            student,
            None,
            chosen,
            weighting,
            task,
            optimizer,
            lr_scheduler,
            batch_format,
            fast,
            schedules,
            balance,
            metrics,
            lr_interval,
            lr_monitor,
        )
        self._names = names
        record_hyperparameters(self, {"temperature": temperature})

    def _evaluate(self, stage: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        given = self._unpack(batch)
        closely = self.distiller.guard.closely_once((stage, dataloader_idx))
        with closely, self._acceleration.evaluation(), self._watched_student(given):
            raw = self.distiller.capture.run(given.inputs)
        data, outputs, _ = settle(given, self._format, raw, layouts=self.distiller.capture.layouts)
        members = {f"peer_{name}": outputs.features[name] for name in self._names}
        self._evaluator.update((stage, dataloader_idx, batch_idx), outputs.logits, data, members)


def _warn_of_twins(peers: Peers) -> None:
    """Warn of peers that start with the same weights: they have nothing to tell each other."""
    for (first, one), (second, other) in combinations(enumerate(peers.children()), 2):
        weights = [list(peer.state_dict().values()) for peer in (one, other)]
        shapes = [[tensor.shape for tensor in tensors] for tensors in weights]
        if shapes[0] and shapes[0] == shapes[1] and all(torch.equal(a, b) for a, b in zip(*weights, strict=True)):
            tell(
                f"peers {first} and {second} start with the same weights, and will stay alike; build each anew rather than "
                "copying one."
            )
