"""Every way in which a training step may call its student."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, Hint, SoftTarget
from tests.callbacks.guests import Theirs, distill, fit, loader, network, same, theirs, weights

timm = pytest.importorskip("timm")


class Forward(Theirs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model.forward(batch[0]), batch[1])


class Whole(Theirs):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class OwnForward(Whole):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.forward(batch[0]), batch[1])


class PartByPart(Theirs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features = self.model[0](batch[0])
        return F.cross_entropy(self.model[2](self.model[1](features)), batch[1])


class Layers(Theirs):
    """Goes into a part of a part, as well."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first, norm, relu = self.model[0]
        return F.cross_entropy(self.model[2](self.model[1](relu(norm(first(batch[0]))))), batch[1])


@pytest.mark.parametrize("kind", [Forward, PartByPart, Layers])
def test_trains_as_where_the_student_is_called_whole(tmp_path: Path, kind: Any) -> None:
    module, plain = theirs(kind), theirs()
    for each in (module, plain):
        criteria = {"soft": SoftTarget(2.0), "hint": Hint("0.0", "0.0"), "before": Hint("2:input", "2:input")}
        fit(each, distill(criteria=criteria, weights={"task": 0.5, "soft": 0.9, "hint": 1.0, "before": 1.0}), tmp_path)
    assert same(weights(module), weights(plain))


def test_their_own_forward(tmp_path: Path) -> None:
    module, plain = theirs(OwnForward), theirs()
    hints = {"soft": SoftTarget(2.0), "hint": Hint("model.0", "0")}
    fit(module, distill(student=".", criteria=hints), tmp_path)
    fit(plain, distill(), tmp_path)
    assert same(weights(module.model), weights(plain.model))


def test_parts_are_heard_with_example_inputs_too(tmp_path: Path) -> None:
    module, plain = theirs(PartByPart), theirs()
    fit(module, distill(example_inputs=torch.randn(2, 5)), tmp_path)
    fit(plain, distill(), tmp_path)
    assert same(weights(module), weights(plain))


def images() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(8, 3, 32, 32), torch.randint(0, 4, (8,))), batch_size=4)


class Timm(Theirs):
    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("resnet18", num_classes=4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features = self.model.forward_features(batch[0])
        return F.cross_entropy(self.model.forward_head(features), batch[1])


def test_forward_features_and_forward_head(tmp_path: Path) -> None:
    criteria = {"soft": SoftTarget(2.0), "hint": Hint("layer2", "layer2")}
    guest = distill(teacher=timm.create_model("resnet34", num_classes=4), criteria=criteria)
    module = theirs(Timm)
    before = set(vars(module.model))
    trainer = fit(module, guest, tmp_path, data=images(), max_steps=2)
    assert float(trainer.callback_metrics["distill/criteria/soft"]) > 0
    assert set(vars(module.model)) == before


class NoForward(Theirs):
    """Has its layers in itself, and no forward."""

    def __init__(self) -> None:
        super().__init__()
        del self.model
        self.backbone, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.head(self.backbone(batch[0]).relu()), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class LeavesOneOut(NoForward):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(1, 1)


def test_a_module_without_forward_whose_parts_are_called(tmp_path: Path) -> None:
    trainer = fit(theirs(NoForward), Distill(network(), student="."), tmp_path, val=loader())
    assert float(trainer.callback_metrics["distill/criteria/soft"]) > 0
    assert "distill/val/agreement" in trainer.callback_metrics  # though nothing links the parts without gradients


def test_parts_that_are_not_all_of_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(backbone, head\).*'unused\.weight' is in none of them"):
        fit(theirs(LeavesOneOut), Distill(network(), student="."), tmp_path)


class FeaturesAlone(Timm):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(512, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.classifier(self.model.forward_features(batch[0]).mean((2, 3))), batch[1])


class TwoViews(Theirs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first, second = self.model[0](batch[0]), self.model[0](batch[0] * 2)
        return F.cross_entropy(self.model[2](first + second), batch[1])


class TwoHeads(Theirs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features = self.model[0](batch[0])
        return F.cross_entropy(self.model[2](features), batch[1]) + self.model[1](features).sum()


class Elsewhere(Theirs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.model[0](batch[0])
        return F.cross_entropy(self.model[2](torch.ones(len(batch[0]), 6)), batch[1])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TwoViews, r"parts of the student and not the student itself \(0, 2\).*'0' ran 2 times"),
        (TwoHeads, r"\(0, 2, 1\).*'1' does not take only the output of '2'"),
        (Elsewhere, r"\(0, 2\).*'2' does not take only the output of '0'"),
    ],
)
def test_parts_that_are_no_one_call_are_refused_by_name(tmp_path: Path, kind: Any, message: str) -> None:
    with pytest.raises(
        ValueError, match=message + r".*student='model\.0' or 'model\.2', or call the student whole: self\.model\(x\)"
    ):
        fit(theirs(kind), distill(), tmp_path)


def test_features_without_the_head_are_no_logits(tmp_path: Path) -> None:
    guest = Distill(timm.create_model("resnet18", num_classes=4))
    with pytest.raises(ValueError, match=r"forward_features.*gives \[2, 512, 1, 1\], and the whole model \[2, 4\]"):
        fit(theirs(FeaturesAlone), guest, tmp_path, data=images())


def test_a_step_that_later_calls_other_parts_is_refused(tmp_path: Path) -> None:
    class Changes(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            features = self.model[0](batch[0])
            if batch_idx == 0:
                features = self.model[1](features)
            return F.cross_entropy(self.model[2](features), batch[1])

    with pytest.raises(ValueError, match=r"called 0, 1, 2 before, and now only 0, 2"):
        fit(theirs(Changes), distill(), tmp_path)


class Fails(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise RuntimeError("theirs")


@pytest.mark.parametrize("kind", [Theirs, Forward, PartByPart])
@pytest.mark.parametrize("fails", [False, True], ids=["whole fit", "after an error"])
def test_the_student_is_plain_afterwards(tmp_path: Path, kind: Any, fails: bool) -> None:
    module, untouched = theirs(kind), network()
    options: dict[str, Any] = {"val": loader(), "callbacks": [distill(), *([Fails()] if fails else [])]}
    if fails:
        with pytest.raises(RuntimeError, match="theirs"):
            fit(module, None, tmp_path, **options)
    else:
        fit(module, None, tmp_path, **options)
    for part, plain in zip(module.model.modules(), untouched.modules(), strict=True):
        assert vars(part).keys() == vars(plain).keys()
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    x = torch.randn(4, 5)
    expected = module.model.eval()(x)
    assert b"lit_distill" not in pickle.dumps(module.model)
    assert torch.equal(copy.deepcopy(module.model)(x), expected)
    assert torch.equal(torch.jit.script(module.model)(x), expected)
