"""The table of a network's layers: shapes, parameters and stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_distill.cli.command import main
from lit_distill.cli.layers import as_table, layers_of
from lit_distill.models import SmallCNN, adapt, resnet20


def stages(network: nn.Module, *size: int) -> list[str]:
    found = {layer.stage: layer.name for layer in layers_of(network, torch.randn(*size)) if layer.stage}
    return [found[number] for number in sorted(found)]


def test_every_layer_that_runs_is_listed_with_its_shape_and_parameters() -> None:
    found = {layer.name: layer for layer in layers_of(SmallCNN(width=8), torch.randn(2, 1, 8, 8))}
    assert found["stage1"].shape == (8, 8, 8)
    assert found["stage1.0"].parameters == 8 * 9
    assert found["stage1"].parameters == 8 * 9 + 2 * 8
    assert found["stage3"].shape == (16, 4, 4)
    assert (found["classifier"].shape, found["classifier"].kind) == ((10,), "Linear")
    assert list(found)[-1] == "classifier"


def test_the_last_layer_of_each_resolution_ends_a_stage() -> None:
    assert stages(resnet20(), 1, 3, 32, 32) == ["layer1", "layer2", "layer3"]
    assert stages(SmallCNN(), 1, 1, 8, 8) == ["stage2", "stage3"]
    inside = adapt(resnet20(), size=16)
    assert [name.rpartition(".")[2] for name in stages(inside, 1, 3, 32, 32)] == ["layer1", "layer2", "layer3"]


def test_blocks_end_stages_rather_than_the_layers_in_them() -> None:
    from torchvision.models import mobilenet_v3_small

    names = stages(mobilenet_v3_small(), 1, 3, 64, 64)
    assert names == [f"features.{number}" for number in (1, 3, 8, 11)]


def test_a_single_linear_layer_ends_no_stage() -> None:
    assert stages(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 2, 4) == []


class Modal(nn.Module):
    """Changes its buffers when it runs in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.norm(x))


def test_the_network_is_left_as_it_was() -> None:
    network = Modal().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layers_of(network, torch.randn(3, 4))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.inner._forward_hooks


def test_the_table_lists_so_many_levels_within_100_columns() -> None:
    table = as_table("student", resnet20(), torch.randn(1, 3, 32, 32), depth=1).splitlines()
    assert table[0] == "student: CifarResNet, 269,722 parameters"
    assert [line.split()[0] for line in table[2:]] == ["conv1", "bn1", "layer1", "layer2", "layer3", "linear"]
    assert table[4].split() == ["layer1", "[16,", "32,", "32]", "14,016", "Sequential", "stage", "1"]
    long = nn.Sequential()
    long.add_module("a_name_of_a_layer_that_goes_on_and_on_" * 4, nn.Conv2d(1, 1, 1))
    assert max(map(len, as_table("model", long, torch.randn(1, 1, 8, 8)).splitlines())) <= 100


def test_a_model_alone_and_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["layers", "resnet20", "--input", "1,3,32,32", "--depth", "1"])
    assert "layer3  [64, 8, 8]" in capsys.readouterr().out
    main(["layers", "--config", "configs/digits/feature_joint.yaml"])
    shown = capsys.readouterr().out
    assert shown.startswith("student: SmallCNN, 3,778 parameters")
    assert "\n\nteacher: SmallCNN, 56,554 parameters" in shown
    assert "stage3      [64, 4, 4]      36,992  Sequential   stage 2" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet_20", "--input", "1,3,32,32"], "there is no class 'resnet_20' to use here. Did you mean 'resnet20'?"),
        (["resnet20", "--input", "3,x"], "sizes are needed, such as 1,3,32,32, not '3,x'"),
        (["resnet20"], "give --config FILE, or a model and its --input"),
        ([], "give --config FILE, or a model and its --input"),
        (["resnet20", "--input", "1,3,8,8", "--dept", "1"], "there is no option '--dept'. Did you mean '--depth'?"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["layers", *words])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
