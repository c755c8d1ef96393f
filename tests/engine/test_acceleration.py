"""The `fast` switch: the same training, quicker, and evaluation as it was."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    FeatureDistillation,
    FrozenTeacher,
    JointTeacher,
    LogitDistillation,
    SupervisedModule,
    TeacherRuntime,
)
from lit_distill.capture.capture import is_compiled
from lit_distill.engine import acceleration
from lit_distill.engine.acceleration import Acceleration, runtimes_for, tune_malloc
from lit_distill.models import MLP, SmallCNN
from lit_distill.teachers import Teacher

CPU = torch.device("cpu")
FOLDED = TeacherRuntime(channels_last=True, fold_batch_norm=True, compile=True)
UNFOLDED = TeacherRuntime(channels_last=True, compile=True)


class Untraceable(nn.Module):
    """Its way depends on its values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallCNN(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x if x.sum() > 1e9 else 1 * x)


class Graphs:
    """A backend that counts the graphs that it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, example: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the test process's own allocator alone."""
    monkeypatch.setattr(acceleration, "tune_malloc", lambda: True)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Compile by the counting backend; two networks count apart, as each has its own code."""
    backend = Graphs()
    for place in ("lit_distill.engine.acceleration", "lit_distill.teachers.runtime.prepared"):
        monkeypatch.setattr(f"{place}.compile_in_place", lambda model: model.compile(backend=backend))
    monkeypatch.setattr(acceleration, "why_not_compile", lambda device: None)
    return backend


def cpu_with(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    monkeypatch.setattr(acceleration, "_cpu_has", lambda test: any(feature in test for feature in features))


def data(samples: int = 20, batch_size: int = 8, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(samples) % 10), batch_size=batch_size, shuffle=shuffle)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def twins(teacher: nn.Module | None = None) -> tuple[SmallCNN, nn.Module]:
    torch.manual_seed(0)
    return SmallCNN(2), teacher or SmallCNN(4)


def fitted(trainer: Trainer, teacher: Any, fast: bool, student: nn.Module, **options: Any) -> tuple[Any, list[Tensor]]:
    """Fit with a shuffled loader whose last batch is incomplete; the losses of all steps."""
    module = LogitDistillation(student, teacher, optimizer=sgd, fast=fast, **options)
    losses: list[Tensor] = []
    step = module.training_step

    def remembering(batch: Any, batch_idx: int) -> Tensor:
        losses.append(step(batch, batch_idx))
        return losses[-1]

    module.training_step = remembering  # type: ignore[method-assign]
    torch.manual_seed(1)
    trainer.fit(module, data(), data(shuffle=False))
    return module, [loss.detach() for loss in losses]


def test_off_by_default_and_then_nothing_happens(quick_trainer: Callable[..., Trainer]) -> None:
    student, teacher = twins()
    module, _ = fitted(quick_trainer(), teacher, False, student)
    assert not module._acceleration.on
    assert module._teacher.runtime is None
    assert not is_compiled(student)


def test_equals_the_plain_training(
    quick_trainer: Callable[..., Trainer], graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_with(monkeypatch)
    student, teacher = twins()
    plain, expected = fitted(quick_trainer(max_epochs=2), copy.deepcopy(teacher), False, copy.deepcopy(student))
    trainer = quick_trainer(max_epochs=2)
    fast, got = fitted(trainer, teacher, True, student)
    assert fast._teacher.runtime == FOLDED
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    for a, b in zip(fast.student.parameters(), plain.student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    # One graph each: none for the incomplete batch, none for evaluation.
    assert graphs.count == 2
    trainer.validate(fast, data(shuffle=False), verbose=False)
    trainer.predict(fast, data(shuffle=False))
    assert graphs.count == 2
    assert not is_compiled(fast.student)


def test_evaluation_during_a_fit_is_eager_and_exact(
    quick_trainer: Callable[..., Trainer], graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_with(monkeypatch, "amx")
    student, teacher = twins()
    module = LogitDistillation(student, teacher, optimizer=sgd, fast=True)
    seen = []

    def remember(layer: nn.Module, args: Any, output: Tensor) -> None:
        if not layer.training:
            seen.append((torch.compiler.is_compiling(), output.dtype))

    student.classifier.register_forward_hook(remember)
    quick_trainer().fit(module, data(), data(shuffle=False))
    assert len(seen) >= 5
    assert set(seen) == {(False, torch.float32)}


def compiled_for_real(quick_trainer: Callable[..., Trainer]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The losses of a compiled and of a plain fit, and how far apart what they learned is, tensor by tensor."""
    torch.manual_seed(0)
    student, teacher = MLP(64, (4,)), MLP(64, (6,))
    start = [parameter.detach().clone() for parameter in student.parameters()]
    runtime = TeacherRuntime(batch_size=4)
    plain, expected = fitted(quick_trainer(), copy.deepcopy(teacher), False, copy.deepcopy(student))
    fast, got = fitted(quick_trainer(), FrozenTeacher(teacher, runtime), True, student)
    assert fast._teacher.runtime == runtime  # the one given stays
    trained = zip(fast.student.parameters(), plain.student.parameters(), start, strict=True)
    return got, expected, [(a - b).norm() / (b - before).norm() for a, b, before in trained]


def test_compiled_for_real(quick_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch)  # in float32, whatever this CPU multiplies in
    got, expected, apart = compiled_for_real(quick_trainer)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert max(apart) < 1e-4


def test_compiled_for_real_in_bfloat16(quick_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch, "amx")
    got, expected, apart = compiled_for_real(quick_trainer)
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-3)  # bfloat16 keeps 8 bits
    assert max(apart) < 0.1


def test_bfloat16_compiled_in_channels_last_trains_as_float32(
    quick_trainer: Callable[..., Trainer], graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = twins()
    _, expected = fitted(quick_trainer(max_epochs=2), copy.deepcopy(teacher), False, copy.deepcopy(student))
    cpu_with(monkeypatch, "amx")
    module, got = fitted(quick_trainer(max_epochs=2), teacher, True, student)
    assert module._teacher.runtime.precision == "bf16"
    torch.testing.assert_close(got, expected, rtol=3e-2, atol=1e-3)


@pytest.mark.slow
def test_bfloat16_only_where_the_hardware_multiplies_in_it(
    quick_trainer: Callable[..., Trainer], graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def types(precision: Any, *features: str) -> set[torch.dtype]:
        cpu_with(monkeypatch, *features)
        student, teacher = twins()
        found: set[torch.dtype] = set()
        student.classifier.register_forward_hook(
            lambda layer, args, output: found.add(output.dtype) if layer.training and len(output) > 2 else None
        )
        _, losses = fitted(quick_trainer(precision=precision), teacher, True, student)
        assert all(torch.isfinite(loss) for loss in losses)
        torch._dynamo.reset()
        return found

    assert types("32-true", "amx") == {torch.bfloat16}
    assert types("32-true", "vnni") == {torch.float32}
    assert types("64-true", "amx", "vnni") == {torch.float64}


@pytest.mark.parametrize(
    ("features", "network", "expected"),
    [
        (("vnni",), SmallCNN(4), TeacherRuntime("int8")),
        (("vnni",), Untraceable(), UNFOLDED),
        ((), SmallCNN(4), FOLDED),
        (("amx",), SmallCNN(4), TeacherRuntime("bf16", True, True, True)),
    ],
    ids=["VNNI", "VNNI, untraceable", "plain", "AMX"],
)
def test_the_teachers_runtime(
    quick_trainer: Callable[..., Trainer],
    graphs: Graphs,
    monkeypatch: pytest.MonkeyPatch,
    features: tuple[str, ...],
    network: nn.Module,
    expected: TeacherRuntime,
) -> None:
    cpu_with(monkeypatch, *features)
    said: list[str] = []
    monkeypatch.setattr(acceleration, "rank_zero_info", said.append)
    student, _ = twins()
    torch.manual_seed(0)
    _, plain = fitted(quick_trainer(), copy.deepcopy(network), False, copy.deepcopy(student))
    module, got = fitted(quick_trainer(), copy.deepcopy(network), True, student)
    assert module._teacher.runtime == expected
    torch.testing.assert_close(got, plain, rtol=3e-2, atol=1e-3)
    bf16 = "on" if "amx" in features else "off: no AMX"
    assert said == [f"fast: teacher in {expected.describe()}; student compiled; bf16 autocast {bf16}."]
    # A second fit chooses again.
    quick_trainer().fit(module, data())
    assert module._teacher.runtime == expected


def test_runtimes_of_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for supported, half in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        (runtime,) = runtimes_for(cuda)
        assert (runtime.precision, runtime.compile) == (half, True)
    assert runtimes_for(torch.device("mps")) == [TeacherRuntime(channels_last=True)]
    cpu_with(monkeypatch, "amx", "vnni")
    assert [runtime.precision for runtime in runtimes_for(CPU)] == ["int8", "bf16", "bf16"]
    assert {runtime.precision for runtime in runtimes_for(CPU, "64-true")} == {"32"}
    assert not any(runtime.compile for runtime in runtimes_for(CPU, compiled=False))


def test_a_teacher_that_trains_is_left_as_it_is(quick_trainer: Callable[..., Trainer], graphs: Graphs) -> None:
    student, network = twins()
    teacher: Teacher = JointTeacher(network)
    module = FeatureDistillation(student, teacher, "stage1.0", "stage1.0", fast=True)
    before = copy.deepcopy(network.state_dict())
    quick_trainer().fit(module, data())
    assert graphs.count == 1  # the student's
    assert not is_compiled(network)
    assert not torch.equal(before["classifier.weight"], network.state_dict()["classifier.weight"])


def test_training_without_a_teacher(quick_trainer: Callable[..., Trainer], graphs: Graphs) -> None:
    module = SupervisedModule(SmallCNN(2), fast=True)
    quick_trainer().fit(module, data(), data(shuffle=False))
    assert graphs.count == 1


def test_without_a_compiler_it_warns_and_trains(
    quick_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_with(monkeypatch)
    monkeypatch.setattr(acceleration, "why_not_compile", lambda device: "no working C++ compiler found")
    student, teacher = twins()
    with pytest.warns(UserWarning, match="nothing is compiled.*no working C\\+\\+ compiler found"):
        module, losses = fitted(quick_trainer(), teacher, True, student)
    assert module._teacher.runtime == TeacherRuntime(channels_last=True, fold_batch_norm=True)
    assert not is_compiled(student)
    assert all(torch.isfinite(loss) for loss in losses)


def test_why_not_compile_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_distill.utils import compiling

    def refuse(function: Any) -> Any:
        raise RuntimeError("no compiler\nmore lines")

    monkeypatch.setattr(torch, "compile", refuse)
    assert compiling.why_not_compile(CPU) == "no compiler"


def test_a_student_that_is_compiled_already_stays_so(quick_trainer: Callable[..., Trainer], graphs: Graphs) -> None:
    student, teacher = twins()
    own = Graphs()
    module = LogitDistillation(student, JointTeacher(teacher), fast=True)
    student.compile(backend=own)
    quick_trainer().fit(module, data())
    assert own.count
    assert graphs.count == 0
    assert is_compiled(student)


def test_malloc_is_tuned_on_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            calls.append((option, value))
            return 1

    monkeypatch.setattr(acceleration.ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(sys, "platform", "linux")
    assert tune_malloc()
    assert calls == [(-3, 32 * 1024**2), (-1, 2**31 - 1)]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not tune_malloc()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(acceleration.ctypes, "CDLL", lambda name: object())  # musl has no mallopt
    assert not tune_malloc()


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize(("device", "tuned"), [("cpu", 1), ("meta", 0)])
def test_malloc_is_tuned_for_every_fit_on_the_cpu(
    on: bool, device: str, tuned: int, monkeypatch: pytest.MonkeyPatch, graphs: Graphs
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(acceleration, "tune_malloc", lambda: calls.append(1))
    Acceleration(on).start(SmallCNN(2), None, torch.device(device), "32-true")
    assert len(calls) == tuned


def test_a_copy_of_the_switch_is_its_own() -> None:
    first = Acceleration(True)
    second = copy.deepcopy(first)
    second.on = False
    assert first.on


def test_from_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphs: Graphs) -> None:
    from lit_distill.cli.command import main

    monkeypatch.chdir(tmp_path)
    model = "lit_distill.models.SmallCNN"
    config = {
        "model": {
            "class_path": "lit_distill.LogitDistillation",
            "init_args": {
                "fast": True,
                "student": {"class_path": model, "init_args": {"width": 2}},
                "teacher": {
                    "class_path": "lit_distill.FrozenTeacher",
                    "init_args": {
                        "model": {"class_path": model, "init_args": {"width": 4}},
                        "runtime": {"precision": "bf16", "batch_size": 64},
                    },
                },
            },
        },
        "data": {"class_path": "lit_distill.data.Digits"},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "limit_val_batches": 1, "enable_progress_bar": False},
    }
    Path("fast.yaml").write_text(yaml.safe_dump(config))
    modules: list[Any] = []
    monkeypatch.setattr(acceleration.Acceleration, "report", lambda self, teacher: modules.append(teacher))
    main(["fit", "--config", "fast.yaml"])
    assert modules[0].runtime == TeacherRuntime("bf16", batch_size=64)
    assert graphs.count == 1
