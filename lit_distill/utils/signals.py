"""The exit code of a run that a signal ended: never that of success.

On SIGTERM, Lightning raises a ``SystemExit`` without a code, which is 0, or nothing at all after the last batch and in
``Trainer.predict``.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_distill.utils.lightning_names import classes_named

TERMINATED = 128 + signal.SIGTERM
_NOTIFIER = "_sigterm_notifier_fn"


def end_if_terminated(trainer: Trainer) -> None:
    """End the run with Lightning's own ``SIGTERMException`` if SIGTERM was received."""
    if trainer.received_sigterm:
        own = classes_named("utilities.exceptions.SIGTERMException")
        raise (SIGTERMException if isinstance(trainer, Trainer) else own[-1])(TERMINATED)


def listen(trainer: Trainer) -> None:
    """Let each of several processes note SIGTERM by itself; call before the Trainer installs its signal handlers.

    Lightning's handler waits for the other processes, which may be waiting for this one elsewhere. Its training loop tells them
    anyway, before each batch.
    """
    connector: Any = getattr(trainer, "_signal_connector", None)
    if trainer.world_size > 1 and hasattr(connector, _NOTIFIER):
        vars(connector)[_NOTIFIER] = partial(_note, trainer)


def listen_no_more(trainer: Trainer) -> None:
    """Restore the Trainer's own handler."""
    connector: Any = getattr(trainer, "_signal_connector", None)
    if connector is not None:
        vars(connector).pop(_NOTIFIER, None)


def _note(trainer: Trainer, number: int, frame: Any) -> None:
    connector, launcher = trainer._signal_connector, cast(Any, trainer.strategy.launcher)
    if not connector.received_sigterm and launcher is not None:
        launcher.kill(number)
    connector.received_sigterm = True


def mark_terminated(trainer: Trainer, exception: BaseException) -> None:
    """Give Lightning's exception on SIGTERM its exit code, and signal the processes that the Trainer has started."""
    listen_no_more(trainer)
    if not isinstance(exception, SystemExit):
        return
    if type(exception).__name__ == "SIGTERMException" and not exception.code:
        exception.code = TERMINATED
    launcher: Any = trainer.strategy.launcher
    if exception.code == TERMINATED and launcher is not None and not trainer.received_sigterm:  # else Lightning has
        launcher.kill(signal.SIGTERM)


@contextmanager
def exit_code_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command with 143, never with 0: at once, or by a running Trainer after its batch.

    An existing handler is kept.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    received = False

    def end(number: int, frame: Any) -> None:
        nonlocal received
        received = True
        if signal.getsignal(signal.SIGTERM) is end:  # a Trainer's own would have called this one
            for child in multiprocessing.active_children():
                child.terminate()
            raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
        if received:
            raise SystemExit(TERMINATED)
    except SystemExit as ended:
        if received and not ended.code:
            ended.code = TERMINATED
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
