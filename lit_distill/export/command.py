"""The command: ``lit-distill export --config … --ckpt_path … --target onnx``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lit_distill.cli.config_setup import setup_for_checkpoint
from lit_distill.cli.fit import DistillationCLI
from lit_distill.cli.refusal import refuse
from lit_distill.cli.words import Parser
from lit_distill.export.exporting import export
from lit_distill.export.students import heads_of, trained_student
from lit_distill.export.targets import TARGETS
from lit_distill.export.verifying import DisagreementError
from lit_distill.models.quantisation_aware import QuantisationAware


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the student of a checkpoint, and print how the file compares with it.

    Args:
        arguments: The words after ``lit-distill export``; the process's own if None.

    Returns:
        The exit code: 1 if the file disagrees with the student, and nothing was written.
    """
    parser = _parser()
    options, further = parser.parse_some(arguments)
    try:
        _export(setup_for_checkpoint(options.config, further, options.ckpt_path), options)
    except DisagreementError as error:
        print(f"lit-distill: export: {error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(f"export: {error}")
    return 0


def _export(setup: DistillationCLI, options: Any) -> None:
    module = setup.model
    before = _before(module.student) if options.compare else None
    student = trained_student(module, options.ckpt_path, options.classifier, options.peer)
    task, heads = heads_of(module)
    export(
        student,
        options.target,
        options.output or _output(options.ckpt_path, options.target, options.precision),
        precision=options.precision,
        data=setup.datamodule,
        dynamic=options.dynamic,
        agreement=options.agreement,
        task=task,
        heads=heads,
        batch_format=module.distiller.format,
        normalise_inside=options.normalise_inside,
        samples=options.samples,
        compare_with=before,
    )


def _before(student: nn.Module) -> nn.Module:
    """Return the student that the config's one in quantisation-aware training starts from, which it still is."""
    if not isinstance(student, QuantisationAware):
        raise ValueError("compare belongs to a student in quantisation-aware training (quantise); leave it out.")
    return student.float_network()


def _output(checkpoint: Path, target: str, precision: str) -> Path:
    """Return a name beside the checkpoint."""
    suffix = TARGETS[target].suffix if target in TARGETS else ""
    short = "" if precision == "float32" else f"-{precision}"
    return checkpoint.with_name(f"{checkpoint.stem}{short}{suffix}")


def _parser() -> Parser:
    parser = Parser(
        "export",
        "Write the student of a checkpoint as a file for a target, read it back, and compare it with the student on the "
        "validation data. A file that disagrees is not kept. Int8 is calibrated on the config's training data.",
        "--config FILE --ckpt_path FILE --target TARGET [--precision int8] [--OPTION VALUE ...]",
    )
    parser.add_argument("-c", "--config", required=True, action="append", help="that the checkpoint was trained with")
    parser.add_argument("--ckpt_path", required=True, type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--target", required=True, help=", ".join(TARGETS))
    parser.add_argument("--precision", default="float32", help="float32 or int8 (float32)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="(beside the checkpoint)")
    parser.add_argument(
        "--dynamic", action="append", default=[], metavar="batch|size", help="take batches, or images, of any size"
    )
    parser.add_argument("--agreement", type=float, default=0.95, metavar="SHARE", help="of equal decisions (0.95)")
    parser.add_argument("--samples", type=int, default=2000, metavar="N", help="of the validation data (2000)")
    parser.add_argument(
        "--normalise_inside",
        action="store_true",
        help="compute the normalisation in the file: it takes images in [0, 1]",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="after quantisation-aware training: also measure plain int8 of the student before",
    )
    parser.add_argument("--classifier", metavar="LAYER", help="the teacher's, which SimKD reuses (found)")
    parser.add_argument("--peer", type=int, metavar="N", help="which network of a mutual distillation")
    return parser
