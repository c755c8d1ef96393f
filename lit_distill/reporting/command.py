"""The command: ``lit-distill report --config … --ckpt_path …``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lit_distill.chain.running import Launch
from lit_distill.cli.config_files import fit_words
from lit_distill.cli.refusal import is_ours, refuse
from lit_distill.cli.words import Parser, whole_number
from lit_distill.data.class_names import class_names
from lit_distill.files.alone import alone_in
from lit_distill.reporting.control import train_control
from lit_distill.reporting.judging import Judge
from lit_distill.reporting.outcome import StudentReport
from lit_distill.reporting.reporting import make_report
from lit_distill.reporting.setting_up import ReportSetup, fill_network
from lit_distill.reporting.sides import CONTROL, STUDENT, left_as_they_are, student_side, teacher_side
from lit_distill.reporting.writing import write_files
from lit_distill.utils.arguments import check_number
from lit_distill.utils.lightning_names import is_overridden

_USAGE = "--config FILE [--config FILE ...] --ckpt_path FILE [--control FILE] [--OPTION VALUE ...]"
_TEXT = """
Say what a student saves next to its teacher, what that costs in accuracy, and whether the teacher helped. The same student
without a teacher is the measure of that: it is trained first, from the same config, unless --control names its checkpoint. The
same command again goes on where it was stopped. Further options are those of `lit-distill fit`.
"""


def main(arguments: Sequence[str] | None = None, launch: Launch | None = None) -> None:
    """Report on a config and a checkpoint from the command line.

    Args:
        arguments: The words after ``lit-distill report``; the process's own if None.
        launch: Runs the words after ``lit-distill`` and returns the exit code; in a process of its own if None.
    """
    parser = _parser()
    options, further = parser.parse_some(arguments)
    try:
        setup = ReportSetup(fit_words(options.config, further))
        folder = options.folder or Path(setup.trainer.default_root_dir) / "report"
        with alone_in(folder, "report.lock", "report"):
            found = _report(setup, options, folder, launch)
            files = write_files(found, folder)
    except (ValueError, FileNotFoundError) as error:
        if not is_ours(error):
            raise
        refuse(f"report: {error}")
    print(f"\n{found}\n\nWritten: {', '.join(map(str, files))}.")


def _parser() -> Parser:
    parser = Parser("report", " ".join(_TEXT.split()), _USAGE)
    parser.add_argument("-c", "--config", required=True, action="append", help="of the distillation, as for fit")
    parser.add_argument("--ckpt_path", required=True, type=Path, metavar="FILE", help="what the fit left")
    parser.add_argument("--control", type=Path, metavar="FILE", help="checkpoint of the student without a teacher")
    parser.add_argument("--folder", type=Path, help="where to write (report, in trainer.default_root_dir)")
    parser.add_argument("--part", choices=("test", "val"), help="of the data to evaluate (test, if there is one)")
    parser.add_argument(
        "--batch_size", type=whole_number, default=32, metavar="N", help="of the larger timed batch (32)"
    )
    parser.add_argument("--timing_seconds", type=_seconds, default=0.5, metavar="S", help="for each latency (0.5)")
    parser.add_argument("--again", action="store_true", help="train a control again that had other settings")
    return parser


def _seconds(text: str) -> float:
    try:
        return check_number("timing_seconds", float(text), above=0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}") from error


def _report(setup: ReportSetup, options: argparse.Namespace, folder: Path, launch: Launch | None) -> StudentReport:
    student, control = setup.networks(options.ckpt_path)
    given = options.control or train_control(setup.every_value(), folder, options.again, launch)
    fill_network(control, given, "control", "the config's student")
    module = setup.module
    format_, teacher = module.distiller.format, setup.teacher
    sides = [
        student_side(STUDENT, student, format_),
        student_side(CONTROL, control, format_),
        teacher_side(teacher, student, format_),
    ]
    judge = Judge(sides, module.task, format_, module._evaluator.metrics)
    networks = [one.network for one in sides if one.network is not None]
    part = _evaluate(setup, judge, networks, options.part)
    device = setup.trainer.strategy.root_device
    for network in networks:
        network.to(device)  # Lightning has moved them back to the CPU
    with left_as_they_are(networks):
        notes = (f"Evaluated on the {part} data of {type(setup.datamodule).__name__}; the control is {given}.",)
        timed = (options.batch_size, options.timing_seconds)
        return make_report(judge, sides, _title(options.config), *timed, _classes(setup.datamodule), notes)


class _Reading(LightningModule):
    """Gives a judge the batches of a Trainer's loop, on its device."""

    def __init__(self, judge: Judge, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.judge = judge
        self.networks = nn.ModuleList(networks)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.judge.add(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.judge.add(batch)


def _evaluate(setup: ReportSetup, judge: Judge, networks: Sequence[nn.Module], asked: str | None) -> str:
    """Run the networks on the test data, or on the validation data if there are no others, and return which it were."""
    data, trainer = setup.datamodule, setup.trainer
    part = asked or ("test" if is_overridden("test_dataloader", data) else "val")
    loop = trainer.test if part == "test" else trainer.validate
    loop(_Reading(judge, networks), datamodule=data, verbose=False)
    return "test" if part == "test" else "validation"


def _classes(data: Any) -> tuple[str, ...]:
    return class_names(data, getattr(data, "test_data", None), getattr(data, "val_data", None))


def _title(configs: Sequence[str]) -> str:
    return " + ".join(Path(one).stem for one in configs)
