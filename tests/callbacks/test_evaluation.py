"""``Distill`` logs in validation and test what a distillation module logs, and never stands in the way of theirs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, EMATeacher, HardTarget, SoftTarget
from lit_distill.utils.lightning_names import trainer_class
from lit_distill.utils.notices import DistillationWarning
from tests.callbacks.guests import Theirs, distill, fit, loader, same, teacher, theirs, weights

FIGURES = {f"{figure}/{who}" for figure in ("accuracy", "cross_entropy") for who in ("student", "teacher")}


def logged(trainer: Any, stage: str = "val") -> dict[str, float]:
    prefix = f"distill/{stage}/"
    return {k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}


def expected(student: nn.Module, network_t: nn.Module, data: Any) -> dict[str, float]:
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    with torch.no_grad():
        s, t = student.eval()(x), network_t.eval()(x)
    found = {"agreement": float((s.argmax(-1) == t.argmax(-1)).float().mean())}
    for who, logits in (("student", s), ("teacher", t)):
        found[f"accuracy/{who}"] = float((logits.argmax(-1) == y).float().mean())
        found[f"cross_entropy/{who}"] = float(F.cross_entropy(logits, y))
    found["kl_divergence"] = float(
        F.kl_div(s.log_softmax(-1), t.log_softmax(-1), log_target=True, reduction="batchmean")
    )
    return found


class ByForward(Theirs):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model.forward(batch[0])


class BatchAlone(Theirs):
    def validation_step(self, batch: Any) -> None:
        self.model(batch[0])


class ByTheTrainingStep(Theirs):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)


class Views(Theirs):
    """Trains and validates part by part."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model[2](self.model[1](self.model[0](batch[0]))), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model[2](self.model[1](self.model[0](batch[0])))


class ByName(Theirs):
    """Batches with names; nothing of them is a label."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.model(batch["x"]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model(batch["x"])


@pytest.mark.parametrize("kind", [Theirs, ByForward, BatchAlone, ByTheTrainingStep, Views])
def test_figures_of_both_networks(tmp_path: Path, kind: Any) -> None:
    module, network_t = theirs(kind), teacher()
    trainer = fit(module, distill(teacher=network_t), tmp_path, val=loader(10))
    found = logged(trainer)
    assert set(found) >= FIGURES
    for name, value in expected(module.model, network_t, loader(10)).items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_their_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    compared, plain = theirs(), theirs()
    fit(compared, distill(), tmp_path, val=loader(10))
    fit(plain, distill(evaluate=False), tmp_path, val=loader(10))
    assert same(weights(compared), weights(plain))


def test_evaluate_false_logs_none(tmp_path: Path) -> None:
    assert logged(fit(theirs(), distill(evaluate=False), tmp_path, val=loader(10))) == {}


def test_a_frozen_teacher_runs_once_per_unchanged_batch(tmp_path: Path) -> None:
    network_t, seen = teacher(), []
    handle = network_t.register_forward_hook(lambda m, args, out: seen.append(1))
    fit(theirs(), distill(teacher=network_t), tmp_path, val=loader(8), max_epochs=3, num_sanity_val_steps=0)
    handle.remove()
    assert len(seen) == 1 + 3 * 4 + 2  # the rehearsal, the training batches, and each validation batch once


def test_a_checkpoint_may_be_chosen_by_them(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, monitor="distill/val/accuracy/student", mode="max")
    fit(theirs(), None, tmp_path, val=loader(10), enable_checkpointing=True, callbacks=[distill(), save])
    assert save.best_model_score is not None


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_without_a_fit(tmp_path: Path, stage: str) -> None:
    module, network_t = theirs(), teacher()
    trainer = trainer_class(module)(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=[Distill(network_t)],
    )
    getattr(trainer, stage)(module, loader(10), verbose=False)
    found = logged(trainer, "val" if stage == "validate" else "test")
    for name, value in expected(module.model, network_t, loader(10)).items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert "forward" not in vars(module.model)
    assert f"{'validation' if stage == 'validate' else stage}_step" not in vars(module)
    assert not module.model._forward_hooks


def test_a_teacher_that_learns(tmp_path: Path) -> None:
    guest = Distill(EMATeacher(0.5), {"soft": SoftTarget()}, {"soft": 1.0})
    assert set(logged(fit(theirs(), guest, tmp_path, val=loader(10)))) >= FIGURES


def test_several_loaders(tmp_path: Path) -> None:
    found = logged(fit(theirs(), distill(), tmp_path, val=[loader(10), loader(6)]))
    assert {f"accuracy/teacher/loader_{index}" for index in (0, 1)} <= set(found)


class TestLeftOut:
    """What cannot be read is left out, said once, and their own validation goes on."""

    def left_out(self, folder: Path, module: Any, **options: Any) -> tuple[dict[str, float], list[str]]:
        guest = options.pop("guest", None) or distill()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            trainer = fit(module, guest, folder, **{"val": loader(10), **options})
        said = [str(one.message) for one in told if issubclass(one.category, DistillationWarning)]
        return logged(trainer), said

    def test_labels_in_an_unknown_place(self, tmp_path: Path) -> None:
        class Triple(Theirs):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.model(batch[2])

        rows = TensorDataset(torch.randn(8), torch.randint(0, 3, (8,)), torch.randn(8, 5))
        found, said = self.left_out(tmp_path, theirs(Triple), val=DataLoader(rows, batch_size=4))
        assert "agreement" in found
        assert not set(found) & FIGURES
        assert len(said) == 1
        assert "target_key" in said[0]

    @pytest.mark.parametrize(
        "labels", [torch.randn(8, 3), torch.randn(8), torch.full((8,), 7), torch.zeros(8, 2).long()]
    )
    def test_labels_that_are_no_classes_of_these_logits(self, tmp_path: Path, labels: Tensor) -> None:
        class Quiet(Theirs):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.model(batch[0])

        data = DataLoader(TensorDataset(torch.randn(8, 5), labels), batch_size=4)
        found, said = self.left_out(tmp_path, theirs(Quiet), val=data)
        # Class indices that the logits have no classes for say that these may be no classes at all.
        assert ("agreement" in found) is labels.is_floating_point()
        assert not set(found) & FIGURES
        assert len(said) == 1

    def test_a_validation_that_does_not_call_the_student(self, tmp_path: Path) -> None:
        class Beside(Theirs):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", batch[0].mean())

        found, said = self.left_out(tmp_path, theirs(Beside))
        assert found == {}
        assert [message for message in said if "validation_step does not call the student 'model'" in message] == said
        assert len(said) == 1

    def test_labels_of_an_unusual_name(self, tmp_path: Path) -> None:
        rows = [
            {"x": x, "klass": y, "id": i}
            for i, (x, y) in enumerate(zip(torch.randn(8, 5), torch.randint(0, 3, (8,)), strict=True))
        ]
        data = DataLoader(rows, batch_size=4)  # type: ignore[arg-type]
        found, said = self.left_out(tmp_path, theirs(ByName), data=data, val=data)
        assert "agreement" in found
        assert not set(found) & FIGURES
        assert len(said) == 1
        assert "'klass' may be them; BatchFormat(target_key=…)" in said[0]

    def test_a_batch_of_inputs_alone(self, tmp_path: Path) -> None:
        data = DataLoader([{"x": x} for x in torch.randn(8, 5)], batch_size=4)  # type: ignore[arg-type]
        found, said = self.left_out(tmp_path, theirs(ByName), data=data, val=data)
        assert "agreement" in found
        assert said == []

    def test_inputs_of_an_unusual_name_that_the_step_changes(self, tmp_path: Path) -> None:
        class Changing(ByName):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return self.model(batch["signal"] * 2).square().mean()

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.model(batch["signal"] * 2)

        data = DataLoader([{"signal": x, "id": i} for i, x in enumerate(torch.randn(8, 5))], batch_size=4)  # type: ignore[arg-type]
        found, said = self.left_out(tmp_path, theirs(Changing), data=data, val=data)
        assert "agreement" in found
        assert said == []

    def test_several_calls_in_validation(self, tmp_path: Path) -> None:
        class Twice(Theirs):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.model(batch[0])
                self.model(batch[0])

        found, said = self.left_out(tmp_path, theirs(Twice))
        assert found == {}
        assert ["validation_step calls the student 'model' 2 times; say" in message for message in said] == [True]

    def test_a_student_of_one_number(self, tmp_path: Path) -> None:
        class Regression(Theirs):
            def __init__(self) -> None:
                super().__init__()
                self.model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 1))

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return self.model(batch[0]).square().mean()

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", self.model(batch[0]).square().mean())

        guest = distill(teacher=nn.Linear(5, 1), criteria={"again": HardTargetOfOne()}, weights={"again": 1.0})
        found, said = self.left_out(tmp_path, theirs(Regression), guest=guest)
        assert found == {}
        assert len(said) == 1

    def test_a_teacher_that_fails_there(self, tmp_path: Path) -> None:
        class Picky(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Tensor:
                assert len(x) != 3, "three of them"
                return self.inner(x)

        module = theirs()
        found, said = self.left_out(tmp_path, module, guest=Distill(Picky()), val=loader(7))
        assert found == {}
        assert ["three of them" in message for message in said] == [True]

    def test_labels_that_are_the_inputs(self, tmp_path: Path) -> None:
        class Language(Theirs):
            def __init__(self) -> None:
                super().__init__()
                self.model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                logits = self.model(batch["input_ids"])
                return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

            validation_step = training_step

        tokens = torch.randint(0, 7, (8, 5))
        rows = [{"input_ids": row, "labels": row.clone()} for row in tokens]
        guest = Distill(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)))
        data = DataLoader(rows, batch_size=4)
        found, said = self.left_out(tmp_path, theirs(Language), guest=guest, data=data, val=data)
        assert "agreement" in found
        assert not set(found) & FIGURES
        assert any("the labels are the inputs themselves" in message for message in said)


class HardTargetOfOne(HardTarget):
    """Compares nothing: stands for a criterion of a regression."""

    needs_target = False

    def forward(self, student: Any, teacher: Any, target: Any) -> Tensor:
        return student.logits.square().mean()


def test_tensorboard_finds_the_comparison(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(theirs(), distill(), tmp_path, val=loader(10), logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert {"distill/val/accuracy/student", "distill/val/accuracy/teacher"} <= set(events.Tags()["scalars"])
