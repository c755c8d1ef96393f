"""Mutual learning through the Trainer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import BatchFormat, DistillationModule, HardTarget, SoftTarget
from lit_distill.criteria import Mutual, OnHead
from lit_distill.models import MLP, Peers
from lit_distill.modules import MutualDistillation

QuickTrainer = Callable[..., Trainer]


class Net(nn.Module):
    def __init__(self, width: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def loader(samples: int = 24, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(samples, 4, generator=generator), torch.arange(samples) % 3)
    return DataLoader(data, batch_size=8, shuffle=shuffle)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_trains_as_the_paper_says(quick_trainer: QuickTrainer) -> None:
    peers = [MLP(4, (5,), 3), MLP(4, (6,), 3), MLP(4, (), 3)]
    alone = copy.deepcopy(peers)
    quick_trainer(max_epochs=2).fit(MutualDistillation(list(peers), optimizer=sgd), loader())
    optimizers = [sgd(peer.parameters()) for peer in alone]
    for _ in range(2):
        for x, y in loader():
            logits = [peer(x) for peer in alone]
            told = [z.detach().softmax(-1) for z in logits]
            for index, z in enumerate(logits):
                others = [told[j] for j in range(3) if j != index]
                mimicry = sum(F.kl_div(z.log_softmax(-1), p, reduction="batchmean") for p in others) / 2
                (F.cross_entropy(z, y) + mimicry).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for trained, expected in zip(peers, alone, strict=True):
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_without_the_mutual_part_peers_train_as_if_alone(quick_trainer: QuickTrainer) -> None:
    peers = [MLP(4, (5,), 3), MLP(4, (6,), 3)]
    alone = copy.deepcopy(peers[1])
    quick_trainer().fit(MutualDistillation(list(peers), weights={"mutual": 0.0}, optimizer=sgd), loader())
    optimizer = sgd(alone.parameters())
    for x, y in loader():
        optimizer.zero_grad()
        F.cross_entropy(alone(x), y).backward()
        optimizer.step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(peers[1].state_dict()[name], value)


def test_each_peer_and_the_ensemble_are_measured(quick_trainer: QuickTrainer) -> None:
    module = MutualDistillation([Net(), Net(7)])
    fit = quick_trainer(num_sanity_val_steps=0)
    fit.fit(module, loader(), loader())
    module.eval()
    x, y = (torch.cat(parts) for parts in zip(*loader(), strict=True))
    with torch.no_grad():
        probabilities = [module.student[index](x).double().softmax(-1) for index in range(2)]
    for index, p in enumerate(probabilities):
        expected = (p.argmax(-1) == y).double().mean().item()
        assert fit.callback_metrics[f"val/accuracy/peer_{index}"].item() == pytest.approx(expected)
        loss = -p[torch.arange(24), y].log().mean().item()
        assert fit.callback_metrics[f"val/cross_entropy/peer_{index}"].item() == pytest.approx(loss, rel=1e-5)
    mean = sum(probabilities) / 2
    assert fit.callback_metrics["val/accuracy/student"].item() == (mean.argmax(-1) == y).double().mean().item()
    loss = -mean[torch.arange(24), y].log().mean().item()
    assert fit.callback_metrics["val/cross_entropy/student"].item() == pytest.approx(loss, rel=1e-5)
    assert "train/criteria/mutual" in fit.logged_metrics
    assert {"train/criteria/hard_0", "train/criteria/hard_1"} <= set(fit.logged_metrics)


def test_a_peer_is_a_plain_network(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    module = MutualDistillation([Net(), Net(7)])
    fit = quick_trainer()
    fit.fit(module, loader())
    fit.save_checkpoint(tmp_path / "peers.ckpt")
    state = torch.load(tmp_path / "peers.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("student.") for name in state)
    for index, width in enumerate((5, 7)):
        fresh = Net(width).eval()
        fresh.load_state_dict(module.student[index].state_dict(), strict=True)
        x = torch.randn(3, 4)
        assert torch.equal(fresh(x), module.student[index].eval()(x))
        prefix = f"student.{index}."
        fresh.load_state_dict(
            {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}, strict=True
        )


def test_resume_is_exact(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    def make() -> MutualDistillation:
        torch.manual_seed(0)
        return MutualDistillation([Net(), Net(6)])

    whole = make()
    quick_trainer(max_epochs=4).fit(whole, loader(shuffle=True), loader())
    first = quick_trainer(max_epochs=2)
    first.fit(make(), loader(shuffle=True), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    second = make()
    quick_trainer(max_epochs=4).fit(second, loader(shuffle=True), loader(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, copied(second)[name]) for name, value in copied(whole).items())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_clipping_accumulation_and_precision_are_the_trainers(quick_trainer: QuickTrainer, precision: Any) -> None:
    module = MutualDistillation([Net(), Net(6)])
    before = copied(module)
    fit = quick_trainer(gradient_clip_val=0.5, accumulate_grad_batches=2, precision=precision)
    fit.fit(module, loader(samples=32))
    assert fit.global_step == 2
    trained = [name for name, _ in module.named_parameters()]
    assert all(not torch.equal(before[name], copied(module)[name]) for name in trained)


def test_peers_that_share_parameters_are_refused() -> None:
    shared = nn.Linear(4, 5)
    one, other = (nn.Sequential(shared, nn.Linear(5, 3)) for _ in range(2))
    with pytest.raises(ValueError, match="peers 0 and 1 share 2 parameters \\(0.weight, …\\)"):
        MutualDistillation([one, other])
    with pytest.raises(ValueError, match="peers 0 and 2 share"):
        MutualDistillation([one, Net(), one])
    with pytest.raises(ValueError, match="peers must be at least 2 networks, not 1"):
        MutualDistillation([one])


def test_twins_are_warned_of() -> None:
    peer = Net()
    with pytest.warns(UserWarning, match="peers 0 and 2 start with the same weights"):
        MutualDistillation([peer, Net(), copy.deepcopy(peer)])


def test_other_classes_are_refused_before_training(quick_trainer: QuickTrainer) -> None:
    with pytest.raises(ValueError, match="3 classes and model 1 4|differ in shape"):
        quick_trainer().fit(MutualDistillation([Net(), Net(classes=4)]), loader())


def test_settings_of_replaced_criteria_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature belongs to the default criteria"):
        MutualDistillation([Net(), Net()], {"mutual": Mutual(["0", "1"])}, {"mutual": 1.0}, temperature=2.0)


class Wordy(Net):
    def __init__(self, width: int, first: str) -> None:
        super().__init__(width)
        self.first = first

    def forward(self, x: Tensor) -> Any:
        found = {"scores": super().forward(x), "inputs": x}
        return {name: found[name] for name in sorted(found, reverse=self.first == "scores")}


def test_peers_whose_logits_come_late_are_refused(quick_trainer: QuickTrainer) -> None:
    peers: list[nn.Module] = [Wordy(5, "scores"), Wordy(6, "inputs")]
    with pytest.raises(ValueError, match="peer 1 returns another tensor before its logits"):
        quick_trainer().fit(MutualDistillation(peers, batch_format=BatchFormat(output_key="scores")), loader())


def test_peers_that_return_mappings(quick_trainer: QuickTrainer) -> None:
    peers: list[nn.Module] = [Wordy(5, "scores"), Wordy(6, "scores")]
    module = MutualDistillation(peers, batch_format=BatchFormat(output_key="scores"))
    fit = quick_trainer()
    fit.fit(module, loader(), loader())
    assert 0 <= fit.callback_metrics["val/accuracy/peer_1"] <= 1


def test_binary_peers(quick_trainer: QuickTrainer) -> None:
    data = TensorDataset(torch.randn(16, 4), torch.randint(0, 2, (16,)).float())
    batches = DataLoader(data, batch_size=8)
    fit = quick_trainer()
    module = MutualDistillation([Net(classes=1), Net(6, classes=1)], task="binary")
    fit.fit(module, batches, batches)
    x, y = data.tensors
    module.eval()
    with torch.no_grad():
        mean = torch.stack([module.student[index](x).sigmoid() for index in range(2)]).mean(0).flatten()
    assert fit.callback_metrics["val/accuracy/student"].item() == ((mean > 0.5) == y.bool()).float().mean().item()


def test_peers_learn_from_a_teacher_too(quick_trainer: QuickTrainer) -> None:
    teacher = Net(9).eval()
    peers = Peers([MLP(4, (5,), 3), MLP(4, (6,), 3)])
    alone = copy.deepcopy(peers)
    criteria = {
        "soft_0": OnHead(SoftTarget(2.0), "0"),
        "soft_1": OnHead(SoftTarget(2.0), "1"),
        "hard_0": OnHead(HardTarget(), "0"),
        "mutual": Mutual(["0", "1"]),
    }
    x, y = next(iter(loader(8)))
    module = DistillationModule(peers, teacher, criteria, dict.fromkeys(criteria, 1.0), optimizer=sgd)
    quick_trainer(max_steps=1).fit(module, loader(8))
    with torch.no_grad():
        target = (teacher(x) / 2).softmax(-1)
    logits = [alone[index](x) for index in range(2)]
    loss = F.cross_entropy(logits[0], y)
    for index, z in enumerate(logits):
        loss = loss + 4 * F.kl_div((z / 2).log_softmax(-1), target, reduction="batchmean")
        other = logits[1 - index].detach().softmax(-1)
        loss = loss + F.kl_div(z.log_softmax(-1), other, reduction="batchmean")
    loss.backward()
    sgd(alone.parameters()).step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(peers.state_dict()[name], value)
