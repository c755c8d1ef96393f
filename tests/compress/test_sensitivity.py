"""What compressing one layer does: computed another way, and what is shown of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import SupervisedModule
from lit_distill.cli.command import main
from lit_distill.compress import sensitivity
from lit_distill.compress.alone import fake_int8
from lit_distill.models import SmallCNN
from tests.plain import quiet_trainer

IMAGES, LABELS = torch.rand(20, 4, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 3


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def divergence(changed: nn.Module, whole: nn.Module) -> float:
    with torch.no_grad():
        one, other = changed(IMAGES).log_softmax(-1), whole(IMAGES).log_softmax(-1)
    return float(F.kl_div(one, other, log_target=True, reduction="batchmean"))


def rounded(weight: Tensor) -> Tensor:
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round() * scale


def test_weights_are_rounded_by_output_channel() -> None:
    weight = torch.randn(5, 7)
    assert torch.allclose(fake_int8(weight), rounded(weight), atol=1e-7)
    assert torch.equal(fake_int8(torch.zeros(2, 3)), torch.zeros(2, 3))
    transposed = fake_int8(weight, axis=1)
    assert torch.allclose(transposed, rounded(weight.T).T, atol=1e-7)


def test_each_row_is_the_divergence_that_its_layer_alone_makes() -> None:
    whole = network()
    before = copy.deepcopy(whole.state_dict())
    found = sensitivity(whole, loader())
    rows = {(row.layer, row.way): row for row in found.rows}
    assert list(rows) == [(layer, way) for layer in ("0", "2") for way in ("int8", "int8_weights", "prune")][:-1]
    for layer in (0, 2):
        changed = copy.deepcopy(whole)
        changed[layer].weight.data = rounded(whole[layer].weight)
        row = rows[str(layer), "int8_weights"]
        assert row.kl_divergence == pytest.approx(divergence(changed, whole), rel=1e-3, abs=1e-7)
        assert row.weights == whole[layer].weight.numel()
        assert row.accuracy == pytest.approx(float((changed(IMAGES).argmax(1) == LABELS).float().mean()))
    assert found.accuracy == pytest.approx(float((whole(IMAGES).argmax(1) == LABELS).float().mean()))
    assert found.samples == 20
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in whole.modules())


def test_int8_rounds_the_inputs_of_the_layer_as_well() -> None:
    whole = network()
    found = sensitivity(whole, loader(), ["int8"], layers=["2"])
    hidden = whole[1](whole[0](IMAGES)).detach()
    step = hidden.max() / 255
    changed = copy.deepcopy(whole)
    changed[2].weight.data = rounded(whole[2].weight)
    changed[1] = nn.Sequential(nn.ReLU(), _Round(step))
    assert found.rows[0].kl_divergence == pytest.approx(divergence(changed, whole), rel=1e-3, abs=1e-7)


class _Round(nn.Module):
    def __init__(self, step: Tensor) -> None:
        super().__init__()
        self.step = step

    def forward(self, values: Tensor) -> Tensor:
        return (values / self.step).round() * self.step


def test_pruning_a_layer_removes_its_units_with_the_smallest_weights() -> None:
    whole = network()
    found = sensitivity(whole, loader(), ["prune"], ratio=0.5)
    scores = whole[0].weight.square().sum(1) + whole[2].weight.square().sum(0)
    changed = copy.deepcopy(whole)
    changed[2].weight.data[:, scores.argsort()[:3]] = 0  # a unit that nobody reads is gone
    assert [row.layer for row in found.rows] == ["0"]
    assert found.rows[0].kl_divergence == pytest.approx(divergence(changed, whole), rel=1e-4)
    assert found.skipped == {"2: prune": "it makes the outputs"}


def test_the_table_the_files_and_the_plot_hold_the_figures(tmp_path: Path) -> None:
    found = sensitivity(network(), loader(), ["int8_weights", "prune"])
    text = str(found)
    assert "int8_weights: KL" in text
    assert f"{found.rows[0].kl_divergence:.3g}" in text
    assert "Not done, 2: prune: it makes the outputs" in text
    assert found.worst("int8_weights")[0].kl_divergence == max(
        row.kl_divergence for row in found.rows if row.way == "int8_weights"
    )
    files = found.write(tmp_path)
    assert [one.name for one in files] == ["sensitivity.md", "sensitivity.json", "sensitivity.png"]
    assert json.loads(files[1].read_text())["rows"][0]["kl_divergence"] == found.rows[0].kl_divergence
    assert files[0].read_text().count("| --- |") == 1
    assert list((tmp_path / "tensorboard").glob("events*"))
    bars = found.plot().patches
    assert sorted(bar.get_width() for bar in bars) == sorted(row.kl_divergence for row in found.rows)


def test_wrong_arguments_are_refused() -> None:
    for options, message in (
        ({"ways": ["int4"]}, "int8"),
        ({"layers": ["conv"]}, "no layer 'conv'"),
        ({"ratio": 1.0}, "ratio must be"),
    ):
        with pytest.raises(ValueError, match=message):
            sensitivity(network(), loader(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="validation data are empty"):
        sensitivity(network(), [])


@pytest.mark.slow
def test_the_command_reads_the_student_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = SupervisedModule(SmallCNN(4))
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.fit(module, DataLoader(TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8)), batch_size=8))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {class_path: SupervisedModule, init_args: {model: {class_path: SmallCNN, init_args: {width: 4}}}}\n"
        "data: {class_path: Digits, init_args: {train_size: 100}}\n"
    )
    words = ["--config", str(config), "--ckpt_path", str(tmp_path / "last.ckpt"), "--samples", "50"]
    main(["sensitivity", *words, "--ways", "int8", "prune", "--output", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "stage2.0" in said
    assert "on 50 validation samples" in said
    assert (tmp_path / "out" / "sensitivity.json").is_file()
