"""The network to ship of a trained module: its student, and what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lit_distill.batch.labels import Task
from lit_distill.criteria.sim_kd import SimKD, reuse_classifier
from lit_distill.files.checkpoint_file import read_checkpoint
from lit_distill.models import Peers, load
from lit_distill.modules import DistillationModule, MultiTaskDistillation
from lit_distill.utils.names import listed


def trained_student(
    module: DistillationModule, checkpoint: Path, classifier: str | None = None, peer: int | None = None
) -> nn.Module:
    """Load a checkpoint, and return the network to ship: without projectors, heads of exits, the teacher and its average.

    Args:
        module: As the checkpoint's config makes it.
        checkpoint: The file.
        classifier: The teacher's classifier, for SimKD, whose student is used with it; found if None.
        peer: Which network of a mutual distillation.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The checkpoint does not fit, or what belongs to the student is not known.
    """
    reused = [one for one in module.criteria.criteria().values() if isinstance(one, SimKD)]
    if classifier is not None and not reused:
        raise ValueError("classifier belongs to SimKD, and the config has no such criterion; leave it out.")
    if reused:
        return _with_teachers_classifier(module, reused[0], checkpoint, classifier)
    student = load(module.student, checkpoint)
    if isinstance(student, Peers):
        count = len(list(student.children()))
        if peer is None or not 0 <= peer < count:
            raise ValueError(
                f"{count} networks were trained side by side; say which to export: --peer 0 to {count - 1}."
            )
        return student[peer]
    if peer is not None:
        raise ValueError("peer belongs to MutualDistillation; leave it out.")
    return student


def heads_of(module: DistillationModule) -> tuple[Task | Mapping[str, Task], Mapping[str, str] | None]:
    """Return what a module's outputs are, and the layer of each task if it has several."""
    if isinstance(module, MultiTaskDistillation):
        return module.tasks, module.heads
    return module.task, None


def _with_teachers_classifier(
    module: DistillationModule, criterion: SimKD, checkpoint: Path, classifier: str | None
) -> nn.Module:
    content = read_checkpoint(checkpoint)
    module.on_load_checkpoint(content)
    module.load_state_dict(content["state_dict"])
    if not criterion.pairs or module.teacher is None:
        raise ValueError("the checkpoint holds no projector of SimKD; was it saved by a fit of this config?")
    projector = criterion.projectors[0]
    path = classifier if classifier is not None else _classifier(module.teacher, _width(projector))
    try:
        found = module.teacher.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"the teacher has no layer {path!r} to take as classifier: {error}") from error
    rank_zero_info(
        f"SimKD: exported are the student, its projector and the teacher's classifier {path!r}, which were trained together."
    )
    return reuse_classifier(module.student, criterion, found)


def _width(projector: nn.Module) -> int:
    return [one for one in projector.modules() if isinstance(one, nn.Conv2d)][-1].out_channels


def _classifier(teacher: nn.Module, width: int) -> str:
    """Return the teacher's only linear layer that reads its last map.

    Raises:
        ValueError: There is none, or there are several.
    """
    found = [name for name, one in teacher.named_modules() if isinstance(one, nn.Linear) and one.in_features == width]
    if len(found) != 1:
        what = (
            f"has several linear layers of {width} inputs ({listed(found)})"
            if found
            else f"has no linear layer of {width} inputs"
        )
        raise ValueError(f"the teacher {what}; name the classifier that SimKD reuses: --classifier LAYER.")
    return str(found[0])
