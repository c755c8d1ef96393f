"""Runs work in forked processes, which need no import of Lightning's own, and can be killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

_LIMIT = 120.0


def in_fork(work: Callable[[], object], kill_after: float | None = None, log: str = os.devnull) -> int:
    """Run work in a forked process, quietly.

    Args:
        work: What to run.
        kill_after: Kill the process after so many seconds; never where None.
        log: File for what it prints.

    Returns:
        The exit code as a shell's ``$?``: 143 where SIGTERM ended it, 137 where SIGKILL did.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_run(work, log))
    killer = threading.Timer(kill_after if kill_after is not None else _LIMIT, os.kill, (child, signal.SIGKILL))
    begin = time.monotonic()
    killer.start()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    assert kill_after is not None or time.monotonic() - begin < _LIMIT, "the forked process hung"
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _run(work: Callable[[], object], log: str) -> int:
    """What the interpreter makes of the way in which work ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's worker processes ignore it
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    try:
        work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os.write(2, traceback.format_exc().encode())
        return 1
    return 0
