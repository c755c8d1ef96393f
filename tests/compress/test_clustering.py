"""Weight clustering: codebooks, their training, and files that compress."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lit_distill import LogitDistillation
from lit_distill.compress import cluster
from lit_distill.export import export
from lit_distill.models import SmallCNN
from lit_distill.models.clustered import codebook_of, has_codebook, nearest_entries
from tests.export.networks import images, loader


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))


def test_a_codebook_is_that_of_k_means() -> None:
    values = torch.cat([torch.randn(50) * 0.01 + centre for centre in (-1.0, 0.2, 3.0)])
    means = codebook_of(values, 3)
    assert torch.allclose(means, torch.stack([values[i * 50 : i * 50 + 50].mean() for i in range(3)]), atol=1e-5)
    distances = (values[:, None] - means).abs()
    assert torch.equal(nearest_entries(values, means), distances.argmin(1))
    assert codebook_of(torch.tensor([1.0, 1.0, 2.0]), 4).tolist() == [1, 2]


def test_the_gradient_of_an_entry_is_the_sum_over_its_weights() -> None:
    floating = body()
    student = cluster(floating, 8)
    inputs, labels = images()
    plain = copy.deepcopy(floating)
    with torch.no_grad():
        plain[3].weight.copy_(student[3].weight)
        plain[0].weight.copy_(student[0].weight)
    for network in (student, plain):
        nn.functional.cross_entropy(network(inputs), labels).backward()
    codebook, book = student[3].parametrizations.weight.original, student[3].parametrizations.weight[0]
    expected = torch.zeros(8).index_add_(0, book.assignment.long().flatten(), plain[3].weight.grad.flatten())
    assert torch.allclose(codebook.grad, expected, atol=1e-6)
    assert floating[3].weight.unique().numel() > 8


def test_a_fit_trains_the_entries_and_its_checkpoint_is_plain(
    tmp_path: Path, quick_trainer: Callable[..., Trainer]
) -> None:
    floating = body()
    module = LogitDistillation(cluster(floating, 8), body())
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    trainer = quick_trainer()
    trainer.fit(module, loader(), loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    for name, value in module.student.state_dict().items():
        assert torch.equal(state[f"student.{name}"], value)
        assert torch.equal(before[name], value) == name.endswith("assignment")
    assert len(module.student[3].weight.unique()) == 8


@pytest.mark.parametrize(
    ("entries", "ignore", "words"), [(1, None, "entries"), (64, None, "no convolution"), (4, ["1x"], "1x")]
)
def test_wrong_arguments_are_refused(entries: int, ignore: list[str] | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cluster(nn.Sequential(nn.Linear(8, 8)), entries, ignore)


def test_layers_can_stay_as_they_are() -> None:
    student = cluster(body(), 8, ignore=["0"])
    assert [name for name, one in student.named_modules() if has_codebook(one)] == ["3"]


@pytest.mark.slow
@pytest.mark.parametrize(("entries", "share"), [(16, 0.25), (32, 0.3)])
def test_the_compressed_file_is_really_smaller(entries: int, share: float, tmp_path: Path) -> None:
    floating, example = SmallCNN(64), torch.randn(1, 1, 8, 8)
    student = cluster(floating, entries)
    files = [
        export(network, "onnx", tmp_path / f"{name}.onnx", example=example)
        for name, network in {"float": floating, "clustered": student}.items()
    ]
    sizes = [len(gzip.compress(one.exported.path.read_bytes(), mtime=0)) for one in files]
    assert sizes[1] < share * sizes[0]
    assert has_codebook(student.stage2[0])  # the student itself stays as it is
