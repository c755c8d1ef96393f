"""Ends a fit: the student's weights in a file of their own, and the table."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.by_name.configs import CONTROL, STUDENT, TEACHER, NamedSetup, link_configs
from lit_distill.by_name.measuring import device_here, paired_difference, right_answers
from lit_distill.by_name.networks import adapted, filled
from lit_distill.by_name.outcome import FitResult, NetworkRow, rows_as_text
from lit_distill.chain import Record
from lit_distill.files.whole_file import write_whole
from lit_distill.measures.whole import measure

_RESULT, _TABLE, _WEIGHTS = "result.json", "table.txt", "student.pth"
_LABELS = {STUDENT: "student", TEACHER: "teacher", CONTROL: "no teacher"}


def finish(setup: NamedSetup) -> FitResult:
    """Measure the trained networks; write and return the outcome."""
    student = filled(setup.student, setup.classes, setup.folder / STUDENT / "last.ckpt")
    rows, notes = _measure(setup, student)
    write_whole(setup.folder / _WEIGHTS, _as_file(student))
    write_whole(setup.folder / _TABLE, f"{rows_as_text(rows, notes)}\n".encode())
    content = {"runs": _runs(setup), **_described(setup), "rows": [asdict(row) for row in rows], "notes": notes}
    write_whole(setup.folder / _RESULT, json.dumps(content, indent=1).encode())
    return _outcome(setup, student, rows, notes)


def finished(setup: NamedSetup) -> FitResult | None:
    """Return the outcome that was written before of the same trainings; None if there is none."""
    path, weights = setup.folder / _RESULT, setup.folder / _WEIGHTS
    content = json.loads(path.read_text()) if path.is_file() and weights.is_file() else {}
    if content.get("runs") != _runs(setup):
        return None
    rows = [NetworkRow(**row) for row in content["rows"]]
    return _outcome(setup, filled(setup.student, setup.classes, weights), rows, content["notes"])


def forget_outcome(folder: Path) -> None:
    """Remove an outcome that is to be measured again."""
    (folder / _RESULT).unlink(missing_ok=True)


def _outcome(setup: NamedSetup, student: nn.Module, rows: Sequence[NetworkRow], notes: Sequence[str]) -> FitResult:
    folder, config = setup.folder, setup.folder / f"{STUDENT}.yaml"
    found = (tuple(rows), tuple(notes), setup.facts.classes, folder, folder / _WEIGHTS, config)
    return FitResult(student.eval(), *found)


def _runs(setup: NamedSetup) -> dict[str, str]:
    """Return the mark of each finished training."""
    records = {name: Record.read(setup.folder / name) for name in link_configs(setup)}
    return {name: record.run for name, record in records.items() if record is not None and record.finished}


def _described(setup: NamedSetup) -> dict[str, Any]:
    """Return what whoever loads the student's weights has to know."""
    return {
        "architecture": setup.student.name.architecture,
        "classes": list(setup.facts.classes),
        "size": list(setup.student.size),
        "mean": list(setup.student.mean),
        "std": list(setup.student.std),
    }


def _as_file(student: nn.Module) -> memoryview:
    content = io.BytesIO()
    torch.save({name: value.cpu() for name, value in student.state_dict().items()}, content)
    return content.getbuffer()


def _measure(setup: NamedSetup, student: nn.Module) -> tuple[list[NetworkRow], list[str]]:
    plain: dict[str, nn.Module] = {
        STUDENT: student,
        TEACHER: filled(setup.teacher, setup.classes, setup.trained_teacher),
    }
    if setup.request.control:
        plain[CONTROL] = filled(setup.student, setup.classes, setup.folder / CONTROL / "last.ckpt")
    sides = {name: setup.teacher if name == TEACHER else setup.student for name in plain}
    whole = {name: adapted(network, sides[name], setup.pixels) for name, network in plain.items()}
    data = link_configs(setup)[STUDENT]["data"]["init_args"]
    right = right_answers(whole, data, setup.facts.judged_on)
    device, threads = device_here(), torch.get_num_threads()
    measured = {
        name: measure(network.to(device), torch.zeros(1, 3, *sides[name].size), threads)
        for name, network in plain.items()
    }
    student.cpu()
    rows = [
        NetworkRow(
            _LABELS[name],
            sides[name].name.text,
            float(right[name].double().mean()),
            measured[name].parameters,
            measured[name if name == TEACHER else STUDENT].latency_ms,
        )
        for name in plain
    ]
    return rows, _notes(setup, right)


def _notes(setup: NamedSetup, right: Mapping[str, Tensor]) -> list[str]:
    count, part = len(right[STUDENT]), setup.facts.judged_on
    threads = torch.get_num_threads()
    device = "GPU" if device_here().type == "cuda" else f"CPU, {threads} thread{'s' * (threads > 1)}"
    notes = [f"Accuracy on {count:,} {part} images; time of a forward pass for one image ({device})."]
    if CONTROL not in right:
        return [
            *notes,
            "No student was trained without the teacher, so that it is not known whether the teacher helped.",
        ]
    difference, error = paired_difference(right[STUDENT], right[CONTROL])
    clear = "more than" if abs(difference) > 2 * error else "within"
    return [
        *notes,
        f"The teacher changed the student's accuracy by {100 * difference:+.1f} ± {100 * error:.1f} points: {clear} chance "
        "(standard error over the images; one seed).",
    ]
