"""The rules that every peer breaks somewhere, one test each."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lit_distill import (
    BatchFormat,
    CombinedDistillation,
    DistillationModule,
    FeatureDistillation,
    HardTarget,
    Hint,
    JointTeacher,
    LogitDistillation,
    SoftTarget,
    SupervisedModule,
)
from lit_distill.models import SmallCNN
from tests.averages import AVERAGES, averaging


class Net(nn.Module):
    """Convolution, BatchNorm and dropout: everything that a mode or a copy can get wrong."""

    def __init__(self, width: int, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(x)).relu().mean((2, 3))))


def loader(samples: int = 32, classes: int = 3, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 1, 6, 6, generator=generator)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=shuffle)


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return Trainer(**(settings | options))


def combined(student: nn.Module | None = None, teacher: Any = None, **options: Any) -> CombinedDistillation:
    return CombinedDistillation(student or Net(4), teacher or Net(6), "conv", "conv", **options)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The teacher ---------------------------------------------------------------------------------------


class TrainsEverything(CombinedDistillation):
    """A user's module that puts everything into train mode, by the hook that Lightning offers for it."""

    def on_validation_model_train(self) -> None:
        self.train()


def test_teacher_is_bit_identical_and_in_eval_mode_in_every_step(tmp_path: Path) -> None:
    teacher = Net(6)
    modes: list[bool] = []
    teacher.norm.register_forward_hook(lambda module, *_: modes.append(module.training or teacher.dropout.training))
    module = TrainsEverything(Net(4), teacher, "conv", "conv")
    before = snapshot(teacher)
    module.train()
    teacher.train()
    module.unfreeze()
    fit = trainer(tmp_path)
    fit.fit(module, loader(), loader(shuffle=False))
    fit.validate(module, loader(shuffle=False), verbose=False)
    fit.predict(module, loader(shuffle=False))
    assert same(before, snapshot(teacher))
    assert modes
    assert not any(modes)
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


def test_teacher_is_in_no_optimizer_state_dict_or_checkpoint(tmp_path: Path) -> None:
    module = combined(teacher=Net(64))
    fit = trainer(tmp_path)
    fit.fit(module, loader())
    path = tmp_path / "made.ckpt"
    fit.save_checkpoint(path)
    held = {id(p) for group in fit.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters() if p.requires_grad}
    assert not held & {id(p) for p in module.teacher.parameters()}
    checkpoint = torch.load(path, weights_only=True)
    assert all(key.startswith(("student.", "criteria.")) for key in checkpoint["state_dict"])
    teacher_sizes = {p.numel() for p in module.teacher.parameters() if p.numel() > 100}
    found = [
        t.numel() for t in _tensors(checkpoint) if t.numel() in teacher_sizes - {p.numel() for p in module.parameters()}
    ]
    assert not found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def test_checkpoint_is_no_larger_than_a_students_alone(tmp_path: Path) -> None:
    student = SmallCNN(16, 3)
    sizes = []
    for name, module in (
        ("alone", SupervisedModule(copy.deepcopy(student))),
        ("distilled", LogitDistillation(student, SmallCNN(64, 3))),
    ):
        fit = trainer(tmp_path, max_epochs=1)
        fit.fit(module, loader())
        fit.save_checkpoint(tmp_path / name)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[1] < 1.05 * sizes[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_teacher_keeps_its_own_type(dtype: torch.dtype) -> None:
    module = combined()
    module.to(dtype)
    assert {p.dtype for p in module.teacher.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_fits_in_the_trainers_precision(tmp_path: Path, precision: Any) -> None:
    fit = trainer(tmp_path, precision=precision)
    fit.fit(combined(), loader(), loader(shuffle=False))
    assert torch.isfinite(fit.callback_metrics["train/loss"])


def test_teacher_runs_once_per_unchanged_validation_batch(tmp_path: Path) -> None:
    teacher = Net(6)
    passes = []
    teacher.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    module = LogitDistillation(Net(4), teacher)
    trainer(tmp_path, max_epochs=4, limit_train_batches=1).fit(module, loader(), loader(samples=40, shuffle=False))
    training = 4 + 1  # a pass an epoch, and the dry run's
    assert len(passes) == 5 + training


def test_teacher_runs_again_where_the_validation_data_change(tmp_path: Path) -> None:
    teacher = Net(6)
    passes = []
    teacher.register_forward_hook(lambda *_: passes.append(1))
    module = LogitDistillation(Net(4), teacher)
    fit = trainer(tmp_path, max_epochs=3, limit_train_batches=1, num_sanity_val_steps=0)
    fit.fit(module, loader(), loader(samples=40, shuffle=True))
    assert len(passes) == 3 * 5 + 3 + 1


def test_teacher_metrics_equal_those_of_the_teacher_alone(tmp_path: Path) -> None:
    teacher = Net(6)
    alone = trainer(tmp_path).validate(SupervisedModule(copy.deepcopy(teacher)), loader(shuffle=False), verbose=False)[
        0
    ]
    fit = trainer(tmp_path)
    fit.fit(LogitDistillation(Net(4), teacher), loader(), loader(shuffle=False))
    for figure in ("accuracy", "calibration_error", "cross_entropy"):
        assert float(fit.callback_metrics[f"val/{figure}/teacher"]) == pytest.approx(alone[f"val/{figure}/student"])


def test_an_untrained_teacher_is_warned_of(tmp_path: Path) -> None:
    teacher = Net(4, classes=3)
    nn.init.zeros_(teacher.head.weight)
    data = TensorDataset(torch.randn(30, 1, 6, 6), torch.arange(30) % 3)
    with pytest.warns(UserWarning, match="near the 33.3% of chance"):
        trainer(tmp_path).fit(LogitDistillation(Net(4), teacher), DataLoader(data, 10), DataLoader(data, 10))


def test_networks_that_share_parameters_are_refused() -> None:
    net = Net(4)
    with pytest.raises(ValueError, match="copy.deepcopy"):
        LogitDistillation(net, net)
    student, teacher = Net(4), Net(4)
    teacher.head = student.head
    with pytest.raises(ValueError, match=r"shares 2 parameters with the student \(head.weight"):
        LogitDistillation(student, JointTeacher(teacher))


# What trains ---------------------------------------------------------------------------------------


def test_every_projector_trains(tmp_path: Path) -> None:
    module = combined()
    fit = trainer(tmp_path, max_epochs=1)

    class Start(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.weights = snapshot(pl_module.criteria)

    start = Start()
    fit.callbacks.append(start)
    fit.fit(module, loader())
    after = module.criteria.state_dict()
    assert set(after) == {"hint.projectors.0.linear.weight", "hint.projectors.0.linear.bias"}
    assert all(not torch.equal(start.weights[name], after[name]) for name in after)


def test_weight_zero_reproduces_the_baseline_bit_for_bit(tmp_path: Path) -> None:
    students = []
    for make in (
        lambda s: SupervisedModule(s),
        lambda s: combined(s, weights={"hard": 1.0, "soft": 0.0, "hint": 0.0}),
    ):
        seed_everything(1)
        student = Net(4)
        seed_everything(2)
        module = make(student)
        seed_everything(3)
        trainer(tmp_path).fit(module, loader(), loader(shuffle=False))
        students.append(snapshot(student))
    assert same(*students)


def test_a_student_in_eval_mode_is_trained_in_train_mode_without_a_warning(tmp_path: Path) -> None:
    student = Net(4).eval()
    modes = []
    student.dropout.register_forward_hook(lambda module, *_: modes.append(module.training))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*in eval mode.*")
        trainer(tmp_path).fit(LogitDistillation(student, Net(6)), loader())
    assert all(modes[1:])  # the first pass is the dry run's
    assert len(modes) == 9


def test_a_parameter_outside_the_optimizer_is_an_error(tmp_path: Path) -> None:
    class Forgetful(CombinedDistillation):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.student.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="2 trainable parameters are in no optimizer: criteria.hint.projectors"):
        trainer(tmp_path).fit(Forgetful(Net(4), Net(6), "conv", "conv"), loader())


def test_clipping_accumulation_and_schedule_are_the_trainers(tmp_path: Path) -> None:
    schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    module = combined(optimizer=partial(torch.optim.SGD, lr=0.1), lr_scheduler=schedule)
    fit = trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.1)
    fit.fit(module, loader())
    assert fit.global_step == 4
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize("follow", [False, True])
def test_matching_pulls_a_joint_teacher_only_when_asked(tmp_path: Path, follow: bool) -> None:
    """Its own loss has no gradient here (weight near 0), so that what is left comes from the matching."""
    teacher = Net(6)
    module = FeatureDistillation(
        Net(4),
        JointTeacher(teacher, follow=follow, weight=1e-30),
        "conv",
        "conv",
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    before = snapshot(teacher.conv)
    fit = trainer(tmp_path, max_epochs=1, gradient_clip_val=1.0, accumulate_grad_batches=2, precision="bf16-mixed")
    fit.fit(module, loader())
    assert same(before, snapshot(teacher.conv)) is not follow


def test_a_joint_teacher_trains_is_saved_and_is_measured_every_epoch(tmp_path: Path) -> None:
    teacher = Net(6)
    before = snapshot(teacher)
    module = FeatureDistillation(Net(4), JointTeacher(teacher), "conv", "conv")
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(module, loader(), loader(shuffle=False))
    assert not same(before, snapshot(teacher))
    assert {"train/teacher_loss", "val/accuracy/teacher"} <= set(fit.callback_metrics)
    fit.save_checkpoint(tmp_path / "joint.ckpt")
    saved = torch.load(tmp_path / "joint.ckpt", weights_only=True)["state_dict"]
    assert {f"joint_teacher.{name}" for name in teacher.state_dict()} <= set(saved)


def test_a_compiled_student_gives_the_eager_students_weights(tmp_path: Path) -> None:
    weights = []
    for compiled in (False, True):
        seed_everything(0)
        module = combined()
        if compiled:
            module.student.compile(backend="aot_eager")
            module.teacher.compile(backend="aot_eager")
        module.student.dropout.p = 0.0
        trainer(tmp_path, max_epochs=1).fit(module, loader(shuffle=False), loader(shuffle=False))
        weights.append(snapshot(module.student))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-5)


# Checkpoints ---------------------------------------------------------------------------------------


class Stop(Callback):
    """Ends a run as a crash would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


KINDS = ["plain", *AVERAGES]


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact_and_strict(tmp_path: Path, kind: str) -> None:
    finals = []
    for interrupted in (False, True):
        folder = tmp_path / str(interrupted)
        save = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
        options = {"max_epochs": 4, "enable_checkpointing": True}
        if interrupted:
            seed_everything(5)
            first = trainer(tmp_path, callbacks=[save, *averaging(kind), Stop(2)], **options)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                first.fit(combined(), loader(), loader(shuffle=False))
            save = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
        seed_everything(5)
        module = combined()
        path = folder / "last.ckpt" if interrupted else None
        fit = trainer(tmp_path, callbacks=[save, *averaging(kind)], **options)
        fit.fit(module, loader(), loader(shuffle=False), ckpt_path=path)
        finals.append(snapshot(module))
    assert same(*finals)


@pytest.mark.parametrize("kind", KINDS)
def test_averaging_never_copies_the_teacher(tmp_path: Path, kind: str) -> None:
    save = ModelCheckpoint(tmp_path, filename="last")
    options = {"max_epochs": 3, "enable_checkpointing": True}
    fit = trainer(tmp_path, callbacks=[save, *averaging(kind)], **options)
    fit.fit(combined(teacher=Net(37)), loader(), loader(shuffle=False))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [t for t in _tensors(checkpoint) if 37 in t.shape and t.dim() == 4 and t.shape[1] == 1]
    tested = fit.test(ckpt_path="best", dataloaders=loader(shuffle=False), verbose=False)
    assert "test/accuracy/teacher" in tested[0]


@pytest.mark.filterwarnings("ignore:this run differs")
def test_a_missing_student_key_fails_to_resume(tmp_path: Path) -> None:
    fit = trainer(tmp_path)
    fit.fit(combined(), loader())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["state_dict"]["student.conv.weight"]
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(RuntimeError, match=r"student\.conv\.weight"):
        trainer(tmp_path).fit(combined(), loader(), ckpt_path=tmp_path / "b.ckpt")


def test_a_python_made_module_loads_without_data_or_warning(tmp_path: Path) -> None:
    teacher = Net(6)
    module = combined(teacher=teacher, temperature=2.0, weights={"soft": 0.5})
    fit = trainer(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*save_hyperparameters.*")
        fit.fit(module, loader())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    loaded = CombinedDistillation.load_from_checkpoint(tmp_path / "a.ckpt", student=Net(4), teacher=teacher)
    assert same(snapshot(module), snapshot(loaded))
    assert loaded.criteria.weights == {"hard": 0.1, "soft": 0.5, "hint": 1.0}
    assert loaded.criteria["soft"].temperature == 2.0
    assert loaded.criteria["hint"].student_layers == ("conv",)


def test_hyperparameters_are_plain(tmp_path: Path) -> None:
    module = combined()
    fit = trainer(tmp_path)
    fit.fit(module, loader())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["student_class"].endswith("Net")
    assert saved["criteria_settings"]["soft"]["temperature"] == 4.0


def test_a_foreign_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    fit = trainer(tmp_path)
    fit.fit(combined(), loader())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["lit_distill"]
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"was not made by lit-distill.*lit_distill\.models\.load"):
        trainer(tmp_path).fit(combined(), loader(), ckpt_path=tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="criteria hard .*this run has hard .HardTarget., soft .SoftTarget.;"):
        trainer(tmp_path).fit(LogitDistillation(Net(4), Net(6)), loader(), ckpt_path=tmp_path / "a.ckpt")


def test_validating_first_then_fitting_trains(tmp_path: Path) -> None:
    """What evaluation remembers in inference mode must not reach the student's graph."""
    module = combined()
    fit = trainer(tmp_path)
    fit.validate(module, loader(shuffle=False), verbose=False)
    fit.fit(module, loader(shuffle=False), loader(shuffle=False))
    assert fit.global_step == 8


# Logs ----------------------------------------------------------------------------------------------


def test_every_criterion_is_logged_raw_and_weighted(tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(combined(), loader(), loader(shuffle=False))
    logs = {name: float(value) for name, value in fit.callback_metrics.items()}
    for name, weight in {"hard": 0.1, "soft": 0.9, "hint": 1.0}.items():
        assert logs[f"train/weighted/{name}"] == pytest.approx(weight * logs[f"train/criteria/{name}"], rel=1e-5)
        assert logs[f"train/weight/{name}"] == pytest.approx(weight)
    total = sum(logs[f"train/weighted/{name}"] for name in ("hard", "soft", "hint"))
    assert logs["train/loss"] == pytest.approx(total, rel=1e-5)
    assert logs["train/temperature/soft"] == 4.0
    assert logs["train/learning_rate"] == pytest.approx(1e-3)
    expected = {
        f"val/{f}/{who}" for f in ("accuracy", "calibration_error", "cross_entropy") for who in ("student", "teacher")
    }
    assert expected | {"val/agreement", "val/kl_divergence"} <= set(logs)
    assert logs["hp_metric"] == logs["val/accuracy/student"]


def test_a_teacher_of_other_classes_teaches_features(tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(FeatureDistillation(Net(4), Net(6, classes=7), "conv", "conv"), loader(), loader(shuffle=False))
    assert "val/accuracy/student" in fit.callback_metrics
    assert not {"val/accuracy/teacher", "val/agreement"} & set(fit.callback_metrics)


def test_a_label_criterion_of_weight_0_lets_unlabelled_data_pass(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.randn(16, 1, 6, 6)), batch_size=8)
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(LogitDistillation(Net(4), Net(6), weights={"hard": 0.0}), data)
    assert "train/criteria/soft" in fit.callback_metrics
    assert "train/criteria/hard" not in fit.callback_metrics


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda own: LogitDistillation(Net(4), Net(6), **own, temperature=2.0), "temperature belong"),
        (
            lambda own: CombinedDistillation(Net(4), Net(6), "conv", "conv", **own),
            "student_layer and teacher_layer belong",
        ),
        (lambda own: FeatureDistillation(Net(4), Net(6), "conv", **own), "student_layer belong"),
    ],
)
def test_settings_of_criteria_that_were_replaced_are_refused(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make({"criteria": {"hard": HardTarget()}, "weights": {"hard": 1.0}})


def test_several_validation_loaders_are_told_apart(tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(combined(), loader(), [loader(shuffle=False), loader(16, shuffle=False)])
    assert {"val/agreement/loader_0", "val/agreement/loader_1"} <= set(fit.callback_metrics)


# Data of every form --------------------------------------------------------------------------------


class Dicts(Dataset[dict[str, Tensor]]):
    def __init__(self, input_key: str, target_key: str | None) -> None:
        self.keys = (input_key, target_key)

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, label = torch.randn(1, 6, 6), torch.tensor(index % 3)
        return {key: value for key, value in zip(self.keys, (image, label), strict=True) if key}


@pytest.mark.parametrize(
    ("keys", "batch_format"),
    [(("image", "label"), None), (("photo", "kind"), BatchFormat(input_key="photo", target_key="kind"))],
)
def test_dict_batches(tmp_path: Path, keys: tuple[str, str], batch_format: BatchFormat | None) -> None:
    data = DataLoader(Dicts(*keys), batch_size=8)
    fit = trainer(tmp_path, max_epochs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batch_size.*")
        fit.fit(combined(batch_format=batch_format), data, data)
    assert "val/accuracy/student" in fit.callback_metrics


@pytest.mark.parametrize("form", ["tensor", "list", "dict"])
def test_unlabelled_data_train_on_soft_targets_alone(tmp_path: Path, form: str) -> None:
    images = torch.randn(16, 1, 6, 6)
    data: Any = {
        "tensor": DataLoader(list(images), batch_size=8),
        "list": DataLoader(TensorDataset(images), batch_size=8),
        "dict": DataLoader(Dicts("image", None), batch_size=8),
    }[form]
    module = LogitDistillation(Net(4), Net(6), criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(module, data, data)
    assert {"val/agreement", "val/kl_divergence"} <= set(fit.callback_metrics)
    assert "val/accuracy/student" not in fit.callback_metrics
    with pytest.raises(ValueError, match="criterion 'hard' .HardTarget. needs labels"):
        trainer(tmp_path).fit(LogitDistillation(Net(4), Net(6)), data)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_other_tasks(tmp_path: Path, task: Any) -> None:
    classes = 1 if task == "binary" else 4
    targets = torch.randint(0, 2, (16, classes)).float()
    data = DataLoader(TensorDataset(torch.randn(16, 1, 6, 6), targets), batch_size=8)
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(combined(Net(4, classes), Net(6, classes), task=task), data, data)
    assert 0 <= fit.callback_metrics["val/accuracy/student"] <= 1
    with pytest.raises(ValueError, match="criterion 'a' .SoftTarget. is for the task 'multiclass'"):
        LogitDistillation(Net(4), Net(6), {"a": SoftTarget()}, {"a": 1.0}, task=task)


# Mistakes, found before the first batch ------------------------------------------------------------


class Never(Callback):
    """Fails the test if training starts."""

    def on_train_batch_start(self, *_: Any) -> None:
        raise AssertionError("the first batch was reached")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FeatureDistillation(Net(4), Net(6), "conf", "conv"),
            "no layer 'conf' in the student Net; did you mean 'conv'",
        ),
        (
            lambda: FeatureDistillation(Net(4), Net(6), "conv", "layer5"),
            "no layer 'layer5' in the teacher Net.*Layers: conv, norm",
        ),
        (
            lambda: LogitDistillation(Net(4), Net(6, classes=5)),
            "criterion 'soft'.*student has 3 classes and the teacher 5",
        ),
        (
            lambda: FeatureDistillation(Net(4), Net(6), "*", "conv"),
            "criterion 'hint'.*4 student layers .*1 teacher layers",
        ),
        (lambda: FeatureDistillation(Net(4), Net(6), "head", "conv"), "criterion 'hint'.*a student vector"),
        (lambda: combined(weights={"soft": -1.0}), "weight of criterion 'soft' must be finite and at least 0"),
        (lambda: combined(weights={"sof": 1.0}), "unknown criterion 'sof'.*Did you mean 'soft'"),
        (lambda: combined(temperature=0.0), "temperature must be above 0"),
        (
            lambda: LogitDistillation(Net(4), Net(6), {"a": Hint("conv", "conv")}, {"a": 1.0}),
            "use CombinedDistillation",
        ),
        (
            lambda: FeatureDistillation(Net(4), Net(6), criteria={"a": SoftTarget()}, weights={"a": 1.0}),
            "use LogitDistillation",
        ),
        (
            lambda: FeatureDistillation(
                Net(4), Net(6), criteria={"a": SoftTarget(), "b": Hint("conv", "conv")}, weights={"a": 1.0, "b": 1.0}
            ),
            "'a' compares logits; use CombinedDistillation",
        ),
        (
            lambda: CombinedDistillation(Net(4), Net(6), criteria={"b": Hint("conv", "conv")}, weights={"b": 1.0}),
            "use FeatureDistillation",
        ),
        (lambda: LogitDistillation(Net(4), Net(6), task="ranking"), "task must be one of"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_found_before_the_first_batch(
    tmp_path: Path, make: Callable[[], DistillationModule], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, callbacks=[Never()]).fit(make(), loader())


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.long)))
    with pytest.raises(ValueError, match="training data set .TensorDataset. is empty"):
        trainer(tmp_path).fit(combined(), empty)


def test_a_loss_that_is_not_finite_names_criterion_and_step_and_saves_the_weights(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                self.before = snapshot(pl_module)
                batch[1].fill_(0)
                batch[0].fill_(float("nan"))

    poison = Poison()
    module = combined()
    with pytest.raises(FloatingPointError, match="at step 2: 'hard' is nan; 'soft' is nan; 'hint' is nan"):
        trainer(tmp_path, callbacks=[poison]).fit(module, loader())
    learned = {name: value for name, value in snapshot(module).items() if "norm" not in name}
    assert all(torch.equal(poison.before[name], value) for name, value in learned.items())
