"""Plans a chain: which links to skip, resume or start."""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from lit_distill.chain.link import Link, Record, flatten
from lit_distill.cli.config_files import find_configs
from lit_distill.cli.fit import DistillationCLI

_LOOKS = ("trainer.enable_progress_bar", "trainer.enable_model_summary")  # change nothing that a link leaves


@dataclass(frozen=True)
class PlannedLink:
    """A link, and what to do with it.

    Attributes:
        link: The link.
        action: ``skip`` a finished link, ``resume`` an interrupted one, or ``start``.
        record: That of the making that is skipped, resumed or started.
    """

    link: Link
    action: Literal["skip", "resume", "start"]
    record: Record

    def command(self, further: Sequence[str] = ()) -> list[str]:
        """Return the words after ``lit-distill`` that do it.

        Args:
            further: Words that come after the link's own, and so win.
        """
        return self.link.command(further, resume=self.action == "resume")


def plan(links: Sequence[Link], settings: Mapping[str, Mapping[str, Any]], again: bool = False) -> list[PlannedLink]:
    """Decide what to do with each link, from the records in the links' folders.

    Args:
        links: The chain.
        settings: Every value of each link's fit, by the link's name.
        again: Make links again that were made with other settings, and the links that they taught.

    Raises:
        ValueError: A link was made with other settings and ``again`` is False.
    """
    steps: list[PlannedLink] = []
    problems: list[str] = []
    for link in links:
        runs = {step.link.name: step.record.run for step in steps}
        teachers = {name: runs[name] for name in link.teachers}
        record = Record.read(link.folder)
        changes = record.changes(settings[link.name], teachers) if record is not None else []
        problems += [f"  {link.name}: {change}" for change in changes]
        if record is None or changes or (record.finished and not link.checkpoint.is_file()):
            steps.append(PlannedLink(link, "start", Record(uuid.uuid4().hex, False, settings[link.name], teachers)))
        elif record.finished:
            steps.append(PlannedLink(link, "skip", record))
        else:
            steps.append(PlannedLink(link, "resume" if link.checkpoint.is_file() else "start", record))
    if problems and not again:
        raise ValueError(
            "links were made with other settings than those asked for now:\n"
            + "\n".join(problems)
            + "\nTo make these links again, and those that they taught: --again. To keep them: another --folder."
        )
    return steps


def settings_of(link: Link, further: Sequence[str] = ()) -> dict[str, Any]:
    """Return every value that a link's fit would use, by dotted path, defaults included; nothing runs.

    Args:
        link: The link.
        further: Words that come after the link's own.

    Raises:
        SystemExit: The fit would refuse its options.
    """
    printed, said = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            DistillationCLI([*find_configs(link.command(further)), "--print_config"])
    except SystemExit as done:
        if done.code:
            why = said.getvalue().strip().removeprefix("lit-distill: ")
            raise SystemExit(f"lit-distill chain: link {link.name!r} cannot run, and nothing was run: {why}") from done
    values = flatten(yaml.safe_load(printed.getvalue()))
    return {path: value for path, value in values.items() if path not in _LOOKS}
