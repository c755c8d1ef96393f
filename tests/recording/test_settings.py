"""Arguments of a recorded teacher: right ones become plain types, others are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_distill import RecordedTeacher, TeacherRuntime
from lit_distill.models import SmallCNN

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"path": b"x"}, "path is a bytes"),
    ({"path": 3}, "path is a int"),
    ({"path": True}, "path is a bool"),
    ({"path": ["a"]}, "path is a list"),
    ({"path": ""}, "path is empty"),
    ({"path": " "}, "path is empty"),
    ({"path": __file__}, "is a file; give a folder"),
    ({"views": 0}, "views must be at least 1, not 0"),
    ({"views": -1}, "views must be at least 1, not -1"),
    ({"views": 2.5}, "views must be a whole number, not 2.5"),
    ({"views": "3"}, "views is a str; give the number, 3"),
    ({"views": True}, "views is a bool"),
    ({"views": [1]}, "views is a list"),
    ({"views": float("nan")}, "views must be a whole number, not nan"),
    ({"seed": "a"}, "seed is a str; give a number"),
    ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
    ({"seed": None}, "seed is None"),
    ({"seed": True}, "seed is a bool"),
    ({"logits": "float8"}, "logits must be one of"),
    ({"logits": None}, "logits must be one of"),
    ({"logits": torch.float16}, "logits must be one of"),
    ({"logits": ["float16"]}, "logits must be one of"),
    ({"top_k": 3}, "top_k does nothing with logits: float16"),
    ({"logits": "top_k"}, "top_k needs top_k"),
    ({"logits": "top_k", "top_k": "3"}, "top_k is a str; give the number, 3"),
    ({"logits": "top_k", "top_k": 2.5}, "top_k must be a whole number, not 2.5"),
    ({"logits": "top_k", "top_k": True}, "top_k is a bool"),
    ({"logits": "top_k", "top_k": 0}, "top_k needs top_k"),
    ({"features": "top_k"}, "features must be one of"),
    ({"features": {"a": "int8"}}, "features must be one of"),
    ({"pool_features": "false"}, "pool_features is a str; give True or False"),
    ({"pool_features": None}, "pool_features is None"),
    ({"ignore_versions": ["torch"]}, "ignore_versions is a list"),
    ({"runtime": "int8"}, "runtime is 'int8', a str; give a TeacherRuntime"),
    ({"runtime": {"precision": "int8"}}, "runtime is .* a dict"),
    ({"runtime": TeacherRuntime}, "runtime is .* a type"),
    ({"positions": 0}, "positions must be at least 1, not 0"),
    ({"positions": 1.5}, "positions must be a whole number, not 1.5"),
    ({"positions": "8"}, "positions is a str; give the number, 8"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        RecordedTeacher(SmallCNN(2), **arguments)


@pytest.mark.parametrize("number", [3, np.int64(3), np.uint8(3), torch.tensor(3), 3.0])
def test_whole_numbers_of_any_kind_become_pythons(number: Any, tmp_path: Path) -> None:
    teacher = RecordedTeacher(
        SmallCNN(2), str(tmp_path), number, number, "top_k", number, pool_features=np.bool_(True), positions=number
    )
    settings = teacher.settings
    held = [settings.views, settings.seed, settings.formats.top_k, teacher.positions, teacher.pool_features]
    assert json.dumps(held) == "[3, 3, 3, 3, true]"
    assert settings.path == tmp_path
