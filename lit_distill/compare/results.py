"""The results of a comparison: a file for each run, whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lit_distill.files.whole_file import write_whole

CONTROL = "no teacher"
RUNS = "runs"  # the folder of the results, in that of a comparison
_LEFT_OUT_OF_CSV = ("curve", "figures", "weights")


@dataclass(frozen=True)
class Result:
    """What one run gave.

    Attributes:
        student: Its name in the plan.
        teacher: Its name in the plan; empty if there is none, as in the control.
        method: Its name in the plan; ``CONTROL`` ("no teacher") for the control.
        seed: Of the run.
        score: On the test data, higher is better: for example an accuracy in [0, 1].
        teacher_score: The teacher's on the same test data; None if there is no teacher, or if it was not tested.
        seconds: That the training took, without tests.
        curve: The score on the validation data after the epochs in which it was measured, as (epoch, score), from 1 on.
        parameters: Of the network that is tested.
        size_bytes: Of its parameters and buffers.
        latency_ms: Milliseconds that the student takes for one sample, in evaluation.
        epochs: That it was trained for.
        metric: What the scores are.
        figures: Everything that the test measured, by name, such as ``agreement`` with the teacher.
        weights: Each criterion's first and last weight above 0 in training; of a chain, those of its last link.

    Example:
        >>> result = Result("small", "big", "kd", 0, 0.91, 0.99, 3.2, ((1, 0.4), (2, 0.9)), 3778, 15112, 0.2, 2)
        >>> result.is_control, result.pair
        (False, ('small', 'big'))
    """

    student: str
    teacher: str
    method: str
    seed: int
    score: float
    teacher_score: float | None
    seconds: float
    curve: tuple[tuple[int, float], ...]
    parameters: int
    size_bytes: int
    latency_ms: float
    epochs: int
    metric: str = "accuracy"
    figures: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_control(self) -> bool:
        """Whether this is a student trained without a teacher, as the measure of the others."""
        return self.method == CONTROL

    @property
    def pair(self) -> tuple[str, str]:
        """The names of student and teacher."""
        return self.student, self.teacher

    @property
    def run(self) -> tuple[str, str, str, int]:
        """The names of student, teacher and method, and the seed: no other result has the same."""
        return self.student, self.teacher, self.method, self.seed

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Result:
        """Make a result from what ``plain`` returned."""
        curve = tuple((int(epoch), float(score)) for epoch, score in values["curve"])
        weights = {name: (float(first), float(last)) for name, (first, last) in values.get("weights", {}).items()}
        return cls(**{**values, "curve": curve, "weights": weights})

    def plain(self) -> dict[str, Any]:
        """Return the values as plain types, for JSON."""
        return {**asdict(self), "figures": dict(self.figures), "weights": dict(self.weights)}


class Results:
    """The results in a folder, one JSON file for each.

    Several processes may add to one folder. A file is written at once, so that a kill leaves all that was finished.

    Args:
        folder: Where the files are, made when the first is written.

    Raises:
        ValueError: A file in the folder holds no result.

    Example:
        >>> import tempfile
        >>> results = Results(Path(tempfile.mkdtemp()))
        >>> results.add(Result("small", "", CONTROL, 0, 0.9, None, 3.2, (), 3778, 15112, 0.2, 2))
        >>> [one.score for one in results.of(method=CONTROL)], results.has("small", "", CONTROL, 1)
        ([0.9], False)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[tuple[str, str, str, int], tuple[Result, str]] = {}
        self.read_again()

    def read_again(self) -> None:
        """Read what other processes have added."""
        for path in sorted(self.folder.glob("*.json")):
            result, settings = read_result(path)
            self._found[result.run] = result, settings

    def add(self, result: Result, settings: str = "") -> None:
        """Write a result, in place of one of the same run.

        Args:
            result: To add.
            settings: Marks what the run was made with: its settings' digest.
        """
        content = {"settings": settings, "result": result.plain()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / _file_name(result), json.dumps(content, indent=1).encode())
        self._found[result.run] = result, settings

    def remove(self, result: Result) -> None:
        """Remove a result and its file."""
        (self.folder / _file_name(result)).unlink(missing_ok=True)
        del self._found[result.run]

    def has(self, student: str, teacher: str, method: str, seed: int) -> bool:
        """Return True if there is a result of this run."""
        return (student, teacher, method, seed) in self._found

    def settings_of(self, student: str, teacher: str, method: str, seed: int) -> str:
        """Return the mark that a run's result was added with."""
        return self._found[student, teacher, method, seed][1]

    def of(
        self,
        student: str | None = None,
        teacher: str | None = None,
        method: str | None = None,
        seed: int | None = None,
    ) -> list[Result]:
        """Return the results with these values, in order of student, teacher, method and seed; None is any."""
        wanted = (student, teacher, method, seed)
        return [one for one in self if all(w is None or w == own for w, own in zip(wanted, one.run, strict=True))]

    def __iter__(self) -> Iterator[Result]:
        yield from (self._found[key][0] for key in sorted(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def write_csv(self, path: Path) -> None:
        """Write a line for each result, without its curve and further figures."""
        write_csv(list(self), path)

    def write_json(self, path: Path) -> None:
        """Write a list of all results, with everything in them."""
        write_json(list(self), path)


def write_csv(results: list[Result], path: Path) -> None:
    """Write a line for each result, without its curve and further figures."""
    columns = [one.name for one in fields(Result) if one.name not in _LEFT_OUT_OF_CSV]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows([["" if (value := getattr(one, name)) is None else value for name in columns] for one in results])
    write_whole(path, text.getvalue().encode())


def write_json(results: list[Result], path: Path) -> None:
    """Write a list of results, with everything in them."""
    write_whole(path, json.dumps([one.plain() for one in results], indent=1).encode())


def read_json(path: Path) -> list[Result]:
    """Read what ``write_json`` wrote."""
    return [Result.from_plain(values) for values in json.loads(path.read_text())]


def file_stem(student: str, teacher: str, method: str, seed: int) -> str:
    """Return a name for a run's files: readable, and no other run's."""
    words = [re.sub(r"[^\w.]+", "_", word)[:40] for word in (student, teacher, method) if word]
    digest = hashlib.sha256(json.dumps([student, teacher, method, seed]).encode()).hexdigest()[:8]
    return "-".join([*words, f"seed{seed}", digest])


def _file_name(result: Result) -> str:
    return f"{file_stem(result.student, result.teacher, result.method, result.seed)}.json"


def read_result(path: Path) -> tuple[Result, str]:
    """Read a result's file, and the mark that it was added with."""
    try:
        content = json.loads(path.read_text())
        return Result.from_plain(content["result"]), str(content["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no result of a comparison ({error}); move it out of this folder.") from error
