"""The hooks of a teacher: their order in a fit, and the names that they had before."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import FeatureDistillation, Hint, LogitDistillation, Outputs, Teacher
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


def classes_of_the_page() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, made)
    return made


def test_the_pages_function_distils(quick_trainer: Callable[..., Trainer]) -> None:
    module = classes_of_the_page()["module"]
    trainer = quick_trainer(limit_val_batches=1)
    trainer.fit(module, loader(), loader())
    assert "train/criteria/soft" in trainer.callback_metrics


def test_the_pages_teacher_without_a_network_distils(quick_trainer: Callable[..., Trainer]) -> None:
    means = torch.randn(10, 1, 8, 8)
    teacher = classes_of_the_page()["NearestMean"](means)
    assert teacher(means).logits.argmax(1).tolist() == list(range(10))
    quick_trainer(limit_val_batches=1).fit(LogitDistillation(MLP(), teacher), loader(), loader())
    assert (teacher.name, teacher.network) == ("NearestMean", None)
    with pytest.raises(ValueError, match="the teacher NearestMean has no network, and so no layer '1'"):
        FeatureDistillation(MLP(), teacher, criteria={"hint": Hint("hidden", "1")}, weights={"hint": 1.0})


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.zeros(2, 10), "Wrong.__call__ returned a Tensor; return lit_distill.Outputs"),
        (None, "Wrong.__call__ returned None"),
        ((torch.zeros(2, 10),), "Wrong.__call__ returned a tuple"),
        (Outputs(np.zeros((2, 10))), "Wrong.__call__ returned Outputs whose logits are a ndarray"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_outputs_is_refused_by_the_teachers_name(
    quick_trainer: Callable[..., Trainer], returned: Any, words: str
) -> None:
    class Wrong(Noting):
        def __call__(self, inputs: Any, mask: Tensor | None = None) -> Any:
            return returned

    with pytest.raises(TypeError, match=re.escape(words)):
        quick_trainer().fit(LogitDistillation(MLP(), Wrong(MLP())), loader())


def test_predict_is_refused_likewise(quick_trainer: Callable[..., Trainer]) -> None:
    class Wrong(Noting):
        def predict(self, inputs: Any, mask: Tensor | None = None) -> Any:
            return self(inputs, mask).logits

    with pytest.raises(TypeError, match="Wrong.predict returned a Tensor"):
        quick_trainer().fit(LogitDistillation(MLP(), Wrong(MLP())), loader(), loader())


def test_a_teacher_made_from_its_student_serves_one() -> None:
    class Copy(Noting):
        def set_student(self, student: nn.Module) -> None:
            self.student = student

    teacher, first = Copy(MLP()), MLP()
    LogitDistillation(first, teacher)
    LogitDistillation(first, teacher)  # again the same
    with pytest.raises(ValueError, match="this Copy already serves another student"):
        LogitDistillation(MLP(), teacher)


def test_a_missing_super_init_is_named() -> None:
    class Bare(Noting):
        def __init__(self) -> None:
            self.called = []

    with pytest.raises(AttributeError, match=r"Bare has no '\w+': call super\(\).__init__\(\)"):
        LogitDistillation(MLP(), Bare())


def test_the_pages_teacher_distils(quick_trainer: Callable[..., Trainer]) -> None:
    made = classes_of_the_page()
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
