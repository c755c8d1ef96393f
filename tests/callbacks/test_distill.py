"""``Distill`` does what a distillation module does, and leaves the user's module as it was."""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import SumMetric

from lit_distill import (
    Distill,
    DistillationModule,
    EMATeacher,
    FrozenTeacher,
    HardTarget,
    Hint,
    JointTeacher,
    RecordedTeacher,
    SoftTarget,
    TeacherRuntime,
)
from lit_distill.criteria import soft_target as formulas
from lit_distill.schedules import Linear
from tests.callbacks.guests import Theirs, distill, fit, loader, network, same, teacher, theirs, weights

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class TestSameEngine:
    def ours(self, **options: Any) -> DistillationModule:
        torch.manual_seed(1)
        student = network()
        criteria = {"task": HardTarget(), "soft": SoftTarget(2.0), "hint": Hint("0", "0")}
        settings: dict[str, Any] = {"optimizer": SGD, **options}
        return DistillationModule(student, teacher(), criteria, {"task": 0.5, "soft": 0.9, "hint": 1.0}, **settings)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"accumulate_grad_batches": 2},
            {"gradient_clip_val": 0.05},
            {"precision": "bf16-mixed"},
            {"precision": "64-true"},
        ],
        ids=str,
    )
    def test_bit_identical_to_a_distillation_module(self, tmp_path: Path, options: dict[str, Any]) -> None:
        ours, module = self.ours(), theirs()
        fit(ours, None, tmp_path, **options)
        fit(module, distill(), tmp_path, **options)
        assert same(weights(ours.student), weights(module.model))

    def test_with_schedules(self, tmp_path: Path) -> None:
        schedules = {
            "task.weight": Linear(0.0, 1.0, until=2),
            "soft.temperature": Linear(4.0, 1.0, until=6, unit="step"),
        }
        ours, module = self.ours(schedules=schedules), theirs()
        fit(ours, None, tmp_path)
        fit(module, distill(schedules=schedules), tmp_path)
        assert same(weights(ours.student), weights(module.model))

    @pytest.mark.parametrize("kind", ["joint", "ema", "recorded", "bf16"])
    def test_with_every_teacher(self, tmp_path: Path, kind: str) -> None:
        makers = {
            "joint": lambda: JointTeacher(teacher()),
            "ema": lambda: EMATeacher(0.5),
            "recorded": lambda: RecordedTeacher(teacher()),
            "bf16": lambda: FrozenTeacher(teacher(), TeacherRuntime("bf16")),
        }
        criteria = {"soft": SoftTarget(2.0)}
        torch.manual_seed(1)
        ours = DistillationModule(
            network(),
            makers[kind](),
            {"task": HardTarget(), **criteria},
            {"task": 0.5, "soft": 0.9},
            optimizer=SGD,
        )
        module, guest = theirs(), Distill(makers[kind](), criteria, {"task": 0.5, "soft": 0.9})
        fit(ours, None, tmp_path)
        fit(module, guest, tmp_path)
        assert same(weights(ours.student), weights(module.model))

    def test_weight_zero_is_their_training_bit_for_bit(self, tmp_path: Path) -> None:
        alone, with_guest = theirs(), theirs()
        fit(alone, None, tmp_path)
        fit(with_guest, distill(weights={"soft": 0.0, "hint": 0.0}), tmp_path)
        assert same(weights(alone), weights(with_guest))
        assert alone.steps == with_guest.steps


class TestInputs:
    def test_the_teacher_gets_the_very_tensor_that_the_student_got(self, tmp_path: Path) -> None:
        class Mixing(Theirs):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                mixed = 0.5 * batch[0] + 0.5 * batch[0].flip(0)
                return F.cross_entropy(self.model(mixed), batch[1])

        module, network_t = theirs(Mixing), teacher()
        seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}
        module.model.register_forward_pre_hook(lambda m, args: seen["student"].append(args[0]))
        network_t.register_forward_pre_hook(lambda m, args: seen["teacher"].append(args[0]))
        fit(module, distill(teacher=network_t), tmp_path)
        assert len(seen["student"]) == len(seen["teacher"]) == 9  # the rehearsal and two epochs
        assert all(s is t for s, t in zip(seen["student"][1:], seen["teacher"][1:], strict=True))

    def test_positions_and_names(self, tmp_path: Path) -> None:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def forward(self, x: Tensor, *, scale: float, shift: Tensor) -> dict[str, Tensor]:
                return {"scores": self.inner(x * scale + shift)}

        class Named(Theirs):
            def __init__(self) -> None:
                super().__init__()
                self.model = Scaled()

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                out = self.model(batch[0], scale=2.0, shift=torch.ones(5))
                return F.cross_entropy(out["scores"], batch[1])

        from lit_distill import BatchFormat

        guest = Distill(Scaled(), batch_format=BatchFormat(output_key="scores"))
        fit(theirs(Named), guest, tmp_path)

    def test_inputs_changed_in_place_are_refused(self, tmp_path: Path) -> None:
        class Spoiling(Theirs):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                loss = F.cross_entropy(self.model(batch[0]), batch[1])
                if self.global_step:
                    batch[0].zero_()
                return loss

        with pytest.raises(RuntimeError, match=r"changed in place.*model\(x\.clone\(\)\)"):
            fit(theirs(Spoiling), distill(), tmp_path)

    def test_labels_are_read_where_a_criterion_needs_them(self, tmp_path: Path) -> None:
        guest = distill(criteria={"again": HardTarget()}, weights={"task": 0.0, "again": 1.0})
        module, alone = theirs(), theirs()
        fit(module, guest, tmp_path)
        fit(alone, None, tmp_path)
        assert same(weights(module), weights(alone))

    def test_a_dict_loss_stays_a_dict(self, tmp_path: Path) -> None:
        class Dict(Theirs):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return {"loss": super().training_step(batch, batch_idx), "extra": torch.tensor(3.0)}

        found = []

        class Look(Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
                found.append(outputs)

        module, plain = theirs(Dict), theirs()
        fit(module, None, tmp_path, callbacks=[distill(), Look()])
        fit(plain, distill(), tmp_path)
        assert all(float(out["extra"]) == 3 for out in found)
        assert same(weights(module), weights(plain))


class Several(Theirs):
    """Calls its network three times, once without gradients; the loss is of the first call alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first = self.model(batch[0])
        with torch.no_grad():
            self.model[2](self.model[0][0](batch[0]))
            self.model(batch[0])
        self.model(batch[0] * 2)
        return F.cross_entropy(first, batch[1])


class TestSeveralCalls:
    def value(self, module: LightningModule, call: Any, folder: Path) -> float:
        guest = distill(criteria={"soft": SoftTarget(2.0)}, weights={"soft": 1.0}, call=call)
        trainer = fit(module, guest, folder, max_steps=1)
        return float(trainer.callback_metrics["distill/criteria/soft"])

    def expected(self, scale: float, calls_before: int) -> float:
        torch.manual_seed(1)
        student, network_t = network(), teacher().eval()
        inputs = next(iter(loader()))[0]
        del calls_before  # batch statistics, and not the running ones, count in train mode
        return formulas.soft_target(student(inputs * scale), network_t(inputs * scale), temperature=2.0).item()

    @pytest.mark.parametrize(("call", "scale"), [(0, 1.0), (1, 2.0), (-1, 2.0)])
    def test_one_of_them(self, tmp_path: Path, call: int, scale: float) -> None:
        assert self.value(theirs(Several), call, tmp_path) == pytest.approx(self.expected(scale, 0), rel=1e-5)

    def test_all_of_them(self, tmp_path: Path) -> None:
        mean = (self.expected(1.0, 0) + self.expected(2.0, 2)) / 2
        assert self.value(theirs(Several), "all", tmp_path) == pytest.approx(mean, rel=1e-5)

    def test_unsaid(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"calls the student 'model' 2 times.*call=0 is the first"):
            self.value(theirs(Several), None, tmp_path)

    def test_too_many(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="calls 'model' 2 times; there is no call 2"):
            self.value(theirs(Several), 2, tmp_path)

    def test_a_step_without_the_student_is_left_alone_and_said(self, tmp_path: Path) -> None:
        class Turns(Theirs):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if batch_idx % 2:
                    return None
                return super().training_step(batch, batch_idx) if batch_idx else self.model[2].weight.sum()

        class Late(Turns):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if batch_idx == 3:
                    return self.model[2].weight.square().sum()
                return Theirs.training_step(self, batch, batch_idx)

        with pytest.warns(UserWarning, match="did not call the student 'model'"):
            fit(theirs(Late), distill(), tmp_path)


class TestOptimizer:
    def test_projectors_train_in_the_first_group_and_schedulers_go_on(self, tmp_path: Path) -> None:
        guest, module = distill(), theirs(scheduled=True)
        made: dict[str, Tensor] = {}

        class Look(Callback):
            def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
                made.update(weights(pl_module.lit_distill))
                held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
                assert held == {id(p) for p in pl_module.parameters() if p.requires_grad}
                assert not held & {id(p) for p in guest.teacher.parameters()}

        trainer = fit(module, None, tmp_path, callbacks=[guest, Look()])
        assert len(trainer.optimizers[0].param_groups) == 1
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.25)
        trained = weights(guest.criteria)
        assert made
        for name, value in made.items():
            assert not torch.equal(value, trained[name.removeprefix("criteria.")]), name

    def test_manual_optimization_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        class Manual(Theirs):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

        with pytest.raises(ValueError, match=r"Manual optimizes manually.*would\s+train nothing"):
            fit(theirs(Manual), distill(), tmp_path)


class TestLeavesNothing:
    def test_rehearsal_changes_nothing(self, tmp_path: Path) -> None:
        class Counting(Theirs):
            def __init__(self) -> None:
                super().__init__()
                self.model[1].p = 0.5
                self.seen = SumMetric()

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                self.seen.update(len(batch[0]))
                return super().training_step(batch, batch_idx)

        alone, watched = theirs(Counting), theirs(Counting)
        fit(alone, None, tmp_path)
        fit(watched, distill(weights={"soft": 0.0, "hint": 0.0}), tmp_path)
        assert float(watched.seen.compute()) == float(alone.seen.compute()) == 32
        assert watched.steps == alone.steps  # the random numbers too
        assert same(weights(watched), weights(alone))

    def test_module_is_as_it_was(self, tmp_path: Path) -> None:
        module, alone = theirs(), theirs()
        fit(alone, None, tmp_path)
        fit(module, distill(), tmp_path)
        assert _count_hooks(module) == 0
        assert set(vars(module)) == set(vars(alone))
        assert "lit_distill" not in dict(module.named_children())
        assert module.training_step.__func__ is Theirs.training_step

    def test_fitted_again(self, tmp_path: Path) -> None:
        module, guest = theirs(), distill()
        fit(module, guest, tmp_path)
        first = weights(guest.criteria)
        fit(module, guest, tmp_path)
        assert not same(first, weights(guest.criteria))
        assert _count_hooks(module) == 0

    def test_after_an_error_the_fit_can_be_repeated(self, tmp_path: Path) -> None:
        class Fails(Callback):
            on = True

            def on_train_batch_end(self, *args: Any) -> None:
                if self.on:
                    raise RuntimeError("theirs")

        module, guest, fails = theirs(), distill(), Fails()
        with pytest.raises(RuntimeError, match="theirs"):
            fit(module, None, tmp_path, callbacks=[guest, fails])
        fails.on = False
        fit(module, None, tmp_path, callbacks=[guest, fails])
        assert _count_hooks(module) == 0
        assert "training_step" not in vars(module)


class Fails(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise RuntimeError("theirs")


class TestAfterAnError:
    def test_nothing_is_distilled_any_more(self, tmp_path: Path) -> None:
        module, network_t = theirs(), teacher()
        asked: list[int] = []
        network_t.register_forward_hook(lambda *args: asked.append(1))
        with pytest.raises(RuntimeError, match="theirs"):
            fit(module, None, tmp_path, callbacks=[distill(teacher=network_t), Fails()])
        before = len(asked)
        fit(module, None, tmp_path)
        assert len(asked) == before
        assert "training_step" not in vars(module)

    def test_a_new_distill_takes_over(self, tmp_path: Path) -> None:
        module, plain = theirs(), theirs()
        start = copy.deepcopy(module.state_dict())
        with pytest.raises(RuntimeError, match="theirs"):
            fit(module, None, tmp_path, callbacks=[distill(), Fails()])
        module.load_state_dict(start, strict=False)
        fit(module, distill(), tmp_path)
        fit(plain, distill(), tmp_path)
        assert same(weights(module), weights(plain))


class TestFittedAgain:
    @pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
    def test_in_another_precision(self, tmp_path: Path, precision: Any) -> None:
        module, guest = theirs(), distill()
        fit(module, guest, tmp_path, precision=precision)
        fit(module, guest, tmp_path, precision=precision)
        module.float()
        fit(module, guest, tmp_path)

    def test_with_another_module_is_refused(self, tmp_path: Path) -> None:
        guest = distill()
        fit(theirs(), guest, tmp_path)
        with pytest.raises(ValueError, match="has trained with another student.*make a new Distill"):
            fit(theirs(), guest, tmp_path)

    def test_a_schedule_begins_anew(self, tmp_path: Path) -> None:
        module, guest = theirs(), distill(schedules={"soft.weight": Linear(1.0, 0.0, until=2)})
        fit(module, guest, tmp_path)
        trainer = fit(module, guest, tmp_path, max_steps=1)
        assert float(trainer.callback_metrics["distill/weight/soft"]) == 1.0


def test_a_changing_teacher_of_a_whole_module_is_refused(tmp_path: Path) -> None:
    class Whole(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    guest = Distill(EMATeacher(0.5), {"soft": SoftTarget()}, {"soft": 1.0}, student=".")
    with pytest.raises(ValueError, match=r"student='\.' is the whole module: name the network"):
        fit(theirs(Whole), guest, tmp_path)


def _count_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


class TestRehearsal:
    def test_a_step_that_wants_whole_batches(self, tmp_path: Path) -> None:
        class Fixed(Theirs):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                batch[0].view(4, 5)
                return super().training_step(batch, batch_idx)

        fit(theirs(Fixed), distill(), tmp_path)

    def test_a_step_that_works_only_in_a_fit(self, tmp_path: Path) -> None:
        class Stateful(Theirs):
            def on_train_start(self) -> None:
                self.scale = 1.0

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return self.scale * super().training_step(batch, batch_idx)

        with pytest.raises(ValueError, match=r"Stateful\.training_step failed.*no attribute 'scale'.*example_inputs"):
            fit(theirs(Stateful), distill(), tmp_path)
        module, plain = theirs(Stateful), theirs()
        fit(module, distill(example_inputs=torch.randn(2, 5)), tmp_path)
        fit(plain, distill(), tmp_path)
        assert same(weights(module), weights(plain))

    @pytest.mark.parametrize("hook", ["setup", "configure_model"])
    def test_a_student_made_in_their_hooks(self, tmp_path: Path, hook: str) -> None:
        class Lazy(Theirs):
            def __init__(self) -> None:
                super().__init__()
                self.__dict__["kept"] = self.model
                del self.model

        def make(self: Any, stage: str | None = None) -> None:
            self.model = self.kept

        setattr(Lazy, hook, make)
        module, plain = theirs(Lazy), theirs()
        fit(module, distill(), tmp_path)
        fit(plain, distill(), tmp_path)
        assert same(weights(module), weights(plain))

    def test_two_loaders(self, tmp_path: Path) -> None:
        class Both(Theirs):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return super().training_step(batch["a"], batch_idx) + 0 * self.model[2](torch.zeros(2, 6)).sum()

        fit(theirs(Both), distill(), tmp_path, data={"a": loader(), "b": loader()})

    def test_the_module_itself_is_the_student(self, tmp_path: Path) -> None:
        class Whole(Theirs):
            def forward(self, x: Tensor) -> Tensor:
                return self.model(x)

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return F.cross_entropy(self(batch[0]), batch[1])

        module, plain = theirs(Whole), theirs()
        hints = {"soft": SoftTarget(2.0), "hint": Hint("model.0", "0")}
        fit(module, distill(student=".", criteria=hints), tmp_path)
        fit(plain, distill(), tmp_path)
        assert same(weights(module.model), weights(plain.model))


@pytest.mark.slow
class TestCompiled:
    @pytest.mark.parametrize("how", ["wrapped", "in place", "whole module"])
    def test_gives_what_eager_gives(self, tmp_path: Path, how: str) -> None:
        eager, module = theirs(), theirs()
        fit(eager, distill(), tmp_path)
        given: Any = module
        if how == "wrapped":
            module.model = torch.compile(module.model, backend="aot_eager")
        elif how == "in place":
            module.model.compile(backend="aot_eager")
        else:
            given = torch.compile(module, backend="aot_eager")
        fit(given, distill(), tmp_path)
        compiled = {name.replace("_orig_mod.", ""): value for name, value in weights(module.model).items()}
        for name, value in weights(eager.model).items():
            torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


class FromYaml(Theirs):
    def train_dataloader(self) -> DataLoader[Any]:
        return loader()


def test_named_in_the_yaml_of_their_own_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        """
        trainer:
          max_epochs: 2
          accelerator: cpu
          logger: false
          enable_checkpointing: false
          enable_progress_bar: false
          enable_model_summary: false
          callbacks:
            - class_path: lit_distill.Distill
              init_args:
                teacher: {class_path: lit_distill.models.MLP, init_args: {in_features: 5, hidden: [7], num_classes: 3}}
                criteria: {soft: {class_path: lit_distill.SoftTarget, init_args: {temperature: 2}}}
                weights: {task: 0.5, soft: 0.5}
        """
    )
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", "--config", str(config)])
    cli = LightningCLI(FromYaml, save_config_callback=None, seed_everything_default=1)
    figures = cli.trainer.callback_metrics
    total = 0.5 * figures["distill/criteria/task"] + 0.5 * figures["distill/criteria/soft"]
    assert float(figures["distill/loss"]) == pytest.approx(float(total), rel=1e-5)
