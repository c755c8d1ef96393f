"""Quantisation-aware training: what the student computes, its state, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from lit_distill import AttentionTransfer, CombinedDistillation, Distill, LogitDistillation, SoftTarget
from lit_distill.callbacks import FreezeQuantisation
from lit_distill.compress import quantise
from lit_distill.models.fake_quantise import FakeQuantise
from lit_distill.models.quantisation_aware import QuantisationAware, without_rounding
from tests.compress.networks import Flat
from tests.export.networks import images, loader, net

pytest.importorskip("torchao")
SHAPE = [1, 2, 6, 6]
_made: dict[str, nn.Module] = {}


def quantised() -> Any:
    """Return a new student in quantisation-aware training; made once, copied after that."""
    if "flat" not in _made:
        torch.manual_seed(3)
        _made["float"] = Flat()
        _made["flat"] = quantise(_made["float"], SHAPE)
    return copy.deepcopy(_made["flat"])


def test_the_student_is_the_float_one_up_to_rounding_and_leaves_it_alone() -> None:
    student, inputs = quantised(), images()[0]
    floating = _made["float"].eval()
    assert torch.allclose(without_rounding(student.eval(), inputs), floating(inputs), atol=1e-6)
    student.train()(inputs)
    student.eval()
    far = (student(inputs) - floating(inputs)).abs().max()
    assert 0 < far < 0.05
    assert torch.allclose(student(inputs[:1]), student(inputs)[:1], atol=1e-6)
    own = {id(parameter) for parameter in floating.parameters()}
    assert not any(id(parameter) in own for parameter in student.parameters())


def test_every_rounded_value_is_one_that_int8_holds() -> None:
    student, seen = quantised(), []
    student(images()[0])
    for one in student.modules():
        if isinstance(one, FakeQuantise):
            one.register_forward_hook(lambda module, given, output: seen.append(output.detach()))
    student.eval()(images()[0])
    assert len(seen) == 4
    assert all(len(values.unique()) <= 256 * (len(values) if values.shape[0] in (3, 4) else 1) for values in seen)


def test_training_reaches_the_float_network_and_evaluation_changes_nothing() -> None:
    student = quantised()
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    inputs, labels = images()
    for _ in range(3):
        nn.functional.cross_entropy(student(inputs), labels).backward()
        optimizer.step()
    floating = student.float_network()
    assert type(floating) is Flat
    for name, value in floating.state_dict().items():
        assert torch.equal(value, student.state_dict()[f"graph.{name}"])
        assert not torch.equal(value, _made["float"].state_dict()[name])
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.eval()(100 * inputs)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("student", "given", "words"),
    [
        (Flat, {"example": None}, "needs an example of its inputs"),
        (Flat, {"example": "1,3"}, "needs an example of its inputs"),
        (Flat, {"target": "onx"}, "target must be"),
        (nn.ReLU, {}, "no convolution or linear layer"),
        (quantised, {}, "is a graph already"),
        (lambda: nn.Linear(5, 2), {}, "cannot be traced"),
    ],
)
def test_wrong_arguments_are_refused(student: Callable[[], nn.Module], given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantise(student(), **{"example": SHAPE, **given})


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs torchao: pip install 'lit-distill\[qat\]'"):
        quantise(Flat(), SHAPE)


class Branching(Flat):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) if self.training else super().forward(x)


def test_a_student_whose_mode_only_python_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="Branching computes something in training mode"):
        quantise(Branching(), SHAPE)


class Module(LightningModule):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: Tensor) -> Any:
        return self.student(x)

    def training_step(self, batch: Any, index: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def test_criteria_on_features_are_refused_with_the_reason(quick_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(ValueError, match="'hint' reads layers of the student.*hooks do not fire"):
        CombinedDistillation(quantised(), Flat(), "conv", "conv")
    with pytest.raises(ValueError, match="hooks do not fire"):
        CombinedDistillation(quantised(), Flat())
    callback = Distill(
        teacher=Flat(), student="student", criteria={"a": AttentionTransfer("conv", "conv")}, weights={"a": 1.0}
    )
    with pytest.raises(ValueError, match="'a' reads layers of the student.*hooks do not fire"):
        quick_trainer(callbacks=[callback]).fit(Module(quantised()), loader())


def test_a_plug_in_distils_it(quick_trainer: Callable[..., Trainer]) -> None:
    module = Module(quantised())
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    callback = Distill(teacher=Flat(), student="student", criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
    quick_trainer(callbacks=[callback]).fit(module, loader())
    assert all(not torch.equal(before[name], value) for name, value in module.named_parameters())


class StopAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def module_of(student: nn.Module) -> LogitDistillation:
    torch.manual_seed(7)
    return LogitDistillation(student, Flat())


@pytest.mark.filterwarnings("ignore:the teacher's accuracy")
def test_a_fit_validates_freezes_and_resumes_to_the_bit(tmp_path: Path, quick_trainer: Callable[..., Trainer]) -> None:
    def fit(module: LogitDistillation, epochs: int, path: Path | None = None) -> None:
        callbacks = [FreezeQuantisation(after=0.5), StopAt(6, tmp_path / "half.ckpt")]
        trainer = quick_trainer(max_epochs=epochs, callbacks=callbacks)
        trainer.fit(module, loader(), loader(16), ckpt_path=path)

    whole = module_of(quantised())
    fit(whole, 2)  # 12 steps, of which 6 are frozen
    assert whole.student.frozen
    content = torch.load(tmp_path / "half.ckpt", weights_only=True)
    kept = {name: value for name, value in content["state_dict"].items() if name.endswith((".low", ".high"))}
    assert kept
    assert all(value.is_floating_point() for value in kept.values())
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in kept.items())
    again = module_of(quantised())
    fit(again, 2, tmp_path / "half.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_freezing_needs_a_student_in_quantisation_aware_training(quick_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(ValueError, match="finds no network in quantisation-aware training"):
        quick_trainer(callbacks=[FreezeQuantisation()]).fit(Module(Flat()), loader())


def test_averaged_weights_keep_their_ranges() -> None:
    averaged_model = torch.optim.swa_utils.AveragedModel
    student = quantised()
    average = averaged_model(student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(student.parameters(), 0.005)
    inputs, labels = images()
    for _ in range(20):
        nn.functional.cross_entropy(student(inputs), labels).backward()
        optimizer.step()
        average.update_parameters(student)
    found = average.module
    assert isinstance(found, QuantisationAware)
    assert found.float_network()(inputs).shape == (48, 3)
    far = found.eval()(inputs) - found.float_network().eval()(inputs)
    assert far.abs().max() < 0.05
    assert not torch.equal(found.graph.fc.weight, student.graph.fc.weight)  # type: ignore[union-attr]


@pytest.mark.slow
def test_batch_norm_learns_in_training_and_keeps_its_epsilon(quick_trainer: Callable[..., Trainer]) -> None:
    floating = net()
    norm = floating[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.eps, norm.momentum = 0.05, 0.5
    student: Any = quantise(floating, SHAPE)
    inputs, _ = images()
    assert torch.allclose(without_rounding(student.eval(), inputs), floating.eval()(inputs), atol=1e-5)
    with torch.no_grad():
        without_rounding(student.train(), inputs)
        floating.train()(inputs)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        expected = floating.state_dict()[f"1.{name}"]
        assert torch.allclose(student.state_dict()[f"graph.1.{name}"].float(), expected.float(), atol=1e-5)
    with pytest.raises(ValueError, match="batch of one sample"):
        student(inputs[:1])
    student.freeze()
    student(inputs[:1])
    student.freeze(False)
    with pytest.raises(ValueError, match="leave one in the last.*fails on one"):
        quick_trainer().fit(LogitDistillation(student, net()), loader(17))
