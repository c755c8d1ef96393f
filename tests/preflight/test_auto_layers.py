"""Layers that are found for criteria which name none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    CombinedDistillation,
    Distill,
    DistillationModule,
    FeatureDistillation,
    SelfDistillation,
    criteria,
)
from lit_distill.cli.command import main
from lit_distill.models import MLP, SmallCNN, resnet8, resnet20
from lit_distill.teachers import EMATeacher, RecordedTeacher
from tests.capture.expert_stages import HUGGING_FACE as STAGES
from tests.capture.networks import HUGGING_FACE
from tests.conftest import QuickTrainer
from tests.plain import Plain


def loader(size: int = 8, channels: int = 3, classes: int = 10) -> DataLoader[Any]:
    images, labels = torch.randn(4, channels, size, size), torch.randint(0, classes, (4,))
    return DataLoader(TensorDataset(images, labels), batch_size=2)


def alone(criterion: criteria.Criterion, student: nn.Module, teacher: nn.Module) -> DistillationModule:
    return DistillationModule(
        student, teacher, {"hard": criteria.HardTarget(), "own": criterion}, {"hard": 1.0, "own": 1.0}
    )


def pairs_of(module: Any, name: str = "hint") -> list[tuple[str, str]]:
    return list(module.criteria[name].pairs)


RESNETS = [("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3")]


@pytest.mark.parametrize("kind", [FeatureDistillation, CombinedDistillation])
def test_networks_alone_are_enough(kind: Any, quick_trainer: QuickTrainer) -> None:
    module = kind(resnet8(), resnet20())
    quick_trainer(fast_dev_run=True).fit(module, loader())
    assert pairs_of(module) == RESNETS


def test_pairs_are_printed_once(quick_trainer: QuickTrainer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        quick_trainer(fast_dev_run=True).fit(FeatureDistillation(resnet8(), resnet20()), loader())
    text = caplog.text
    assert text.count("layer3 [64, 2, 2] -> layer3 [64, 2, 2]") == 1
    assert "layers found" in text


def test_maps_meet_tokens_both_ways(quick_trainer: QuickTrainer) -> None:
    cnn, vit = resnet8(), HUGGING_FACE["vit"]()
    module = FeatureDistillation(cnn, vit)
    quick_trainer(fast_dev_run=True).fit(module, loader(32, classes=2))
    assert pairs_of(module) == [(f"layer{n}", STAGES["vit"][place]) for n, place in ((1, 0), (2, 2), (3, 3))]
    back = FeatureDistillation(HUGGING_FACE["vit"](), resnet8())
    quick_trainer(fast_dev_run=True).fit(back, loader(32, classes=2))
    assert [pair[::-1] for pair in pairs_of(back)] == pairs_of(module)


def test_channels_last_meet_channels_first(quick_trainer: QuickTrainer) -> None:
    module = FeatureDistillation(HUGGING_FACE["swin"](), resnet8())
    quick_trainer(fast_dev_run=True).fit(module, loader(32, classes=2))
    assert [teacher for _, teacher in pairs_of(module)] == ["layer2", "layer3"]  # 16x16 and 8x8, as Swin's


def test_vectors_meet_the_input_of_the_teachers_head(quick_trainer: QuickTrainer) -> None:
    module = FeatureDistillation(MLP(in_features=192), resnet8())
    quick_trainer(fast_dev_run=True).fit(module, loader())
    assert pairs_of(module) == [("hidden", "linear:input")]


@pytest.mark.parametrize(
    "make",
    [
        criteria.AB,
        criteria.AttentionTransfer,
        criteria.CC,
        criteria.CRD,
        criteria.CWD,
        criteria.FSP,
        criteria.Hint,
        criteria.MGD,
        criteria.NST,
        criteria.OFA,
        criteria.PKT,
        criteria.QueueKL,
        criteria.RKD,
        criteria.ReviewKD,
        criteria.SP,
        criteria.SimKD,
        criteria.TokenRelation,
        criteria.VID,
    ],
)
def test_every_criterion_finds_its_layers(make: Any, quick_trainer: QuickTrainer) -> None:
    module = alone(make(), resnet8(), resnet20())
    quick_trainer(fast_dev_run=True).fit(module, loader())
    found = module.criteria["own"].found_layers
    last = make().auto_stages == "last"
    assert found[0] == (("layer3",) if last else ("layer1", "layer2", "layer3"))
    assert found[1] == (() if make is criteria.OFA else found[0])


def test_one_side_may_be_named(quick_trainer: QuickTrainer) -> None:
    module = FeatureDistillation(resnet8(), resnet20(), teacher_layer="layer2.1")
    quick_trainer(fast_dev_run=True).fit(module, loader())
    assert pairs_of(module) == [("layer2", "layer2.1")]


def test_exits_are_the_stages_before_the_last(quick_trainer: QuickTrainer) -> None:
    module = SelfDistillation(resnet8())
    quick_trainer(fast_dev_run=True).fit(module, loader())
    assert module.criteria["own"].layers == ["layer1", "layer2"]


def test_globs_of_unequal_length_pair_by_depth_on_request(quick_trainer: QuickTrainer) -> None:
    hint = criteria.Hint("layer*.0", "layer3.*", pair="depth")
    module = alone(hint, resnet8(), resnet20())
    quick_trainer(fast_dev_run=True).fit(module, loader())
    assert pairs_of(module, "own") == [(f"layer{n + 1}.0", f"layer3.{n}") for n in range(3)]
    with pytest.raises(ValueError, match=r"3 student layers .* cannot pair with 2 teacher .*pair='depth'"):
        criteria.layers.pair_layers(["a", "b", "c"], ["d", "e"], "order")
    assert criteria.layers.pair_layers(["a"], ["d", "e", "f"], "depth") == [("a", "f")]


def test_only_pairs_that_fit_are_chosen(quick_trainer: QuickTrainer) -> None:
    wide = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 64, 3, padding=1), nn.ReLU()
    )
    student = nn.Sequential(*wide, nn.Flatten(), nn.Linear(64 * 16, 10))
    module = alone(criteria.FSP(), student, SmallCNN())
    with pytest.raises(ValueError, match=r"criterion 'own' \(FSP\): it needs 2 pairs of layers"):
        quick_trainer(fast_dev_run=True).fit(module, loader(channels=1))


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_network_without_stages_is_refused(which: str, quick_trainer: QuickTrainer) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    networks = {"student": resnet8(), "teacher": resnet8(), which: flat}
    module = FeatureDistillation(networks["student"], networks["teacher"])
    with pytest.raises(
        ValueError, match=rf"criterion 'hint' \(Hint\): no stages were found in the {which} Sequential"
    ) as refusal:
        quick_trainer(fast_dev_run=True).fit(module, loader())
    assert f"Name layers ({which}_layer=…" in str(refusal.value)
    assert not any(module.student.modules().__next__()._forward_hooks.values())


def test_the_deepest_layer_is_named() -> None:
    with pytest.raises(ValueError, match="deepest_layer is 'auto', and only the exits are found"):
        criteria.OwnTeacher(deepest_layer="auto")


def test_auto_is_not_mixed_with_names() -> None:
    with pytest.raises(ValueError, match="'auto' finds all of a network's layers"):
        criteria.Hint(["auto", "layer2"], "layer2")


class Distilled(Plain):
    """A guest's module."""


def test_in_anybodys_module(quick_trainer: QuickTrainer) -> None:
    distill = Distill(resnet20(), {"hint": criteria.Hint()}, {"hint": 1.0})
    guest = Distilled(resnet8())
    quick_trainer(max_steps=2, callbacks=[distill]).fit(guest, loader())
    assert distill.criteria["hint"].pairs == RESNETS
    assert not guest.model.layer1._forward_hooks


class Parts(Plain):
    """Calls the parts of its network, one after the other."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        found = batch[0]
        for part in self.model:
            found = part(found)
        return nn.functional.cross_entropy(found, batch[1])


def test_in_a_step_that_calls_the_parts_of_the_student(quick_trainer: QuickTrainer) -> None:
    convolutions = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    student = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    distill = Distill(resnet8(), {"hint": criteria.Hint()}, {"hint": 1.0})
    quick_trainer(max_steps=2, callbacks=[distill]).fit(Parts(student), loader())
    assert distill.criteria["hint"].pairs == [("1", "layer1"), ("4", "layer3")]


def test_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.yaml").write_text(
        """
model:
  class_path: FeatureDistillation
  init_args:
    student: {class_path: SmallCNN, init_args: {width: 8}}
    teacher: SmallCNN
    criteria:
      hard: HardTarget
      own: {class_path: AttentionTransfer, init_args: {student_layer: auto}}
    weights: {own: 1.0}
data: {class_path: Digits, init_args: {train_size: 100}}
trainer: {fast_dev_run: true, accelerator: cpu}
"""
    )
    with caplog.at_level("INFO"):
        main(["fit", "-c", "alone.yaml"])
    assert "Criterion own: AttentionTransfer, weight 1, layers found." in caplog.text
    assert "stage3 [16, 4, 4] -> stage3 [64, 4, 4]" in caplog.text


def test_a_resumed_fit_keeps_the_pairs_of_the_checkpoint(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    first = alone(criteria.Hint(), resnet8(), resnet20())
    trainer = quick_trainer(max_epochs=1)
    trainer.fit(first, loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    layers = ["layer1", "layer2", "layer3"]
    assert saved["lit_distill"]["layers"] == {"own": {"student": layers, "teacher": layers}}

    other = alone(criteria.Hint("layer2", "layer3.1"), resnet8(), resnet20())
    trainer = quick_trainer(max_epochs=1)
    trainer.fit(other, loader())
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    changed = torch.load(tmp_path / "other.ckpt", weights_only=True)
    changed["lit_distill"]["layers"] = {"own": {"student": ["layer2"], "teacher": ["layer3.1"]}}
    torch.save(changed, tmp_path / "other.ckpt")

    resumed = alone(criteria.Hint(), resnet8(), resnet20())
    quick_trainer(max_epochs=2).fit(resumed, loader(), ckpt_path=str(tmp_path / "other.ckpt"))
    assert pairs_of(resumed, "own") == [("layer2", "layer3.1")]


def test_a_resumed_fit_equals_an_uninterrupted_one(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    def module() -> DistillationModule:
        torch.manual_seed(0)
        return FeatureDistillation(HUGGING_FACE["vit"](), resnet8(num_classes=2))

    data = loader(32, classes=2)
    whole = module()
    quick_trainer(max_epochs=2).fit(whole, data)
    half = module()
    trainer = quick_trainer(max_epochs=1)
    trainer.fit(half, data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module()
    quick_trainer(max_epochs=2).fit(resumed, data, ckpt_path=str(tmp_path / "half.ckpt"))
    expected = whole.state_dict()
    assert any(".projectors." in key for key in expected)
    assert all(torch.equal(value, expected[key]) for key, value in resumed.state_dict().items())


def test_projectors_are_restored_without_data(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    module = FeatureDistillation(resnet8(), HUGGING_FACE["vit"]())
    trainer = quick_trainer(max_epochs=1)
    trainer.fit(module, loader(32, classes=2))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    loaded = FeatureDistillation.load_from_checkpoint(
        tmp_path / "one.ckpt", student=resnet8(), teacher=HUGGING_FACE["vit"](), weights_only=True
    )
    assert pairs_of(loaded) == pairs_of(module)
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert not loaded.student.layer1._forward_hooks


def test_a_module_that_was_loaded_may_load_another_checkpoint(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    trained = alone(criteria.Hint(), resnet8(), resnet20())
    trainer = quick_trainer(max_epochs=1)
    trainer.fit(trained, loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    loaded = alone(criteria.Hint(), resnet8(), resnet20())
    loaded.on_load_checkpoint(saved)
    saved["lit_distill"]["layers"] = {"own": {"student": ["layer2"], "teacher": ["layer2"]}}
    loaded.on_load_checkpoint(saved)
    assert pairs_of(loaded, "own") == [("layer2", "layer2")]


def test_the_layers_of_a_moving_average_are_the_students(quick_trainer: QuickTrainer) -> None:
    module = FeatureDistillation(resnet8(), EMATeacher())
    quick_trainer(max_epochs=1).fit(module, loader())
    assert pairs_of(module) == RESNETS


class Packed(nn.Module):
    """A recurrent classifier of texts whose lengths differ."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, 3)
        self.rnn = nn.LSTM(width, width, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        lengths = torch.arange(len(tokens)) + 3
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        logits: Tensor = self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0][:, 0])
        return logits


def test_packed_sequences_are_read(quick_trainer: QuickTrainer) -> None:
    data = DataLoader(TensorDataset(torch.randint(0, 20, (4, 7)), torch.tensor([0, 1, 2, 0])), batch_size=2)
    module = FeatureDistillation(Packed(8), Packed(12))
    quick_trainer(fast_dev_run=True).fit(module, data)
    assert pairs_of(module) == [("rnn", "rnn")]


class Nodes(nn.Module):
    """Reads the nodes of all graphs of a batch as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, nodes: Tensor) -> Tensor:
        found = self.second(self.first(nodes.flatten(0, 1)).relu()).relu()
        logits: Tensor = self.head(found.unflatten(0, (len(nodes), -1)).mean(1))
        return logits


def signals(width: int) -> nn.Module:
    layers = [
        nn.Conv1d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(width, width, 3, padding=1),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 3))


class Positions(nn.Module):
    """Passes on tokens ``[B, N, C]`` of a signal, and returns their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Identity()

    def forward(self, signal: Tensor) -> Tensor:
        found: Tensor = self.turned(signal.mT).mean(1)
        return found


def rows_of(*sizes: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(4, *sizes), torch.tensor([0, 1, 2, 0])), batch_size=2)


@pytest.mark.parametrize(
    ("make", "data", "reason"),
    [
        (lambda: torch.jit.script(resnet8()), loader(), "compiled by torch.jit, whose layers cannot be read"),
        (Nodes, rows_of(5, 8), "its layers give 10 rows for 2 samples"),
        (nn.Flatten, rows_of(8), "no module with weights runs in it"),
    ],
    ids=["scripted", "graphs", "no weights"],
)
def test_why_there_are_no_stages(make: Any, data: Any, reason: str, quick_trainer: QuickTrainer) -> None:
    with pytest.raises(ValueError, match=f"no stages were found in the student .*: .*{reason}"):
        quick_trainer(fast_dev_run=True).fit(FeatureDistillation(make(), make()), data)


@pytest.mark.parametrize("make", [criteria.MGD, criteria.ReviewKD])
def test_signals_are_no_maps(make: Any, quick_trainer: QuickTrainer) -> None:
    refused = rf"{make.__name__} compares maps .*, and the inputs are no images"
    if make is criteria.MGD:  # ReviewKD compares the vectors that the last layers take
        with pytest.raises(ValueError, match=refused):
            quick_trainer(fast_dev_run=True).fit(alone(make(), signals(4), signals(6)), rows_of(3, 64))
    with pytest.raises(ValueError, match=f"criterion 'own' .*{refused}"):
        quick_trainer(fast_dev_run=True).fit(alone(make("4", "4"), signals(4), signals(6)), rows_of(3, 64))


@pytest.mark.parametrize("make", [criteria.NST, criteria.AttentionTransfer, criteria.VID])
def test_sequences_of_different_lengths_are_no_grids(make: Any, quick_trainer: QuickTrainer) -> None:
    def read(pool: int) -> nn.Module:
        return nn.Sequential(signals(4)[:3], nn.AvgPool1d(pool), Positions(), nn.Linear(4, 3))

    data = rows_of(3, 64)  # 16 and 8 positions, which might be 4 x 4, and 2 x 2 after four prefix tokens
    with pytest.raises(ValueError, match=rf"{make.__name__} compares maps .*, and the inputs are no images"):
        quick_trainer(fast_dev_run=True).fit(alone(make("2.turned", "2.turned"), read(2), read(1)), data)
    quick_trainer(fast_dev_run=True).fit(alone(make("2.turned", "2.turned"), read(2), read(2)), data)


@pytest.mark.parametrize(("student", "teacher"), [("vit", "vit"), ("vit", "resnet8"), ("resnet8", "vit")])
@pytest.mark.parametrize("make", [criteria.NST, criteria.FSP, criteria.MGD, criteria.ReviewKD])
def test_tokens_meet_maps_in_every_criterion(
    make: Any, student: str, teacher: str, quick_trainer: QuickTrainer
) -> None:
    if make is criteria.FSP and student != teacher:
        pytest.skip("its widths have to be equal")
    made = {"vit": HUGGING_FACE["vit"], "resnet8": lambda: resnet8(num_classes=2)}
    module = alone(make(), made[student](), made[teacher]())
    quick_trainer(fast_dev_run=True).fit(module, loader(32, classes=2))


def test_layers_are_found_in_a_fit_only() -> None:
    module = FeatureDistillation(resnet8(), resnet8())
    with pytest.raises(
        ValueError, match="the student's layers are 'auto', and are found on an example when a fit begins"
    ):
        module.training_step((torch.randn(2, 3, 32, 32), torch.tensor([0, 1])), 0)


def test_a_recorded_teacher_has_the_layers_of_a_frozen_one(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    data, frozen = loader(), resnet20()
    states = []
    for teacher in (
        frozen,
        *(RecordedTeacher(frozen, tmp_path, features="float32", logits="float32") for _ in range(2)),
    ):
        torch.manual_seed(0)
        module = FeatureDistillation(resnet8(), teacher)
        quick_trainer(max_epochs=2).fit(module, data)
        assert pairs_of(module) == RESNETS
        states.append(module.state_dict())
    assert isinstance(teacher, RecordedTeacher)
    assert (teacher.is_recorded, teacher.recorded) == (True, 0)
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_what_a_recording_of_means_cannot_give_is_refused(quick_trainer: QuickTrainer) -> None:
    similar = alone(criteria.SP(), resnet8(), RecordedTeacher(resnet20(), pool_features=True))
    quick_trainer(max_epochs=1).fit(similar, loader())
    assert pairs_of(similar, "own") == [("layer3", "layer3")]
    attention = alone(criteria.AttentionTransfer(), resnet8(), RecordedTeacher(resnet20(), pool_features=True))
    with pytest.raises(
        ValueError, match=r"AttentionTransfer.* The recording holds only means of features \(pool_features\)"
    ):
        quick_trainer(max_epochs=1).fit(attention, loader())
