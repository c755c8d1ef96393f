"""Bare class names in configs: what they stand for, and which are refused."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule
from torch import nn
from torch.optim import Optimizer

from lit_distill import DistillationModule
from lit_distill.cli.bare_names import _PACKAGES, bare_names, full_path, imported, public_names
from lit_distill.criteria import Criterion
from lit_distill.data import Digits
from lit_distill.models import SmallCNN, load, resnet20
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher


class Pair(nn.Module):
    """Takes networks in every way that a config can give them."""

    def __init__(self, typed: nn.Module, many: dict[str, nn.Module] | None = None, loose: Any = None) -> None:
        super().__init__()
        self.typed, self.many, self.loose = typed, many or {}, loose


@pytest.mark.parametrize(
    ("wanted", "name", "path"),
    [
        (Criterion, "DKD", "lit_distill.criteria.DKD"),
        (Criterion, "HardTarget", "lit_distill.HardTarget"),
        (DistillationModule, "LogitDistillation", "lit_distill.LogitDistillation"),
        (nn.Module, "SmallCNN", "lit_distill.models.SmallCNN"),
        (nn.Module, "load", "lit_distill.models.load"),
        (nn.Module, "resnet20", "lit_distill.models.resnet20"),
        (Schedule, "Linear", "lit_distill.schedules.Linear"),
        (Teacher, "EMATeacher", "lit_distill.EMATeacher"),
        (Optimizer, "DOT", "lit_distill.optim.DOT"),
        (Optimizer, "AdamW", "torch.optim.AdamW"),
        (Callback, "Distill", "lit_distill.Distill"),
        (Callback, "ModelCheckpoint", "lightning.pytorch.callbacks.ModelCheckpoint"),
        (LightningDataModule, "CIFAR10", "lit_distill.data.CIFAR10"),
        (nn.Module | Teacher | None, "RecordedTeacher", "lit_distill.RecordedTeacher"),
        ((Criterion, Schedule), "Cosine", "lit_distill.schedules.Cosine"),
        (object, "BatchFormat", "lit_distill.BatchFormat"),
        (nn.Module, "my_models.net", "my_models.net"),
    ],
)
def test_a_name_stands_for_the_path_of_what_has_it(wanted: Any, name: str, path: str) -> None:
    assert full_path(wanted, name) == path


def test_no_two_public_things_share_a_name() -> None:
    for path in _PACKAGES:
        module = sys.modules[path]
        for name in getattr(module, "__all__", []):
            assert imported(public_names()[name]) is getattr(module, name), f"{path}.{name}"


@pytest.mark.parametrize(
    ("wanted", "name", "paths"),
    [
        (nn.Module, "MLP", ("lit_distill.models.MLP", "torchvision.ops.MLP")),
        (object, "CIFAR10", ("lit_distill.data.CIFAR10", "torchvision.datasets.CIFAR10")),
    ],
)
def test_a_name_of_two_things_is_refused_with_both_paths(wanted: Any, name: str, paths: tuple[str, ...]) -> None:
    with pytest.raises(ImportError, match=f"{name!r} can be {' or '.join(paths)}; write which"):
        full_path(wanted, name)


def test_a_users_own_class_of_one_of_our_names_is_refused_with_both_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("mine")
    exec("from lit_distill.models import SmallCNN as Base\nclass SmallCNN(Base): pass", mine.__dict__)
    monkeypatch.setitem(sys.modules, "mine", mine)
    with pytest.raises(ImportError, match=r"'SmallCNN' can be lit_distill\.models\.SmallCNN or mine\.SmallCNN"):
        full_path(nn.Module, "SmallCNN")
    mine.__dict__["load"] = type("load", (nn.Module,), {"__module__": "mine"})
    with pytest.raises(ImportError, match=r"'load' can be lit_distill\.models\.load or mine\.load"):
        full_path(nn.Module, "load")
    assert full_path(Criterion, "DKD") == "lit_distill.criteria.DKD"


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_pytorchs_optimizer_goes_before_a_copy_of_it(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (f"{library}.copies", "mine"):
        module = ModuleType(path)
        module.__dict__["Adagrad"] = type("Adagrad", (Optimizer,), {"__module__": path})
        monkeypatch.setitem(sys.modules, path, module)
        if path != "mine":
            assert full_path(Optimizer, "Adagrad") == "torch.optim.Adagrad"
    with pytest.raises(ImportError, match=r"'Adagrad' can be mine\.Adagrad or torch\.optim\.Adagrad"):
        full_path(Optimizer, "Adagrad")


@pytest.mark.parametrize(
    ("wanted", "name", "nearest"),
    [
        (Criterion, "DKDD", "DKD"),
        (nn.Module, "smallcnn", "SmallCNN"),
        (nn.Module, "resnet_20", "resnet20"),
        (LightningDataModule, "Digit", "Digits"),
        (Optimizer, "AdmaW", "AdamW"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_of_its_type(wanted: Any, name: str, nearest: str) -> None:
    with pytest.raises(ImportError, match=rf"there is no class {name!r} to use here\. Did you mean {nearest!r}\?"):
        full_path(wanted, name)


def parsed(spec: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "net")
    parser.add_subclass_arguments(LightningDataModule, "data", required=False)
    with bare_names():
        return parser, parser.parse_object({"net": spec, "data": "Digits"})


def test_a_parser_takes_names_at_any_depth_and_keeps_paths() -> None:
    loaded = {"class_path": "load", "init_args": {"model": "SmallCNN", "checkpoint": "x.ckpt"}}
    many = {"a": loaded, "b": {"class_path": "SmallCNN", "init_args": {"width": 4}}}
    spec = {"typed": "resnet20", "many": many, "loose": {"class_path": "Hint", "init_args": {"student_layer": "a"}}}
    _, found = parsed({"class_path": f"{__name__}.Pair", "init_args": spec})
    kept = found.net.init_args.as_dict()
    assert kept["typed"]["class_path"] == "lit_distill.models.resnet20"
    assert imported(kept["many"]["a"]["class_path"]) is load  # older jsonargparse writes its shortest path
    assert kept["many"]["a"]["init_args"]["model"]["class_path"] == "lit_distill.models.SmallCNN"
    assert kept["many"]["b"]["class_path"] == "lit_distill.models.SmallCNN"
    assert kept["loose"]["class_path"] == "lit_distill.Hint"
    assert found.data.class_path == "lit_distill.data.Digits"


@pytest.mark.filterwarnings("ignore:\\s*Instantiating a subclass spec")
def test_an_option_of_no_type_makes_what_its_bare_name_stands_for() -> None:
    arguments = {"typed": "resnet8", "loose": {"class_path": "SmallCNN", "init_args": {"width": 4}}}
    parser, found = parsed({"class_path": f"{__name__}.Pair", "init_args": arguments})
    made = parser.instantiate_classes(found)
    assert isinstance(made.net.loose, SmallCNN)
    assert isinstance(made.data, Digits)


def test_a_function_rather_than_its_module_is_imported() -> None:
    assert imported("lit_distill.models.load") is load
    assert imported("lit_distill.models.adapt").__name__ == "adapt"
    assert imported(public_names()["resnet20"]) is resnet20


def test_the_parser_is_left_as_it_was() -> None:
    import jsonargparse._typehints as parsing

    before = parsing.resolve_class_path_by_name, parsing.adapt_classes_any
    with bare_names():
        assert parsing.resolve_class_path_by_name is full_path
    assert (parsing.resolve_class_path_by_name, parsing.adapt_classes_any) == before
