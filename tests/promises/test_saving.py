"""A file that is written is never torn, whatever happens meanwhile, and wherever $TMPDIR is."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import LogitDistillation
from lit_distill.callbacks.distill.strip import strip_file
from lit_distill.cli.command import main
from lit_distill.files import whole_file
from lit_distill.files.saving import WholeCheckpoints, save_whole
from lit_distill.files.whole_file import remove_stale, write_whole
from lit_distill.models import MLP
from tests.promises.conftest import Tally
from tests.promises.forks import in_fork

NEVER_TORN = "a checkpoint is the one before or the new one, and whole, whatever ends the process that writes it"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """$TMPDIR on another file system, empty."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no second file system at /dev/shm")
    folder = Path(f"/dev/shm/lit-distill-{os.getpid()}")
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert not list(folder.iterdir()), "temporary files were left"
    shutil.rmtree(folder)


def data() -> DataLoader[Any]:
    images = torch.arange(64.0).reshape(8, 8) / 64
    return DataLoader(TensorDataset(images, torch.arange(8) % 3), batch_size=4)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_as_open_would_make_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o664)
    write_whole(tmp_path / "new", b"2")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o664
    assert (tmp_path / "new").read_bytes() == b"2"
    assert names(tmp_path) == ["new"]


@pytest.mark.parametrize("name", ["ü" * 127, "x" * 255, "模型=0.5.ckpt", "-rf", "a b'\"$"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"1")
    write_whole(tmp_path / name, b"2")
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"2"


def test_links_are_replaced_and_what_they_led_to_stays(tmp_path: Path) -> None:
    (tmp_path / "epoch=1.ckpt").write_bytes(b"best")
    (tmp_path / "last.ckpt").symlink_to("epoch=1.ckpt")
    (tmp_path / "hard").hardlink_to(tmp_path / "epoch=1.ckpt")
    write_whole(tmp_path / "last.ckpt", b"last")
    write_whole(tmp_path / "hard", b"other")
    assert [(tmp_path / name).read_bytes() for name in ("epoch=1.ckpt", "last.ckpt", "hard")] == [
        b"best",
        b"last",
        b"other",
    ]
    write_whole("/dev/null", b"x")
    assert not Path("/dev/null").is_file()


def test_an_error_leaves_what_was_there_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"before")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_file, "_sync", fail)
    with pytest.raises(OSError, match=r"last.ckpt cannot be written: No space left.*before stays") as error:
        write_whole(path, b"after")
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["last.ckpt"]
    with pytest.raises(OSError, match="cannot be written"):
        write_whole(tmp_path / "none" / "last.ckpt", b"after")


def test_what_killed_processes_left_is_removed_and_what_others_write_stays(tmp_path: Path) -> None:
    left, others = tmp_path / ".last.ckpt.0a1b2c3d.saving", tmp_path / ".last-v1.ckpt.0a1b2c3d.saving"
    for path in (left, others, tmp_path / "last.ckpt.saving", tmp_path / ".last.ckpt.saving"):
        path.write_bytes(b"half")
    with whole_file._beside(tmp_path / "last.ckpt") as (written, descriptor):
        write_whole(tmp_path / "last.ckpt", b"whole")
        remove_stale(tmp_path / "last.ckpt")
        assert written.exists()
        assert not left.exists()
        assert others.exists()
        os.close(descriptor)
    write_whole(tmp_path / "last.ckpt", b"whole")
    assert names(tmp_path) == sorted([others.name, "last.ckpt.saving", ".last.ckpt.saving", "last.ckpt"])


def fitted(folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(LogitDistillation(MLP(8, [6], 3), MLP(8, [10], 3)), data(), data())
    return trainer


def test_every_checkpoint_of_a_fit_is_written_beside_its_place(tmp_path: Path, elsewhere: Path) -> None:
    last = ModelCheckpoint(tmp_path / "c", save_top_k=2, monitor="val/accuracy/student", mode="max", save_last=True)
    trainer = fitted(tmp_path, last)
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)
    trainer.save_checkpoint(tmp_path / "c" / "by-hand.ckpt")
    trainer.save_checkpoint(f"file://{tmp_path}/c/url.ckpt")
    found = names(tmp_path / "c")
    assert len(found) == 5
    for name in found:
        assert "state_dict" in torch.load(tmp_path / "c" / name, weights_only=True)


def test_links_to_the_last_checkpoint_never_dangle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    remove = WholeCheckpoints.remove_checkpoint

    def removed(self: WholeCheckpoints, path: Any) -> None:
        remove(self, path)
        seen.append((tmp_path / "last.ckpt").resolve().is_file())

    monkeypatch.setattr(WholeCheckpoints, "remove_checkpoint", removed)
    fitted(tmp_path, ModelCheckpoint(tmp_path, save_top_k=1, save_last="link"))
    assert seen == [True, True]
    assert names(tmp_path) == ["epoch=2-step=6.ckpt", "last.ckpt"]
    assert os.readlink(tmp_path / "last.ckpt") == "epoch=2-step=6.ckpt"


def test_an_async_io_writes_whole_files_and_another_io_stays(tmp_path: Path, elsewhere: Path) -> None:
    class Own(TorchCheckpointIO):
        pass

    trainer = fitted(tmp_path, ModelCheckpoint(tmp_path / "a", save_last=True), plugins=[AsyncCheckpointIO()])
    given: Any = trainer.strategy.checkpoint_io
    assert isinstance(given, AsyncCheckpointIO)
    assert isinstance(given.checkpoint_io, WholeCheckpoints)
    torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)
    own = Own()
    trainer = Trainer(accelerator="cpu", logger=False, plugins=[own])
    save_whole(trainer)
    assert trainer.strategy.checkpoint_io is own


def test_a_remote_path_is_lightnings_own_work() -> None:
    import fsspec

    io = WholeCheckpoints(TorchCheckpointIO())
    io.save_checkpoint({"a": 1}, "memory://folder/last.ckpt")
    assert fsspec.filesystem("memory").exists("/folder/last.ckpt")
    io.remove_checkpoint("memory://folder/last.ckpt")
    assert not fsspec.filesystem("memory").exists("/folder/last.ckpt")


# What ends a process while it writes ---------------------------------------------------------------


def version(number: int) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((200_000,), float(number))}, "epoch": number}


def which(path: Path) -> int:
    """The version that a checkpoint holds, all of it."""
    found = torch.load(path, weights_only=True)
    assert (found["state_dict"]["weight"] == found["epoch"]).all()
    return int(found["epoch"])


@pytest.mark.slow
def test_a_kill_while_saving_leaves_the_checkpoint_before_or_the_new_one(
    tmp_path: Path, elsewhere: Path, tally: Tally
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    draw = random.Random(seed)
    path = tmp_path / "last.ckpt"
    io = WholeCheckpoints(TorchCheckpointIO())
    io.save_checkpoint(version(0), path)
    begin = time.perf_counter()
    io.save_checkpoint(version(0), path)
    takes = time.perf_counter() - begin

    def save_on_and_on() -> None:
        number = which(path)
        while True:
            number += 1
            io.save_checkpoint(version(number), path)

    cases, before, left = 60, 0, 0
    for _ in range(cases):
        assert in_fork(save_on_and_on, kill_after=draw.uniform(0.2, 4) * takes + 0.005) == 137
        now = which(path)
        assert now >= before, f"seed {seed}"
        before = now
        left = max(left, len(names(tmp_path)))
    assert left <= 2, "what one kill leaves is removed at the next save"
    io.save_checkpoint(version(before + 1), path)
    assert names(tmp_path) == ["last.ckpt"]
    tally(NEVER_TORN, cases)


def full_by_tmpfs(folder: Path) -> Callable[[], None]:
    """A file system of 1.2 MB over a folder; what takes it away again."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("a file system cannot be mounted here; the limit of a file's size is tried beside it")
    return lambda: subprocess.run(["umount", str(folder)], check=True) and None  # type: ignore[func-returns-value]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, elsewhere: Path, tally: Tally) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    unmount = full_by_tmpfs(folder)
    try:
        path = folder / "last.ckpt"
        io = WholeCheckpoints(TorchCheckpointIO())
        io.save_checkpoint(version(1), path)  # 0.8 MB: there is no room for two
        for number in (2, 3):
            with pytest.raises(OSError, match="No space left on device; the file that was there") as error:
                io.save_checkpoint(version(number), path)
            assert error.value.errno == errno.ENOSPC
            assert which(path) == 1
            assert names(folder) == ["last.ckpt"]
    finally:
        unmount()
    tally(NEVER_TORN, 2)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["io", "strip", "strip in place", "command line"])
def test_a_file_size_limit_leaves_the_file_before(tmp_path: Path, tally: Tally, verb: str) -> None:
    path, source = tmp_path / "last.ckpt", tmp_path / ("last.ckpt" if verb == "strip in place" else "in.ckpt")
    io = WholeCheckpoints(TorchCheckpointIO())
    for file in {path, source}:
        io.save_checkpoint(version(1), file)

    def save() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        if verb == "io":
            io.save_checkpoint(version(2), path)
        elif verb == "command line":
            main(["strip", str(source), str(path)])
        else:
            strip_file(source, path)

    before = path.read_bytes()
    assert in_fork(save) == 1
    assert path.read_bytes() == before
    assert names(tmp_path) == sorted({path.name, source.name})
    tally(NEVER_TORN)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_while_saving_leaves_a_whole_checkpoint(tmp_path: Path, tally: Tally, number: signal.Signals) -> None:
    def save_in_a_fit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sync, calls = whole_file._sync, 0

        def hit(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                os.kill(os.getpid(), number)
            sync(descriptor)

        whole_file._sync = hit
        fitted(tmp_path, ModelCheckpoint(tmp_path / "c", save_last=True))

    assert in_fork(save_in_a_fit) == {signal.SIGINT: 1}.get(number, 128 + number)
    assert torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)["epoch"] in (0, 1)
    tally(NEVER_TORN)
