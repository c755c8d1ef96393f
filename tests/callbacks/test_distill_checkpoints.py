"""Checkpoints of a module with ``Distill``: whole, exact on resume, and free of it once stripped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lit_distill import EMATeacher, GradientNorm, Hint, SoftTarget, Uncertainty, strip
from lit_distill.callbacks import strip_file
from lit_distill.criteria import QueueKL
from tests.averages import AVERAGES, averaging
from tests.callbacks.guests import Theirs, distill, fit, loader, network, same, saving, theirs, weights


class Dropping(Theirs):
    """With dropout, so that the random numbers count, and a schedule."""

    def __init__(self) -> None:
        super().__init__(scheduled=True)
        self.model[1].p = 0.5


class Stop(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


def train(folder: Path, guest: Any, extra: list[Callback], path: Path | None = None) -> Any:
    module = theirs(Dropping)
    options = {"enable_checkpointing": True, "ckpt_path": path, "data": loader(shuffle=True), "max_epochs": 4}
    fit(module, None, folder, callbacks=[guest, saving(folder), *extra], **options)
    return module


def interrupted(folder: Path, make: Any, extra: Any) -> Path:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(folder, make(), [*extra(), Stop()])
    return folder / "last.ckpt"


KINDS: dict[str, dict[str, Any]] = {
    "hint": {},
    "ema teacher": {"teacher": EMATeacher(0.5), "criteria": {"soft": SoftTarget()}, "weights": {"soft": 1.0}},
    "gradient norm": {"balance": GradientNorm("task", every=3)},
    "uncertainty": {"balance": Uncertainty()},
}


@pytest.mark.parametrize(
    ("kind", "average"), [*((kind, "plain") for kind in KINDS), *(("hint", average) for average in AVERAGES)]
)
def test_resume_is_exact(tmp_path: Path, kind: str, average: str) -> None:
    def make() -> Any:
        return distill(**copy.deepcopy(KINDS[kind]))

    guest = make()
    whole = train(tmp_path / "whole", guest, averaging(average))
    path = interrupted(tmp_path / "cut", make, lambda: averaging(average))
    again = make()
    resumed = train(tmp_path / "cut", again, averaging(average), path)
    assert same(weights(whole), weights(resumed))
    assert same(weights(guest.criteria), weights(again.criteria))


def checkpoint(folder: Path, **options: Any) -> dict[str, Any]:
    train(folder, distill(**options), [])
    content = torch.load(folder / "last.ckpt", weights_only=True)
    assert isinstance(content, dict)
    return content


def test_holds_projectors_and_no_teacher(tmp_path: Path) -> None:
    content = checkpoint(tmp_path)
    ours = [key for key in content["state_dict"] if key.startswith("lit_distill.")]
    assert sorted(ours) == [f"lit_distill.criteria.hint.projectors.0.linear.{name}" for name in ("bias", "weight")]
    assert [key for key in content["state_dict"] if not key.startswith("lit_distill.")] == list(theirs().state_dict())
    sizes = [len(group["params"]) for group in content["optimizer_states"][0]["param_groups"]]
    assert sizes == [len(list(theirs().parameters())) + 2]


class TestStripped:
    def test_loads_strictly_in_their_old_code_and_goes_on(self, tmp_path: Path) -> None:
        content = checkpoint(tmp_path / "with")
        path = tmp_path / "stripped.ckpt"
        lines = strip_file(tmp_path / "with" / "last.ckpt", path)
        assert "2 tensors taken out" in lines[0]
        theirs().load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=True)
        loaded = Theirs.load_from_checkpoint(path)
        assert same(
            weights(loaded.model), {k[6:]: v for k, v in content["state_dict"].items() if k.startswith("model.")}
        )
        module = theirs(Dropping)  # their old training script: no Distill, optimizer and schedule go on
        trainer = fit(module, None, tmp_path, max_epochs=5, ckpt_path=path)
        assert trainer.current_epoch == 5
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**5)

    def test_optimizer_keeps_the_state_of_their_parameters(self, tmp_path: Path) -> None:
        content = checkpoint(tmp_path)
        before, after = content["optimizer_states"][0], strip(content)["optimizer_states"][0]
        theirs_only = len(list(theirs().parameters()))
        assert len(before["state"]) == theirs_only + 2
        assert list(after["state"]) == list(range(theirs_only))
        assert all(
            torch.equal(after["state"][k]["momentum_buffer"], before["state"][k]["momentum_buffer"])
            for k in after["state"]
        )

    def test_leaves_the_given_checkpoint_alone(self, tmp_path: Path) -> None:
        content = checkpoint(tmp_path)
        keys = set(content["state_dict"])
        strip(content)
        assert set(content["state_dict"]) == keys
        assert "lit_distill" in content

    @pytest.mark.skipif("ema" not in AVERAGES, reason="Lightning before 2.6")
    def test_averages_too(self, tmp_path: Path) -> None:
        train(tmp_path, distill(), averaging("ema"))
        stripped = strip(torch.load(tmp_path / "last.ckpt", weights_only=True))
        assert not [
            key for name in ("state_dict", "current_model_state") for key in stripped[name] if "lit_distill" in key
        ]
        torch.save(stripped, tmp_path / "stripped.ckpt")
        options = {"callbacks": averaging("ema"), "ckpt_path": tmp_path / "stripped.ckpt", "max_epochs": 5}
        fit(theirs(Dropping), None, tmp_path, **options)

    def test_a_checkpoint_without_anything_of_ours(self, tmp_path: Path) -> None:
        fit(theirs(), None, tmp_path, enable_checkpointing=True, callbacks=[saving(tmp_path)])
        assert "nothing to take out" in strip_file(tmp_path / "last.ckpt", tmp_path / "b.ckpt")[0]

    def test_a_file_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
        with pytest.raises(ValueError, match="no Lightning checkpoint"):
            strip_file(tmp_path / "a.pt", tmp_path / "b.pt")


class TestEvaluation:
    def test_best_checkpoint_in_the_same_and_in_a_new_trainer(self, tmp_path: Path) -> None:
        module, guest = theirs(), distill()
        callbacks = [guest, saving(tmp_path)]
        trainer = fit(module, None, tmp_path, enable_checkpointing=True, callbacks=callbacks)
        first = trainer.test(module, loader(), ckpt_path="best", verbose=False)
        other = fit(theirs(), None, tmp_path, callbacks=[distill()], max_epochs=1)
        second = other.test(theirs(), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
        assert first == second


class TestOtherCheckpoints:
    def resume(self, path: Path, folder: Path, **options: Any) -> None:
        fit(theirs(), distill(**options), folder, max_epochs=3, ckpt_path=path)

    def test_of_other_criteria(self, tmp_path: Path) -> None:
        fit(theirs(), None, tmp_path, enable_checkpointing=True, callbacks=[distill(), saving(tmp_path)])
        criteria = {"soft": SoftTarget(), "other": Hint("0", "0")}
        with pytest.raises(ValueError, match=r"made with the criteria task.*soft.*hint.*this run has.*other"):
            self.resume(tmp_path / "last.ckpt", tmp_path, criteria=criteria, weights={"soft": 1.0, "other": 1.0})

    def test_of_a_run_without_distill(self, tmp_path: Path) -> None:
        fit(theirs(), None, tmp_path, enable_checkpointing=True, callbacks=[saving(tmp_path)])
        with pytest.raises(
            ValueError, match="made without Distill, or after its fit, and the criteria or the teacher have a state"
        ):
            self.resume(tmp_path / "last.ckpt", tmp_path)
        # Without layers of their own, nothing is missing.
        self.resume(tmp_path / "last.ckpt", tmp_path, criteria={"soft": SoftTarget()}, weights={"soft": 1.0})

    def test_weights_alone(self, tmp_path: Path) -> None:
        save = saving(tmp_path)
        save.save_weights_only = True
        fit(theirs(), None, tmp_path, enable_checkpointing=True, callbacks=[distill(), save])
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        theirs().load_state_dict(strip(content)["state_dict"], strict=True)


def _same(tensors: list[Tensor]) -> bool:
    return all(torch.equal(tensors[0], other) for other in tensors)


def test_a_teacher_that_trains_is_saved(tmp_path: Path) -> None:
    module = theirs()
    options: dict[str, Any] = {"criteria": {"soft": SoftTarget()}, "weights": {"soft": 1.0}}
    guest = distill(teacher=EMATeacher(0.5), **options)
    fit(module, None, tmp_path, enable_checkpointing=True, callbacks=[guest, saving(tmp_path)])
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    copied = {key.removeprefix("lit_distill.teacher."): value for key, value in content.items() if "teacher" in key}
    assert copied.keys() == network().state_dict().keys()
    assert not _same([copied["2.weight"], content["model.2.weight"]])


class Everything(Theirs):
    """Gives the optimizer all that the module has, by name, in two groups."""

    def configure_optimizers(self) -> Any:
        named = list(self.named_parameters())
        groups = [
            {"params": [p for n, p in named if "bias" not in n]},
            {"params": [p for n, p in named if "bias" in n]},
        ]
        return torch.optim.AdamW(groups, lr=0.01)


class TestOptimizerOfTheirWholeModule:
    def test_stripped_it_goes_on(self, tmp_path: Path) -> None:
        fit(theirs(Everything), None, tmp_path, enable_checkpointing=True, callbacks=[distill(), saving(tmp_path)])
        strip_file(tmp_path / "last.ckpt", tmp_path / "plain.ckpt")
        trainer = fit(theirs(Everything), None, tmp_path, max_epochs=3, ckpt_path=tmp_path / "plain.ckpt")
        assert trainer.current_epoch == 3

    def test_resumes_exactly(self, tmp_path: Path) -> None:
        whole = theirs(Everything)
        fit(whole, distill(), tmp_path, max_epochs=3)
        callbacks = [distill(), saving(tmp_path)]
        fit(theirs(Everything), None, tmp_path, enable_checkpointing=True, callbacks=callbacks, max_epochs=2)
        resumed = theirs(Everything)
        fit(resumed, distill(), tmp_path, max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
        assert same(weights(whole), weights(resumed))

    def test_an_averaged_teacher_is_in_no_group(self, tmp_path: Path) -> None:
        guest = distill(teacher=EMATeacher(0.5), criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
        trainer = fit(theirs(Everything), guest, tmp_path)
        held = sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)
        assert held == len(list(theirs().parameters()))


@pytest.mark.parametrize("state", ["balance", "teacher"])
def test_of_a_run_without_distill_and_a_state_that_is_no_parameter(tmp_path: Path, state: str) -> None:
    fit(theirs(), None, tmp_path, enable_checkpointing=True, callbacks=[saving(tmp_path)])
    options: dict[str, Any] = {"criteria": {"soft": SoftTarget()}, "weights": {"soft": 1.0}}
    options |= {"balance": GradientNorm("task")} if state == "balance" else {"teacher": EMATeacher(0.5)}
    with pytest.raises(ValueError, match="made without Distill"):
        fit(theirs(), distill(**options), tmp_path, max_epochs=3, ckpt_path=tmp_path / "last.ckpt")


def test_a_queue_that_the_criterion_sizes_is_trained_and_resumed(tmp_path: Path) -> None:
    def guest() -> Any:
        return distill(criteria={"queue": QueueKL("0", "0", size=16)}, weights={"queue": 1.0})

    options: dict[str, Any] = {"max_epochs": 4}
    whole, first = theirs(), guest()
    fit(whole, first, tmp_path, **options)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(
            theirs(),
            None,
            tmp_path,
            enable_checkpointing=True,
            callbacks=[guest(), saving(tmp_path), Stop()],
            **options,
        )
    resumed, again = theirs(), guest()
    fit(resumed, again, tmp_path, ckpt_path=tmp_path / "last.ckpt", **options)
    assert again.criteria["queue"].queue.shape == (16, 11)
    assert same(weights(whole), weights(resumed))
    assert same(weights(first.criteria), weights(again.criteria))


class Counting(Theirs):
    """Asks for the number of steps when it makes its optimizer, and so has the loader made early."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        total = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)]


def test_resume_is_exact_where_the_loader_is_made_early(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 4, "data": loader(shuffle=True)}
    whole, resumed = theirs(Counting), theirs(Counting)
    fit(whole, distill(), tmp_path, **options)
    callbacks = [distill(), saving(tmp_path), Stop()]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(theirs(Counting), None, tmp_path, enable_checkpointing=True, callbacks=callbacks, **options)
    fit(resumed, distill(), tmp_path, ckpt_path=tmp_path / "last.ckpt", **options)
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])  # in 64-true Lightning itself rounds the weights
def test_resume_is_exact_in_every_precision(tmp_path: Path, precision: Any) -> None:
    options: dict[str, Any] = {"max_epochs": 4, "precision": precision}
    whole, guest = theirs(), distill()
    fit(whole, guest, tmp_path, **options)
    callbacks = [distill(), saving(tmp_path), Stop()]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(theirs(), None, tmp_path, enable_checkpointing=True, callbacks=callbacks, **options)
    resumed, again = theirs(), distill()
    fit(resumed, again, tmp_path, ckpt_path=tmp_path / "last.ckpt", **options)
    assert same(weights(whole), weights(resumed))
    assert same(weights(guest.criteria), weights(again.criteria))
