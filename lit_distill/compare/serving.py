"""A process that does pieces of work for another one, which started it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import torch

from lit_distill.compare.workers import call, receive, send


def _serve(threads: int, parent: int) -> None:
    """Do what comes in, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent, which ends this process
    inward = os.fdopen(os.dup(0), "rb")
    outward = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    while True:
        try:
            function, arguments = receive(inward)
        except EOFError:
            return
        send(outward, call(function, arguments))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
