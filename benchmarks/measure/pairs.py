"""The pairs of networks that methods are tried on, and a method's settings for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_distill.compare.base import in_proportion

_HERE = Path(__file__).parent
_METHODS_EPOCHS = 30  # of configs/methods/base.yaml, which the methods' schedules are made for
_SECOND_TEACHER, _HEADS = "needs a second teacher", "needs layers of attention heads"
_MAPS = "needs maps [B, C, H, W]"
_DIGITS_NAMES = {"layer1": "stage1", "layer2": "stage2", "layer3": "stage3", "linear": "classifier"}
_DIGITS_NETWORKS = {
    "resnet20": {"class_path": "SmallCNN", "init_args": {"width": 8}},
    "resnet56": {"class_path": "SmallCNN", "init_args": {"width": 32}},
}


@dataclass(frozen=True)
class Pair:
    """Two networks and their data.

    Attributes:
        teacher: The teacher's config, trained once.
        baseline: The student's alone.
        plain: The student's with soft targets; a method's config is read on top of it.
        epochs: Of these configs.
        checkpoint: Where the configs look for the teacher.
        unsuited: Methods that cannot be run, with the reason.
    """

    teacher: str
    baseline: str
    plain: str
    epochs: int
    checkpoint: str
    unsuited: Mapping[str, str] = field(default_factory=dict)


PAIRS = {
    "digits": Pair(
        "configs/digits/teacher.yaml",
        "configs/digits/baseline.yaml",
        "configs/digits/logit.yaml",
        60,
        "runs/digits/teacher/teacher.ckpt",
        {"fsp": "needs equal channels", "minilm": _HEADS, "multi_teacher": _SECOND_TEACHER},
    ),
    "cifar10": Pair(
        "configs/cifar10/teacher.yaml",
        "configs/cifar10/baseline.yaml",
        "configs/methods/base.yaml",
        30,
        "runs/cifar10/teacher/teacher.ckpt",
        {"minilm": _HEADS, "multi_teacher": _SECOND_TEACHER},
    ),
    "vowels": Pair(
        str(_HERE / "vowels_teacher.yaml"),
        str(_HERE / "vowels_baseline.yaml"),
        str(_HERE / "vowels_kd.yaml"),
        60,
        "runs/vowels/teacher/teacher.ckpt",
        {
            **dict.fromkeys(("fsp", "mgd", "nst", "review_kd", "sdd", "sim_kd"), _MAPS),
            "minilm": _HEADS,
            "multi_teacher": _SECOND_TEACHER,
        },
    ),
}


def fitted_to(settings: dict[str, Any], name: str, epochs: int | None) -> dict[str, Any]:
    """A method's settings for a pair's networks and the length of its training."""
    pair = PAIRS[name]
    changed: dict[str, Any] = in_proportion(settings, (epochs or pair.epochs) / _METHODS_EPOCHS)
    if name == "digits":
        changed = for_digits(changed)
        if "class_path" not in changed["model"]:  # the digits' own config compares logits only
            changed["model"] = {"class_path": "DistillationModule", "init_args": changed["model"]}
    return changed


def for_digits(value: Any, key: str = "") -> Any:
    """A method's settings for the digits' networks: layers of the same depth. The vowels' have the names of CIFAR-10's."""
    if isinstance(value, Mapping):
        return {name: for_digits(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [for_digits(inner, key) for inner in value]
    return _digits_word(value, key) if isinstance(value, str) else value


def _digits_word(value: str, key: str) -> Any:
    if value in _DIGITS_NETWORKS:
        return _DIGITS_NETWORKS[value]
    if value.endswith("teacher.ckpt"):
        return PAIRS["digits"].checkpoint
    if not key.endswith(("layer", "layers", "head", "classifier")):
        return value
    path, mark, rest = value.partition(":")
    names = [_DIGITS_NAMES.get(part, part.replace("layer", "stage")) for part in path.split(".")]
    return ".".join(names) + mark + rest
