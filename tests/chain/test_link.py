"""A link's command line, its record and its checkpoint."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.chain import Link, LinkCheckpoint, Record
from lit_distill.chain.link import as_word, flatten
from lit_distill.cli.command import DistillationCLI, find_configs
from lit_distill.files import whole_file


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (16, "16"),
        (0.001, "0.001"),
        ("1e-3", "1e-3"),
        (True, "true"),
        (None, "null"),
        ("stage*", "stage*"),
        ("3", '"3"'),
        ("", ""),
        ([1, "a"], '[1, "a"]'),
        ({"hard": 0.1, "soft": {"x": None}}, '{"hard": 0.1, "soft": {"x": null}}'),
    ],
)
def test_a_value_becomes_the_word_that_reads_back_as_it(value: Any, word: str) -> None:
    assert as_word(value) == word


def test_the_command_has_configs_then_own_options_then_further_ones_then_the_place() -> None:
    link = Link("b", Path("runs/b"), ("x.yaml", "y.yaml"), {"model.width": 8}, ("a",))
    further = ["--trainer.max_epochs", "2"]
    assert link.command(further) == [
        "fit",
        "--config",
        "x.yaml",
        "--config",
        "y.yaml",
        "--model.width=8",
        "--trainer.max_epochs",
        "2",
        "--trainer.default_root_dir=runs/b",
        "--trainer.callbacks+=lit_distill.chain.LinkCheckpoint",
        "--trainer.callbacks.folder=runs/b",
    ]
    assert link.command(resume=True)[-1] == "--ckpt_path=runs/b/last.ckpt"


@pytest.mark.parametrize("callbacks", ["kept", "none"])
def test_the_configs_own_callbacks_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callbacks: str) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"trainer.callbacks": None} if callbacks == "none" else {}
    link = Link("b", Path("runs/b"), ("configs/digits/baseline.yaml",), options, ())
    cli = DistillationCLI(find_configs(link.command()[1:]), run=False)
    kinds = [type(callback) for callback in cli.trainer.checkpoint_callbacks]
    assert kinds == ([ModelCheckpoint, ModelCheckpoint] if callbacks == "kept" else []) + [LinkCheckpoint]
    assert cli.trainer.default_root_dir == "runs/b"


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record = Record("run", False, {"a.b": [], "c": 1.5, "d": None}, {"teacher": "other"})
    assert Record.read(tmp_path) is None
    record.write(tmp_path / "new/folder")
    assert Record.read(tmp_path / "new/folder") == record
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["link.json"]


def test_changes_name_every_setting_and_teacher_that_differs() -> None:
    record = Record("run", True, {"same": 1, "width": 8, "gone": "x"}, {"a": "first", "b": "first"})
    settings = {"same": 1, "width": 16, "new": None}
    assert record.changes(settings, {"a": "first", "b": "second"}) == [
        "width: 8, now 16",
        'gone: "x", now not given',
        "new: not given, now null",
        "its teacher 'b' has been made again since",
    ]
    assert record.changes(record.settings, record.teachers) == []


def test_flatten_gives_each_value_its_path() -> None:
    nested = {"a": {"b": [1, {"c": None}]}, "d": [], "e": {}, "f": "x"}
    assert flatten(nested) == {"a.b.0": 1, "a.b.1.c": None, "d": [], "e": {}, "f": "x"}


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_checkpoint_is_that_of_the_last_epoch_even_if_saving_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defining property: whatever happens while it saves, `last.ckpt` is whole, and of a finished epoch."""

    def fail(descriptor: int) -> None:
        if trainer.current_epoch == 2:
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(whole_file, "_sync", fail)
    callback = LinkCheckpoint(str(tmp_path))
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader = DataLoader(TensorDataset(torch.randn(4, 2)), batch_size=2)
    with pytest.raises(OSError, match="no space"):
        trainer.fit(Tiny(), loader)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 1
    assert saved["global_step"] == 4


@pytest.mark.parametrize("text", ["*stage3", "@x", "%x", "{x", "a: b: c", "layer*"])
def test_text_that_is_no_yaml_is_left_as_it_is(text: str) -> None:
    assert as_word(text) == text
