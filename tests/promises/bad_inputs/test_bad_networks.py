"""Networks and criteria that would fail later, or train nothing: refused before the first batch, in words that say whose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_distill import BatchFormat
from lit_distill.criteria import CTKD, AttentionTransfer, HardTarget, Hint, LogitMSE, SoftTarget
from lit_distill.schedules import Linear
from lit_distill.utils.notices import DistillationWarning
from tests.promises.bad_inputs.doors import (
    DOORS,
    Case,
    Net,
    Own,
    Watch,
    around,
    collated,
    images,
    loader,
    of_the_outputs,
    rows,
)
from tests.promises.conftest import Tally

NAN, INF = float("nan"), float("inf")
pytestmark = pytest.mark.slow  # many small fits
MakeTrainer = Callable[..., Trainer]


def without_gradients(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)


def frozen(choose: Callable[[Any], nn.Module] = lambda net: net) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network = Net()
        choose(network).requires_grad_(False)
        return network

    return make


def holding(value: float, name: str = "stage1.weight", make: Callable[[], nn.Module] = Net) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        network = make()
        with torch.no_grad():
            dict([*network.named_parameters(), *network.named_buffers()])[name].flatten()[0] = value
        return network

    return made


def normalised(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 36, 10))


def on_meta(part: str = "") -> nn.Module:
    network = Net()
    network.get_submodule(part).to("meta")
    return network


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Net()


def raising(error: Exception) -> Callable[[], nn.Module]:
    def fail(network: nn.Module, x: Tensor) -> Tensor:
        raise error

    return around(fail)


def mine(function: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    return lambda: {"soft": SoftTarget(), "mine": Own(function)}


def hint(layer: str) -> Callable[[], Any]:
    return lambda: {"soft": SoftTarget(), "hint": Hint(layer, layer)}


def attention(layer: str) -> Callable[[], Any]:
    return lambda: {"soft": SoftTarget(), "hint": AttentionTransfer(layer, layer)}


SAME = Net()
CONSTANT = "criterion 'mine' .Own.: its value is a constant, or was detached"
LOST = "no gradient reaches the student"

# What, the set-up, words of the error; and those of Distill where they are others, None where the case is not its own.
BAD: dict[str, tuple[Case, str] | tuple[Case, str, str | None]] = {
    # No gradient reaches the student.
    "detached logits": (Case(around(lambda net, x: net(x).detach())), f"{LOST} through criterion 'hard'.*detach", LOST),
    "detached, without labels": (
        Case(around(lambda net, x: net(x).detach()), criteria=lambda: {"soft": SoftTarget()}, loss=of_the_outputs),
        f"{LOST} through criterion 'soft'.*detach",
        LOST,
    ),
    "run without gradients": (Case(around(without_gradients)), f"{LOST} through criterion 'hard'.*no_grad", LOST),
    "argmax": (
        Case(around(lambda net, x: F.one_hot(net(x).argmax(1), 10).float())),
        f"{LOST} through criterion 'hard'.*argmax",
        LOST,
    ),
    "through NumPy": (
        Case(around(lambda net, x: torch.from_numpy(net(x).detach().numpy()))),
        f"{LOST} through criterion 'hard'",
        LOST,
    ),
    "sign": (Case(around(lambda net, x: (net(x) > 0).float())), f"{LOST} through criterion 'hard'", LOST),
    "rounded": (Case(around(lambda net, x: net(x).round())), f"{LOST} through criterion 'hard'.*rounds", LOST),
    "ceiling": (Case(around(lambda net, x: net(x).ceil())), f"{LOST} through criterion 'hard'", LOST),
    "integers": (
        Case(around(lambda net, x: net(x).long())),
        f"{LOST}|no class|dtype",
        LOST + "|not implemented|expected",
    ),
    "frozen": (Case(frozen()), "the student Net has nothing to train: all its 6 parameters are frozen"),
    "frozen with a projector": (
        Case(frozen(), criteria=hint("stage3")),
        r"nothing to train.*Only the criteria's own parameters \('hint'\) would train",
    ),
    "frozen with a learned temperature": (
        Case(frozen(), criteria=lambda: {"learned": CTKD()}),
        r"nothing to train.*Only the criteria's own parameters \('learned'\) would train",
    ),
    "hint on a frozen layer": (
        Case(frozen(lambda net: net.stage1), criteria=hint("stage1")),
        f"{LOST} through criterion 'hint' .Hint.: no layer up to stage1 can train.*Unfreeze stage1.*projector",
    ),
    "hint on a frozen layer without projector": (
        Case(frozen(lambda net: net.stage1), lambda: Net(4), attention("stage1")),
        f"{LOST} through criterion 'hint' .AttentionTransfer.: no layer up to stage1 can train",
    ),
    "criterion of a constant": (Case(criteria=mine(lambda s, t: torch.ones(()))), CONSTANT),
    "criterion that is detached": (Case(criteria=mine(lambda s, t: s.logits.mean().detach())), CONSTANT),
    "criterion of the teacher alone": (Case(criteria=mine(lambda s, t: t.logits.mean())), CONSTANT),
    "criterion that counts": (
        Case(criteria=mine(lambda s, t: (s.logits.argmax(1) == t.logits.argmax(1)).float().mean())),
        CONSTANT,
    ),
    "criterion whose weight rises": (
        Case(criteria=mine(lambda s, t: t.logits.mean()), schedules={"mine.weight": Linear(0.0, 1.0, 2)}),
        CONSTANT,
    ),
    # Values that are no loss.
    "criterion of a float": (Case(criteria=mine(lambda s, t: 1.0)), "criterion 'mine' .Own. gave a float"),
    "criterion of .item()": (Case(criteria=mine(lambda s, t: s.logits.mean().item())), "'mine' .Own. gave a float"),
    "criterion of None": (Case(criteria=mine(lambda s, t: None)), r"'mine' .Own. gave nothing \(None\)"),
    "criterion of a tuple": (Case(criteria=mine(lambda s, t: (s.logits.mean(),))), "'mine' .Own. gave a tuple"),
    "criterion of a vector": (Case(criteria=mine(lambda s, t: s.logits.mean(1))), "'mine' .Own. gave a value of shape"),
    "criterion of one in a list": (
        Case(criteria=mine(lambda s, t: s.logits.mean()[None])),
        r"of shape \[1\]; a scalar",
    ),
    "criterion of an integer": (
        Case(criteria=mine(lambda s, t: torch.tensor(3))),
        "'mine' .Own. gave a value of int64",
    ),
    "criterion of a truth": (Case(criteria=mine(lambda s, t: s.logits.mean() > 0)), "gave a value of bool"),
    "criterion of a complex number": (Case(criteria=mine(lambda s, t: s.logits.mean() * 1j)), "a value of complex64"),
    "criterion on another device": (
        Case(criteria=mine(lambda s, t: s.logits.mean().to("meta"))),
        "'mine' .Own. gave a value on meta, and the student's outputs are on cpu",
    ),
    "criterion of NaN": (
        Case(criteria=mine(lambda s, t: s.logits.mean() * NAN)),
        "'mine' .Own. is nan before.*criterion",
    ),
    "criterion of infinity": (
        Case(criteria=mine(lambda s, t: s.logits.mean() * INF)),
        "criterion 'mine' .Own. is -?inf",
    ),
    "criterion of 0/0": (Case(criteria=mine(lambda s, t: s.logits.sum() * 0 / 0)), "criterion 'mine' .Own. is nan"),
    **{
        f"criterion that raises {type(error).__name__}": (
            Case(criteria=mine(lambda s, t, error=error: (_ for _ in ()).throw(error))),
            f"criterion 'mine' .Own.*{message}",
        )
        for error, message in (
            (KeyError("lost"), "failed: KeyError: 'lost'"),
            (IndexError("far"), "failed: IndexError: far"),
            (AttributeError("gone"), "failed: AttributeError: gone"),
            (TypeError("odd"), "failed: TypeError: odd"),
            (AssertionError("no"), "failed: AssertionError: no"),
            (ZeroDivisionError("zero"), "failed: ZeroDivisionError: zero"),
            (ValueError("bad"), ": bad"),
        )
    },
    # Weights that are no numbers.
    "NaN weights of the teacher": (
        Case(teacher=holding(NAN)),
        r"the teacher Net has weights.*stage1.weight holds NaN \(1",
    ),
    "NaN bias of the teacher": (
        Case(teacher=holding(NAN, "head.bias")),
        "the teacher Net has weights.*head.bias holds NaN",
    ),
    "NaN weights of the student": (Case(holding(NAN)), "the student Net has weights.*stage1.weight holds NaN"),
    "NaN statistics of the teacher": (
        Case(teacher=holding(NAN, "1.running_mean", normalised)),
        "the teacher Sequential has statistics.*1.running_mean holds NaN",
    ),
    "NaN statistics of the student": (
        Case(holding(NAN, "1.running_var", normalised)),
        "the student Sequential has statistics.*1.running_var holds NaN",
    ),
    "infinite weights of the teacher": (
        Case(teacher=holding(INF, "head.weight")),
        "'soft' .SoftTarget. is nan before.*the teacher Net has weights that are not finite: head.weight",
    ),
    "infinite weights of the student": (
        Case(holding(INF, "head.weight")),
        "is (nan|inf) before.*the student Net has weights that are not finite: head.weight",
    ),
    "infinite logits of the teacher": (
        Case(teacher=around(lambda net, x: net(x) * INF)),
        "'soft' .SoftTarget. is nan.*the teacher Around makes .* in its logits",
    ),
    "NaN logits of the student": (
        Case(around(lambda net, x: net(x) * NAN)),
        "is nan before.*the student Around makes NaN in its logits",
    ),
    "root of a negative number": (
        Case(teacher=around(lambda net, x: net(x).abs().neg().sqrt())),
        "'soft' .SoftTarget. is nan.*the teacher Around makes NaN",
    ),
    "NaN in a layer of the teacher": (
        Case(
            teacher=around(lambda net, x: net(x)), criteria=lambda: {"mine": Own(lambda s, t: s.logits.mean() / 0 * 0)}
        ),
        "criterion 'mine' .Own. is nan",
    ),
    # Networks that cannot run.
    "logits on meta": (
        Case(around(lambda net, x: net(x).to("meta")), criteria=lambda: {"soft": SoftTarget()}, loss=of_the_outputs),
        "the student's logits have no values.*'meta'",
    ),
    "teacher's logits on meta": (
        Case(teacher=around(lambda net, x: net(x).to("meta"))),
        "the teacher's logits have no values.*'meta'",
    ),
    "teacher on meta": (Case(teacher=on_meta), "the teacher Net has no weights: stage1.weight.*'meta'"),
    "teacher partly on meta": (Case(teacher=lambda: on_meta("head")), "the teacher Net has no weights: head.weight"),
    "student on meta": (Case(on_meta), "the student Net has no weights: stage1.weight.*'meta'"),
    "student partly on meta": (Case(lambda: on_meta("head")), "the student Net has no weights: head.weight"),
    "student of inference tensors": (Case(in_inference_mode), "the student Net cannot be trained.*inference_mode"),
    "the same object": (Case(lambda: SAME, lambda: SAME), "the teacher shares 6 parameters with the student"),
    "teacher of other channels": (
        Case(teacher=lambda: Net(6, channels=3)),
        r"the teacher \(Net\) failed.*\[\d, 1, 8, 8\].*3 channels.*adapt\(teacher",
    ),
    "teacher of another size": (
        Case(teacher=lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 10))),
        r"the teacher \(Sequential\) failed.*\[\d, 1, 8, 8\].*mat1 and mat2.*adapt\(teacher",
    ),
    "teacher of two inputs": (
        Case(teacher=lambda: nn.Bilinear(8, 8, 10)),
        r"the teacher \(Bilinear\) failed.*missing 1",
    ),
    "teacher of token numbers": (Case(teacher=lambda: nn.Embedding(9, 10)), r"the teacher \(Embedding\) failed"),
    "teacher of other classes": (Case(teacher=lambda: Net(6, 7)), "student has 10 classes and the teacher 7"),
    "student of other channels": (
        Case(lambda: Net(channels=3)),
        r"the student \(Net\) failed.*3 channels",
        "failed on a batch before the fit.*the student .Net. failed on its inputs",
    ),
    "channels last": (
        Case(lambda: Net(channels=3), lambda: Net(6, channels=3), data=lambda: loader(images(8, 8, 8, 3))),
        r"the student \(Net\) failed.*\[\d, 8, 8, 3\]",
        r"failed on a batch before the fit.*\[\d, 8, 8, 3\]",
    ),
    "images without their channel": (
        Case(data=lambda: loader(images(8, 8, 8))),
        r"the student \(Net\) failed.*\[\d, 8, 8\].*channels",
        r"failed on a batch before the fit.*\[\d, 8, 8\]",
    ),
    "a list of images": (
        Case(data=lambda: collated(lambda: (list(images(4)), torch.zeros(4).long()))),
        r"the student \(Net\) failed.*list",
        "failed on a batch before the fit",
    ),
    **{
        f"teacher that raises {type(error).__name__}": (
            Case(teacher=raising(error)),
            rf"the teacher \(Around\) failed.*{type(error).__name__}",
        )
        for error in (
            AttributeError("gone"),
            KeyError("lost"),
            NotImplementedError("later"),
            ZeroDivisionError("zero"),
            OSError("no file"),
            AssertionError("size"),
            StopIteration("end"),
        )
    },
    **{
        f"student that raises {type(error).__name__}": (
            Case(raising(error)),
            rf"the student \(Around\) failed.*{type(error).__name__}",
            rf"training_step failed on a batch before the fit.*{type(error).__name__}.*the student .Around. failed",
        )
        for error in (AttributeError("gone"), TypeError("odd"), ZeroDivisionError("zero"), Exception("any"))
    },
    # Outputs that hold no logits.
    "teacher returns None": (Case(teacher=around(lambda net, x: None)), "the teacher returned a NoneType"),
    "teacher returns text": (Case(teacher=around(lambda net, x: "cat")), "the teacher returned a str"),
    "teacher returns nothing": (
        Case(teacher=around(lambda net, x: ())),
        "the teacher returned a tuple without a tensor",
    ),
    "teacher returns a generator": (
        Case(teacher=around(lambda net, x: (y for y in [net(x)]))),
        "the teacher returned a generator",
    ),
    "teacher returns a number": (Case(teacher=around(lambda net, x: 0.5)), "the teacher returned a float"),
    "teacher returns two": (
        Case(teacher=around(lambda net, x: (net(x), net(x)))),
        "the teacher returns several tensors that could be the logits",
    ),
    "teacher returns a sparse tensor": (
        Case(teacher=around(lambda net, x: net(x).to_sparse())),
        "teacher's logits.*sparse",
    ),
    "teacher returns complex numbers": (Case(teacher=around(lambda net, x: net(x) * 1j)), "teacher's logits.*complex"),
    "teacher returns truth values": (Case(teacher=around(lambda net, x: net(x) > 0)), "teacher's logits.*truth values"),
    "student returns None": (
        Case(around(lambda net, x: None)),
        "the student returned a NoneType",
        "training_step failed on a batch before the fit.*NoneType",
    ),
    "student returns complex numbers": (
        Case(around(lambda net, x: net(x) * (1 + 1j))),
        "student's logits.*complex",
        "training_step failed on a batch before the fit.*Complex",
    ),
    "student returns a generator in a dict": (
        Case(around(lambda net, x: {"logits": (y for y in [net(x)])})),
        "no logits in the student's output",
        "training_step failed on a batch before the fit",
    ),
    # A training step of the user's own.
    "loss without a gradient": (
        Case(loss=lambda outputs, batch: F.cross_entropy(outputs, batch[1]).detach()),
        "",
        "returned a loss without a gradient",
    ),
    "loss of NaN": (
        Case(loss=lambda outputs, batch: F.cross_entropy(outputs, batch[1]) * NAN),
        "",
        "criterion 'task' .the training step's own loss. is nan before",
    ),
}


class Detached(Net):
    """One layer's output is cut off behind a hint."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            below = F.relu(self.stage1(x))
        return self.head(self.stage3(below).flatten(1))


BAD["hint on a layer that runs without gradients"] = (
    Case(Detached, criteria=hint("stage1")),
    f"{LOST} through criterion 'hint' .Hint.: no layer up to stage1 can train",
)


@pytest.mark.filterwarnings("ignore::lit_distill.utils.notices.DistillationWarning")
@pytest.mark.parametrize(("door", "case", "words"), rows(BAD))
def test_a_bad_network_is_refused_before_the_first_batch(
    door: str, case: Case, words: str, quick_trainer: MakeTrainer, tally: Tally
) -> None:
    watch = Watch()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=f"(?s){words}"):
        DOORS[door](case, quick_trainer, watch)
    assert not watch.batches, "it was found at the first batch"
    tally("bad networks and criteria are refused before the first batch")


# What runs, and most likely is not meant.
def sigmoid(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).sigmoid()


def sequences(make: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return around(lambda net, x: make(net(x).unflatten(1, (2, 5))))


def maps(make: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return around(lambda net, x: make(net.stage1(x)), width=5)


def binary() -> Any:
    return {"soft": SoftTarget(task="binary")}


SOFT: dict[str, Any] = {"criteria": lambda: {"soft": SoftTarget()}, "loss": of_the_outputs}
ONE: dict[str, Any] = {"criteria": binary, "loss": of_the_outputs, "task": "binary"}
TOLD = {
    "softmax": (Case(teacher=around(lambda net, x: net(x).softmax(-1))), "the teacher .*returns probabilities .rows"),
    "softmax of the student": (Case(around(lambda net, x: net(x).softmax(-1))), "the student .*returns probabilities"),
    "softmax of sequences": (
        Case(sequences(lambda z: z), sequences(lambda z: z.softmax(-1)), format=BatchFormat(class_dim=-1), **SOFT),
        "the teacher .*returns probabilities .rows",
    ),
    "softmax of maps": (
        Case(maps(lambda z: z), maps(lambda z: z.softmax(1)), **SOFT),
        "the teacher .*returns probabilities .rows",
    ),
    "softmax of NumPy's making": (
        Case(teacher=around(lambda net, x: torch.from_numpy(net(x).softmax(-1).numpy()))),
        "the teacher .*returns probabilities .rows",
    ),
    "sigmoid of the teacher": (
        Case(lambda: Net(classes=1), around(sigmoid, classes=1), **ONE),
        "the teacher ends in a sigmoid or a softmax",
    ),
    "sigmoid of the student": (
        Case(around(sigmoid, classes=1), lambda: Net(classes=1), **ONE),
        "the student ends in a sigmoid or a softmax",
    ),
    "sigmoids of several labels": (
        Case(
            teacher=around(sigmoid),
            criteria=lambda: {"soft": SoftTarget(task="multilabel")},
            loss=of_the_outputs,
            task="multilabel",
        ),
        "the teacher ends in a sigmoid or a softmax",
    ),
    "log-softmax beside what compares logits as they are": (
        Case(
            teacher=around(lambda net, x: net(x).log_softmax(-1)),
            criteria=lambda: {"hard": HardTarget(), "mse": LogitMSE()},
        ),
        "the teacher returns logarithms of probabilities .*'mse' compares",
    ),
}


@pytest.mark.filterwarnings("ignore::lit_distill.utils.notices.DistillationWarning")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", TOLD)
def test_probabilities_in_place_of_logits_are_told(
    what: str, door: str, quick_trainer: MakeTrainer, tally: Tally
) -> None:
    case, words = TOLD[what]
    with pytest.warns(DistillationWarning, match=words):
        DOORS[door](case, quick_trainer, Watch())
    tally("probabilities instead of logits cause a warning")


@pytest.mark.parametrize("door", DOORS)
def test_a_gradient_that_is_not_finite_stops_before_the_weights_take_it(
    door: str, quick_trainer: MakeTrainer, tally: Tally
) -> None:
    def root(student: Any, teacher: Any) -> Tensor:
        return (student.logits - student.logits.detach()).square().sum().sqrt()

    watch, module = Watch(), None
    student = Net()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    case = Case(lambda: student, criteria=mine(root))
    with pytest.raises(
        FloatingPointError, match="loss is finite at step 0, and its gradient is not.*stage1.weight"
    ) as caught:
        module = DOORS[door](case, quick_trainer, watch)
    assert module is None
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert door == "Distill" or "It is that of 'mine' (Own)" in str(caught.value)
    tally("a gradient that is not finite stops the fit before it reaches the weights")
