"""``torch.export`` of a student, with errors that say which module cannot be traced, and what to change."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from lit_distill.export.inference import LARGEST_BATCH, Job
from lit_distill.utils.names import first_line

_PACKAGES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_BY_VALUE = ("data-dependent", "DataDependent", "unbacked", "_local_scalar_dense")
_BY_SIZE = ("Constraints violated", "specialized", "ConstraintViolation")


def trace(job: Job) -> ExportedProgram:
    """Return the student as a program of ``torch.export``.

    Args:
        job: The student and its example.

    Raises:
        ValueError: The student cannot be traced: the module, its line and the remedy are named.
    """
    try:
        return _export(job)
    except Exception as error:
        raise ValueError(_explained(job, error)) from error


def _export(job: Job) -> ExportedProgram:
    shapes = dynamic_shapes(job)
    with torch.no_grad():
        return torch.export.export(job.network, job.example, dynamic_shapes=shapes, strict=False)


def dynamic_shapes(job: Job) -> dict[str, Any] | None:
    """Return the dynamic dimensions as ``torch.export`` takes them; None if there are none."""
    if not job.dynamic:
        return None
    batch = Dim("batch", min=1, max=LARGEST_BATCH if job.stretch else None)
    free = []
    for one in job.example:
        most = {place: one.shape[place] * job.stretch if job.stretch else None for place in job.free(one)}
        free.append({place: Dim.DYNAMIC(max=limit) if place else batch for place, limit in most.items()})
    return {"inputs": tuple(free)}


def _explained(job: Job, error: Exception) -> str:
    text = str(error)
    if job.dynamic and any(sign in text for sign in _BY_SIZE):
        return (
            f"the student fixes a size that is to be dynamic ({', '.join(sorted(job.dynamic))}): {_reason(error)} Leave "
            "that out of dynamic, or compute the size from the input's shape in the student."
        )
    where = f"{_module(job)}{_line(error)}"
    by_value = any(sign in text or sign in type(error).__name__ for sign in _BY_VALUE)
    remedy = (
        "What it runs depends on the values of a tensor, which no exported file can decide: compute both ways and choose "
        "with torch.where, or use torch.cond, in place of Python's if, while, int() or .item()."
        if by_value
        else "Write that line with PyTorch's operations on tensors, or leave the module out of the student."
    )
    return f"the student cannot be exported: torch.export fails in {where}: {_reason(error)} {remedy}"


def _reason(error: BaseException) -> str:
    line = first_line(error)
    return f"{line[:300]}{'' if line.endswith('.') else '.'}"


def _module(job: Job) -> str:
    """Return the module in which tracing fails, found by tracing again."""
    running: list[tuple[str, str]] = []
    with suppress(Exception), _followed(job.network.student, running):
        _export(job)
    if not running:
        return f"the student ({type(job.network.student).__name__})"
    path, kind = running[-1]
    return f"the student's {path!r} ({kind})" if path else f"the student itself ({kind})"


@contextmanager
def _followed(student: nn.Module, running: list[tuple[str, str]]) -> Iterator[None]:
    """Keep in ``running`` the modules whose forward is running, the innermost last."""
    handles = []
    for path, module in student.named_modules():
        entry = (path, type(module).__name__)
        handles.append(module.register_forward_pre_hook(lambda *_, entry=entry: running.append(entry), prepend=True))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _line(error: BaseException) -> str:
    """Return the last line of the user's own code that an error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_PACKAGES)]
    if not frames or not Path(frames[-1].filename).is_file():
        return ""
    last = frames[-1]
    source = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f", {Path(last.filename).name}:{last.lineno}, `{source}`"
