"""The command: ``lit-distill doctor --config …``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from lit_distill.cli.config_files import fit_words
from lit_distill.cli.fit import DistillationCLI
from lit_distill.cli.words import Parser
from lit_distill.doctor.examining import diagnose
from lit_distill.doctor.setup import setup_of
from lit_distill.doctor.trainer import MOST_STEPS, quiet_trainer


class _Fit(DistillationCLI):
    """Builds what ``fit`` would, with a Trainer that writes nothing."""

    saves_config = False

    def __init__(self, arguments: list[str], steps: int) -> None:
        self._steps = steps
        super().__init__(arguments, run=False)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        return quiet_trainer({**self.config_init["trainer"], **kwargs}, self._steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine a set-up from the command line, and print the report.

    Args:
        arguments: The words after ``lit-distill doctor``; if None, the process's own.

    Returns:
        The exit code: 1 if a bug was found.
    """
    parser = Parser(
        "doctor",
        "Run a set-up for a few training steps and look for mistakes in it: in the teacher, the criteria, what trains, and the "
        "numbers. Takes what `lit-distill fit` takes. Nothing is logged or saved.",
        "--config FILE [--config FILE ...] [--steps N] [--OPTION VALUE ...]",
    )
    parser.add_argument("-c", "--config", required=True, action="append", help="as for fit")
    parser.add_argument("--steps", type=int, default=MOST_STEPS, help=f"training batches to run, 1 to {MOST_STEPS}")
    options, further = parser.parse_some(arguments)
    if not 1 <= options.steps <= MOST_STEPS:
        parser.error(f"--steps must be 1 to {MOST_STEPS}, not {options.steps}.")
    fit = _Fit(fit_words(options.config, further), options.steps)
    asked = fit.config_init["trainer"]
    report = diagnose(setup_of(fit.model), fit.datamodule, fit.trainer, asked["precision"], asked["max_epochs"])
    print(report.render())
    return int(bool(report.bugs))
