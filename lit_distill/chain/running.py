"""Runs a chain: ``lit-distill chain --config …``.

Every link is an ordinary ``lit-distill fit`` in a process of its own, so that Lightning can start further processes of it
for further devices, and so that it can be repeated by hand.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_distill.chain.config import read_chain
from lit_distill.chain.link import Link, Record
from lit_distill.chain.planning import PlannedLink, plan, settings_of
from lit_distill.cli.config_files import find_configs
from lit_distill.cli.words import Parser
from lit_distill.files.alone import alone_in
from lit_distill.utils.signals import TERMINATED

Launch = Callable[[list[str]], int]


def run(
    steps: Sequence[PlannedLink], further: Sequence[str] = (), launch: Launch | None = None, verb: str = "chain"
) -> None:
    """Run the planned links, one after the other.

    Args:
        steps: From ``plan``.
        further: Words that come after each link's own.
        launch: Runs the words after ``lit-distill`` and returns the exit code; in a process of its own if None.
        verb: The command that the messages speak for.

    Raises:
        SystemExit: A link failed or was interrupted. The same chain, run again, goes on from its last epoch.
    """
    for number, step in enumerate(steps, start=1):
        link = step.link
        print(f"\n[{number}/{len(steps)}] {link.name}: {_in_words(step)}", flush=True)
        if step.action == "skip":
            continue
        if step.action == "start":
            # Before the record is written: a new record must never lie next to an old checkpoint.
            link.checkpoint.unlink(missing_ok=True)
            step.record.write(link.folder)
        command = step.command(further)
        print(f"$ lit-distill {shlex.join(command)}", flush=True)
        code = (launch or in_own_process)(command)
        if code != 0:
            raise _ended(link, f"ended early (exit code {code})", code, verb)
        if not link.checkpoint.is_file():
            raise SystemExit(
                f"lit-distill {verb}: link {link.name!r} left no {link.checkpoint}: did it train an epoch?"
            )
        record = Record.read(link.folder)
        if record is None or not record.finished:
            raise _ended(link, "ended before its fit was finished, and with exit code 0", 1, verb)
    print("\nThe chain is finished:")
    for step in steps:
        print(f"  {step.link.name}: {step.link.checkpoint}")


def _ended(link: Link, how: str, code: int, verb: str) -> SystemExit:
    message = (
        f"lit-distill {verb}: link {link.name!r} {how}. The same command again goes on from the last finished epoch."
    )
    ended = SystemExit(message)
    if code in (TERMINATED, -signal.SIGTERM):
        print(message, file=sys.stderr)
        ended.code = TERMINATED
    return ended


def show(steps: Sequence[PlannedLink], further: Sequence[str] = ()) -> None:
    """Print what ``run`` would do, as lines of a shell script."""
    for step in steps:
        print(f"# {step.link.name}: {_in_words(step)}")
        if step.action != "skip":
            print(f"lit-distill {shlex.join(step.command(further))}")


def _in_words(step: PlannedLink) -> str:
    words = {"skip": "finished before, skipped", "resume": f"goes on from {step.link.checkpoint}", "start": "starts"}
    return words[step.action]


def in_own_process(words: list[str]) -> int:
    """Run ``lit-distill`` in a process of its own, and return its exit code, never 0 where it was interrupted.

    Ctrl-C reaches the link from the terminal, and SIGTERM is handed on; either way the link is waited for.
    """
    interrupted = 0
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = TERMINATED
        if process is not None:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)  # first, as a link must not be started that nobody can end
    try:
        process = subprocess.Popen([sys.executable, "-m", "lit_distill", *words])
        if interrupted:
            process.send_signal(signal.SIGTERM)
        while True:
            try:
                return process.wait() or interrupted
            except KeyboardInterrupt:
                interrupted = interrupted or 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None, launch: Launch | None = None) -> None:
    """Run a chain from the command line.

    Args:
        arguments: The words after ``lit-distill chain``; the process's own if None.
        launch: Runs the words after ``lit-distill`` and returns the exit code; in a process of its own if None.
    """
    parser = Parser(
        "chain",
        "Run a chain of fits, each link's student being the next one's teacher. A chain that was interrupted goes on where it "
        "was. Further options are those of `lit-distill fit`, and apply to every link.",
        "--config FILE [--folder FOLDER] [--dry_run] [--again] [--OPTION VALUE ...]",
    )
    parser.add_argument("-c", "--config", required=True, action="append", help="the chain: folder, config and links")
    parser.add_argument("--folder", type=Path, help="instead of the config's")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, and run nothing")
    parser.add_argument("--again", action="store_true", help="make links again whose settings have changed")
    options, further = parser.parse_some(arguments)
    if len(options.config) > 1:
        parser.error("one chain at a time; further configs of the links belong into the chain's 'config' list.")
    try:
        links = read_chain(Path(find_configs(options.config)[0]), options.folder)
        settings = {link.name: settings_of(link, further) for link in links}
        if options.dry_run:
            show(plan(links, settings, options.again), further)
            return
        refuse_launcher()
        with alone_in(links[0].folder.parent, "chain.lock", "chain"):
            run(plan(links, settings, options.again), further, launch)
    except ValueError as error:
        raise SystemExit(f"lit-distill chain: {error}") from error


def refuse_launcher() -> None:
    """Refuse to run under a launcher that starts several processes."""
    for variable in ("WORLD_SIZE", "SLURM_NTASKS"):
        if os.environ.get(variable, "1") not in ("", "1"):
            raise ValueError(
                f"{variable} is {os.environ[variable]}: a chain runs in one process, and Lightning starts the others of each "
                "link. Under a launcher that starts them (torchrun, srun), launch the commands that --dry_run prints."
            )
