"""The command: ``lit-distill sensitivity --config … --ckpt_path …``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from lit_distill.cli.config_files import fit_words
from lit_distill.cli.fit import DistillationCLI
from lit_distill.cli.refusal import refuse
from lit_distill.cli.words import Parser
from lit_distill.compress.sensitivity import WAYS, sensitivity
from lit_distill.export.students import heads_of, trained_student
from lit_distill.modules import DistillationModule


class _Setup(DistillationCLI):
    """Makes a config's module and data, and a Trainer that leaves nothing behind."""

    saves_config = False

    def instantiate_trainer(self, **options: object) -> Trainer:
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compress each layer of a checkpoint's student alone, and print what that does.

    Args:
        arguments: The words after ``lit-distill sensitivity``; the process's own if None.
    """
    parser = _parser()
    options, further = parser.parse_some(arguments)
    try:
        if not options.ckpt_path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {options.ckpt_path} (looked in {Path.cwd()}).")
        setup = _Setup(fit_words(options.config, further), run=False)
        module = setup.model
        assert isinstance(module, DistillationModule)
        if setup.datamodule is None:
            raise ValueError("the config has no data: add a data section, whose validation data are compared on.")
        setup.datamodule.trainer = setup.trainer
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
