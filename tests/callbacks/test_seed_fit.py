"""SeedFit: the same batches, whatever was drawn before."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.callbacks import SeedFit
from lit_distill.modules import LogitDistillation, SupervisedModule
from tests.conftest import QuickTrainer


def test_a_teacher_changes_no_batch(quick_trainer: QuickTrainer) -> None:
    seen: dict[str, list[torch.Tensor]] = {}

    def fit(name: str, seed: int) -> None:
        student = nn.Linear(4, 3)
        seen[name] = []
        student.register_forward_hook(
            lambda module, inputs, _: seen[name].append(inputs[0].clone()) if torch.is_grad_enabled() else None
        )
        module = LogitDistillation(student, nn.Linear(4, 3)) if name == "taught" else SupervisedModule(student)
        data = TensorDataset(torch.arange(64.0).reshape(16, 4), torch.arange(16) % 3)
        loader = DataLoader(data, batch_size=4, shuffle=True)
        quick_trainer(callbacks=[SeedFit(seed)], max_epochs=2).fit(module, loader)

    fit("taught", 0)
    fit("alone", 0)
    fit("other", 1)
    taught, alone, other = (torch.cat(seen[name][-8:]) for name in ("taught", "alone", "other"))
    assert torch.equal(taught, alone)
    assert not torch.equal(taught, other)
