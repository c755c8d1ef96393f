"""``export``: writes a student for a target, reads the file back, and keeps it only if it computes the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lit_distill.batch.batch import BatchFormat, Inputs, given_format
from lit_distill.batch.labels import TASKS, Task
from lit_distill.batch.reading import BatchReader
from lit_distill.export.exported import Exported
from lit_distill.export.inference import Arrangement, Inference, Job, Normalisation, refuse_unusable
from lit_distill.export.preprocessing import Step, classes_of, normalisation_in, steps_of
from lit_distill.export.reading import Data, Part, first_samples
from lit_distill.export.result import ExportResult
from lit_distill.export.stored import read_signature, write_both
from lit_distill.export.target import Target
from lit_distill.export.targets import target_named
from lit_distill.export.trained_for_int8 import compared_with, network_to_write, post_training, refuse_comparison
from lit_distill.export.verifying import check_other_size, refuse_disagreement, verify
from lit_distill.measures.cost import size_of
from lit_distill.utils.arguments import check_choice, check_network, check_number, check_whole

Precision = Literal["float32", "int8"]
Free = Literal["batch", "size"]


@dataclass(frozen=True)
class ExportRequest:
    """What is asked for, checked."""

    target: Target
    output: Path
    precision: str
    dynamic: frozenset[str]
    agreement: float
    samples: int


def export(
    student: nn.Module,
    target: str,
    output: str | Path | None = None,
    *,
    example: Inputs | None = None,
    precision: Precision = "float32",
    calibration: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    data: LightningDataModule | None = None,
    dynamic: Sequence[Free] = (),
    agreement: float = 0.95,
    task: Task | Mapping[str, Task] = "multiclass",
    heads: Mapping[str, str] | None = None,
    batch_format: BatchFormat | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalise_inside: bool = False,
    classes: Sequence[str] | None = None,
    samples: int = 2000,
    compare_with: nn.Module | None = None,
) -> ExportResult:
    """Write a student as a file for a target, and keep it only if it computes what the student computes.

    The file is written beside, loaded by its own runtime, and compared on validation data; then it is moved to its place, with
    a JSON file beside it: inputs, preprocessing, class names and what was measured. The student does not change.

    Args:
        student: The network, as a fit leaves it; any ``nn.Module``.
        target: ``onnx``, ``executorch``, ``cortex-m``, ``aoti`` or ``torch_export``.
        output: The file; if None, ``student`` with the target's ending, in the present folder.
        example: A batch of the student's inputs; if None, the first validation batch's.
        precision: ``float32`` or ``int8``; int8 is static, calibrated, with weights per channel.
        calibration: Training batches for int8; if None, those of ``data``.
        validation: Validation batches; if None, those of ``data``. Without any, a float32 file is compared on the example.
        data: A DataModule whose training data calibrate and whose validation data are compared on.
        dynamic: What the file takes any number of: ``batch``, and the ``size`` of images ``[B, C, H, W]`` or texts ``[B, T]``.
            Otherwise it takes one sample of the example's size.
        agreement: The least share of samples on which file and student decide alike, in (0, 1].
        task: What the logits mean, as for a module; for several heads, one for all or by task.
        heads: The student's layer for each task, if it has several, as for ``MultiTaskDistillation``.
        batch_format: Names of the entries in batches and outputs.
        mean: Of each channel, of images in [0, 1]; read from the data set's transform if None.
        std: Likewise.
        normalise_inside: Compute the normalisation in the file, which then takes images in [0, 1].
        classes: Names of the classes; the data set's ``classes`` if None.
        samples: Compare on so many validation samples, spread over all.
        compare_with: The student before quantisation-aware training: its plain int8 file is measured on the same data.

    Raises:
        ValueError: An argument is wrong, the student cannot be exported (the module or operator is named), there are no
            calibration data, or the file disagrees with the student. Nothing is written then.
        ImportError: A package of the target is missing; the message has the line that installs it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = export(nn.Linear(4, 3), "torch_export", f"{folder}/student.pt2", example=torch.zeros(1, 4))
        ...     result.exported.run(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """
    check_network("student", student)
    request = _request(target, output, precision, dynamic, agreement, samples)
    request.target.check()
    reader = BatchReader(given_format(batch_format), student, None, numbers=task == "regression")
    source = Data(reader, calibration, validation, data)
    parts = source.validation(request.samples)
    calibrating = source.calibration() if precision == "int8" else []
    loader = validation if validation is not None else source.loader
    steps = _steps(mean, std) if mean is not None or std is not None else steps_of(data, loader)
    inside = normalisation_in(steps) if normalise_inside else None
    names = list(classes) if classes is not None else classes_of(data, loader)
    key = given_format(batch_format).output_key
    network = network_to_write(student, precision, request.target.name)
    job = _job(request, network, _example(example, parts, calibrating), calibrating, Heads(key, heads), inside)
    job = compared_with(job, student)
    tasks: dict[str, Task] = {name: task if isinstance(task, str) else task[name] for name in job.network.outputs}
    if compare_with is None:
        return write(request, job, parts, tasks, steps, names)
    refuse_comparison(student, compare_with)
    return write(request, job, parts, tasks, steps, names, compare_with)


@dataclass(frozen=True)
class Heads:
    """Where the logits are in the student's output."""

    output_key: Any
    layers: Mapping[str, str] | None


def _request(
    target: str, output: str | Path | None, precision: str, dynamic: Sequence[str], agreement: float, samples: int
) -> ExportRequest:
    found = target_named(target)
    if precision not in found.precisions:
        raise ValueError(f"the target {found.name!r} is written in {' or '.join(found.precisions)}, not {precision!r}.")
    chosen = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    for one in chosen:
        check_choice("dynamic", one, ("batch", "size"))
        if one not in found.dynamic:
            raise ValueError(f"a file for {found.name!r} has a fixed {one}; leave dynamic={one!r} out.")
    least = check_number("agreement", agreement, above=0)
    if least > 1:
        raise ValueError(
            f"agreement is a share of the samples, in (0, 1], not {agreement:g}; {agreement:g} % is {agreement / 100:g}."
        )
    short = "-int8" if precision == "int8" else ""
    path = Path(output) if output is not None else Path(f"student{short}{found.suffix}")
    if path.suffix != found.suffix:
        raise ValueError(f"a file for {found.name!r} ends in {found.suffix}, and output is {path}.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.absolute().parent} to write {path.name} to.")
    return ExportRequest(found, path, precision, frozenset(chosen), least, check_whole("samples", samples, least=1))


def _example(given: Inputs | None, parts: Sequence[Part], calibrating: Sequence[Inputs]) -> Inputs:
    known = [given] if given is not None else [part.inputs for part in parts[:1]] or list(calibrating[:1])
    if not known:
        raise ValueError(
            "export needs an example of the student's inputs: give example=torch.zeros(1, 3, 32, 32), say, or validation data."
        )
    return known[0]


def _job(
    request: ExportRequest,
    student: nn.Module,
    example: Inputs,
    calibrating: Sequence[Inputs],
    heads: Heads,
    normalisation: Normalisation | None,
) -> Job:
    if request.precision == "int8" and not calibrating:
        raise ValueError("int8 needs calibration data.")
    arrangement = Arrangement.of(example)
    network = Inference(student, arrangement, heads.output_key, heads.layers, normalisation)
    given = first_samples(arrangement.tensors(example), 2 if "batch" in request.dynamic else 1)
    batches = [network.raw_images(arrangement.tensors(one)) for one in calibrating]
    job = Job(network, network.raw_images(given), request.dynamic, request.precision, batches)
    refuse_unusable(job)
    return replace(job, stretch=_stretch(job)) if request.target.plans_memory else job


def _stretch(job: Job) -> int:
    """Return how many times the example's the largest size is: twice, or as it is if the student takes no more."""
    if "size" not in job.dynamic:
        return 1
    larger = tuple(_repeated(tensor, [place for place in job.free(tensor) if place]) for tensor in job.example)
    try:
        with torch.no_grad():
            job.network(*larger)
    except Exception:  # such as a text longer than the student's positions
        return 1
    return 2


def _repeated(tensor: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    return tensor.repeat([2 if place in places else 1 for place in range(tensor.dim())])


def write(
    request: ExportRequest,
    job: Job,
    parts: Sequence[Part],
    tasks: Mapping[str, Task],
    steps: Sequence[Step] | None,
    classes: Sequence[str] | None,
    before: nn.Module | None = None,
) -> ExportResult:
    """Write the file beside, compare it, and move it to its place.

    Raises:
        ValueError: The student cannot be written, or the file computes something else.
    """
    if request.precision == "int8" and not parts:
        raise ValueError(
            "int8 is compared on validation data, and there are none: give validation=val_loader, or data=."
        )
    for name, kind in tasks.items():
        check_choice(f"the task {name!r}", kind, TASKS)
    with tempfile.TemporaryDirectory(prefix="lit-distill-export-") as folder:
        path = Path(folder) / f"student{request.target.suffix}"
        written = request.target.write_and_load(job, path)
        found = verify(job, written.runs, parts, tasks, written.is_file)
        refuse_disagreement(found, request.precision, request.agreement, written.what)
        if "size" in request.dynamic:
            check_other_size(job, written.runs)
        content = path.read_bytes()
    plain = post_training(request.target, before, job, parts, tasks) if before is not None else None
    beside = _beside(request, job, steps, classes) | {"compared": written.what, **written.said}
    measured = {"measured": asdict(found)} | ({"post_training": asdict(plain)} if plain is not None else {})
    write_both(request.output, content, beside | measured)
    result = ExportResult(
        request.target.load(request.output, job.signature),
        request.target.name,
        request.precision,
        found,
        len(content),
        size_of(job.network.student),
        beside,
        plain,
    )
    rank_zero_info(str(result))
    return result


def _beside(
    request: ExportRequest, job: Job, steps: Sequence[Step] | None, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Return what the JSON file beside says of the file."""
    inside = job.network.normalises
    done = [step for step in steps if "normalize" not in step] if steps is not None and inside else steps
    return {
        "target": request.target.name,
        "precision": request.precision,
        "student": type(job.network.student).__name__,
        "signature": asdict(job.signature),
        "preprocessing": done,
        "normalised_inside": inside,
        "classes": list(classes) if classes is not None else None,
        "torch": str(torch.__version__),
    }


def _steps(mean: Sequence[float] | None, std: Sequence[float] | None) -> list[Step]:
    if mean is None or std is None:
        raise ValueError("mean and std belong together; give both.")
    return [{"divide_by": 255}, {"normalize": {"mean": list(mean), "std": list(std)}}]


def load_exported(path: str | Path) -> Exported:
    """Load an exported file by its own runtime, as the JSON file beside it says.

    Args:
        path: The file that ``export`` has written.

    Raises:
        ValueError: There is no such file, or no JSON file beside it.
    """
    target, signature = read_signature(Path(path))
    return target_named(target).load(Path(path), signature)
