"""The user's own torchmetrics, computed for every network.

Each is called as ``metric(outputs, labels)``, by task:

- ``multiclass``: logits ``[N, C]`` and class indices ``[N]``; class probabilities as labels count as their likeliest class.
  Maps and volumes keep the network's layout, ``[B, C, H, W]`` with ``[B, H, W]``, if every position counts. For sequences,
  and if a mask or labels of -100 leave out positions, the positions that count are rows ``[N, C]``.
- ``binary``: probabilities ``[N]`` (the sigmoid of the logits: torchmetrics cannot tell logits between 0 and 1 from
  probabilities) and known labels ``[N]`` of 0 and 1.
- ``multilabel``: probabilities ``[N, C]`` and labels ``[N, C]`` of 0, 1 or -100 (unknown): give such metrics
  ``ignore_index=-100``.
- ``regression``: outputs and labels ``[N, C]`` (``[N]`` for one number), rows whose labels are all known.
- ``embedding``, ``none`` and labels that do not fit the task: outputs and labels unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import labelled
from lit_distill.batch.labels import Task, class_indices
from lit_distill.criteria.base import at_least_float32
from lit_distill.engine.metrics import METRIC_NAMES


def named_metrics(
    metrics: Mapping[str, Metric] | MetricCollection | None, tasks: Mapping[str, Task]
) -> dict[str, Metric]:
    """Return the user's metrics by the names that they are logged under; refuse those of metrics that the task reports anyway.

    With several tasks, ``<task>/<name>`` is for one task only.
    """
    if metrics is None:
        return {}
    if isinstance(metrics, type) or not isinstance(metrics, (Mapping, MetricCollection)):
        given = f"the class {metrics.__name__}" if isinstance(metrics, type) else f"a {type(metrics).__name__}"
        raise TypeError(
            f"metrics must be a mapping from names to torchmetrics, or a MetricCollection, not {given}: "
            "metrics={'f1': MulticlassF1Score(num_classes=3)}."
        )
    found: dict[str, Metric] = {}
    for name, metric in metrics.items():
        if isinstance(metric, MetricCollection):
            found |= {f"{name}/{inner}": one for inner, one in metric.items()}
            continue
        _check_metric(str(name), metric)
        found[str(name)] = metric
    for name in found:
        head, _, own = name.rpartition("/")
        kinds = {tasks[head]} if head in tasks else set(tasks.values())
        if any(own in METRIC_NAMES[kind] for kind in kinds) and (not head or head in tasks):
            raise ValueError(f"metrics[{name!r}]: {own!r} is reported anyway; give the metric another name.")
    return found


def _check_metric(name: str, metric: object) -> None:
    if isinstance(metric, type) and issubclass(metric, Metric):
        raise TypeError(f"metrics[{name!r}] is the class {metric.__name__}; give an object, {metric.__name__}(…).")
    if not isinstance(metric, Metric):
        raise TypeError(f"metrics[{name!r}] is a {type(metric).__name__}, not a torchmetrics.Metric.")
    if not name:
        raise ValueError("a metric needs a name.")


class OwnMetrics:
    """A copy of the user's metrics for each network, for one epoch of one DataLoader."""

    def __init__(self, metrics: Mapping[str, Metric], task: Task, device: torch.device) -> None:
        self._templates = metrics
        self.task = task
        self.device = device
        self._copies: dict[str, Metric] = {}

    def update(self, who: str, outputs: Tensor, target: Tensor | None, mask: Tensor | None, fits: bool = True) -> None:
        """Add a batch of a network, if it has labels; labels that do not fit the task reach the metrics unchanged."""
        if target is None or not self._templates:
            return
        outputs, target = outputs.detach().to(self.device), target.to(self.device)
        task = self.task if fits else "none"
        given, labels = as_metrics_take_them(outputs, target, task, mask)
        for name, template in self._templates.items():
            key = f"{name}/{who}"
            if key not in self._copies:
                self._copies[key] = copy.deepcopy(template).to(self.device)
                self._copies[key].reset()
            if len(given):  # a batch whose labels are all unknown has none left
                _update(name, self._copies[key], given, labels)

    def compute(self) -> dict[str, Tensor]:
        """Return every value by name, ``f1/student`` and so on; ``<name>/<entry>/student`` of a metric that returns a dict."""
        values: dict[str, Tensor] = {}
        for key, metric in self._copies.items():
            name, _, who = key.rpartition("/")
            value = metric.compute()
            several = value.items() if isinstance(value, Mapping) else [("", value)]
            for entry, number in several:
                label = f"{name}/{entry}" if entry else name
                values[f"{label}/{who}"] = _single(label, number, self.device)
        return values


def _update(name: str, metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    try:
        metric.update(outputs, labels)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"metrics[{name!r}] ({type(metric).__name__}) does not take outputs {list(outputs.shape)} and labels "
            f"{list(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}: {error}"
        ) from error


def _single(name: str, value: object, device: torch.device) -> Tensor:
    number = torch.as_tensor(value, device=device) if isinstance(value, (Tensor, int, float)) else None
    if number is None or number.numel() != 1:
        what = f"a tensor of shape {list(number.shape)}" if number is not None else f"a {type(value).__name__}"
        raise ValueError(
            f"the metric {name!r} gives {what}, and only a single number can be logged: average it, or wrap it in "
            "torchmetrics.wrappers.ClasswiseWrapper."
        )
    return number.reshape(()).float()


def as_metrics_take_them(outputs: Tensor, target: Tensor, task: Task, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a network's outputs and the labels in the form that metrics of the task take (see the top of this file)."""
    if task in ("embedding", "none"):
        return outputs, target
    outputs = at_least_float32(outputs)
    if task == "multiclass":
        target = class_indices(target, outputs, check=False)
        whole = mask is None or outputs.dim() < 3
        if outputs.dim() != 3 and whole and not bool((target == IGNORED_LABEL).any()):
            return outputs, target
    found = labelled(outputs, target, task, mask, check=False)
    known = found.labels != IGNORED_LABEL
    if task == "multiclass":
        return found.logits[known], found.labels[known]
    if task == "regression":
        rows = known.all(-1)
        given, labels = found.logits[rows], found.labels[rows]
        return (given.squeeze(1), labels.squeeze(1)) if given.shape[1] == 1 else (given, labels)
    decided = torch.where(known, (found.labels >= 0.5).long(), IGNORED_LABEL)
    if task == "multilabel":
        return found.logits.sigmoid(), decided
    return found.logits[known].sigmoid(), decided[known]
