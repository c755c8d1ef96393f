"""The command line: ``lit-distill fit|validate|test|predict|record|chain --config …``, ``demo`` and ``strip``."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    LRSchedulerTypeUnion,
    SaveConfigCallback,
)
from torch import Tensor
from torch.optim import Optimizer

from lit_distill.cli.bare_names import bare_names
from lit_distill.cli.config_errors import explain
from lit_distill.cli.config_files import check_words, config_files
from lit_distill.cli.refusal import is_ours, origin, refuse, root_cause, without_parser
from lit_distill.files.archives import check_file
from lit_distill.files.checkpoint_file import opened, short_name
from lit_distill.files.whole_file import write_whole
from lit_distill.modules import DistillationModule
from lit_distill.teachers import RecordedTeacher
from lit_distill.utils.names import nearest
from lit_distill.utils.signals import exit_code_on_sigterm

_DESCRIPTION = (
    "Knowledge distillation with PyTorch Lightning. Start with `lit-distill demo` (a minute, no download), then "
    "`lit-distill fit --config configs/digits/logit.yaml`. Every model, teacher, criterion, data set, optimizer and "
    "callback is named by its import path (class_path)."
)


_PACKAGE = Path(__file__).parents[1]

# Verbs of our own and the modules whose `main` they are, imported when they are called for.
_VERBS = {
    "chain": "lit_distill.chain",
    "demo": "lit_distill.cli.demo",
    "doctor": "lit_distill.doctor",
    "methods": "lit_distill.cli.methods",
}

_EPILOG = (
    "also: `lit-distill record` takes what `fit` takes, and only makes the recording of its RecordedTeacher; `lit-distill "
    "doctor` takes what `fit` takes, and looks for mistakes in the set-up; `lit-distill chain` runs several fits, each student "
    "being the next one's teacher; `lit-distill methods` lists the criteria with their papers and costs; `lit-distill strip IN "
    "OUT` takes out of a checkpoint of your own LightningModule what distilling has added; `lit-distill demo` distils on "
    "handwritten digits and prints the student beside teacher and baseline"
)


def _parser_kwargs() -> dict[str, Any]:
    """Short usage lines in place of one that names every option."""
    usage = {
        name: {"usage": f"lit-distill {name} --config FILE [--OPTION VALUE ...]"} for name in LightningCLI.subcommands()
    }
    return {"description": _DESCRIPTION, "epilog": _EPILOG, **usage}


class _Parser(LightningArgumentParser):
    """Says what is wrong in one paragraph."""

    files: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of a class inside the config: the parser around it says where it is
            super().error(message, ex)
        refuse(explain(message, _options_of(self)), self.files)


def _options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Every option of a parser, and of those of its verbs."""
    own = [option for action in parser._actions for option in action.option_strings]
    verbs = [action.choices for action in parser._actions if isinstance(action.choices, Mapping)]
    return own + [option for inner in verbs for verb in inner.values() for option in _options_of(verb)]


class DistillationCLI(LightningCLI):
    """A LightningCLI whose model is a distillation and whose explicit values always win."""

    def __init__(self, args: ArgsType = None, run: bool = True, record: bool = False) -> None:
        self._record = record
        self._files: Sequence[str] = ()
        if isinstance(args, list):
            self._files = config_files(args)
            try:
                check_words(args)
            except ValueError as error:
                refuse(str(error))
        super().__init__(
            DistillationModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=None if record else SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            parser_kwargs=_parser_kwargs(),
            parser_class=_Parser,
            args=args,
            run=run,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = super().init_parser(**kwargs)
        if isinstance(parser, _Parser):
            parser.files = self._files
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse what ``main`` hands over, without Lightning's warning about Python use."""
        with bare_names():
            self.config = parser.parse_object(args) if isinstance(args, dict) else parser.parse_args(args)  # type: ignore[arg-type]

    def _parse_ckpt_path(self) -> None:
        """Keep the config as it is written; the module says where the checkpoint was made with other values.

        Lightning merges the checkpoint's values over the config, silently undoing what was asked for.
        """
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if path:
            self._refuse_missing(str(path))
        if not path or not Path(path).is_file():
            return
        with opened(path) as file:  # whatever is wrong with it, better now than once the networks are made
            check_file(file, short_name(path))

    def _refuse_missing(self, path: str) -> None:
        """Refuse a checkpoint that is not there before the networks are made; ``best``, ``last`` and URLs are no paths."""
        local = "://" not in path and path not in ("best", "last", "hpc") and not path.startswith("registry")
        if local and not Path(path).exists():
            folder = Path(path).parent
            known = [str(folder / one.name) for one in folder.glob("*.ckpt")] if folder.is_dir() else []
            refuse(
                f"ckpt_path: there is no checkpoint {path} (looked in {Path.cwd()}).{nearest(path, known)}", self._files
            )

    def instantiate_classes(self) -> None:
        with warnings.catch_warnings():
            # Ours has a default optimizer, and the config's is meant to replace it.
            warnings.filterwarnings("ignore", message=".*configure_optimizers` will be overridden.*")
            try:
                super().instantiate_classes()
            except Exception as error:
                self._refuse_values(error)

    def _refuse_values(self, error: Exception) -> NoReturn:
        """Say what a class in the config refused; an error in the user's own code comes as it is."""
        cause = root_cause(error)
        if is_ours(cause):
            if isinstance(cause, (ValueError, TypeError, OSError)):
                refuse(str(cause), self._files)
            raise error
        made = without_parser(error)
        if "jsonargparse" in origin(made):  # what it tried for a Union, with what each said
            refuse(explain(str(made), []), self._files)
        if "site-packages" in origin(made):
            refuse(" ".join(str(made).split()), self._files)
        raise made from None

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> Any:
        """Put the parameters that were made since (projectors) into the optimizer, and leave frozen ones out."""
        if len(optimizer.param_groups) == 1:
            trainable = [parameter for parameter in lightning_module.parameters() if parameter.requires_grad]
            optimizer.param_groups[0]["params"] = trainable
        if not isinstance(lightning_module, DistillationModule):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        return lightning_module.optimization.take(optimizer, lr_scheduler, lightning_module._trainer)

    def before_fit(self) -> None:
        """Where only a recording is wanted, have the fit end before its first batch and leave nothing else behind."""
        if not self._record:
            return
        teacher = getattr(self.model, "_teacher", None)
        if not isinstance(teacher, RecordedTeacher) or teacher.settings.path is None:
            raise SystemExit(
                "lit-distill record: the config's teacher must be a lit_distill.RecordedTeacher with a path, the folder "
                "to record to."
            )
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise SystemExit("lit-distill record: trainer.fast_dev_run records nothing; leave it out.")
        self.trainer.fit_loop.max_epochs = 0
        self.trainer.num_sanity_val_steps = 0
        self.trainer.loggers = []
        self.trainer.callbacks = [  # type: ignore[attr-defined]
            callback
            for callback in self.trainer.callbacks  # type: ignore[attr-defined]
            if not isinstance(callback, Checkpoint)
        ]

    def after_fit(self) -> None:
        """Say where nothing was recorded, as of a trainer without training batches: it must not read as success."""
        teacher = getattr(self.model, "_teacher", None)
        if self._record and isinstance(teacher, RecordedTeacher) and not teacher.is_recorded:
            raise SystemExit("lit-distill record: nothing was recorded, as the trainer reads no training batches.")

    def predict(self, **arguments: Any) -> None:
        """Run the student and save its outputs as ``predictions.pt`` in the log folder."""
        batches = self.trainer.predict(**arguments)
        if not batches:
            return
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(_joined(batches), content)
        write_whole(folder / "predictions.pt", content.getbuffer())
        print(f"Predictions saved: {folder / 'predictions.pt'}")


def _joined(batches: Sequence[Any]) -> Any:
    """All batches' outputs as one tensor, one mapping of tensors, or the list of what they are."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([batch.cpu() for batch in batches])
    if isinstance(first, Mapping) and all(isinstance(value, Tensor) for value in first.values()):
        return {key: torch.cat([batch[key].cpu() for batch in batches]) for key in first}
    return list(batches)


def find_configs(arguments: Sequence[str]) -> list[str]:
    """Let ``configs/…`` name the configs that come with the package, where there is no such file here."""
    package = Path(__file__).parents[1]
    homes = (package, package.parent)
    found = []
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        name = Path(value)
        if value.startswith("configs/") and value.endswith((".yaml", ".yml")) and not name.exists():
            name = next((home / value for home in homes if (home / value).is_file()), name)
        found.append(f"{option}{equals}{name if value.startswith('configs/') else value}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after ``lit-distill``; the process's own where None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb, rest = (given[0], given[1:]) if given else ("", [])
    _check_verb(verb)
    try:
        with exit_code_on_sigterm():
            _run(verb, rest, given)
    except Exception as error:
        cause = root_cause(error)
        if cause is not error:  # the parser's own words would come last, after all that it tried
            error.add_note(f"\nlit-distill: {cause}")
        raise


def _check_verb(verb: str) -> None:
    known = [*LightningCLI.subcommands(), *_VERBS, "record", "strip"]
    if verb and not verb.startswith("-") and verb not in known:
        raise SystemExit(f"lit-distill: no verb {verb!r}.{nearest(verb.lower(), known)} Verbs: {', '.join(known)}.")


def _run(verb: str, rest: list[str], given: list[str]) -> None:
    if verb == "--version":
        print(f"lit-distill {importlib.import_module('lit_distill').__version__}")
    elif verb in _VERBS:
        failed = importlib.import_module(_VERBS[verb]).main(rest)
        if failed:
            sys.exit(failed)
    elif verb == "record":
        DistillationCLI(["fit", *find_configs(rest)], record=True)
    elif verb == "strip":
        _strip(rest)
    else:
        DistillationCLI(find_configs(given))


def _strip(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="lit-distill strip",
        description="Take out of a checkpoint of your own LightningModule what distilling has added, so that it loads "
        "where lit-distill is not used.",
    )
    parser.add_argument("source", metavar="IN", type=Path, help="the checkpoint")
    parser.add_argument("destination", metavar="OUT", type=Path, help="where to write what is left")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="read a checkpoint whose hyper-parameters are Python objects; loading it can run code that its maker put there",
    )
    options = parser.parse_args(arguments)
    from lit_distill.callbacks.distill.strip import strip_file

    try:
        print(*strip_file(options.source, options.destination, options.trust), sep="\n")
    except (ValueError, OSError, RuntimeError) as error:  # the last: what cannot be written
        raise SystemExit(f"lit-distill strip: {options.source}: {error}") from error
