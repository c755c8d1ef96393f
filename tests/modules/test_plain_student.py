"""After a run both networks are plain modules: they are saved, scripted, traced and exported without this package."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    CombinedDistillation,
    Distill,
    EMATeacher,
    FeatureDistillation,
    FrozenTeacher,
    Hint,
    JointTeacher,
    LogitDistillation,
    MultiTaskDistillation,
    MutualDistillation,
    RecordedTeacher,
    SelfDistillation,
    SupervisedModule,
    TeacherRuntime,
)
from lit_distill.capture.capture import is_compiled
from lit_distill.engine import acceleration
from lit_distill.modules import DistillationModule

CONV = "0"

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated"),
    pytest.mark.filterwarnings("ignore:the teacher's accuracy.*chance"),  # the teachers here were never trained
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),  # moving averages, and students by hand
]


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1),
        nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    )


def data(tasks: bool = False) -> DataLoader[Any]:
    labels = torch.arange(12) % 3
    rows = TensorDataset(torch.randn(12, 2, 6, 6), labels)
    if not tasks:
        return DataLoader(rows, batch_size=4)
    return DataLoader(rows, batch_size=4, collate_fn=_by_task)  # type: ignore[arg-type]


def _by_task(samples: Any) -> Any:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), {"a": torch.stack(labels)}


Make = Callable[[], DistillationModule]
MODULES: dict[str, Make] = {
    "logit": lambda: LogitDistillation(net(), net(8)),
    "feature": lambda: FeatureDistillation(net(), net(8), CONV, CONV),
    "combined": lambda: CombinedDistillation(net(), net(8), student_layer=CONV, teacher_layer=CONV),
    "combined, of what enters": lambda: FeatureDistillation(net(), net(8), "4:input", "4:input"),
    "multitask": lambda: MultiTaskDistillation(net(), {"a": "4"}, net(8)),
    "mutual": lambda: MutualDistillation([net(), net(5)]),
    "self": lambda: SelfDistillation(net(), CONV),
    "supervised": lambda: SupervisedModule(net()),
    "joint teacher": lambda: FeatureDistillation(net(), JointTeacher(net(8)), CONV, CONV),
    "moving average": lambda: FeatureDistillation(net(), EMATeacher(), CONV, CONV),
    "recorded": lambda: FeatureDistillation(net(), RecordedTeacher(net(8)), CONV, CONV),
    "runtime": lambda: FeatureDistillation(
        net(), FrozenTeacher(net(8), TeacherRuntime(channels_last=True)), CONV, CONV
    ),
    "fast": lambda: FeatureDistillation(net(), net(8), CONV, CONV, fast=True),
    "fast, logit": lambda: LogitDistillation(net(), net(8), fast=True),
}


@pytest.fixture(autouse=True)
def _compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile without a compiler, and leave the process's allocator alone."""
    monkeypatch.setattr(acceleration, "tune_malloc", lambda: True)
    monkeypatch.setattr(acceleration, "why_not_compile", lambda device: None)
    for place in ("lit_distill.engine.acceleration", "lit_distill.teachers.runtime.prepared"):
        monkeypatch.setattr(f"{place}.compile_in_place", lambda model: model.compile(backend="eager"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def hooks(*networks: nn.Module | None) -> int:
    modules = [module for network in networks if network is not None for module in network.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def left_behind(network: nn.Module) -> list[str]:
    """Name the attributes of a network's modules that hold hooks of any kind, or a compiled call."""
    found = [(path, name, value) for path, one in network.named_modules() for name, value in vars(one).items()]
    return [f"{path}.{name}" for path, name, value in found if ("hooks" in name and value) or "compiled" in name]


def assert_plain(module: DistillationModule) -> None:
    assert left_behind(module.student) == []
    assert hooks(module.student, module.teacher) == 0
    assert not is_compiled(module.student)
    for tensor in (*module.student.parameters(), *module.student.buffers()):
        assert tensor.stride() == torch.empty(tensor.shape).stride()  # `is_contiguous` overlooks 1x1 convolutions
        assert tensor.grad is None or tensor.grad.stride() == torch.empty(tensor.shape).stride()


def run(trainer: Trainer, module: DistillationModule, verb: str = "fit") -> None:
    tasks = isinstance(module, MultiTaskDistillation)
    loaders = (data(tasks), data(tasks)) if verb == "fit" else (data(tasks),)
    getattr(trainer, verb)(module, *loaders)


@pytest.mark.parametrize("kind", MODULES)
def test_the_student_of_a_fit_is_saved_scripted_traced_and_exported(
    quick_trainer: Callable[..., Trainer], kind: str, tmp_path: Path
) -> None:
    module = MODULES[kind]()
    assert hooks(module.student, module.teacher) == 0
    run(quick_trainer(max_epochs=2), module)
    assert_plain(module)
    students = list(module.student.children()) if kind == "mutual" else [module.student]
    images = torch.randn(4, 2, 6, 6)
    for student in students:
        student.eval()
        expected = student(images)
        torch.save(student, tmp_path / "student.pt")
        torch.save((images, expected), tmp_path / "expected.pt")
        assert b"lit_distill" not in (tmp_path / "student.pt").read_bytes()
        for shipped in (
            torch.load(tmp_path / "student.pt", weights_only=False),
            copy.deepcopy(student),
            torch.jit.script(student),
            torch.jit.trace(student, images),
            torch.export.export(student, (images,)).module(),
        ):
            torch.testing.assert_close(shipped(images), expected)


@pytest.mark.slow
def test_what_is_saved_loads_where_this_package_is_not(quick_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    module = MODULES["combined"]()
    run(quick_trainer(), module)
    module.student.eval()
    images = torch.randn(4, 2, 6, 6)
    torch.save(module.student, tmp_path / "student.pt")
    torch.save((images, module.student(images)), tmp_path / "expected.pt")
    script = """
import sys
sys.modules["lit_distill"] = None  # importing it fails
import torch
student = torch.load("student.pt", weights_only=False)
images, expected = torch.load("expected.pt")
assert torch.equal(student(images), expected)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", MODULES)
def test_a_second_use_reads_the_layers_again(quick_trainer: Callable[..., Trainer], kind: str) -> None:
    torch.manual_seed(5)
    module = MODULES[kind]()
    once = copy.deepcopy(module)
    batch = next(iter(data(isinstance(module, MultiTaskDistillation))))
    for verb in ("validate", "test", "predict"):
        run(quick_trainer(), module, verb)
        assert_plain(module)
    run(quick_trainer(), module)
    run(quick_trainer(), module)
    assert_plain(module)
    run(quick_trainer(), once)
    trainer = quick_trainer()
    trainer.fit(once, data(isinstance(module, MultiTaskDistillation)))
    assert trainer.callback_metrics.keys() >= {"train/loss"}
    module._trainer = None
    captured = module.distiller.capture.run(module._read_training(batch).inputs)
    assert list(captured.features) == module.distiller.capture.layers


def test_a_training_step_by_hand_puts_the_hooks_back(quick_trainer: Callable[..., Trainer]) -> None:
    module = MODULES["feature"]()
    trainer = quick_trainer()
    run(trainer, module)
    module._trainer = trainer
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    loss = module.training_step(next(iter(data())), 0)
    assert loss.requires_grad
    module.leave_plain()
    assert_plain(module)


class Fails(Callback):
    def on_train_batch_end(self, *rest: Any) -> None:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("kind", ["combined", "recorded", "fast"])
def test_a_fit_that_ends_by_an_error_leaves_plain_modules(quick_trainer: Callable[..., Trainer], kind: str) -> None:
    module = MODULES[kind]()
    with pytest.raises(RuntimeError, match="on purpose"):
        run(quick_trainer(callbacks=[Fails()]), module)
    assert_plain(module)
    run(quick_trainer(), module)


def test_a_student_that_is_channels_last_stays_so(quick_trainer: Callable[..., Trainer]) -> None:
    module = MODULES["fast"]()
    module.student.to(memory_format=torch.channels_last)
    run(quick_trainer(), module)
    assert module.student[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not module.student[0].weight.is_contiguous()


def test_hooks_do_not_pile_up_on_a_teacher_that_many_students_have(quick_trainer: Callable[..., Trainer]) -> None:
    teacher = net(8)
    own: list[int] = []
    teacher[0].register_forward_hook(lambda module, args, output: own.append(1))
    for _ in range(3):
        run(quick_trainer(), FeatureDistillation(net(), teacher, CONV, CONV))
        assert hooks(teacher) == 1  # the user's
    assert own


class Own(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = net()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_neither_network_keeps_hooks_after_a_fit_with_the_callback(quick_trainer: Callable[..., Trainer]) -> None:
    teacher, module = net(8), Own()
    for _ in range(2):
        distill = Distill(teacher, {"hint": Hint(CONV, CONV)}, {"hint": 1.0})
        quick_trainer(callbacks=[distill]).fit(module, data())
        assert hooks(teacher, module) == 0
