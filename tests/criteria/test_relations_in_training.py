"""The criteria that learn something of their own, in a fit: what they hold is trained, saved, and exact on resume."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Criterion, DistillationModule, Hint
from lit_distill.criteria import AB, CRD, CTKD, MGD, OFA, RKD, SDD, VID, ReviewKD, SimKD
from lit_distill.criteria.sdd import RegionLogits
from lit_distill.criteria.sim_kd import ReusedClassifier, SimKDProjector, reuse_classifier
from lit_distill.models import MLP, resnet8

STAGES = ["layer1", "layer2", "layer3"]


def criteria() -> dict[str, Criterion]:
    return {
        "crd": CRD("linear:input", "linear:input", 8, queue=20),
        "vid": VID("layer*", "layer*"),
        "review_kd": ReviewKD([*STAGES, "linear:input"], [*STAGES, "linear:input"]),
        "sim_kd": SimKD("layer3", "layer3"),
        "mgd": MGD("layer3", "layer3"),
        "ctkd": CTKD(),
        "ofa": OFA("layer*"),
        "ab": AB("layer*", "layer*"),
        "rkd": RKD("linear:input", "linear:input", chunk=3),
    }


def module() -> DistillationModule:
    torch.manual_seed(3)
    student, teacher = resnet8(4), resnet8(4)
    found = criteria()
    return DistillationModule(student, teacher, found, dict.fromkeys(found, 1e-3))


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(0, 4, (16,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)


def trainer(tmp_path: Path, epochs: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    seed_everything(5)
    whole = module()
    trainer(tmp_path, 2).fit(whole, loader())
    seed_everything(5)
    first = trainer(tmp_path, 1)
    first.fit(module(), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module()
    trainer(tmp_path, 2).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    expected, found = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


class Remember(Callback):
    """Keeps what the criteria hold before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.state = copy.deepcopy(pl_module.criteria.state_dict())


def test_everything_of_the_criteria_learns_and_none_of_it_is_the_students(tmp_path: Path) -> None:
    fitted, remember = module(), Remember()
    fit = trainer(tmp_path, 1)
    fit.callbacks.append(remember)  # type: ignore[attr-defined]
    fit.fit(fitted, loader())
    after = fitted.criteria.state_dict()
    assert len(after) > 50
    assert [name for name, value in remember.state.items() if torch.equal(value, after[name])] == []
    assert fitted.student.state_dict().keys() == resnet8(4).state_dict().keys()


def test_the_dry_run_leaves_the_queue_alone(tmp_path: Path) -> None:
    criterion = CRD("linear:input", "linear:input", 8, queue=20)
    queue = criterion.queue_t.clone()
    fitted = DistillationModule(resnet8(4), resnet8(4), {"crd": criterion}, {"crd": 1.0})
    fit = trainer(tmp_path, 0)
    fit.fit(fitted, loader())
    assert isinstance(criterion.embed_s, nn.Linear)
    assert torch.equal(criterion.queue_t, queue)


def test_a_checkpoint_builds_everything_without_data(tmp_path: Path) -> None:
    fit = trainer(tmp_path, 1)
    fitted = module()
    fit.fit(fitted, loader())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    found = criteria()
    loaded = DistillationModule.load_from_checkpoint(
        tmp_path / "a.ckpt",
        student=resnet8(4),
        teacher=resnet8(4),
        criteria=found,
        weights=dict.fromkeys(found, 1e-3),
        weights_only=False,
    )
    expected = fitted.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    network = reuse_classifier(loaded.student, loaded.criteria["sim_kd"], resnet8(4).linear)  # type: ignore[arg-type]
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_sim_kd_with_the_reused_classifier_as_the_student(tmp_path: Path) -> None:
    teacher = resnet8(4)
    classifier = copy.deepcopy(teacher.linear)
    network = ReusedClassifier(resnet8(4), "layer3", SimKDProjector([1, 64, 2, 2], [1, 64, 2, 2]), classifier)
    fitted = DistillationModule(network, teacher, {"hint": Hint("projector", "layer3")}, {"hint": 1.0})
    fit = trainer(tmp_path, 1)
    fit.fit(fitted, loader(), loader())
    assert torch.equal(network.classifier.weight, teacher.linear.weight)
    assert "val/accuracy/student" in fit.callback_metrics


def test_regions_in_a_fit(tmp_path: Path) -> None:
    student = RegionLogits(resnet8(4))
    fitted = DistillationModule(student, RegionLogits(resnet8(4)), {"sdd": SDD()}, {"sdd": 1.0})
    before = student.model.linear.weight.detach().clone()
    trainer(tmp_path, 1).fit(fitted, loader(), loader())
    assert not torch.equal(student.model.linear.weight, before)
    assert student.model.state_dict().keys() == resnet8(4).state_dict().keys()


@pytest.mark.parametrize("kind", [RKD, CRD])
def test_a_network_without_maps(tmp_path: Path, kind: type[Criterion]) -> None:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(8, 5, generator=generator), torch.randint(0, 3, (8,), generator=generator))
    networks = [MLP(5, [6], 3), MLP(5, [9], 3)]
    found: Criterion = kind("classifier:input", "classifier:input")  # type: ignore[call-arg]
    fitted = DistillationModule(*networks, {"a": found}, {"a": 1.0})
    trainer(tmp_path, 1).fit(fitted, DataLoader(data, batch_size=4))
