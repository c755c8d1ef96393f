"""The hooks of a teacher: their order in a fit, and the names that they had before."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import LogitDistillation, Outputs, Teacher
from lit_distill.models import MLP
from lit_distill.teachers.base import _RENAMED

_PAGE = Path(__file__).resolve().parents[2] / "docs/write_a_teacher.md"


class Noting(Teacher):
    """Notes every hook that is called."""

    def __init__(self, model: nn.Module) -> None:
        self.called: list[str] = []
        super().__init__(model.eval().requires_grad_(False))

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in (*_RENAMED.values(), "prefetch", "own_loss", "predict", "skip_logits", "apply"):
            self.called.append(name)
        return found

    def __call__(self, inputs: Any, mask: Tensor | None = None) -> Outputs:
        self.called.append("dry run" if self.capture.finds_overwrites else "__call__")
        with torch.no_grad():
            return self.capture.run(inputs, mask)

    def predict(self, inputs: Any, mask: Tensor | None = None) -> Outputs:
        with torch.no_grad():
            return self.capture.run(inputs, mask)


def loader(samples: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(samples, 1, 8, 8), torch.arange(samples) % 10), batch_size=4)


def test_hooks_are_called_in_the_documented_order(quick_trainer: Callable[..., Trainer]) -> None:
    teacher = Noting(MLP())
    quick_trainer(limit_val_batches=1, num_sanity_val_steps=0).fit(
        LogitDistillation(MLP(), teacher), loader(), loader()
    )
    step = ["on_train_batch_start", "prefetch", "__call__", "own_loss", "on_train_batch_end"]
    called = [name for name in teacher.called if name != "apply"]
    expected = [
        *("for_student", "set_student", "capture_layers", "dry run", "own_loss", "skip_logits"),
        *("set_owner", "on_fit_start", "on_train_start", *step, *step, "predict"),
    ]
    without_ends = [name for name in called if name != "on_fit_end"]
    assert without_ends == expected
    assert called[-1] == "on_fit_end"


def test_the_page_names_every_hook() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    for name in (*_RENAMED.values(), "prefetch", "own_loss", "predict", "skip_logits", "apply"):
        assert f"`{name}(" in page
    for old in _RENAMED:
        assert f"`{old}`" in page


def test_the_pages_teacher_distils(quick_trainer: Callable[..., Trainer]) -> None:
    code = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    made: dict[str, Any] = {}
    exec(code, made)
    first, second = MLP(), MLP()
    teacher = made["TwoTeachers"](first, second)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(teacher(x).logits, first(x))
    teacher.on_train_batch_end(first, 1)
    torch.testing.assert_close(teacher(x).logits, second(x))
    torch.testing.assert_close(teacher.predict(x).logits, first(x))
    quick_trainer(limit_val_batches=1).fit(LogitDistillation(MLP(), teacher), loader(), loader())
    assert teacher.turn == 2


def test_a_subclass_with_the_old_names_works_and_is_told_the_new_ones(quick_trainer: Callable[..., Trainer]) -> None:
    with pytest.warns(DeprecationWarning, match="is called") as told:

        class Old(Noting):
            def begin_batch(self) -> None:
                self.called.append("begin_batch")

            def end_batch(self, student: nn.Module, step: int) -> None:
                self.called.append(f"end_batch {step}")

    assert [str(one.message) for one in told] == [
        "Teacher: Old.begin_batch is called on_train_batch_start now.",
        "Teacher: Old.end_batch is called on_train_batch_end now.",
    ]
    teacher = Old(MLP())
    quick_trainer(limit_val_batches=0).fit(LogitDistillation(MLP(), teacher), loader())
    own = [name for name in teacher.called if name.partition(" ")[0] in ("begin_batch", "end_batch")]
    assert own == ["begin_batch", "end_batch 1", "begin_batch", "end_batch 2"]


@pytest.mark.parametrize("old", sorted(_RENAMED))
def test_an_old_name_is_found_under_the_new_one(old: str) -> None:
    teacher = Noting(MLP())
    with pytest.warns(DeprecationWarning, match=f"Teacher: {old} is called {_RENAMED[old]} now"):
        found = getattr(teacher, old)
    assert found == getattr(teacher, _RENAMED[old])
