"""What every target shares, shown with the one that needs no further package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import lit_distill
from lit_distill import CombinedDistillation
from lit_distill.capture.capture import Capture
from lit_distill.export import DisagreementError, export, load_exported
from lit_distill.export.preprocessing import classes_of, steps_of
from lit_distill.export.targets import TARGETS
from tests.export.networks import images, loader, net, trained


class Data(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(20)


def test_the_file_is_the_student_and_says_what_it_takes(tmp_path: Path) -> None:
    student = trained()
    path = tmp_path / "student.pt2"
    result = lit_distill.export(
        student, "torch_export", path, data=Data(), classes=["a", "b", "c"], mean=[0.5], std=[0.2]
    )
    inputs, _ = images(5)
    with torch.no_grad():
        torch.testing.assert_close(result.exported.run(inputs), student(inputs))
        torch.testing.assert_close(load_exported(path).run(inputs), student(inputs))
    assert result.verification.samples == 20
    assert result.verification.within_rounding
    assert result.bytes == path.stat().st_size
    assert result.student_bytes == sum(one.nbytes for one in student.state_dict().values())
    said = json.loads(Path(f"{path}.json").read_text())
    assert said["classes"] == ["a", "b", "c"]
    assert said["preprocessing"] == [{"divide_by": 255}, {"normalize": {"mean": [0.5], "std": [0.2]}}]
    assert said["signature"]["shapes"] == [[1, 2, 6, 6]]
    assert said["measured"]["agreement"] == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["student.pt2", "student.pt2.json"]


@pytest.mark.slow
def test_accuracy_is_that_of_student_and_file(tmp_path: Path) -> None:
    student = trained()
    data = loader(30)
    result = export(student, "torch_export", tmp_path / "a.pt2", validation=data)
    rights = [(student(inputs).argmax(1) == labels).float() for inputs, labels in data]
    assert result.verification.accuracy == pytest.approx((float(torch.cat(rights).mean()),) * 2)


@pytest.mark.slow
def test_any_batch_and_size_where_asked(tmp_path: Path) -> None:
    student = trained()
    path = tmp_path / "a.pt2"
    found = export(student, "torch_export", path, validation=loader(), dynamic=["batch", "size"])
    assert found.exported.signature.shapes == ((None, 2, None, None),)
    larger = torch.randn(7, 2, 9, 11)
    with torch.no_grad():
        torch.testing.assert_close(found.exported.call((larger,))[0], student(larger))


@pytest.mark.slow
def test_the_normalisation_is_inside_where_asked(tmp_path: Path) -> None:
    student, (inputs, _) = trained(), images(4)
    mean, std = torch.tensor([0.5, 0.25]).view(-1, 1, 1), torch.tensor([0.2, 0.1]).view(-1, 1, 1)
    result = export(
        student,
        "torch_export",
        tmp_path / "a.pt2",
        example=inputs,
        mean=[0.5, 0.25],
        std=[0.2, 0.1],
        normalise_inside=True,
    )
    with torch.no_grad():
        torch.testing.assert_close(result.exported.run(inputs * std + mean), student(inputs))
    assert result.about["preprocessing"] == [{"divide_by": 255}]


@pytest.mark.slow
def test_the_student_stays_as_it_is_and_nothing_of_ours_is_in_the_file(tmp_path: Path) -> None:
    student = net().to(memory_format=torch.channels_last)
    student.train()
    capture = Capture(student, ["0"])
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.compile(backend="eager")
    path = tmp_path / "a.pt2"
    export(student, "torch_export", path, example=torch.randn(1, 2, 6, 6))
    assert student.training
    assert student[0]._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    content = path.read_bytes()
    assert b"InputHook" not in content
    assert b"OutputHook" not in content
    capture.remove()
    wrapped = torch.compile(net(), backend="eager")
    program = export(wrapped, "torch_export", path, example=torch.randn(1, 2, 6, 6)).exported  # type: ignore[arg-type]
    assert not any("_orig_mod" in name for name in program._program.state_dict())  # type: ignore[attr-defined]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.colour, self.shape = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x).relu()
        return {"colour": self.colour(hidden), "shape": self.shape(hidden)}


def test_several_tasks_are_several_outputs(tmp_path: Path) -> None:
    student, x = Two(), torch.randn(6, 4)
    heads = {"colour": "colour", "shape": "shape"}
    labels = {"colour": torch.arange(6) % 3, "shape": torch.arange(6) % 2}
    result = export(student, "torch_export", tmp_path / "a.pt2", validation=[(x, labels)], heads=heads)
    with torch.no_grad():
        for name, logits in result.exported.run_all(x).items():
            torch.testing.assert_close(logits, student(x)[name])
    right = [float((student(x)[name].argmax(1) == labels[name]).float().mean()) for name in heads]
    assert result.verification.accuracy == pytest.approx((sum(right) / 2,) * 2)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 4), nn.Linear(4, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        mask = attention_mask.unsqueeze(-1)
        return SimpleNamespace(logits=self.head((self.table(input_ids) * mask).sum(1) / mask.sum(1)))


@pytest.mark.slow
def test_named_inputs_and_objects_with_logits(tmp_path: Path) -> None:
    student = Named()
    ids, mask = torch.randint(11, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    example = {"input_ids": ids, "attention_mask": mask}
    result = export(student, "torch_export", tmp_path / "a.pt2", example=example, dynamic=["size"])
    assert result.exported.signature.inputs == ("input_ids", "attention_mask")
    with torch.no_grad():
        torch.testing.assert_close(
            result.exported.run(ids[:, :4], mask[:, :4]), student(ids[:, :4], mask[:, :4]).logits
        )


@pytest.mark.slow
def test_a_student_after_a_fit_is_exported(tmp_path: Path, quick_trainer: Callable[..., Trainer]) -> None:
    module = CombinedDistillation(net(), net(8), student_layer="0", teacher_layer="0")
    quick_trainer().fit(module, loader(), loader())
    result = export(module.student, "torch_export", tmp_path / "a.pt2", validation=loader())
    names = set(result.exported._program.state_dict())  # type: ignore[attr-defined]
    assert names == {f"student.{name}" for name in module.student.state_dict()}


# What is refused, and leaves nothing -----------------------------------------------------------------------------------


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.choice = nn.Linear(4, 4), Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(self.first(x))


class ThroughNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([float(value) for value in self.first(x).flatten()]).view(x.shape)


@pytest.mark.parametrize(
    ("student", "options", "words"),
    [
        (Whole(), {}, [r"'choice' \(Inner\), test_torch_export.py:\d+, `if x.sum\(\) > 0:`", "torch.where"]),
        (ThroughNumpy(), {}, [r"the student itself \(ThroughNumpy\), test_torch_export.py:\d+"]),
        (nn.Linear(3, 2), {}, [r"the student fails on its example \(\[1, 4\]\)"]),
        (nn.Linear(4, 2), {"precision": "int8"}, ["'torch_export' is written in float32, not 'int8'"]),
        (nn.Linear(4, 2), {"dynamic": ["batches"]}, ["dynamic must be"]),
        (nn.Linear(4, 2), {"agreement": 95}, ["95 % is 0.95"]),
        (nn.Linear(4, 2), {"output": "a.onnx"}, ["ends in .pt2"]),
        (nn.Linear(4, 2), {"output": "nowhere/a.pt2"}, ["there is no folder"]),
        (nn.Linear(4, 2), {"normalise_inside": True}, ["give mean and std"]),
        (nn.Linear(4, 2), {"example": None}, ["needs an example"]),
        (torch.jit.script(nn.Linear(4, 2)), {}, ["TorchScript"]),
    ],
)
def test_what_cannot_be_exported_is_refused_with_nothing_written(
    student: nn.Module, options: dict[str, Any], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as refused:
        export(student, "torch_export", **{"example": torch.randn(1, 4), **options})
    for one in words:
        assert re.search(one, str(refused.value)), str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_has_its_nearest_name() -> None:
    with pytest.raises(ValueError, match="no target 'onx'. Did you mean 'onnx'"):
        export(net(), "onx")


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, target = trained(), TARGETS["torch_export"]
    honest = target.write

    def other(job: Any, path: Path) -> None:
        bias = job.network.student[6].bias
        bias.data += 10 * torch.tensor([0.0, 1.0, 0.0])
        honest(job, path)
        bias.data -= 10 * torch.tensor([0.0, 1.0, 0.0])

    monkeypatch.setattr(target, "write", other)
    path = tmp_path / "a.pt2"
    path.write_bytes(b"before")
    with pytest.raises(DisagreementError, match="logits are up to 10 off"):
        export(student, "torch_export", path, validation=loader())
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt2"]


@pytest.mark.parametrize("target", ["onnx", "executorch"])
def test_a_missing_package_is_named_with_its_pip_line(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"pip install 'lit-distill\[{target}\]'"):
        export(net(), target, example=torch.randn(1, 2, 6, 6))


# What is noted beside --------------------------------------------------------------------------------------------------


def test_preprocessing_is_read_from_the_data_sets_transform() -> None:
    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(40),
            v2.CenterCrop(32),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5], [0.2]),
        ]
    )
    dataset = SimpleNamespace(dataset=SimpleNamespace(transform=steps, classes=["cat", "dog"]))
    found = SimpleNamespace(dataset=dataset)
    assert steps_of(None, found) == [
        {"resize_shorter_side": 40},
        {"center_crop": [32, 32]},
        {"divide_by": 255},
        {"normalize": {"mean": [0.5], "std": [0.2]}},
    ]
    assert classes_of(None, found) == ["cat", "dog"]
    assert steps_of(None, None) is None


def test_the_shipped_data_say_their_preprocessing(tmp_path: Path) -> None:
    from lit_distill.data import ImageFolder

    data = ImageFolder(str(tmp_path), image_size=28, in_memory=True)
    found = steps_of(data)
    assert found is not None
    assert found[0] == {"resize_shorter_side": 32}
    assert found[-1] == {"normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
