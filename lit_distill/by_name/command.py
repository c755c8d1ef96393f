"""``lit-distill fit --teacher NAME --student NAME --data FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from lit_distill.by_name.fitting import run_request
from lit_distill.by_name.request import Request
from lit_distill.chain.running import Launch
from lit_distill.cli.config_files import option_values
from lit_distill.cli.refusal import refuse
from lit_distill.cli.words import Parser

_USAGE = "--teacher NAME --student NAME --data FOLDER [--OPTION VALUE ...]"
_TEXT = """
Distil one named network into another on a folder of images, FOLDER/train/<class>/… or FOLDER/<class>/…; the same command
again goes on where it was stopped. Names: timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, an import path, or the checkpoint
of such a fit; NAME@random starts from random weights, NAME@FILE from a checkpoint's. Further options are those of a config,
such as --trainer.accelerator cpu.
"""


def main(arguments: Sequence[str] | None = None, launch: Launch | None = None) -> None:
    """Distil by two names and a folder.

    Args:
        arguments: The words after ``lit-distill fit``; the process's own if None.
        launch: Runs the words after ``lit-distill`` and returns the exit code; in a process of its own if None.
    """
    parser = _parser()
    options, others = parser.parse_some(arguments)
    try:
        request = Request(
            options.teacher,
            options.student,
            options.data,
            options.folder,
            options.epochs,
            options.teacher_epochs,
            options.batch_size,
            options.image_size,
            options.teacher_training,
            not options.no_control,
            options.seed_everything,
            _further(others),
        )
        result = run_request(request, options.again, launch, options.dry_run)
    except (ValueError, TypeError, OSError) as error:
        refuse(f"fit: {error}")
    print(f"\n{result}\n\nThe student's weights: {result.weights}. Its config: {result.config}.")


def _parser() -> Parser:
    parser = Parser("fit", " ".join(_TEXT.split()), _USAGE)
    parser.help_command = "lit-distill fit --teacher NAME --help"  # without a name, it is the help of configs
    parser.add_argument("--teacher", required=True, metavar="NAME", help="the network that teaches")
    parser.add_argument("--student", required=True, metavar="NAME", help="the network that learns")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the images, a folder for each class")
    parser.add_argument("--folder", help="where to write (runs/DATA/STUDENT-from-TEACHER)")
    parser.add_argument("--epochs", type=int, help="of the student (30 to 100, by its weights and the images)")
    parser.add_argument("--teacher_epochs", type=int, help="of the teacher, if it is trained")
    parser.add_argument("--batch_size", type=int, help="(8 to 64, by the number of images)")
    parser.add_argument(
        "--image_size", type=int, help="of both networks, where they take it (what they say of themselves)"
    )
    parser.add_argument(
        "--teacher_training", metavar="head|all|none", help="what of the teacher is trained first (what it needs)"
    )
    parser.add_argument("--no_control", action="store_true", help="do not train the student without the teacher")
    parser.add_argument("--seed_everything", type=int, default=0, metavar="N", help="seed of all trainings (0)")
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be done, write the configs, train nothing"
    )
    parser.add_argument("--again", action="store_true", help="make again what was made with other settings")
    return parser


def _further(words: Sequence[str]) -> dict[str, Any]:
    """Return further options by their paths, as a config has them."""
    found: dict[str, Any] = {}
    for option, value in option_values(words):
        if option in ("-c", "--config"):
            raise ValueError(
                "--config does not go with --teacher and --student: two names stand for a config of their own."
            )
        found[option.removeprefix("--")] = yaml.safe_load(value)
    known = {part for option, value in option_values(words) for part in (option, value, f"{option}={value}")}
    stray = [word for word in words if word not in known]
    if stray:
        raise ValueError(f"{stray[0]!r} belongs to no option.")
    return found
