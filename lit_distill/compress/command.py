"""The command: ``lit-distill sensitivity --config … --ckpt_path …``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_distill.cli.config_setup import setup_for_checkpoint
from lit_distill.cli.refusal import refuse
from lit_distill.cli.words import Parser
from lit_distill.compress.sensitivity import WAYS, sensitivity
from lit_distill.export.students import heads_of, trained_student
from lit_distill.modules import DistillationModule


def main(arguments: Sequence[str] | None = None) -> None:
    """Compress each layer of a checkpoint's student alone, and print what that does.

    Args:
        arguments: The words after ``lit-distill sensitivity``; the process's own if None.
    """
    parser = _parser()
    options, further = parser.parse_some(arguments)
    try:
        setup = setup_for_checkpoint(options.config, further, options.ckpt_path)
        module = setup.model
        assert isinstance(module, DistillationModule)
        if setup.datamodule is None:
            raise ValueError("the config has no data: add a data section, whose validation data are compared on.")
        student, (task, _) = trained_student(module, options.ckpt_path), heads_of(module)
        if not isinstance(task, str):
            raise ValueError("the config is of several tasks: compare each task's head in Python.")
        ways, layers, form = options.ways or WAYS, options.layers or (), module.distiller.format
        found = sensitivity(student, setup.datamodule, ways, options.ratio, layers, options.samples, task, form)
        print(found)
        if options.output is not None:
            print("Written: " + ", ".join(str(one) for one in found.write(options.output)))
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(f"sensitivity: {error}")


def _parser() -> Parser:
    parser = Parser(
        "sensitivity",
        "Compress each layer of a checkpoint's student alone, by int8 and by pruning, and compare with the float student on "
        "the validation data: which layers to leave as they are.",
        "--config FILE --ckpt_path FILE [--output FOLDER] [--OPTION VALUE ...]",
    )
    parser.add_argument("-c", "--config", required=True, action="append", help="that the checkpoint was trained with")
    parser.add_argument("--ckpt_path", required=True, type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help=f"(all: {', '.join(WAYS)})")
    parser.add_argument("--ratio", type=float, default=0.5, metavar="SHARE", help="of channels that prune takes (0.5)")
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help="paths or globs (all)")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="of the validation data (1000)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for Markdown, JSON, a plot and TensorBoard (only printed)"
    )
    return parser
