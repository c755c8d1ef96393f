"""Gradients that are what they seem: of compiled networks, measured, kept apart and recomputed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import CombinedDistillation, Distill, HardTarget, Hint, SoftTarget
from lit_distill.balance import GradientNorm, Uncertainty
from lit_distill.capture.capture import Capture
from lit_distill.engine import acceleration
from lit_distill.optim import DOT
from lit_distill.utils.compiling import compile_in_place
from tests.criteria.all_cases import CASES
from tests.promises.conftest import Tally

PROMISE = "fast gives the plain gradients"
IMAGES, LABELS = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 5
WEIGHTS = {"hard": 0.3, "soft": 0.7, "hint": 2.0}


class Net(nn.Module):
    """A convolutional network with batch norm, whose first stage may be recomputed in the backward pass."""

    def __init__(self, width: int, recomputed: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 5)
        self.recomputed = recomputed

    def forward(self, images: Tensor) -> Tensor:
        again = self.recomputed and self.training and torch.is_grad_enabled()
        hidden = checkpoint(self.first, images, use_reentrant=False) if again else self.first(images)
        logits: Tensor = self.head(self.second(hidden).mean((2, 3)))
        return logits


class Unfaithful:
    """A backend whose graphs give a wrong gradient when they are differentiated again, as AMX code of inductor's did."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.aot_autograd import make_boxed_func

        self.graphs += 1

        def backward(traced: Any, example: Any) -> Any:
            seen: set[tuple[int, ...]] = set()

            def run(*values: Any) -> Any:
                found = traced(*values)
                saved = tuple(value.data_ptr() for value in values if isinstance(value, Tensor))[:-1]
                wrong = saved in seen
                seen.clear()
                seen.add(saved)
                return [0.3 * one if wrong and isinstance(one, Tensor) else one for one in found]

            return make_boxed_func(run)

        compiler = aot_autograd(fw_compiler=lambda traced, _: make_boxed_func(traced), bw_compiler=backward)
        return compiler(graph, inputs)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    monkeypatch.setattr(acceleration, "tune_malloc", lambda: True)
    monkeypatch.setattr(acceleration, "why_not_compile", lambda device: None)
    monkeypatch.setattr(acceleration, "_cpu_has", lambda test: False)
    yield
    torch._dynamo.reset()


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def networks(recomputed: bool = False) -> tuple[Net, Net]:
    torch.manual_seed(0)
    return Net(4, recomputed), Net(6)


def trained(quick_trainer: Any, fast: bool, **options: Any) -> list[Tensor]:
    student, teacher = options.pop("networks", None) or networks()
    criteria = {"hard": HardTarget(), "soft": SoftTarget(2.0), "hint": Hint("second", "second")}
    torch.manual_seed(1)
    module = CombinedDistillation(
        student, teacher, criteria=criteria, weights=WEIGHTS, **{"optimizer": sgd, "fast": fast, **options}
    )
    quick_trainer(max_epochs=2).fit(module, data())
    return [tensor.detach().clone() for tensor in [*student.state_dict().values(), *module.criteria.parameters()]]


def the_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "GradientNorm, each batch": {"balance": partial(GradientNorm, "hard", every=1)},
    "GradientNorm, now and then": {"balance": partial(GradientNorm, "hard", every=3)},
    "Uncertainty": {"balance": Uncertainty},
    "DOT": {"optimizer": partial(DOT, lr=0.05)},
    "DOT and GradientNorm": {"optimizer": partial(DOT, lr=0.05), "balance": partial(GradientNorm, "soft", every=2)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("how", ["fast", "compiled by the user", "compiled by the user, wrapped"])
@pytest.mark.filterwarnings("ignore:DOT differentiates each step twice")
def test_no_training_relies_on_a_compiled_networks_second_gradient(
    quick_trainer: Any, monkeypatch: pytest.MonkeyPatch, tally: Tally, name: str, how: str
) -> None:
    options = TRAININGS[name]

    def made() -> dict[str, Any]:
        return {key: value() if key == "balance" else value for key, value in options.items()}

    expected = trained(quick_trainer, False, **made())
    backend = Unfaithful()
    monkeypatch.setattr(acceleration, "compile_in_place", lambda model: model.compile(backend=backend))
    student, teacher = networks()
    if how == "compiled by the user":
        student.compile(backend=backend)
    if how == "compiled by the user, wrapped":
        student = torch.compile(student, backend=backend)  # type: ignore[assignment]
    found = trained(quick_trainer, how == "fast", networks=(student, teacher), **made())
    the_same(found, expected)
    assert bool(backend.graphs) is not ("DOT" in name or "each batch" in name)
    tally(PROMISE)


def test_the_backend_of_these_tests_is_unfaithful() -> None:
    student, _ = networks()
    student.compile(backend=Unfaithful())
    loss = nn.functional.cross_entropy(student(IMAGES), LABELS)
    first, second = (torch.autograd.grad(loss, list(student.parameters()), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(second[0], 0.3 * first[0])


class Theirs(LightningModule):
    """A module that knows nothing of distillation."""

    def __init__(self, student: nn.Module, optimizer: Any) -> None:
        super().__init__()
        self.net, self._make = student, optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self._make(self.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GradientNorm, now and then", "DOT"])
@pytest.mark.filterwarnings("ignore:DOT differentiates each step twice")
def test_nor_does_the_callback(quick_trainer: Any, tally: Tally, name: str) -> None:
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        student, teacher = networks()
        if compiled:
            student.compile(backend=Unfaithful())
        module = Theirs(student, TRAININGS[name].get("optimizer", sgd))
        torch.manual_seed(1)
        balance = GradientNorm("task", every=3) if "Gradient" in name else None
        callback = Distill(
            teacher,
            {"soft": SoftTarget(2.0), "hint": Hint("second", "second")},
            {"soft": 0.7, "hint": 2.0, "task": 0.3},
            "net",
            balance=balance,
        )
        quick_trainer(max_epochs=2, callbacks=[callback]).fit(module, data())
        found.append([tensor.detach().clone() for tensor in student.state_dict().values()])
    the_same(found[1], found[0])
    tally(PROMISE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GradientNorm, each batch", "DOT"])
def test_measuring_leaves_a_recomputed_students_statistics_alone(quick_trainer: Any, tally: Tally, name: str) -> None:
    def made() -> dict[str, Any]:
        return {key: value() if key == "balance" else value for key, value in TRAININGS[name].items()}

    def counts(options: dict[str, Any]) -> list[Tensor]:
        student, teacher = networks(recomputed=True)
        trained(quick_trainer, False, networks=(student, teacher), **options)
        return [buffer for name, buffer in student.named_buffers() if "num_batches" in name]

    assert counts(made()) == counts({})
    tally(PROMISE)


@pytest.mark.slow
def test_gradients_measured_twice_for_every_mix(tally: Tally) -> None:
    """Compile, channels last and bfloat16: what ``fast`` measures is what the plain network gives."""
    expected: list[Tensor] = []
    for compiled, channels_last, bfloat16 in itertools.product([False, True], repeat=3):
        torch._dynamo.reset()
        student, _ = networks()
        if channels_last:
            student.to(memory_format=torch.channels_last)
        if compiled:
            student.compile()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), torch.compiler.set_stance("force_eager"):
            measured = nn.functional.cross_entropy(student(IMAGES).float(), LABELS)
        gradients = [torch.autograd.grad(measured, list(student.parameters()), retain_graph=True) for _ in range(2)]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            trains = nn.functional.cross_entropy(student(IMAGES).float(), LABELS)
        gradients.append(torch.autograd.grad(trains, list(student.parameters())))
        flat = [torch.cat([one.flatten() for one in each]) for each in gradients]
        expected = expected or flat
        for one in flat:
            assert (one - expected[0]).norm() < (0.05 if bfloat16 else 1e-4) * expected[0].norm()
        tally(PROMISE)


def _as_kind(feature: Tensor, kind: str) -> Tensor:
    tokens = feature.flatten(2).mT
    return {"map": feature, "tokens": tokens, "vector": tokens.mean(1), "logits": feature}[kind]


@pytest.mark.slow
def test_every_criterions_gradient_through_one_compiled_graph(tally: Tally) -> None:
    """The student compiled, channels last: within 1 % of the plain gradient for every criterion."""
    plain, teacher = networks()[0], Net(8)
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    captures = [Capture(network, ["second"]) for network in (plain, fast, teacher)]
    compile_in_place(fast)
    for case in CASES:
        found = []
        for capture in captures[:2]:
            with torch.no_grad():
                known = captures[2].run(IMAGES[:8])
            outputs = capture.run(IMAGES[:8])
            width = slice(None, 4 if case.same_width else None)
            student, taught = (
                replace(
                    one,
                    logits=one.logits[..., None, None] * one.features["second"][:, :1, :2, :2]
                    if case.positions
                    else one.logits,
                    features={"a": _as_kind(one.features["second"][:, cut], case.kind)},
                )
                for one, cut in ((outputs, slice(None)), (known, width))
            )
            target = (LABELS[:8] % 4).view(8, 1, 1).expand(8, 2, 2) if case.positions else LABELS[:8] % 4
            torch.manual_seed(3)
            criterion = case.make()
            criterion.build(student, taught)
            value = criterion(student, taught, target)
            parameters = list(capture.model.parameters())
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            pairs = zip(gradients, parameters, strict=True)
            found.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
        assert (found[0] - found[1]).norm() <= 1e-2 * found[0].norm() + 1e-6, case.name
        tally(PROMISE)
