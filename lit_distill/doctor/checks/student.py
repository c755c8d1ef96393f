"""What is seen of the student's mode in training steps."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_distill.doctor.findings import Finding
from lit_distill.doctor.record import Record
from lit_distill.utils.names import listed

_SHARES = ("p", "drop_prob", "dropout")  # what dropout layers call theirs


def in_eval_mode(student: nn.Module) -> list[str]:
    """Names of the student's parts that work otherwise in training, and are in eval mode; those that are frozen left out."""
    parts = dict(student.named_modules())
    return [
        name or "itself"
        for name, part in parts.items()
        if not part.training and _depends_on_mode(part) and not _is_frozen(name, parts)
    ]


def student_findings(record: Record) -> list[Finding]:
    """What is said of the mode that the student was trained in."""
    if not record.student_in_eval:
        return []
    return [
        Finding(
            "set_up",
            "warning",
            "the student",
            f"is trained with {listed(record.student_in_eval)} in eval mode: dropout is off there, and BatchNorm neither uses "
            "the batch's statistics nor learns its own.",
            "call train() on the network before the fit (Lightning leaves modes as they are; from_pretrained returns networks "
            "in eval mode), or freeze these parts where it is meant.",
        )
    ]


def _depends_on_mode(part: nn.Module) -> bool:
    if isinstance(part, _BatchNorm):
        return True
    shares = [getattr(part, name, None) for name in _SHARES]
    return any(isinstance(share, float) and share > 0 for share in shares)


def _is_frozen(name: str, parts: dict[str, nn.Module]) -> bool:
    """Whether the smallest part around it that has parameters, itself included, trains none of them."""
    while True:
        parameters = list(parts[name].parameters())
        if parameters or not name:
            return not any(parameter.requires_grad for parameter in parameters)
        name = name.rpartition(".")[0]
