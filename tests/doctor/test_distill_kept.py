"""What the doctor examines with the ``Distill`` callback stays as it was: module, callback, teacher, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lit_distill import Distill, Hint
from lit_distill.doctor import examine, report
from lit_distill.teachers import FrozenTeacher, JointTeacher
from tests.doctor import bugs
from tests.doctor.guests import FailsInTraining, KeepsItsLoss, hosted, observing
from tests.doctor.setups import Net


def state(module: nn.Module) -> dict[str, Any]:
    """All that an examination could change in a network."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    values = {name: (tensor.detach().clone(), tensor.requires_grad) for name, tensor in tensors}
    modes = {name: part.training for name, part in module.named_modules()}
    hooks = {name: len(part._forward_hooks) + len(part._forward_pre_hooks) for name, part in module.named_modules()}
    return {"values": values, "modes": modes, "hooks": hooks, "attributes": set(vars(module))}


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    tensors, now = before.pop("values"), after.pop("values")
    equal = tensors.keys() == now.keys() and all(
        tensor.dtype == now[name][0].dtype and torch.equal(tensor, now[name][0]) and wanted == now[name][1]
        for name, (tensor, wanted) in tensors.items()
    )
    return equal and before == after


def fit(module: Any, data: Any, guest: Distill | None, folder: Path, steps: int = 3) -> None:
    torch.manual_seed(5)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[guest] if guest is not None else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, data)


@pytest.mark.parametrize(
    ("wrap", "precision"),
    [
        (lambda network: network, None),
        (lambda network: network, "bf16-true"),
        (FrozenTeacher, None),
        (FrozenTeacher, "bf16-true"),
        (observing, None),
        (bugs.RestlessTeacher, None),
        (JointTeacher, None),
    ],
)
def test_leaves_everything_as_it_was(wrap: Callable[[nn.Module], Any], precision: str | None) -> None:
    network = Net(16)
    module, data, guest = hosted({"term": Hint("stage", "stage")}, teacher=wrap(network))
    network.train()
    callbacks: list[Any] = [guest]
    before, teacher, criteria = state(module), state(network), state(guest.criteria)
    attributes = dict(vars(guest))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    told = report(module, data, {"callbacks": callbacks, "precision": precision}, 2)
    assert told.steps == 2
    assert torch.equal(torch.rand(3), expected)
    assert same(before, state(module))
    assert same(teacher, state(network))
    assert same(criteria, state(guest.criteria))
    assert callbacks == [guest]
    assert vars(guest) == attributes
    assert guest.distiller is None


@pytest.mark.parametrize("wrap", [lambda network: network, FrozenTeacher])
def test_a_fit_is_the_same_after_it(wrap: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    weights = []
    for look in (False, True):
        torch.manual_seed(1)
        module, data, guest = hosted({"term": Hint("stage", "stage")}, teacher=wrap(Net(16)))
        for _ in range(2):
            if look:
                examine(module, data, {"callbacks": [guest]}, 2)
            fit(module, data, guest, tmp_path)
        weights.append({**module.state_dict(), **guest.criteria.state_dict()})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_tells_why_the_last_fit_failed(tmp_path: Path) -> None:
    module, data, guest = hosted({"term": FailsInTraining()})
    with pytest.raises(ValueError, match="only now"):
        fit(module, data, guest, tmp_path)
    findings = examine(module, data, {"callbacks": [guest]}, 2)
    assert ["only now" in finding.found for finding in findings if finding.check == "run"] == [True]


def test_a_module_that_keeps_the_tensors_of_a_step_is_examined(tmp_path: Path) -> None:
    module, data, guest = hosted(kind=KeepsItsLoss)
    fit(module, data, guest, tmp_path)
    assert report(module, data, {"callbacks": [guest]}, 2).steps == 2


def test_says_that_a_module_cannot_be_copied() -> None:
    class Single:
        def __deepcopy__(self, memo: dict[int, object]) -> Single:
            raise RuntimeError("there is one alone")

    module, data, guest = hosted()
    module.single = Single()
    with pytest.raises(
        ValueError, match=r"examines a copy, and \w+ cannot be copied \(RuntimeError: there is one alone"
    ):
        examine(module, data, {"callbacks": [guest]}, 2)


def test_a_module_that_was_fitted_compiled_stays_as_it_was(tmp_path: Path) -> None:
    module, data, guest = hosted()
    fit(torch.compile(module, backend="eager"), data, None, tmp_path, 1)
    before = state(module)
    told = report(module, data, {"callbacks": [guest]}, 2)
    assert told.bugs == []
    assert told.steps == 2
    assert same(before, state(module))
