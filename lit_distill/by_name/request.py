"""What is asked for: two names, a folder, and what differs from the defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lit_distill.models.named import ModelName
from lit_distill.utils.arguments import check_choice, check_flag, check_folder, check_text, check_whole
from lit_distill.utils.names import nearest

Training = Literal["head", "all", "none"]
_TRAININGS = ("head", "all", "none")
_SECTIONS = ("trainer", "data", "model", "optimizer", "lr_scheduler")
_OWN = {
    "trainer.max_epochs": "epochs",
    "data.root": "data",
    "data.batch_size": "batch_size",
    "data.image_size": "image_size",
    "trainer.default_root_dir": "folder",
    "lr_scheduler.T_max": "epochs",
}


@dataclass(frozen=True)
class Request:
    """The arguments of ``fit``, checked.

    Attributes:
        teacher: Its name.
        student: Its name.
        data: The folder of images.
        folder: Where everything is written; named after the three if None.
        epochs: Of the student, with a teacher and without; chosen if None.
        teacher_epochs: Of the teacher, if it is trained; chosen if None.
        batch_size: Chosen if None.
        image_size: Of both networks; what they say of themselves if None.
        teacher_training: What of the teacher is trained first; found out if None.
        control: Train the student without the teacher as well.
        seed: Of all trainings.
        options: Further options of ``lit-distill fit``, by their paths.
    """

    teacher: str
    student: str
    data: str
    folder: str | None = None
    epochs: int | None = None
    teacher_epochs: int | None = None
    batch_size: int | None = None
    image_size: int | None = None
    teacher_training: Training | None = None
    control: bool = True
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("teacher", "student"):
            check_text(name, getattr(self, name), "a network's name, such as 'timm:resnet50'")
        check_folder(self.data)
        for name in ("epochs", "teacher_epochs", "batch_size", "image_size"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least=1)
        if self.teacher_training is not None:
            check_choice("teacher_training", self.teacher_training, _TRAININGS)
        check_flag("control", self.control)
        check_whole("seed", self.seed, least=0)
        for path in self.options:
            _check_option(path)

    def place(self, teacher: ModelName, student: ModelName) -> Path:
        """Return the folder to write to."""
        name = f"{student.short}-from-{teacher.short}"
        return (
            Path(self.folder) if self.folder is not None else Path("runs", Path(self.data).absolute().name, _safe(name))
        )

    def as_json(self) -> dict[str, Any]:
        """Return what is asked for as plain values, without where it is written."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        del values["folder"]
        return values


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _check_option(path: str) -> None:
    section = path.partition(".")[0]
    if section not in _SECTIONS or "." not in path:
        raise ValueError(
            f"there is no option {path!r}.{nearest(section, _SECTIONS)} Further options are those of a config, such as "
            "trainer.accelerator, model.temperature or optimizer.lr."
        )
    if path in _OWN:
        raise ValueError(f"{path} is set by {_OWN[path]}: give that instead.")
