"""Weights from elsewhere: what is read, what is refused, and what is said."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    FeatureDistillation,
    JointTeacher,
    LogitDistillation,
    SupervisedModule,
    build,
    create_model,
    load,
)
from lit_distill.models import MLP, SmallCNN

State = dict[str, Tensor]


@pytest.fixture
def source() -> SmallCNN:
    model = SmallCNN(3)
    model(torch.randn(4, 1, 8, 8))  # BatchNorm's statistics are no longer those of a new model
    return model


def assert_loaded(path: Path, source: nn.Module, **arguments: Any) -> None:
    model = SmallCNN(3)
    assert load(model, path, **arguments) is model
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


class TestFiles:
    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".bin", ""])
    @pytest.mark.parametrize("modern", [True, False])
    def test_torch_files(self, source: SmallCNN, tmp_path: Path, suffix: str, modern: bool) -> None:
        path = tmp_path / f"weights{suffix}"
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=modern)
        assert_loaded(path, source)
        assert_loaded(str(path), source)  # type: ignore[arg-type]

    @pytest.mark.parametrize("prefix", ["", "model."])
    def test_safetensors(self, source: SmallCNN, tmp_path: Path, prefix: str) -> None:
        save_file(prefixed(source.state_dict(), prefix), tmp_path / "weights.safetensors")
        assert_loaded(tmp_path / "weights.safetensors", source)

    @pytest.mark.parametrize(
        "prefix",
        ["module.", "model.", "_orig_mod.", "student.", "module._orig_mod.", "model.backbone.net.", "anything."],
    )
    def test_prefixes(self, source: SmallCNN, tmp_path: Path, prefix: str) -> None:
        torch.save(prefixed(source.state_dict(), prefix), tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source)

    def test_a_compiled_part_of_a_model(self, source: SmallCNN, tmp_path: Path) -> None:
        state = {name.replace("stage2.", "stage2._orig_mod."): value for name, value in source.state_dict().items()}
        torch.save(state, tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source)

    @pytest.mark.parametrize("wrapper", ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
    def test_inner_modules_in_wrappers(self, source: SmallCNN, tmp_path: Path, wrapper: str) -> None:
        state = {
            f"model.{wrapper}{name}".replace("stage2.", f"stage2.{wrapper}"): v
            for name, v in source.state_dict().items()
        }
        torch.save(state, tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source)

    @pytest.mark.parametrize(
        "keys", [("checkpoint", "state_dict"), ("a", "model"), ("x", "y", "z"), ("ema", "model", "state")]
    )
    def test_nested_deeply(self, source: SmallCNN, tmp_path: Path, keys: tuple[str, ...]) -> None:
        content: dict[str, Any] = dict(source.state_dict())
        for key in reversed(keys):
            content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
        torch.save(content, tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source)
        assert_loaded(tmp_path / "w.pt", source, prefix=".".join(keys))

    def test_two_nested_deeply_are_told_apart_by_their_prefix(self, source: SmallCNN, tmp_path: Path) -> None:
        other = SmallCNN(3)
        torch.save({"a": {"one": source.state_dict()}, "b": {"one": other.state_dict()}}, tmp_path / "w.pt")
        with pytest.raises(ValueError, match="2 networks of this architecture, under 'a.one', 'b.one'"):
            load(SmallCNN(3), tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source, prefix="a.one")
        assert_loaded(tmp_path / "w.pt", other, prefix="b.one")

    def test_a_path_that_no_file_can_have(self) -> None:
        with pytest.raises(ValueError, match="is no path of a checkpoint: File name too long"):
            load(SmallCNN(3), "x" * 5000)

    @pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "student", "module", "weights"])
    def test_nested(self, source: SmallCNN, tmp_path: Path, key: str) -> None:
        content = {"epoch": 3, "best_prec1": 91.2, "optimizer": {"state": {}}, key: OrderedDict(source.state_dict())}
        torch.save(content, tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source)

    def test_weights_older_than_the_batch_counter(self, source: SmallCNN, tmp_path: Path) -> None:
        state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
        torch.save(state, tmp_path / "w.pt")
        model = load(SmallCNN(3), tmp_path / "w.pt")
        x = torch.randn(2, 1, 8, 8)
        torch.testing.assert_close(model.eval()(x), source.eval()(x))

    @pytest.mark.filterwarnings("ignore:.* holds 2 networks of this architecture")
    def test_of_two_that_fit_the_student_comes_first(self, source: SmallCNN, tmp_path: Path) -> None:
        teacher = SmallCNN(3)
        both = prefixed(teacher.state_dict(), "joint_teacher.") | prefixed(source.state_dict(), "student.")
        torch.save({"state_dict": both}, tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source)
        assert_loaded(tmp_path / "w.pt", teacher, prefix="joint_teacher")
        assert_loaded(tmp_path / "w.pt", teacher, prefix="joint_teacher.")

    def test_an_empty_prefix_is_the_root(self, source: SmallCNN, tmp_path: Path) -> None:
        torch.save(source.state_dict(), tmp_path / "w.pt")
        assert_loaded(tmp_path / "w.pt", source, prefix="")

    def test_a_prefix_that_is_not_there(self, source: SmallCNN, tmp_path: Path) -> None:
        torch.save(source.state_dict(), tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"does not fit SmallCNN:\n  missing: stage1.0.weight"):
            load(SmallCNN(3), tmp_path / "w.pt", prefix="teacher")


class TestLightningCheckpoints:
    def fit(self, module: Any, quick_trainer: Callable[..., Trainer], folder: Path) -> Path:
        data = DataLoader(TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8)), batch_size=4)
        keep = ModelCheckpoint(folder, filename="last")
        quick_trainer(enable_checkpointing=True, callbacks=[keep]).fit(module, data)
        return folder / "last.ckpt"

    def test_supervised(self, quick_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
        module = SupervisedModule(SmallCNN(3))
        assert_loaded(self.fit(module, quick_trainer, tmp_path), module.student)

    def test_logit_distillation(self, quick_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
        module = LogitDistillation(SmallCNN(3), SmallCNN(3))
        assert_loaded(self.fit(module, quick_trainer, tmp_path), module.student)

    @pytest.mark.filterwarnings("ignore:.* holds 2 networks of this architecture")
    def test_joint_feature_distillation(self, quick_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
        module = FeatureDistillation(SmallCNN(3), JointTeacher(SmallCNN(3)), "stage3", "stage3")
        path = self.fit(module, quick_trainer, tmp_path)
        assert_loaded(path, module.student)
        assert_loaded(path, module.joint_teacher, prefix="joint_teacher")

    def test_the_larger_teacher_is_found_by_its_shape(
        self, quick_trainer: Callable[..., Trainer], tmp_path: Path
    ) -> None:
        module = FeatureDistillation(SmallCNN(2), JointTeacher(SmallCNN(3)), "stage3", "stage3")
        assert_loaded(self.fit(module, quick_trainer, tmp_path), module.joint_teacher)


class Harmful:
    """Runs a command when it is unpickled by anything that trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class TestRefused:
    def refuse(self, path: Path, message: str, model: nn.Module | None = None) -> str:
        model = model or SmallCNN(3)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=message) as caught:
            load(model, path)
        assert path.name in str(caught.value)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return str(caught.value)

    @pytest.mark.parametrize("modern", [True, False])
    @pytest.mark.parametrize("where", ["alone", "beside weights"])
    def test_code_is_not_run(self, source: SmallCNN, tmp_path: Path, modern: bool, where: str) -> None:
        marker, path = tmp_path / "ran", tmp_path / "w.pt"
        harmful = Harmful(marker)
        content = harmful if where == "alone" else {"state_dict": source.state_dict(), "extra": harmful}
        torch.save(content, path, _use_new_zipfile_serialization=modern)
        self.refuse(path, r"holds Python objects as well as weights.*it was refused.*(posix|nt)\.system")
        assert not marker.exists()
        if where == "alone":  # the file would have done harm
            pickle.loads(pickle.dumps(harmful))
            assert marker.exists()

    def test_a_whole_module(self, source: SmallCNN, tmp_path: Path) -> None:
        torch.save(source, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", r"save only `model.state_dict\(\)`")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=f"no checkpoint at .*w.pt .looked in {tmp_path}"):
            load(SmallCNN(3), tmp_path / "w.pt")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            load(SmallCNN(3), tmp_path)

    @pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("kind", ["modern", "old", "safetensors"])
    def test_truncated(self, source: SmallCNN, tmp_path: Path, kind: str, share: float) -> None:
        path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
        if kind == "safetensors":
            save_file(source.state_dict(), path)
        else:
            torch.save(source.state_dict(), path, _use_new_zipfile_serialization=kind == "modern")
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        self.refuse(path, "is damaged or no")

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    @pytest.mark.parametrize(
        "content",
        [b"", b"hello world", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n", b"(lp0\n.", b"0\n"],
        ids=["empty", "text", "html", "lfs pointer", "pickled list", "underflow"],
    )
    def test_no_checkpoint(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        message = self.refuse(tmp_path / name, "is damaged or no")
        assert len(message) < 200

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"epoch": 3, "accuracy": 0.5}, "holds no state dict; it holds: epoch, accuracy"),
            ({}, "holds no state dict; it holds: nothing"),
            ([torch.ones(2)], "holds a list, not a state dict"),
            (torch.ones(2), "holds a Tensor, not a state dict"),
        ],
    )
    def test_no_state_dict(self, tmp_path: Path, content: Any, message: str) -> None:
        torch.save(content, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", message)

    def test_wrong_architecture_lists_what_differs(self, source: SmallCNN, tmp_path: Path) -> None:
        torch.save(source.state_dict(), tmp_path / "w.pt")
        message = self.refuse(tmp_path / "w.pt", "w.pt does not fit MLP", MLP())
        assert "\n  shape of classifier.weight: [10, 6] in the file, [10, 16] in the model" in message
        assert "\n  missing: hidden.0.0.weight" in message
        assert "\n  unexpected: stage1.0.weight" in message
        assert message.endswith("more")
        assert len(message.splitlines()) == 7

    def test_wrong_width_and_classes(self, source: SmallCNN, tmp_path: Path) -> None:
        torch.save(prefixed(source.state_dict(), "module."), tmp_path / "w.pt")
        message = self.refuse(tmp_path / "w.pt", "does not fit SmallCNN", SmallCNN(3, num_classes=4))
        assert message.splitlines()[1:] == [
            "  shape of classifier.weight: [10, 6] in the file, [4, 6] in the model",
            "  shape of classifier.bias: [10] in the file, [4] in the model",
        ]

    def test_missing_and_unexpected_keys(self, source: SmallCNN, tmp_path: Path) -> None:
        state = source.state_dict()
        del state["stage2.0.weight"]
        torch.save({**state, "extra.bias": torch.ones(1)}, tmp_path / "w.pt")
        message = self.refuse(tmp_path / "w.pt", "does not fit")
        assert message.splitlines()[1:] == ["  missing: stage2.0.weight", "  unexpected: extra.bias"]


class TestBuild:
    def test_timm(self) -> None:
        model = create_model("timm.create_model", {"model_name": "resnet10t", "num_classes": 7, "in_chans": 1})
        assert model.eval()(torch.randn(1, 1, 32, 32)).shape == (1, 7)

    def test_torch(self) -> None:
        model = create_model("torch.nn.Linear", {"in_features": 3, "out_features": 2})
        assert isinstance(model, nn.Linear)
        assert model.weight.shape == (2, 3)

    def test_defaults(self) -> None:
        assert isinstance(create_model("lit_distill.models.MLP"), MLP)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (
                "no_such_package.make",
                "'no_such_package.make' could not make a model: No module named",
            ),
            ("torch.nn.Lynear", "'torch.nn.Lynear' could not make a model: .*no attribute 'Lynear'"),
            ("resnet20", "'resnet20' could not make a model"),
            ("", "could not make a model"),
        ],
    )
    def test_bad_path(self, function: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            create_model(function)

    def test_no_module(self) -> None:
        with pytest.raises(ValueError, match=r"'collections.OrderedDict' made a OrderedDict, not a torch.nn.Module"):
            create_model("collections.OrderedDict")


def test_build_calls_a_method_of_a_class() -> None:
    assert isinstance(create_model("torch.nn.Embedding.from_pretrained", {"embeddings": torch.eye(2)}), nn.Embedding)


def test_the_old_name_of_create_model_still_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="lit_distill.build is now lit_distill.create_model"):
        model = build("torch.nn.Linear", {"in_features": 3, "out_features": 2})
    assert isinstance(model, nn.Linear)
