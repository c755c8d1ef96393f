"""Parses the words of our own verbs, and answers a wrong one in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from lit_distill.cli.refusal import refuse
from lit_distill.utils.names import nearest

_FIT_OPTIONS = frozenset(
    [
        "model",
        "data",
        "trainer",
        "optimizer",
        "lr_scheduler",
        "seed_everything",
        "ckpt_path",
        "weights_only",
        "print_config",
    ]
)
_UNKNOWN = re.compile(r"unrecognized arguments: (\S+)")


def whole_number(text: str) -> int:
    """Return a whole number of at least 1, for an option."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, not {text!r}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """An argparse parser of a verb, whose errors are one line, with the nearest option; ``usage`` follows the verb."""

    def __init__(self, verb: str, description: str | None, usage: str | None = None) -> None:
        name = f"lit-distill {verb}"
        self.help_command = f"{name} --help"
        super().__init__(name, f"{name} {usage}" if usage else None, description, allow_abbrev=False)

    def options(self) -> list[str]:
        """Return the names of all options."""
        return [option for action in self._actions for option in action.option_strings]

    def parse_some(self, words: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
        """Parse our own options, and return the words of others; one that is nearly ours is refused."""
        found, others = self.parse_known_args(words)
        for word in others:
            name = word.partition("=")[0]
            hint = nearest(name, self.options())
            if re.fullmatch(r"--\w+", name) and hint and name[2:] not in _FIT_OPTIONS:
                refuse(f"there is no option {name!r}.{hint}")
        return found, others

    def error(self, message: str) -> NoReturn:
        """End the command with one line."""
        unknown = _UNKNOWN.match(message)
        if unknown is not None:
            name = unknown[1].partition("=")[0]
            message = f"there is no option {name!r}.{nearest(name, self.options())}"
        end = "" if message.endswith((".", "?")) else "."
        refuse(f"{self.prog.removeprefix('lit-distill ')}: {message}{end} Help: {self.help_command}")
