"""Students of quantisation-aware training: their trained weights are written, and compared with the student as it rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from lit_distill.batch.labels import Task
from lit_distill.export.inference import Inference, Job
from lit_distill.export.reading import Part
from lit_distill.export.target import Target
from lit_distill.export.verifying import Verification, verify
from lit_distill.models.quantisation_aware import QuantisationAware
from lit_distill.utils.arguments import check_network
from lit_distill.utils.notices import warn


def network_to_write(student: nn.Module, precision: str, target: str) -> nn.Module:
    """Return the network whose weights are written: of one in quantisation-aware training, that in floating point.

    The runtime's own quantiser rounds it, as each runtime is fast only on its own pattern.

    Raises:
        ValueError: The student was trained for int8, and another precision is asked for.
    """
    if not isinstance(student, QuantisationAware):
        return student
    if precision != "int8":
        raise ValueError(
            f"the student was trained for int8 (quantise), and precision is {precision!r}: export it with precision 'int8', or "
            "export the student that it was made from."
        )
    if target != student.target:
        warn(
            f"the student was trained for the int8 of {student.target!r}, and is exported for {target!r}, which rounds in "
            f"other places: train it with target={target!r}."
        )
    return student.float_network()


def compared_with(job: Job, student: nn.Module) -> Job:
    """Return a job whose file is compared with a student as it was trained, rounding included."""
    if not isinstance(student, QuantisationAware):
        return job
    written = job.network
    return replace(
        job, reference=Inference(student, written.arrangement, written.output_key, None, written.normalisation)
    )


def refuse_comparison(student: nn.Module, before: nn.Module) -> None:
    """Refuse to compare anything but a student of quantisation-aware training with one in floating point."""
    check_network("compare_with", before)
    if not isinstance(student, QuantisationAware) or isinstance(before, QuantisationAware):
        raise ValueError(
            "compare_with is the floating-point student that one in quantisation-aware training was made from; student must be "
            "the latter, from lit_distill.compress.quantise."
        )


def post_training(
    target: Target, before: nn.Module, job: Job, parts: Sequence[Part], tasks: Mapping[str, Task]
) -> Verification:
    """Return how the plain int8 file of a student does, calibrated alike: what quantisation-aware training has to beat.

    Args:
        target: Writes the file, which is not kept.
        before: The student before that training, in floating point.
        job: That of the student after it.
        parts: Validation batches.
        tasks: What each output means, by its name.
    """
    made = job.network
    network = Inference(before, made.arrangement, made.output_key, made.heads, made.normalisation)
    plain = replace(job, network=network, reference=None)
    with tempfile.TemporaryDirectory(prefix="lit-distill-export-") as folder:
        written = target.write_and_load(plain, Path(folder) / f"before{target.suffix}")
        return verify(plain, written.runs, parts, tasks, written.is_file)
