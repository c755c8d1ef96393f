"""A network that cannot take its inputs is named, with what it was given, before the fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill import Distill, EMATeacher, FrozenTeacher, LogitDistillation, SupervisedModule
from lit_distill.batch.batch import Arguments
from lit_distill.capture.call import in_words
from lit_distill.models import Ensemble
from tests.callbacks.guests import Theirs, distill, fit, loader, network, teacher, theirs


def test_inputs_in_words() -> None:
    x, ids = torch.zeros(2, 3), torch.zeros(2, 7, dtype=torch.long)
    assert in_words(x) == "float32 [2, 3]"
    assert in_words((x, None)) == "float32 [2, 3], NoneType"
    assert in_words({"input_ids": ids}) == "input_ids=int64 [2, 7]"
    assert in_words(Arguments(([x, ids],), {"scale": 2.0})) == "list(float32 [2, 3], int64 [2, 7]), scale=float"


class Fixed(nn.Linear):
    """As transformers' ViT: it takes one size, and says so by a ValueError."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_features:
            raise ValueError(f"size {x.shape[1]} does not match the model's {self.in_features}")
        return super().forward(x)


WRONG = {
    "another width": (nn.Linear(4, 3), r"RuntimeError: (addmm: )?mat1 and mat2"),
    "too many arguments": (nn.Bilinear(5, 5, 3), r"TypeError: .*missing 1 required positional argument"),
    "a size of its own": (Fixed(4, 3), r"ValueError: size 5 does not match the model's 4"),
    "another type": (nn.Embedding(5, 3), r"RuntimeError: Expected tensor for argument"),
}


@pytest.mark.parametrize("name", ["another width", "a size of its own", "another type"])
def test_teacher_of_a_module(tmp_path: Path, name: str) -> None:
    wrong, why = WRONG[name]
    what = rf"the teacher \({type(wrong).__name__}\) failed on the inputs that it was given, float32 \[4, 5\] \({why}"
    with pytest.raises(ValueError, match=what + r".*BatchFormat\(teacher_input_key=…\)"):
        fit(LogitDistillation(network(), wrong), None, tmp_path)


@pytest.mark.parametrize("name", WRONG)
def test_teacher_beside_distill(tmp_path: Path, name: str) -> None:
    wrong, why = WRONG[name]
    what = rf"the teacher \({type(wrong).__name__}\) failed on the inputs that it was given, float32 \[2, 5\] \({why}"
    with pytest.raises(ValueError, match=what):
        fit(theirs(), Distill(wrong), tmp_path)


def test_own_refusals_pass_unchanged(tmp_path: Path) -> None:
    writes = nn.Sequential(nn.ReLU(inplace=True), teacher())
    with pytest.raises(ValueError, match="^member 0 changes what it is called with"):
        fit(LogitDistillation(network(), Ensemble([writes, teacher()])), None, tmp_path)


def test_student_of_a_module(tmp_path: Path) -> None:
    what = (
        r"the student \(Linear\) failed on the inputs that it was given, float32 \[4, 5\] "
        r"\(RuntimeError: (addmm: )?mat1 and mat2"
    )
    with pytest.raises(ValueError, match=what):
        fit(LogitDistillation(nn.Linear(4, 3), teacher()), None, tmp_path)


@pytest.mark.parametrize("by_forward", [False, True])
def test_student_beside_distill(tmp_path: Path, by_forward: bool) -> None:
    class Wrong(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0][:, :4]
            return F.cross_entropy(self.model.forward(x) if by_forward else self.model(x), batch[1])

    what = r"mat1 and mat2.*; the student \(Sequential\) failed on its inputs, float32 \[4, 4\]"
    with pytest.raises(ValueError, match=what):
        fit(theirs(Wrong), distill(), tmp_path)


def test_a_batch_of_another_type_is_still_explained(tmp_path: Path) -> None:
    data = DataLoader([(x.double(), y) for x, y in loader().dataset], batch_size=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the batch is of float64 and the student's weights of float32"):
        fit(LogitDistillation(network(), teacher()), None, tmp_path, data=data)


class NoForward(LightningModule):
    """Its steps call its network."""

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.net, self.aux = nn.CrossEntropyLoss(), network(), nn.Linear(5, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        found: Tensor = self.loss(self.net(batch[0]), batch[1])
        return found


class WithForward(NoForward):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found


@pytest.mark.parametrize(
    ("make", "whose"),
    [
        (lambda: LogitDistillation(network(), NoForward()), "teacher"),
        (lambda: LogitDistillation(network(), FrozenTeacher(NoForward())), "teacher"),
        (lambda: LogitDistillation(NoForward(), teacher()), "student"),
        (lambda: SupervisedModule(NoForward()), "student"),
        (lambda: Distill(NoForward()), "teacher"),
    ],
)
def test_a_module_without_forward_is_refused_with_what_is_in_it(make: Any, whose: str) -> None:
    what = rf"the {whose} NoForward has no forward of its own.*such as module\.net \(it has net, aux\)"
    with pytest.raises(ValueError, match=what):
        make()


def test_a_dict_of_modules_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the teacher ModuleDict has no forward .*such as module\.head\."):
        Distill(nn.ModuleDict({"head": nn.Linear(5, 3)}))


def test_networks_with_a_forward_are_taken() -> None:
    LogitDistillation(WithForward(), WithForward())
    LogitDistillation(network(), EMATeacher())
    LogitDistillation(torch.compile(network()), torch.jit.script(nn.Linear(5, 3)))  # type: ignore[arg-type]
    patched = NoForward()
    patched.forward = patched.net.forward  # type: ignore[method-assign]
    LogitDistillation(network(), patched)
