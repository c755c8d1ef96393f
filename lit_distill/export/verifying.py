"""The comparison of an exported file, read back from the disk, with the student in eager PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.batch import Target
from lit_distill.batch.labels import CLASS_TASKS, Task
from lit_distill.engine.metrics import Evaluation, count_classes
from lit_distill.export.exported import Exported
from lit_distill.export.inference import Job
from lit_distill.export.reading import Part
from lit_distill.measures.latency import latencies

TOLERANCE = 1e-4  # of float32 logits, as a share of the largest one if that is above 1
_SECONDS = 0.25  # of a network, in each of two turns


class DisagreementError(ValueError):
    """An exported file does not compute what the student computes; nothing was written."""


@dataclass(frozen=True)
class Verification:
    """What an exported file and its student put out for the same data.

    Attributes:
        samples: The number of validation samples; 0 if only the example was compared.
        difference: The largest difference of two logits.
        largest: The student's largest logit.
        agreement: The share of equal decisions; for regression the share of variance that is kept, for embeddings the cosine.
        kl_divergence: From the student to the file; None if there are no classes.
        accuracy: Of student and file, if there are labels of classes.
        milliseconds: Median time of student and file for one sample with one thread; None where the file does not run here.
    """

    samples: int
    difference: float
    largest: float
    agreement: float
    kl_divergence: float | None
    accuracy: tuple[float, float] | None
    milliseconds: tuple[float, float] | None

    @property
    def within_rounding(self) -> bool:
        """True if the logits differ by at most 1e-4, or that share of the largest one."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)


def verify(
    job: Job, exported: Exported, parts: Sequence[Part], tasks: Mapping[str, Task], timed: bool = True
) -> Verification:
    """Run a file and its student on the same samples.

    Args:
        job: The student and its example, which is compared if there is no validation data.
        exported: The file, loaded.
        parts: Validation batches.
        tasks: What each output means, by its name.
        timed: Measure how long both take.

    Raises:
        ValueError: The outputs or labels do not fit the task.
    """
    evaluations: dict[str, Evaluation] = {}
    spread: dict[str, list[Tensor]] = {}
    difference = largest = 0.0
    samples = 0
    for inputs, target, mask in _batches(job, parts):
        expected = job.expected(inputs)
        found = exported.run_all(*inputs)
        samples += len(inputs[0]) * bool(parts)
        for name, logits in expected.items():
            got = found[name].float()
            _same_form(name, got, logits)
            difference = max(difference, _largest(got - logits))
            largest = max(largest, _largest(logits))
            spread.setdefault(name, []).append(torch.stack([(got - logits).square().mean(), logits.var(correction=0)]))
            evaluation = evaluations.setdefault(name, Evaluation(tasks[name], count_classes(logits), logits.device))
            fitting = mask if mask is not None and mask.shape == logits.shape[:-1] else None
            evaluation.update(got, logits, target.get(name) if isinstance(target, Mapping) else target, fitting)
            if evaluation.misfit is not None:
                raise ValueError(f"the validation data do not fit the task {tasks[name]!r}: {evaluation.misfit}")
    metrics = {name: {key: float(one) for key, one in each.compute().items()} for name, each in evaluations.items()}
    agreement = min(_agreement(tasks[name], metrics[name], spread[name]) for name in evaluations)
    times = _times(job, exported) if timed else None
    return Verification(samples, difference, largest, agreement, _divergence(metrics), _accuracies(metrics), times)


def _batches(job: Job, parts: Iterable[Part]) -> Iterable[tuple[tuple[Tensor, ...], Target | None, Tensor | None]]:
    """Yield the inputs of each batch as the file takes them, with labels and mask; the example if there are none."""
    arrangement, empty = job.network.arrangement, True
    for part in parts:
        empty = False
        yield job.network.raw_images(arrangement.tensors(part.inputs)), part.target, part.mask
    if empty:
        yield job.example, None, None


def _same_form(name: str, got: Tensor, expected: Tensor) -> None:
    if got.shape != expected.shape:
        raise DisagreementError(
            f"the file's {name} are {list(got.shape)}, and the student's {list(expected.shape)}; nothing was written."
        )
    if not torch.isfinite(got).all() and torch.isfinite(expected).all():
        raise DisagreementError(f"the file's {name} are not finite, and the student's are; nothing was written.")


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _agreement(task: Task, metrics: Mapping[str, float], spread: Sequence[Tensor]) -> float:
    if task in CLASS_TASKS and "agreement" in metrics:
        return metrics["agreement"]
    if task == "embedding" and "cosine_similarity" in metrics:
        return metrics["cosine_similarity"]
    error, variance = torch.stack(list(spread)).mean(0).tolist()
    return 1 - error / variance if variance else float(error == 0)


def _divergence(metrics: Mapping[str, Mapping[str, float]]) -> float | None:
    known = [one["kl_divergence"] for one in metrics.values() if "kl_divergence" in one]
    return max(known) if known else None


def _accuracies(metrics: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    """Return the accuracy of student and file, the mean over tasks."""
    known = [one for one in metrics.values() if "accuracy/teacher" in one]  # the eager student stands for the teacher
    if not known:
        return None
    return fmean(one["accuracy/teacher"] for one in known), fmean(one["accuracy/student"] for one in known)


def _times(job: Job, exported: Exported) -> tuple[float, float]:
    """Return the median time of student and file for one sample, in milliseconds, measured in turns."""
    one = tuple(tensor[:1] for tensor in job.example)
    found = latencies(
        {"student": (job.network, one), "file": (_AsModule(exported), one)}, threads=1, seconds=_SECONDS, turns=2
    )
    return found["student"].median_ms, found["file"].median_ms


class _AsModule(nn.Module):
    """A file as a module."""

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self._exported = exported

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._exported.call(inputs)


def check_other_size(job: Job, exported: Exported) -> None:
    """Run a file of any size on inputs of another size than its example's.

    Raises:
        DisagreementError: It computes something else there than the student.
    """
    given = tuple(_resized(tensor) for tensor in job.example)
    with torch.no_grad():
        try:
            expected = job.network(*given)
        except Exception:  # the student itself takes no such size
            return
    try:
        found = exported.run_all(*given)
    except Exception as error:
        raise DisagreementError(f"the file fails on {_shapes(given)}, which the student takes: {error}") from error
    for name, logits in zip(job.network.outputs, expected, strict=True):
        _same_form(name, found[name], logits)
        off = _largest(found[name] - logits)
        if job.precision == "float32" and off > TOLERANCE * max(1.0, _largest(logits)):
            raise DisagreementError(f"on {_shapes(given)}, the file's {name} are {off:.2g} off; nothing was written.")


def _resized(tensor: Tensor) -> Tensor:
    if tensor.dim() >= 4:
        return F.interpolate(tensor, scale_factor=2)
    return tensor[:, : math.ceil(tensor.shape[1] / 2)]


def _shapes(tensors: Sequence[Tensor]) -> str:
    return " and ".join(str(list(one.shape)) for one in tensors)


def refuse_disagreement(verification: Verification, precision: str, least: float, what: str = "file") -> None:
    """Refuse a file that is not its student.

    Raises:
        DisagreementError: A float32 file is more than 1e-4 off, or the agreement is below the least.
    """
    on = f"{verification.samples} validation samples" if verification.samples else "the example"
    if precision == "float32" and not verification.within_rounding:
        raise DisagreementError(
            f"the file's logits are up to {verification.difference:.2g} off the student's on {on}, and float32 must be within "
            f"{TOLERANCE:g} (of the largest logit, {verification.largest:.3g}); nothing was written."
        )
    if not verification.agreement >= least:
        accuracy = verification.accuracy
        right = (
            f" The student is right in {accuracy[0]:.1%}, the {what} in {accuracy[1]:.1%}."
            if accuracy is not None
            else ""
        )
        raise DisagreementError(
            f"the {precision} {what} agrees with the student in {verification.agreement:.1%} of {on}, and {least:.1%} are "
            f"asked for; nothing was written.{right} Export float32, calibrate on data like those of the task, or ask for less "
            "with agreement."
        )
