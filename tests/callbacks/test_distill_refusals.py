"""What ``Distill`` refuses: before or at the first step, with what was found and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor, nn

from lit_distill import Distill, Hint, LogitDistillation, SoftTarget
from tests.callbacks.guests import Theirs, distill, fit, network, same, teacher, theirs, weights


def refused(module: Any, guest: Any, folder: Path, message: str, **options: Any) -> None:
    before = weights(module)
    with pytest.raises(ValueError, match=message):
        fit(module, guest, folder, **options)
    assert same(before, weights(module)), "nothing was trained"


def test_unknown_student(tmp_path: Path) -> None:
    message = r"Theirs has no submodule 'modle' to distil into\. Did you mean 'model'\? Its submodules: model"
    refused(theirs(), distill(student="modle"), tmp_path, message)


def test_unknown_layer(tmp_path: Path) -> None:
    guest = distill(criteria={"hint": Hint("0.9", "0")}, weights={"hint": 1.0})
    refused(theirs(), guest, tmp_path, r"no layer '0\.9' in the student Sequential")


def test_student_never_called(tmp_path: Path) -> None:
    class Beside(Theirs):
        def __init__(self) -> None:
            super().__init__()
            self.unused = network()

    refused(theirs(Beside), distill(student="unused"), tmp_path, "does not call 'unused' with gradients on")


def test_student_called_without_gradients(tmp_path: Path) -> None:
    class Quiet(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                self.model(batch[0])
            return self.model[2].weight.sum()

    refused(theirs(Quiet), distill(), tmp_path, "does not call 'model' with gradients on")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda loss: loss.expand(3), r"loss of shape \[3\]; a scalar was expected"),
        (lambda loss: {"losses": loss}, r"returned a dict of \['losses'\]; a tensor, or a dict with 'loss'"),
        (lambda loss: 1.0, "returned float; a tensor"),
    ],
)
def test_loss_that_is_no_scalar(tmp_path: Path, returned: Any, message: str) -> None:
    class Odd(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return returned(super().training_step(batch, batch_idx))

    refused(theirs(Odd), distill(), tmp_path, message)


def test_module_holds_the_teacher(tmp_path: Path) -> None:
    module = theirs()
    module.big = teacher()
    refused(module, distill(teacher=module.big), tmp_path, r"Theirs already holds the teacher \(big\.0\.0\.weight")


def test_teacher_shares_with_the_student(tmp_path: Path) -> None:
    module = theirs()
    other = network()
    other[2] = module.model[2]
    refused(module, distill(teacher=other), tmp_path, r"shares 2 parameters with the student.*deepcopy")


def test_twice(tmp_path: Path) -> None:
    refused(theirs(), None, tmp_path, "two Distill callbacks", callbacks=[distill(), distill()])


def test_after_weight_averaging(tmp_path: Path) -> None:
    callbacks = [StochasticWeightAveraging(swa_lrs=0.01), distill()]
    refused(theirs(), None, tmp_path, "put Distill before it", callbacks=callbacks)


def test_a_distillation_module(tmp_path: Path) -> None:
    refused(LogitDistillation(network(), teacher()), distill(), tmp_path, "is a distillation itself")


def test_their_attribute_of_our_name(tmp_path: Path) -> None:
    module = theirs()
    module.lit_distill = nn.Linear(2, 2)
    refused(module, distill(), tmp_path, "has an attribute 'lit_distill'")


def test_other_classes(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Linear(5, 4))
    guest = Distill(other)
    refused(theirs(), guest, tmp_path, "student has 3 classes and the teacher 4")


class TestArguments:
    def test_task_names_their_loss(self) -> None:
        with pytest.raises(ValueError, match="'task' is the name of the module's own loss"):
            Distill(teacher(), {"task": SoftTarget()}, {"task": 1.0})

    def test_a_weight_for_nothing(self) -> None:
        with pytest.raises(ValueError, match=r"unknown criterion 'sof'.*Did you mean 'soft'"):
            Distill(teacher(), {"soft": SoftTarget()}, {"soft": 1.0, "sof": 1.0})


def test_a_loss_that_is_not_finite_stops_with_its_name(tmp_path: Path) -> None:
    class Diverging(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if self.global_step == 2 else loss

    with pytest.raises(FloatingPointError, match=r"at step 2: 'task' is inf"):
        fit(theirs(Diverging), distill(), tmp_path)


def test_a_path_is_no_teacher() -> None:
    with pytest.raises(TypeError, match=r"teacher is a str; give a network: lit_distill\.load"):
        Distill("big.pt")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter`")
def test_a_step_that_reads_its_batches_itself(tmp_path: Path) -> None:
    class Iterating(Theirs):
        def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
            batch, _, _ = next(dataloader_iter)
            return super().training_step(batch, 0)

    refused(theirs(Iterating), distill(), tmp_path, r"takes the iterator dataloader_iter.*training_step\(self, batch")


def test_projectors_without_an_optimizer(tmp_path: Path) -> None:
    class Untrained(Theirs):
        def configure_optimizers(self) -> Any:
            return None

    message = (
        r"there is no optimizer: Untrained.configure_optimizers returned none, and the criteria's own layers \(2 param"
    )
    with pytest.raises(ValueError, match=message):
        fit(theirs(Untrained), distill(), tmp_path)


def test_a_distillation_module_without_an_optimizer(tmp_path: Path) -> None:
    class Untrained(LogitDistillation):
        def configure_optimizers(self) -> Any:
            return None

    refused(Untrained(network(), teacher()), None, tmp_path, "there is no optimizer: Untrained.configure_optimizers")


class TwoBranches(Theirs):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"small": nn.Linear(5, 3), "large": nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 3))})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.model["small"](batch[0]) + self.model["large"](batch[0])).square().mean()


class BranchesOfItself(TwoBranches):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = self.model["small"], self.model["large"]
        del self.model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.small(batch[0]) + self.large(batch[0])).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("kind", "student", "suggested"),
    [(TwoBranches, "model", "'model.large' or 'model.small'"), (BranchesOfItself, ".", "'large' or 'small'")],
)
def test_parts_side_by_side_name_those_that_are_there(tmp_path: Path, kind: Any, student: str, suggested: str) -> None:
    guest = distill(student=student, criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
    refused(
        theirs(kind), guest, tmp_path, f"Name the part to distil into, student={suggested}, or call the student whole"
    )
