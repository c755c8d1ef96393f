"""Two processes train as one, in every scheme; and each goes on with random states of its own."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lit_distill import LogitDistillation
from lit_distill.utils.notices import DistillationWarning
from lit_distill.utils.rng import collect_rng_state, restore_own_rng_state
from tests.promises.conftest import Tally
from tests.promises.forks import in_fork
from tests.promises.schemes import SCHEMES, labels_of, make, network

pytestmark = pytest.mark.slow

AS_ONE = "two processes train the weights that one trains"
OWN_STATES = "each process resumes with its own random states"
# What two processes cannot have alike: a recording made of other batches, memories in another order.
ALIKE = [scheme for scheme in SCHEMES if scheme not in ("recorded", "queue", "CRD")]


def as_ranks(work: Callable[[int], object], log: Path, number: int = 2) -> list[int]:
    """Run work in forked processes that Lightning takes for the ranks of one run, and give their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def one(rank: int) -> None:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        os.environ.update({**place, "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)})
        work(rank)

    codes = [-1] * number

    def run(rank: int) -> None:
        codes[rank] = in_fork(lambda: one(rank), log=f"{log}-{rank}")

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


class Samples(Dataset[Any]):
    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.inputs = torch.linspace(-1, 1, 32 * 8).reshape(32, 8).sin()

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], labels_of(self.scheme, torch.tensor(index % 3))


class Data(LightningDataModule):
    """The same global batches for any number of processes."""

    def __init__(self, scheme: str, devices: int) -> None:
        super().__init__()
        self.scheme, self.devices = scheme, devices

    def train_dataloader(self) -> Any:
        data = Samples(self.scheme)
        sampler: Any = DistributedSampler(data, self.devices, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, 16 // self.devices, sampler=sampler)


def trainer(devices: int, folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    settings: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": False, **options}
    return Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )


def train(devices: int, rank: int, folder: Path) -> None:
    for scheme in ALIKE:
        module, callbacks = make(scheme, folder)
        torch.manual_seed(2)
        trainer(devices, folder, *callbacks, Keeping(folder / f"{scheme}-{devices}-{rank}.pt")).fit(
            module, datamodule=Data(scheme, devices)
        )


class Keeping(Callback):
    """Keeps the weights at the end, those of ``Distill``'s criteria too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.path)


def test_two_processes_give_the_weights_of_one_in_every_scheme(tmp_path: Path, tally: Tally) -> None:
    assert in_fork(lambda: train(1, 0, tmp_path), log=str(tmp_path / "one")) == 0, (tmp_path / "one").read_text()[
        -3000:
    ]
    codes = as_ranks(lambda rank: train(2, rank, tmp_path), tmp_path / "two")
    assert codes == [0, 0], (tmp_path / "two-0").read_text()[-3000:]
    for scheme in ALIKE:
        one, first, second = (
            torch.load(tmp_path / f"{scheme}-{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
        )
        assert one.keys() == first.keys() == second.keys()
        for name, value in one.items():
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5, msg=f"{scheme}: {name}")
            assert torch.equal(first[name], second[name]), f"{scheme}: {name}"
        tally(AS_ONE)


# Random states -----------------------------------------------------------------------------------------


class Apart(Callback):
    """Has each process draw its own numbers, saves, ends a fit, and keeps what the other draws next."""

    def __init__(self, folder: Path, name: str, stop_after: int | None) -> None:
        self.folder, self.name, self.stop_after = folder, name, stop_after
        self.seen: list[torch.Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            torch.manual_seed(100 + trainer.global_rank)
            random.seed(100 + trainer.global_rank)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        noise = 0.1 * torch.rand_like(batch[0][:8]) + 0.1 * random.random()
        batch[0][:8].add_(noise)
        if trainer.current_epoch >= 2:
            self.seen.append(noise)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.folder / f"{self.name}.ckpt")
            if self.stop_after is not None:
                os._exit(9)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kept = {"weights": pl_module.state_dict(), "seen": torch.stack(self.seen)}
        torch.save(kept, self.folder / f"{self.name}-{trainer.global_rank}.pt")


def draw(folder: Path, name: str, stop: int | None = None, resume: bool = False, devices: int = 2) -> None:
    torch.manual_seed(0)
    module = LogitDistillation(network(6, drop=0.3), network(10))
    fit = trainer(devices, folder, Apart(folder, name, stop), max_epochs=4)
    fit.fit(module, datamodule=Data("logit", devices), ckpt_path=folder / "cut.ckpt" if resume else None)


def test_each_process_goes_on_with_its_own_random_states(tmp_path: Path, tally: Tally) -> None:
    assert as_ranks(lambda rank: draw(tmp_path, "whole"), tmp_path / "log") == [0, 0], (tmp_path / "log-0").read_text()
    assert as_ranks(lambda rank: draw(tmp_path, "cut", stop=1), tmp_path / "log") == [9, 9]
    saved = torch.load(tmp_path / "cut.ckpt", weights_only=True)["lit_distill"]
    assert len(saved["rng_of_other_ranks"]) == 1
    assert as_ranks(lambda rank: draw(tmp_path, "cut", resume=True), tmp_path / "log") == [0, 0]
    seen = []
    for rank in (0, 1):
        whole, cut = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for name in ("whole", "cut"))
        assert torch.equal(whole["seen"], cut["seen"])
        assert all(torch.equal(value, cut["weights"][name]) for name, value in whole["weights"].items())
        seen.append(whole["seen"])
    assert not torch.equal(*seen)
    tally(OWN_STATES, 2)


def test_another_number_of_processes_is_told_and_each_draws_its_own(tmp_path: Path, tally: Tally) -> None:
    assert in_fork(lambda: draw(tmp_path, "cut", stop=1, devices=1), log=str(tmp_path / "log")) == 9

    def resume(rank: int) -> None:
        told = pytest.warns(DistillationWarning, match="states of 1 process, and this run has 2 processes")
        with told if rank == 0 else nullcontext():
            draw(tmp_path, "two", resume=True)

    assert as_ranks(resume, tmp_path / "log") == [0, 0], (tmp_path / "log-0").read_text()[-3000:]
    seen = [torch.load(tmp_path / f"two-{rank}.pt", weights_only=True)["seen"] for rank in (0, 1)]
    assert not torch.equal(*seen)
    tally(OWN_STATES)


def test_a_rank_without_a_state_gets_one_of_its_own_alike_each_time() -> None:
    state = collect_rng_state()
    drawn = []
    for rank in (0, 1, 2, 1):
        restore_own_rng_state([state], rank)
        drawn.append((float(torch.rand(())), random.random()))
    restore_own_rng_state([state], 0)
    assert drawn[1] == drawn[3]
    assert len(set(drawn)) == 3
