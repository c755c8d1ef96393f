"""Does pieces of work in several processes, each with its share of the cores and GPUs."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import IO, Any

import torch

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        name: In words.
        function: To call; importable by its name.
        arguments: Its arguments.
        needs: The names of the pieces that must be done before.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    needs: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Failure:
    """Why a piece of work failed.

    Attributes:
        reason: In a sentence.
        trace: Where, for the log.
    """

    reason: str
    trace: str = ""


def default_jobs(device: str, threads: int) -> int:
    """Return how many runs to train at once: one for each GPU, or for each ``threads`` cores."""
    if device == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, len(os.sched_getaffinity(0)) // threads) if hasattr(os, "sched_getaffinity") else 1


def work(pieces: Sequence[Piece], jobs: int, threads: int) -> Iterator[tuple[Piece, Any]]:
    """Do pieces of work, and yield each with its outcome, or a ``Failure``, as it is done.

    With one job, the work is done in this process. What needs a piece that failed fails, too.

    Args:
        pieces: In the order in which they are begun.
        jobs: How many at once.
        threads: CPU threads of each.
    """
    if jobs == 1:
        yield from _in_this_process(pieces, threads)
    elif pieces:
        yield from _in_processes(pieces, jobs, threads)


def _in_this_process(pieces: Sequence[Piece], threads: int) -> Iterator[tuple[Piece, Any]]:
    done: dict[str, bool] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for piece in pieces:
            missing = [name for name in piece.needs if not done[name]]
            outcome = _missing(missing) if missing else call(piece.function, piece.arguments)
            done[piece.name] = not isinstance(outcome, Failure)
            yield piece, outcome
    finally:
        torch.set_num_threads(before)


def _in_processes(pieces: Sequence[Piece], jobs: int, threads: int) -> Iterator[tuple[Piece, Any]]:
    workers: list[_Worker] = [_Worker(number, threads) for number in range(min(jobs, len(pieces)))]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def do(piece: Piece) -> Any:
        worker = idle.get()
        try:
            return worker.do(piece)
        finally:
            idle.put(worker)

    pending, done = list(pieces), dict[str, bool]()
    running: dict[Future[Any], Piece] = {}
    pool = ThreadPoolExecutor(len(workers))
    try:
        while pending or running:
            for piece in [one for one in pending if all(name in done for name in one.needs)]:
                missing = [name for name in piece.needs if not done[name]]
                if missing:
                    pending.remove(piece)
                    done[piece.name] = False
                    yield piece, _missing(missing)
                elif len(running) < len(workers):
                    pending.remove(piece)
                    running[pool.submit(do, piece)] = piece
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                piece, outcome = running.pop(future), future.result()
                done[piece.name] = not isinstance(outcome, Failure)
                yield piece, outcome
    finally:
        for worker in workers:
            worker.end()
        pool.shutdown(wait=True, cancel_futures=True)


def _missing(names: Sequence[str]) -> Failure:
    return Failure(f"it needs {' and '.join(names)}, which failed")


def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function; return what it returns, or a Failure. What ends the process ends it."""
    try:
        return function(*arguments)
    except Exception as error:
        return Failure(" ".join(str(error).split()) or type(error).__name__, traceback.format_exc())


class _Worker:
    """A process that does one piece of work after the other; a new one takes the place of one that died."""

    def __init__(self, number: int, threads: int) -> None:
        self._number, self._threads = number, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def do(self, piece: Piece) -> Any:
        """Send a piece of work, and wait for its outcome."""
        if self._ended:
            return Failure("it was not begun")
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send(process.stdin, (piece.function, piece.arguments))
            return receive(process.stdout)
        except (EOFError, OSError):
            self._process = None
            return Failure(f"its process ended with exit code {_how(process.wait())}")

    def end(self) -> None:
        """Kill the process: what it is doing can be done again."""
        self._ended = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads), "MKL_NUM_THREADS": str(self._threads)}
        gpus = torch.cuda.device_count()
        if gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[self._number % gpus]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-m", "lit_distill.compare.serving", str(self._threads), str(os.getpid())]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _how(code: int) -> str:
    return f"{code} (killed: out of memory?)" if code == -signal.SIGKILL else str(code)


def send(stream: IO[bytes], value: Any) -> None:
    """Write a value that ``receive`` reads in another process."""
    content = pickle.dumps(value)
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read a value; raise EOFError where the other process is gone."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return pickle.loads(content)  # from a process that this one started
