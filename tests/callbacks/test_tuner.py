"""``Distill`` beside what runs or changes the training before its first batch: finders, parameter groups."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from lit_distill import strip
from lit_distill.utils.lightning_names import trainer_class
from lit_distill.utils.notices import DistillationWarning
from tests.callbacks.guests import Theirs, distill, fit, loader, saving, teacher, theirs


class Tuned(Theirs):
    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.batch_size = 2

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(64, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(8, self.batch_size)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


class HeldProjectors(Callback):
    """Notes how many parameters the optimizer trains when the fit begins."""

    count = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.count = sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)


@pytest.mark.parametrize("precision", ["64-true", "32-true", "bf16-true"])
def test_the_finder_as_a_callback(tmp_path: Path, precision: Any) -> None:
    held, finder = HeldProjectors(), LearningRateFinder(num_training_steps=20)
    module = theirs(Tuned)
    fit(module, None, tmp_path, callbacks=[distill(), finder, held], precision=precision, max_epochs=1)
    assert held.count == len(list(module.parameters())) + 2
    assert len(finder.optimal_lr.results["loss"]) > 2


@pytest.mark.parametrize("what", ["lr_find", "scale_batch_size"])
@pytest.mark.slow
def test_the_tuner_and_then_a_fit(tmp_path: Path, what: str) -> None:
    module, network_t, held = theirs(Tuned), teacher(), HeldProjectors()
    trainer = trainer_class(module)(
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        default_root_dir=tmp_path,
        callbacks=[distill(teacher=network_t), held],
    )
    options = {"num_training": 20} if what == "lr_find" else {"max_trials": 2, "steps_per_trial": 2}
    getattr(Tuner(trainer), what)(module, **options)
    trainer.fit(module)
    assert held.count == len(list(module.parameters())) + 2
    assert next(network_t.parameters()).dtype == torch.float32  # a teacher keeps its own type


class LayerWise(Theirs):
    """Two groups, the first at a small learning rate."""

    rates = (1e-6, 1e-2)

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": self.model[0].parameters(), "lr": self.rates[0]},
            {"params": self.model[2].parameters(), "lr": self.rates[1]},
        ]
        return {"optimizer": torch.optim.AdamW(groups)}


class SameRates(LayerWise):
    rates = (1e-3, 1e-3)


class Rates(Callback):
    """The learning rates of what ``Distill`` added."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        ours = {id(p) for name, p in pl_module.named_parameters() if name.startswith("lit_distill")}
        self.found = [g["lr"] for g in trainer.optimizers[0].param_groups for p in g["params"] if id(p) in ours]


class TestParameterGroup:
    def test_different_learning_rates_are_said(self, tmp_path: Path) -> None:
        with pytest.warns(DistillationWarning, match=r"learning rate 1e-06.*0: 1e-06, 1: 0\.01.*parameter_group="):
            fit(theirs(LayerWise), distill(), tmp_path)

    @pytest.mark.parametrize("group", [1, -1])
    def test_the_group_that_was_chosen_trains_them(self, tmp_path: Path, group: int) -> None:
        rates = Rates()
        with warnings.catch_warnings():
            warnings.simplefilter("error", DistillationWarning)
            fit(theirs(LayerWise), None, tmp_path, callbacks=[distill(parameter_group=group), rates])
        assert rates.found == [1e-2, 1e-2]

    def test_equal_learning_rates_need_no_word(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DistillationWarning)
            fit(theirs(SameRates), distill(), tmp_path)

    def test_there_is_no_such_group(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="parameter_group is 2, and the module's optimizer has 2 parameter groups, 0 to 1"
        ):
            fit(theirs(LayerWise), distill(parameter_group=2), tmp_path)

    @pytest.mark.parametrize("group", [0, 1])
    def test_stripped_of_their_group_it_goes_on_without(self, tmp_path: Path, group: int) -> None:
        callbacks = [distill(parameter_group=group), saving(tmp_path)]
        fit(theirs(LayerWise), None, tmp_path, enable_checkpointing=True, callbacks=callbacks)
        content = strip(torch.load(tmp_path / "last.ckpt", weights_only=True))
        sizes = [len(one["params"]) for one in content["optimizer_states"][0]["param_groups"]]
        assert sizes == [4, 2]
        assert len(content["optimizer_states"][0]["state"]) == 6
        torch.save(content, tmp_path / "plain.ckpt")
        trainer = fit(theirs(LayerWise), None, tmp_path, max_epochs=3, ckpt_path=tmp_path / "plain.ckpt")
        assert trainer.current_epoch == 3

    def test_resumes_in_it(self, tmp_path: Path) -> None:
        callbacks = [distill(parameter_group=1), saving(tmp_path)]
        fit(theirs(LayerWise), None, tmp_path, enable_checkpointing=True, callbacks=callbacks)
        rates = Rates()
        guest = distill(parameter_group=1)
        fit(theirs(LayerWise), None, tmp_path, callbacks=[guest, rates], max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
        assert rates.found == [1e-2, 1e-2]


def test_a_checkpoint_saved_after_the_fit_is_theirs_alone(tmp_path: Path) -> None:
    trainer = fit(theirs(), distill(), tmp_path)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    again = fit(theirs(), None, tmp_path, max_epochs=3, ckpt_path=tmp_path / "after.ckpt")
    assert again.current_epoch == 3
