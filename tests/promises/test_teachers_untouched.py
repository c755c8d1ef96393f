"""A frozen teacher of any kind is after a fit what it was before, in every scheme and precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, FeatureDistillation, Hint, LogitDistillation, SoftTarget
from lit_distill.models import SmallCNN
from lit_distill.teachers.digest import network_digest
from tests.plain import Plain
from tests.promises.teachers import HIDDEN, IMAGES, TOKENS

Tally = Callable[..., None]
MakeTrainer = Callable[..., Trainer]
PROMISE = "a frozen teacher is bit-identical after a fit"
REFUSED = "a teacher whose layers cannot be read is refused with a reason"
PRECISIONS = ["32-true", "bf16-mixed", "bf16-true", "64-true"]


class Reader(nn.Module):
    """A student of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids).mean(1))


class Theirs(Plain):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model(batch[0])


def loader(tokens: bool) -> DataLoader[Any]:
    inputs = torch.randint(1, 30, (8, 6)) if tokens else torch.randn(8, 1, 8, 8)
    return DataLoader(TensorDataset(inputs, torch.randint(0, 10, (8,))), batch_size=4)


def state(model: nn.Module) -> dict[str, Any]:
    """All that a user can see of a network."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        "digest": network_digest(model),
        "types": {name: (value.dtype, value.device, value.stride()) for name, value in tensors},
        "objects": {name: id(value) for name, value in model.named_parameters(remove_duplicate=False)},
        "gradients": {name: value.grad is None for name, value in tensors},
        "classes": {name: type(part) for name, part in model.named_modules()},
        "hooks": {
            name: (list(part._forward_hooks.values()), list(part._forward_pre_hooks.values()))
            for name, part in model.named_modules()
            if not isinstance(part, torch.jit.ScriptModule)
        },
        "attributes": {name: sorted(set(vars(part)) - {"calls"}) for name, part in model.named_modules()},
    }


def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a network says in evaluation mode, to inputs of its own type."""
    dtype = next((value.dtype for value in model.parameters() if value.is_floating_point()), None)
    given = inputs.to(dtype) if dtype is not None and inputs.is_floating_point() else inputs
    with torch.no_grad():
        out = model(given)
    found: Tensor = out if isinstance(out, Tensor) else out.logits
    return found


def fit(scheme: str, teacher: nn.Module, tokens: bool, trainer: MakeTrainer, precision: Any) -> None:
    student = Reader() if tokens else SmallCNN(2)
    layer = "embedding" if tokens else "stage3"
    target = next((name for name, _ in teacher.named_modules() if name.rpartition(".")[2] in ("stage", "stage3")), "")
    if scheme == "logits":
        trainer(precision=precision).fit(LogitDistillation(student, teacher), loader(tokens), loader(tokens))
    elif scheme == "features":
        trainer(precision=precision).fit(FeatureDistillation(student, teacher, layer, target), loader(tokens))
    else:
        criteria: dict[str, Any] = {"soft": SoftTarget(2.0)}
        if target and scheme == "Distill with a hint":
            criteria["hint"] = Hint(layer, target)
        guest = Distill(teacher, criteria, dict.fromkeys(criteria, 1.0))
        trainer(precision=precision, callbacks=[guest]).fit(Theirs(student), loader(tokens), loader(tokens))


def prepared(kind: str) -> tuple[nn.Module, Tensor]:
    tokens = kind in TOKENS
    torch.manual_seed(2)
    teacher = (TOKENS if tokens else IMAGES)[kind]()
    inputs = torch.randint(1, 30, (3, 6)) if tokens else torch.randn(3, 1, 8, 8)
    if kind != "exported":
        teacher.eval()
    answer(teacher, inputs)  # what is lazy is made
    return teacher, inputs


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*IMAGES, *TOKENS])
def test_a_teacher_is_what_it_was(kind: str, tally: Tally, quick_trainer: MakeTrainer) -> None:
    for scheme in ("logits", "features", "Distill", "Distill with a hint"):
        for precision in {"logits": PRECISIONS, "Distill": PRECISIONS[::2]}.get(scheme, PRECISIONS[:1]):
            teacher, inputs = prepared(kind)
            has_layer = any(name.rpartition(".")[2] in ("stage", "stage3") for name, _ in teacher.named_modules())
            if scheme in ("features", "Distill with a hint") and not has_layer and kind not in HIDDEN:
                continue
            before, said = state(teacher), answer(teacher, inputs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if scheme == "features" and kind in HIDDEN:
                    with pytest.raises(ValueError, match=r"of which only the output can be read|no layer"):
                        fit(scheme, teacher, kind in TOKENS, quick_trainer, precision)
                    promise = REFUSED
                elif scheme == "Distill with a hint" and kind in HIDDEN:
                    continue
                else:
                    fit(scheme, teacher, kind in TOKENS, quick_trainer, precision)
                    promise = PROMISE
            after = state(teacher)
            for part, value in before.items():
                assert after[part] == value, (scheme, precision, part)
            assert torch.equal(answer(teacher, inputs), said), (scheme, precision)
            assert kind == "exported" or not any(part.training for part in teacher.modules())
            tally(promise)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["logits", "Distill"])
@pytest.mark.parametrize("when", ["in a step", "before the first"])
def test_an_error_leaves_it_too(scheme: str, when: str, tally: Tally, quick_trainer: MakeTrainer) -> None:
    class Failing(SmallCNN):
        steps = 0

        def forward(self, images: Tensor) -> Tensor:
            Failing.steps += self.training
            if when == "before the first" or Failing.steps > 2:
                raise KeyError("no such thing")
            return super().forward(images)

    teacher, inputs = prepared("CNN")
    before, said = state(teacher), answer(teacher, inputs)
    module: Any = LogitDistillation(Failing(2), teacher) if scheme == "logits" else Theirs(Failing(2))
    guests = [] if scheme == "logits" else [Distill(teacher)]
    with pytest.raises((KeyError, ValueError), match="no such thing"):
        quick_trainer(callbacks=guests, max_epochs=3).fit(module, loader(False))
    assert state(teacher) == before
    assert torch.equal(answer(teacher, inputs), said)
    tally("a teacher is left as it was by a fit that fails")


@pytest.mark.slow
def test_no_hook_is_left_by_many_modules(tally: Tally, quick_trainer: MakeTrainer) -> None:
    teacher, _ = prepared("own hooks")
    before = state(teacher)
    modules = [FeatureDistillation(SmallCNN(2), teacher, "stage3", "stage") for _ in range(5)]
    for module in modules:
        quick_trainer().fit(module, loader(False), loader(False))
    for module in modules:
        quick_trainer().validate(module, loader(False), verbose=False)
    assert state(teacher) == before
    tally("modules that share a teacher leave no hook on it", len(modules))
