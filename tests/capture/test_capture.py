"""Reading layers: what is read, in what order, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Capture, LogitDistillation
from lit_distill.capture.capture import match_layers
from lit_distill.models import MLP, SmallCNN, resnet8


class Chain(nn.Module):
    """Two linear layers and a shared activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.act = nn.Tanh()
        self.second = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        return self.head(self.act(self.second(x)))


class ByKeyword(nn.Module):
    """Calls its layer by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Chain()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x=x)


class Overwriting(nn.Module):
    """A convolution whose output an in-place ReLU overwrites."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


class Checkpointed(nn.Module):
    """Two blocks, each recomputed in the backward pass."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.block1 = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.block2 = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.block1, self.block2):
            x = block(x) if self.mode == "off" else checkpoint(block, x, use_reentrant=self.mode == "reentrant")
        return self.head(x)


class Returning(nn.Module):
    """A layer that returns what it is told to, beside a linear head."""

    class Layer(nn.Module):
        def __init__(self, form: str) -> None:
            super().__init__()
            self.form = form

        def forward(self, x: Tensor) -> Any:
            return {"none": None, "tuple": (None, 2 * x, x), "dict": {"flag": 1, "hidden": 3 * x}}[self.form]

    def __init__(self, form: str) -> None:
        super().__init__()
        self.layer = Returning.Layer(form)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.head(x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 1, 8, 8)


def read_alone(model: nn.Module, x: Tensor) -> Tensor:
    """What a model computes, by its layers alone where it is a ``Logging``."""
    inner = next((m for m in model.modules() if isinstance(m, Logging)), None)
    return inner.layer(x) * inner.hparams["scale"] if inner is not None else model(x)


def loss_of(outputs: Any) -> Tensor:
    return outputs.logits.square().sum() + sum(f.square().sum() for f in outputs.features.values())


class TestReferences:
    names = ("", "layer1", "layer1.0", "layer1.0.conv", "layer2", "layer2.0", "layer2.0.conv", "head")

    @pytest.mark.parametrize(
        ("reference", "expected"),
        [
            ("layer1", ["layer1"]),
            ("layer*", ["layer1", "layer2"]),
            ("*", ["layer1", "layer2", "head"]),
            ("layer*.0", ["layer1.0", "layer2.0"]),
            ("layer?.*.conv", ["layer1.0.conv", "layer2.0.conv"]),
            ("layer[2].0", ["layer2.0"]),
            ("layer*:input", ["layer1:input", "layer2:input"]),
            ("head#-1", ["head#-1"]),
            ("head:input#2", ["head:input#2"]),
        ],
    )
    def test_globs_match_by_path_component(self, reference: str, expected: list[str]) -> None:
        assert match_layers(reference, self.names) == expected

    @pytest.mark.parametrize("reference", ["", ":input", "layer1#", "layer1#a", "layer1:output", "a b", "a#0:input"])
    def test_malformed(self, reference: str) -> None:
        with pytest.raises(ValueError, match="is no layer; write 'path', 'path:input', 'path:qkv' or 'path#call'"):
            match_layers(reference, self.names)

    def test_unknown_names_the_nearest_and_lists_layers(self) -> None:
        with pytest.raises(ValueError, match="no layer 'layer5' in the student CifarResNet") as caught:
            Capture(resnet8(), ["layer5"], owner="student")
        assert "did you mean 'layer3' or 'layer2' or 'layer1'?" in str(caught.value)
        assert str(caught.value).endswith("Layers: conv1, bn1, layer1, layer2, layer3, linear")

    def test_unknown_with_nothing_near(self) -> None:
        with pytest.raises(ValueError, match=r"no layer 'zzz' in the model SmallCNN\. Layers: stage1, stage2, pool"):
            Capture(SmallCNN(2), ["zzz"])

    def test_a_long_list_is_cut(self) -> None:
        with pytest.raises(ValueError, match=r"l19, …$"):
            match_layers("zzz", [f"l{i}" for i in range(30)])


class TestValues:
    def test_outputs_and_inputs(self, x: Tensor) -> None:
        model = Chain()
        read = Capture(model, ["first", "second:input", "head:input", "head"]).run(x)
        hidden = model.act(model.first(x))
        torch.testing.assert_close(read.features["first"], model.first(x))
        torch.testing.assert_close(read.features["second:input"], hidden)
        torch.testing.assert_close(read.features["head:input"], model.act(model.second(hidden)))
        torch.testing.assert_close(read.features["head"], read.logits)
        torch.testing.assert_close(read.logits, model(x))

    def test_input_given_by_keyword(self, x: Tensor) -> None:
        assert torch.equal(Capture(ByKeyword(), ["inner:input"]).run(x).features["inner:input"], x)

    def test_features_are_in_the_models_order(self, x: Tensor) -> None:
        capture = Capture(Chain(), ["head", "second", "first", "first:input", "second"])
        assert list(capture.run(x).features) == ["first", "first:input", "second", "head"] == capture.layers

    def test_no_references_no_features(self, x: Tensor) -> None:
        assert Capture(Chain()).run(x).features == {}

    def test_mask_is_passed_on(self, x: Tensor) -> None:
        mask = torch.ones(5, dtype=torch.bool)
        assert Capture(Chain()).run(x, mask).mask is mask

    def test_calls_of_a_repeated_layer(self, x: Tensor) -> None:
        model = Chain()
        read = Capture(model, ["act#0", "act#1", "act#-1", "act:input#-2"]).run(x).features
        first = model.act(model.first(x))
        second = model.act(model.second(first))
        for name, expected in [
            ("act#0", first),
            ("act#1", second),
            ("act#-1", second),
            ("act:input#-2", model.first(x)),
        ]:
            torch.testing.assert_close(read[name], expected)

    def test_repeated_layer_needs_a_choice(self, x: Tensor) -> None:
        with pytest.raises(RuntimeError, match=r"layer 'act' ran 2 times.*'act#0' is the first, 'act#-1' the last"):
            Capture(Chain(), ["act"]).run(x)

    @pytest.mark.parametrize("call", [2, -3])
    def test_no_such_call(self, x: Tensor, call: int) -> None:
        with pytest.raises(RuntimeError, match=f"'act' ran 2 times; there is no call {call}"):
            Capture(Chain(), [f"act#{call}"]).run(x)

    def test_layer_that_never_runs(self, x: Tensor) -> None:
        with pytest.raises(RuntimeError, match="the student's layer 'unused' did not run"):
            Capture(Chain(), ["unused"], owner="student").run(x)

    def test_a_failed_pass_leaves_nothing_behind(self, x: Tensor) -> None:
        capture = Capture(Chain(), ["first"])
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            capture.run(torch.randn(5, 9))
        torch.testing.assert_close(capture.run(x).features["first"], capture.model.first(x))

    def test_calls_outside_run_are_not_read(self, x: Tensor) -> None:
        model = Chain()
        capture = Capture(model, ["first"])
        model(2 * x)
        torch.testing.assert_close(capture.run(x).features["first"], model.first(x))

    def test_first_tensor_of_an_lstm(self) -> None:
        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = nn.LSTM(4, 5, batch_first=True)
                self.head = nn.Linear(5, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.lstm(x)[0][:, -1])

        model, x = Recurrent(), torch.randn(3, 7, 4)
        torch.testing.assert_close(Capture(model, ["lstm"]).run(x).features["lstm"], model.lstm(x)[0])

    @pytest.mark.parametrize(("form", "factor"), [("tuple", 2), ("dict", 3)])
    def test_first_tensor_of_a_tuple_or_mapping(self, x: Tensor, form: str, factor: int) -> None:
        assert torch.equal(Capture(Returning(form), ["layer"]).run(x).features["layer"], factor * x)

    def test_no_tensor_names_the_attention_setting(self, x: Tensor) -> None:
        with pytest.raises(RuntimeError, match=r"gave NoneType and no tensor.*attn_implementation='eager'"):
            Capture(Returning("none"), ["layer"]).run(x)

    def test_remove_takes_the_hooks_off_and_run_puts_them_back(self, x: Tensor) -> None:
        model = Chain()
        capture = Capture(model, ["first", "second:input"])
        capture.remove()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert list(capture.run(x).features) == ["first", "second:input"]
        capture.restore()
        assert len(model.first._forward_hooks) == 1

    def test_two_captures_of_one_model(self, x: Tensor) -> None:
        model = Chain()
        one, two = Capture(model, ["first"]), Capture(model, ["first", "head"])
        assert list(one.run(x).features) == ["first"]
        assert list(two.run(x).features) == ["first", "head"]

    def test_autocast_features(self, x: Tensor) -> None:
        model = Chain()
        with torch.autocast("cpu", torch.bfloat16):
            read = Capture(model, ["first"]).run(x)
        assert read.features["first"].dtype == read.logits.dtype == torch.bfloat16
        torch.testing.assert_close(read.features["first"].float(), model.first(x), atol=2e-2, rtol=2e-2)

    def test_inference_mode(self, x: Tensor) -> None:
        model = Chain()
        with torch.inference_mode():
            read = Capture(model, ["first"]).run(x)
        assert read.features["first"].is_inference()
        torch.testing.assert_close(read.features["first"].clone(), model.first(x).detach())


class TestInPlace:
    @pytest.mark.parametrize("reference", ["conv", "relu:input"])
    def test_error_without_calibration(self, images: Tensor, reference: str) -> None:
        with pytest.raises(RuntimeError, match=rf"layer '{reference}' was overwritten in place.*dry_run"):
            Capture(Overwriting(), [reference]).run(images)

    def test_pre_activation_values_and_gradient_after_calibration(self, images: Tensor) -> None:
        model = Overwriting()
        capture = Capture(model, ["conv", "relu"])
        capture.dry_run(images)
        read = capture.run(images, need_grad=True)
        expected = model.conv(images)
        torch.testing.assert_close(read.features["conv"], expected)
        torch.testing.assert_close(read.features["relu"], F.relu(expected))
        assert (read.features["conv"] < 0).any()
        got = torch.autograd.grad(loss_of(read), model.conv.weight)[0]
        plain = expected.square().sum() + F.relu(expected).square().sum()
        plain = plain + model.head(F.relu(expected).mean((2, 3))).square().sum()
        torch.testing.assert_close(got, torch.autograd.grad(plain, model.conv.weight)[0])


class TestStopping:
    """A pass may end at the last layer that is read."""

    @pytest.mark.parametrize(
        ("layers", "last"),
        [(["first"], "first"), (["act#0", "act#1"], "act"), (["head:input"], "act"), (["head"], "head")],
    )
    def test_nothing_runs_after_the_last_layer(self, x: Tensor, layers: list[str], last: str) -> None:
        model = Chain()
        ran: list[str] = []
        for name, layer in model.named_children():
            layer.register_forward_hook(lambda *_, name=name: ran.append(name))
        capture = Capture(model, layers)
        expected = capture.dry_run(x)
        ran.clear()
        got = capture.run(x, stop_early=True)
        assert ran[-1] == last
        assert len(ran) <= 5
        assert ("head" in ran) is (last == "head")
        assert got.logits.shape == (0,)
        assert list(got.features) == list(expected.features)
        assert all(torch.equal(got.features[name], feature) for name, feature in expected.features.items())
        assert capture.run(x).logits.shape == (5, 3)

    def test_only_after_a_whole_pass_and_never_without_layers(self, x: Tensor) -> None:
        assert Capture(Chain(), ["first"]).run(x, stop_early=True).logits.shape == (5, 3)
        capture = Capture(Chain())
        capture.dry_run(x)
        assert capture.run(x, stop_early=True).logits.shape == (5, 3)

    def test_through_a_model_that_catches_exceptions(self, x: Tensor) -> None:
        class Catching(Chain):
            def forward(self, x: Tensor) -> Tensor:
                try:
                    return super().forward(x)
                except Exception:
                    return x

        capture = Capture(Catching(), ["first"])
        capture.dry_run(x)
        assert capture.run(x, stop_early=True).logits.shape == (0,)

    def test_a_pass_that_makes_fewer_calls_runs_to_its_end(self, x: Tensor) -> None:
        class Sometimes(Chain):
            def forward(self, x: Tensor) -> Tensor:
                y = self.act(self.first(x))
                return self.head(self.act(self.second(y)) if x.sum() > 0 else y)

        capture = Capture(Sometimes(), ["act#0"])
        capture.dry_run(x.abs())
        assert capture.run(x.abs(), stop_early=True).logits.shape == (0,)
        assert capture.run(-x.abs(), stop_early=True).logits.shape == (5, 3)

    def test_a_compiled_model_runs_to_its_end(self, x: Tensor) -> None:
        model = Chain()
        capture = Capture(model, ["first"])
        model.compile(backend="eager")
        with torch.compiler.set_stance("force_eager"):
            capture.dry_run(x)
        outputs = capture.run(x, stop_early=True)
        torch.testing.assert_close(outputs.features["first"], model.first(x))
        assert outputs.logits.shape == (5, 3)
        torch._dynamo.reset()


class TestGradients:
    def test_features_carry_gradient(self, x: Tensor) -> None:
        model = Chain()
        Capture(model, ["first"]).run(x, need_grad=True).features["first"].sum().backward()
        torch.testing.assert_close(model.first.weight.grad, x.sum(0).expand(6, 4))
        assert model.head.weight.grad is None

    def test_frozen_layers_are_named(self, x: Tensor) -> None:
        model = Chain()
        model.first.requires_grad_(False)
        with pytest.raises(RuntimeError, match="no gradient reaches the student through first: the layers up to there"):
            Capture(model, ["first", "second"], owner="student").run(x, need_grad=True)

    def test_reentrant_checkpointing_is_refused(self, x: Tensor) -> None:
        with pytest.raises(RuntimeError, match=r"through block1\.0, block2\.0: .*use_reentrant=False"):
            Capture(Checkpointed("reentrant"), ["block?.0"]).run(x.requires_grad_(), need_grad=True)

    def test_checkpointing_gives_the_same_gradients(self, x: Tensor) -> None:
        reference, model = Checkpointed("off"), Checkpointed("non-reentrant")
        model.load_state_dict(reference.state_dict())
        for network in (reference, model):
            loss_of(Capture(network, ["block?", "block?.0"]).run(x, need_grad=True)).backward()
        for expected, got in zip(reference.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(got.grad, expected.grad)


class TestCopies:
    def test_a_copied_model_does_not_write_into_the_original(self, x: Tensor) -> None:
        model = Chain()
        capture = Capture(model, ["first"])
        for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):

            def run_the_copy(*_: Any, twin: nn.Module = duplicate) -> None:
                twin(7 * x)

            handle = model.head.register_forward_hook(run_the_copy)
            # Had the copy written too, the layer would have run twice.
            torch.testing.assert_close(capture.run(x).features["first"], model.first(x))
            handle.remove()

    @pytest.mark.parametrize("way", ["deepcopy", "pickle"])
    def test_a_copied_capture_reads_its_own_model(self, x: Tensor, way: str) -> None:
        capture = Capture(Chain(), ["first", "head:input"])
        twin = copy.deepcopy(capture) if way == "deepcopy" else pickle.loads(pickle.dumps(capture))
        with torch.no_grad():
            twin.model.first.weight.mul_(3)
        torch.testing.assert_close(twin.run(x).features["first"], twin.model.first(x))
        torch.testing.assert_close(capture.run(x).features["first"], capture.model.first(x))
        twin.remove()
        assert list(capture.run(x).features) == ["first", "head:input"]

    def test_an_exported_model_is_clean(self, x: Tensor) -> None:
        model = Chain()
        capture = Capture(model, ["first"])
        torch.export.export(model.eval(), (x,))
        torch.testing.assert_close(capture.run(x).features["first"], model.first(x))


@pytest.mark.slow
class TestCompile:
    @pytest.fixture(autouse=True)
    def _fresh(self) -> Iterator[None]:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("way", ["in place", "wrapped"])
    def test_equals_eager_in_train_mode(self, images: Tensor, way: str) -> None:
        eager = SmallCNN(2)
        model = copy.deepcopy(eager)
        layers = ["stage*", "classifier:input"]
        reference = Capture(eager, layers)
        if way == "in place":
            capture = Capture(model, layers)
            model.compile(backend="aot_eager")
        else:
            capture = Capture(torch.compile(model, backend="aot_eager"), layers)
        assert capture.layers == reference.layers
        for batch in (images, images + 1):  # no value may be left over from the batch before
            expected, got = reference.run(batch), capture.run(batch, need_grad=True)
            torch.testing.assert_close(got.logits, expected.logits)
            torch.testing.assert_close(dict(got.features), dict(expected.features))
            loss_of(expected).backward()
            loss_of(got).backward()
        for a, b in zip(eager.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(b.grad, a.grad)
        for a, b in zip(eager.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(b, a)
        torch.testing.assert_close(capture.model(images), eager(images))

    def test_overwritten_feature_after_calibration(self, images: Tensor) -> None:
        model = Overwriting()
        capture = Capture(model, ["conv"])
        model.compile(backend="aot_eager")
        with torch.compiler.set_stance("force_eager"):
            capture.dry_run(images)
        torch.testing.assert_close(capture.run(images).features["conv"], model.conv(images))

    @pytest.mark.parametrize("way", ["in place", "wrapped"])
    def test_captured_too_late_is_no_silence(self, images: Tensor, way: str) -> None:
        model: Any = SmallCNN(2).eval()
        if way == "in place":
            model.compile(backend="aot_eager")
        else:
            model = torch.compile(model, backend="aot_eager")
        model(images)
        capture = Capture(model, ["stage1"])
        with pytest.raises(RuntimeError, match=r"did not run.*compiled and called before it was captured"):
            capture.run(images)


class Logging(LightningModule):
    """A network of its own LightningModule, which logs in ``forward`` and reads its hyper-parameters."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.log("inner/mean", x.mean())
        self.log_dict({"inner/max": x.max()})
        return self.layer(x) * self.hparams["scale"]


@pytest.mark.filterwarnings("error:.*self.log.*")
class TestLightningModules:
    """A network may be a LightningModule: it computes as it would alone, and logs nothing."""

    @pytest.mark.parametrize("way", ["student", "teacher", "both", "nested"])
    def test_in_a_trainer(self, way: str, quick_trainer: Callable[..., Trainer]) -> None:
        student: nn.Module = Logging(0.25) if way in ("student", "both") else MLP(4, (3,), 3)
        teacher: nn.Module = Logging(0.75) if way in ("teacher", "both") else MLP(4, (3,), 3)
        if way == "nested":
            student, teacher = nn.Sequential(Logging(0.25)), nn.Sequential(Logging(0.75))
        data = DataLoader(TensorDataset(torch.randn(12, 4), torch.arange(12) % 3), batch_size=4)
        module = LogitDistillation(student, teacher)
        trainer = quick_trainer()
        trainer.fit(module, data, data)
        trainer.validate(module, data, verbose=False)
        logged = set(trainer.callback_metrics)
        assert "val/accuracy/student" in logged
        assert not [name for name in logged if "inner" in name]
        predicted = torch.cat(trainer.predict(module, data))  # type: ignore[arg-type]
        torch.testing.assert_close(predicted, read_alone(student, data.dataset.tensors[0]))
        scales = [m.hparams["scale"] for m in (*student.modules(), *teacher.modules()) if isinstance(m, Logging)]
        assert scales == {"student": [0.25], "teacher": [0.75]}.get(way, [0.25, 0.75])

    def test_a_teacher_trained_in_the_same_process(self, quick_trainer: Callable[..., Trainer], x: Tensor) -> None:
        class Trained(Logging):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return F.cross_entropy(self(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        data = DataLoader(TensorDataset(torch.randn(12, 4), torch.arange(12) % 3), batch_size=4)
        teacher = Trained()
        quick_trainer().fit(teacher, data)
        read = Capture(teacher, ["layer"]).run(x)
        torch.testing.assert_close(read.logits, 0.5 * read.features["layer"])

    def test_it_logs_again_afterwards(self, x: Tensor) -> None:
        model = Logging()
        Capture(model).run(x)
        assert "log" not in vars(model)
        with pytest.raises(RuntimeError, match="mat1"):
            Capture(model).run(torch.randn(2, 9))
        assert "log" not in vars(model)


def test_branches_side_by_side_are_asked_about() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, x[:, :2]]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches, self.fc = Branches(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.fc(self.branches(x)[0])
            return found

    with pytest.raises(RuntimeError, match=r"'branches' gave a list of several tensors \(\[2, 4\], \[2, 2\]\)"):
        Capture(Net(), ["branches"], owner="student").run(torch.randn(2, 4))


def test_a_list_of_modules_is_told_from_a_layer_that_is_skipped() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    with pytest.raises(
        RuntimeError, match=r"'blocks' did not run.*is a ModuleList.*name one of its modules, 'blocks.1'"
    ):
        Capture(Net(), ["blocks"], owner="student").run(torch.randn(2, 4))
