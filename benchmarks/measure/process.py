"""Child processes: each variant has its own, so that allocator, compiler and thread settings cannot leak.

A child is forked from a server that has imported torch and Lightning and has done nothing with them. What a child
prints goes to its own log; what it raises comes back as a traceback.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torchvision", "lightning.pytorch", "torchmetrics", "lit_distill"])
_METHOD = multiprocessing.get_start_method()
_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Failure:
    """What a child raised.

    Attributes:
        error: The exception's last line.
        traceback: All of it.
    """

    error: str
    traceback: str


class Child:
    """A process that runs ``work(connection, *arguments)`` and sends messages.

    Args:
        name: Of its log.
        work: A function of a module; its last message is what it returns.
        arguments: Of ``work``.
        folder: For the log.
    """

    def __init__(self, name: str, work: Callable[..., Any], arguments: tuple[Any, ...], folder: Path) -> None:
        logs = folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.log"
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_run, args=(theirs, str(log), _METHOD, work, arguments), name=name)
        self._process.start()
        theirs.close()

    def go(self) -> None:
        """Let a child that waits go on."""
        self._connection.send("go")

    def receive(self) -> Any:
        """The child's next message; a ``Failure`` where it died or is silent for half an hour."""
        ready = wait([self._connection, self._process.sentinel], _TIMEOUT)
        if not ready:
            return Failure("no answer", f"the child said nothing for {_TIMEOUT:.0f} s.")
        try:
            if self._connection in ready or self._connection.poll():
                return self._connection.recv()
        except (EOFError, OSError):
            pass
        self._process.join(10)
        return Failure("died", f"the child ended with code {self._process.exitcode} and no message.")

    def close(self) -> None:
        """Let the child end; make it, if it does not."""
        self._connection.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(10)


def _run(connection: Connection, log: str, method: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Loading workers start as they would in a user's own process, not from the server that this child came from.
    multiprocessing.set_start_method(method, force=True)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    try:
        answer = work(connection, *arguments)
    except Exception as error:
        traceback.print_exc()
        answer = Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    try:
        connection.send(answer)
    except OSError:  # the parent has closed its end: it wants nothing more
        return


def _alone(_: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def alone(name: str, function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path) -> Any:
    """What a function of a module returns, run in a process of its own; a ``Failure`` where it raises."""
    child = Child(name, _alone, (function, arguments), folder)
    try:
        return child.receive()
    finally:
        child.close()
