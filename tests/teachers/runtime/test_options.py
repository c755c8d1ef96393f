"""A frozen teacher's runtime: every option gives the network's own outputs, to rounding."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    CombinedDistillation,
    FeatureCriterion,
    FeatureDistillation,
    FrozenTeacher,
    Hint,
    LogitDistillation,
    Outputs,
    TeacherRuntime,
)
from lit_distill.models import MLP, SmallCNN, resnet8
from lit_distill.teachers.runtime.folding import fold_batch_norm
from tests.versions import skip_before

LAYERS = ["stage1.0", "stage1", "stage3:input", "classifier:input"]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(16, 1, 8, 8)


@pytest.fixture
def network(images: Tensor) -> SmallCNN:
    """A network whose BatchNorms have seen data and whose logits differ from image to image."""
    return trained_norms(SmallCNN(4), images)


def trained_norms(model: Any, *inputs: Tensor) -> Any:
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    model.train()(*inputs)
    return model.eval()


def ready(
    model: nn.Module, runtime: TeacherRuntime, example: Any, layers: Any = (), logits: bool = True
) -> FrozenTeacher:
    """A teacher as it is after the dry run and `prepare`."""
    teacher = FrozenTeacher(model, runtime)
    teacher.capture_layers(layers)
    with teacher.capture.finding_overwrites():
        teacher(example)
    teacher.needs_logits = logits
    teacher.prepare_runtime(lambda: [example])
    return teacher


def far(got: Tensor, expected: Tensor) -> float:
    """Relative distance."""
    return float((got.float() - expected.float()).norm() / expected.float().norm())


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"precision": "int4"}, "must be one of '32', 'bf16', 'fp16', 'int8', 'int8_dynamic', not 'int4'"),
            ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
            ({"precision": "int8", "batch_size": -1}, "batch_size must be at least 1"),
            ({"precision": "int8", "fold_batch_norm": True}, "folds every BatchNorm by itself"),
            ({"precision": "int8", "compile": True}, "compile does nothing .* 'int8'"),
            ({"precision": "int8_dynamic", "own_stream": True}, "own_stream does nothing .* 'int8_dynamic'"),
        ],
    )
    def test_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TeacherRuntime(**settings)

    def test_description(self) -> None:
        runtime = TeacherRuntime("bf16", channels_last=True, batch_size=32)
        assert runtime.describe() == "bf16, channels last, 32 samples at a time"


class TestValues:
    @pytest.mark.parametrize(
        ("runtime", "tolerance"),
        [
            (TeacherRuntime(), 0),
            (TeacherRuntime(channels_last=True), 1e-6),
            (TeacherRuntime(fold_batch_norm=True), 1e-6),
            (TeacherRuntime(batch_size=5), 1e-6),
            (TeacherRuntime(own_stream=True), 0),
            (TeacherRuntime("bf16"), 2e-2),
            (TeacherRuntime("bf16", True, True, batch_size=4), 2e-2),
            (TeacherRuntime("fp16"), 5e-3),
            (TeacherRuntime("int8"), 0.1),
            (TeacherRuntime("int8", channels_last=True, batch_size=7), 0.1),
            (TeacherRuntime("int8_dynamic"), 2e-2),
            (TeacherRuntime("int8_dynamic", fold_batch_norm=True), 2e-2),
        ],
        ids=lambda value: value.describe() if isinstance(value, TeacherRuntime) else str(value),
    )
    def test_logits_and_layers(
        self, network: SmallCNN, images: Tensor, runtime: TeacherRuntime, tolerance: float
    ) -> None:
        plain = FrozenTeacher(copy.deepcopy(network))
        plain.capture_layers(LAYERS)
        expected = plain(images)
        teacher = ready(network, runtime, images, LAYERS)
        got = teacher(images)
        assert got.logits.dtype == torch.float32
        assert list(got.features) == list(expected.features)
        assert far(got.logits, expected.logits) <= tolerance
        for layer, feature in expected.features.items():
            assert got.features[layer].shape == feature.shape
            assert far(got.features[layer], feature) <= tolerance
            assert not got.features[layer].requires_grad
        # The network itself is untouched, and answers outside training.
        assert torch.equal(teacher.predict(images).logits, expected.logits)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.model.parameters(), strict=True))

    def test_int8_agrees_on_the_class(self) -> None:
        torch.manual_seed(1)
        prototypes, labels = 2 * torch.randn(10, 3, 16, 16), torch.arange(160) % 10
        images = prototypes[labels] + 0.5 * torch.randn(160, 3, 16, 16)
        model = resnet8()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(15):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        teacher = ready(model, TeacherRuntime("int8"), images[:64])
        expected, got = teacher.predict(images).logits, teacher(images).logits
        assert (expected.argmax(1) == labels).float().mean() > 0.9
        assert (got.argmax(1) == expected.argmax(1)).float().mean() >= 0.97
        divergence = F.kl_div(got.log_softmax(1), expected.log_softmax(1), log_target=True, reduction="batchmean")
        assert divergence < 0.02

    @pytest.mark.parametrize("precision", ["32", "int8"])
    @pytest.mark.parametrize("layers", [["act#0", "act#-1", "second:input"], ["first", "act#1"]])
    def test_calls_of_a_shared_layer(self, precision: Any, layers: list[str]) -> None:
        class Chain(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second, self.act = nn.Linear(4, 6), nn.Linear(6, 3), nn.ReLU(inplace=True)

            def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
                x = self.second(self.act(self.first(x)))
                return self.act(x) if scale is None else x * scale

        x = torch.randn(32, 4)
        teacher = ready(Chain(), TeacherRuntime(precision), x, layers)
        expected, got = teacher.predict(x), teacher(x)
        assert list(got.features) == list(expected.features) == teacher.capture.layers
        for layer in layers:
            assert far(got.features[layer], expected.features[layer]) < 0.03
        if "first" in layers:  # before the in-place ReLU
            assert (got.features["first"] < 0).any()

    @pytest.mark.parametrize("precision", ["bf16", "int8"])
    def test_inputs_by_name(self, precision: Any) -> None:
        class Sum(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

            def forward(self, ids: Tensor, extra: Tensor) -> dict[str, Tensor]:
                return {"logits": self.head(self.embed(ids).mean(1) + extra)}

        inputs = {"ids": torch.randint(0, 9, (8, 5)), "extra": torch.randn(8, 6)}
        runtime = TeacherRuntime(precision, batch_size=3)
        teacher = ready(Sum(), runtime, inputs, ["head:input"])
        expected, got = teacher.predict(inputs), teacher(inputs)
        assert far(got.logits, expected.logits) < 0.05
        assert far(got.features["head:input"], expected.features["head:input"]) < 0.05

    def test_parts_that_cannot_be_joined_are_refused(self) -> None:
        class TimeFirst(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.turn, self.head = nn.Flatten(0, 1), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.turn(x).view(*x.shape).mean(1))

        teacher = ready(TimeFirst(), TeacherRuntime(batch_size=3), torch.randn(6, 5, 4), ["turn"])
        with pytest.raises(ValueError, match=r"layer 'turn' cannot be joined: its first dimension is \[15, 15\]"):
            teacher(torch.randn(6, 5, 4))
        several = FrozenTeacher(MLP(4), TeacherRuntime(batch_size=2))
        with pytest.raises(ValueError, match="not every input has the 6 samples first"):
            several((torch.randn(6, 4), torch.randn(1)))


class TestFolding:
    def test_folds_all_but_what_is_read(self, network: SmallCNN, images: Tensor) -> None:
        teacher = ready(network, TeacherRuntime(fold_batch_norm=True), images, ["stage2.0"])
        twin = teacher._prepared._read.func.__self__.model  # type: ignore[union-attr, attr-defined]
        left = [name for name, module in twin.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert left == ["stage2.1"]
        assert far(teacher(images).features["stage2.0"], teacher.predict(images).features["stage2.0"]) < 1e-6

    def test_only_where_it_is_equal(self) -> None:
        class Mixed(nn.Module):
            """A pair that folds, a shared convolution, one read twice, and one that normalises by the batch."""

            def __init__(self) -> None:
                super().__init__()
                self.line, self.line_norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
                self.shared, self.shared_norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
                self.split, self.split_norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
                self.batch, self.batch_norm = nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False)

            def forward(self, x: Tensor) -> Tensor:
                x = self.line_norm(self.line(x)).relu()
                x = self.shared(self.shared_norm(self.shared(x)))
                x = self.split(x)
                return self.batch_norm(self.batch(x + self.split_norm(x)))

        x = torch.randn(8, 4)
        model = trained_norms(Mixed(), x)
        expected = model(x)
        assert fold_batch_norm(model) == 1
        assert isinstance(model.line_norm, nn.Identity)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)

    def test_what_cannot_be_traced_is_refused(self) -> None:
        teacher = FrozenTeacher(Branching(), TeacherRuntime(fold_batch_norm=True))
        with pytest.raises(ValueError, match="BatchNorm cannot be folded into Branching: torch.fx cannot trace it"):
            teacher(torch.randn(4, 4))


class Branching(nn.Module):
    """Its way depends on its values, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x if x.sum() > 0 else -x)


class TestInt8:
    def test_what_cannot_be_traced_is_refused_with_alternatives(self) -> None:
        with pytest.raises(ValueError, match=r"Branching cannot be traced.*'int8_dynamic'.*'bf16'.*'32' with compile"):
            ready(Branching(), TeacherRuntime("int8"), torch.randn(4, 4))

    def test_a_graph_that_computes_something_else_is_refused(self) -> None:
        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head, self.passes = nn.Linear(4, 3), 0

            def forward(self, x: Tensor) -> Tensor:
                self.passes += 1
                return self.head(x) * self.passes

        with pytest.raises(ValueError, match="Counting cannot be traced .*computes other values"):
            ready(Counting(), TeacherRuntime("int8"), torch.randn(4, 4))

    def test_a_network_that_int8_ruins_is_refused(self) -> None:
        class Differences(nn.Module):
            """The logits are small differences of large values, which int8 cannot hold."""

            def __init__(self) -> None:
                super().__init__()
                self.head = nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(x + 1e4) - self.head(torch.full_like(x, 1e4))

        with pytest.raises(ValueError, match="cannot be quantised.*the logits would be .* away from float32"):
            ready(Differences(), TeacherRuntime("int8"), torch.randn(8, 4))

    def test_a_later_choice_is_taken(self) -> None:
        teacher = FrozenTeacher(Branching())
        teacher.prefer([TeacherRuntime("int8"), TeacherRuntime(fold_batch_norm=True), TeacherRuntime("bf16")])
        x = torch.randn(4, 4)
        teacher.prepare_runtime(lambda: [x])
        assert teacher.runtime == TeacherRuntime("bf16")
        assert far(teacher(x).logits, teacher.predict(x).logits) < 0.02

    def test_other_devices_are_refused(self) -> None:
        teacher = FrozenTeacher(MLP(4).to("meta"), TeacherRuntime("int8"))
        with pytest.raises(ValueError, match="run only on the CPU, and the teacher is on meta"):
            teacher.prepare_runtime(lambda: [torch.randn(2, 4)])

    def test_the_network_answers_until_calibrated(self, network: SmallCNN, images: Tensor) -> None:
        teacher = FrozenTeacher(network, TeacherRuntime("int8"))
        assert torch.equal(teacher(images).logits, network(images))

    def test_features_alone_leave_out_the_rest(self, network: SmallCNN, images: Tensor) -> None:
        teacher = ready(network, TeacherRuntime("int8"), images, ["stage1"], logits=False)
        outputs = teacher(images)
        assert outputs.logits.numel() == 0
        assert far(outputs.features["stage1"], teacher.predict(images).features["stage1"]) < 0.05
        graph = teacher._prepared._read.__closure__  # type: ignore[union-attr]
        (traced,) = [c.cell_contents for c in graph if isinstance(c.cell_contents, torch.fx.GraphModule)]
        assert not [node for node in traced.graph.nodes if "stage2" in str(node.target)]


class TestCompile:
    def test_compiled_once_whatever_the_last_batch(self, network: SmallCNN, images: Tensor) -> None:
        skip_before("torch", "2.7", "torch.compile splits a network whose layers are read")
        torch._dynamo.reset()
        graphs = []

        def backend(graph: Any, example: Any) -> Any:
            graphs.append(len(example))
            return graph.forward

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "lit_distill.teachers.runtime.prepared.compile_in_place", lambda model: model.compile(backend=backend)
            )
            teacher = ready(network, TeacherRuntime(fold_batch_norm=True, compile=True), images, LAYERS)
        for batch in (images, images[:5], images + 1, images[:3]):
            expected, got = teacher.predict(batch), teacher(batch)
            torch.testing.assert_close(got.logits, expected.logits, rtol=1e-5, atol=1e-5)
            for layer, feature in expected.features.items():
                torch.testing.assert_close(got.features[layer], feature, rtol=1e-5, atol=1e-5)
        assert len(graphs) == 1
        torch._dynamo.reset()


class TestStopping:
    """Where nothing reads the teacher's logits, nothing after the last layer that is read is run."""

    @pytest.mark.parametrize("runtime", [None, TeacherRuntime(), TeacherRuntime("bf16", True, True, batch_size=3)])
    def test_in_a_fit(
        self, quick_trainer: Callable[..., Trainer], images: Tensor, runtime: TeacherRuntime | None
    ) -> None:
        teacher = SmallCNN(4)
        data = DataLoader(TensorDataset(images, torch.arange(16) % 10), batch_size=8)
        losses = []
        for stop in (True, False):
            torch.manual_seed(0)
            criteria = {} if stop else {"all": ReadsLogits("stage?", "stage?")}
            module = FeatureDistillation(SmallCNN(3), FrozenTeacher(copy.deepcopy(teacher), runtime), **hint(criteria))
            fit = quick_trainer()
            fit.fit(module, data)
            losses.append(fit.callback_metrics["train/criteria/hint"])
            assert module._teacher.needs_logits is not stop
        assert torch.equal(*losses)

    def test_layers_after_the_last_are_not_run(self, network: SmallCNN, images: Tensor) -> None:
        ran = Ran()
        for layer in (network.stage1, network.pool, network.stage3[0], network.classifier):
            layer.register_forward_hook(ran)
        teacher = FrozenTeacher(network)
        teacher.capture_layers(["stage2", "stage3:input"])
        with teacher.capture.finding_overwrites():
            expected = teacher(images)
        teacher.needs_logits = False
        ran.calls.clear()
        got = teacher(images)
        assert ran.calls == ["Sequential", "MaxPool2d"]
        assert got.logits.numel() == 0
        assert all(torch.equal(got.features[layer], feature) for layer, feature in expected.features.items())
        assert teacher.predict(images).logits.shape == (16, 10)
        assert "Linear" in ran.calls

    def test_observing_again_asks_for_the_logits_again(self, network: SmallCNN, images: Tensor) -> None:
        teacher = FrozenTeacher(network)
        teacher.needs_logits = False
        teacher.capture_layers(["stage1"])
        assert teacher(images).logits.shape == (16, 10)


class Ran:
    """Remembers the classes of the layers that ran."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, module: nn.Module, *_: Any) -> None:
        self.calls.append(type(module).__name__)


def hint(criteria: dict[str, Any]) -> dict[str, Any]:
    chosen = {"hint": Hint("stage1", "stage1"), **criteria}
    return {"criteria": chosen, "weights": {name: float(name == "hint") for name in chosen}}


class ReadsLogits(FeatureCriterion):
    """Reads the teacher's logits and does not say so."""

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return teacher.logits.sum() + student.logits.sum()


class TestLife:
    def test_copies_and_pickles_without_the_copy(self, network: SmallCNN, images: Tensor) -> None:
        teacher = ready(network, TeacherRuntime("int8"), images, ["stage1"])
        twin = pickle.loads(pickle.dumps(teacher))
        assert twin.runtime == teacher.runtime
        assert twin._prepared is None
        assert torch.equal(twin(images).logits, teacher.predict(images).logits)
        module = LogitDistillation(SmallCNN(2), teacher)
        assert copy.deepcopy(module)._teacher is teacher

    def test_follows_the_type(self, network: SmallCNN, images: Tensor) -> None:
        for runtime in (TeacherRuntime(channels_last=True), TeacherRuntime("bf16")):
            teacher = FrozenTeacher(copy.deepcopy(network), runtime)
            module = LogitDistillation(SmallCNN(2), teacher)
            teacher(images)
            module.double()
            outputs = teacher(images.double())
            assert outputs.logits.dtype == torch.float64
            assert far(outputs.logits, teacher.predict(images.double()).logits) < 0.02

    @pytest.mark.parametrize("precision", ["bf16", "int8", "int8_dynamic"])
    def test_keeps_its_precision_under_autocast(self, network: SmallCNN, images: Tensor, precision: Any) -> None:
        teacher = ready(network, TeacherRuntime(precision), images)
        expected = teacher(images).logits
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(teacher(images).logits, expected)

    @pytest.mark.parametrize("precision", ["32", "bf16", "int8", "int8_dynamic"])
    @pytest.mark.parametrize("trainers", ["32-true", "bf16-mixed", "bf16-true"])
    def test_in_a_fit(
        self, quick_trainer: Callable[..., Trainer], images: Tensor, precision: Any, trainers: Any
    ) -> None:
        teacher = SmallCNN(4)
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        data = DataLoader(TensorDataset(images, torch.arange(16) % 10), batch_size=8, shuffle=True)
        module = CombinedDistillation(
            SmallCNN(2), FrozenTeacher(teacher, TeacherRuntime(precision)), "stage1", "stage1"
        )
        fit = quick_trainer(precision=trainers, max_epochs=2)
        fit.fit(module, data, data)
        assert torch.isfinite(fit.callback_metrics["train/loss"])
        assert not [name for name in module.state_dict() if "teacher" in name]
        if trainers != "bf16-true":
            assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())

    def test_calibration_does_not_change_the_order_of_the_data(
        self, quick_trainer: Callable[..., Trainer], images: Tensor
    ) -> None:
        seen: dict[str, list[Tensor]] = {}
        for name in ("32", "int8"):
            torch.manual_seed(3)
            data = DataLoader(TensorDataset(images, torch.arange(16) % 10), batch_size=4, shuffle=True)
            teacher = FrozenTeacher(SmallCNN(4), TeacherRuntime(name))  # type: ignore[arg-type]
            module = LogitDistillation(SmallCNN(2), teacher)
            kept = seen.setdefault(name, [])
            module.on_train_batch_start = lambda batch, index, kept=kept: kept.append(batch[1])  # type: ignore[method-assign]
            quick_trainer().fit(module, data)
        assert torch.equal(torch.cat(seen["32"]), torch.cat(seen["int8"]))
