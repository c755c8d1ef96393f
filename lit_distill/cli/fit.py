"""The parser and the fit behind ``lit-distill fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from lightning.pytorch import LightningDataModule, LightningModule
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
from lit_distill.cli.config_entries import criterion_behind
from lit_distill.cli.config_errors import explain
from lit_distill.cli.config_files import check_words, config_files
from lit_distill.cli.refusal import is_ours, origin, refuse, root_cause, without_parser
from lit_distill.files.archives import check_file
from lit_distill.files.checkpoint_file import opened, short_name
from lit_distill.files.whole_file import write_whole
from lit_distill.modules import DistillationModule
from lit_distill.utils.names import nearest

_USAGE = "--config FILE [--OPTION VALUE ...]"


class _Parser(LightningArgumentParser):
    """Says what is wrong in one line."""

    files: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a class inside the config: the outer parser reports its place
            super().error(message, ex)
        refuse(explain(message, _options_of(self)), self.files)


def _options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return every option of a parser and of its verbs."""
    own = [option for action in parser._actions for option in action.option_strings]
    verbs = [action.choices for action in parser._actions if isinstance(action.choices, Mapping)]
    return own + [option for inner in verbs for verb in inner.values() for option in _options_of(verb)]


class DistillationCLI(LightningCLI):
    """A LightningCLI whose model is a distillation and whose explicit values always win."""

    saves_config: ClassVar[bool] = True

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
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
            save_config_callback=SaveConfigCallback if self.saves_config else None,
            save_config_kwargs={"overwrite": True},
            parser_class=_Parser,
            parser_kwargs={verb: {"usage": f"lit-distill {verb} {_USAGE}"} for verb in self.subcommands()},
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
        self._check_ckpt_path()

    def _parse_ckpt_path(self) -> None:
        """Keep the config as it is written; the module reports a checkpoint made with other values.

        Lightning 2.6 merges the checkpoint's values over the config, silently undoing what was asked for.
        """

    def _check_ckpt_path(self) -> None:
        """Refuse a missing or damaged checkpoint."""
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if path:
            self._refuse_missing(str(path))
        if not path or not Path(path).is_file():
            return
        with opened(path) as file:  # whatever is wrong with it, better now than once the networks are made
            check_file(file, short_name(path))

    def _refuse_missing(self, path: str) -> None:
        """Refuse a missing checkpoint before the networks are made; ``best``, ``last`` and URLs are no paths."""
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
        """Report what a class in the config refused; an error in the user's own code is raised as it is."""
        cause = root_cause(error)
        if is_ours(cause):
            if isinstance(cause, (ValueError, TypeError, OSError)):
                refuse(f"{criterion_behind(cause, self._criteria())}{cause}", self._files)
            raise error
        made = without_parser(error)
        if "jsonargparse" in origin(made):  # what it tried for a Union, with what each said
            refuse(explain(str(made), []), self._files)
        if "site-packages" in origin(made):
            refuse(" ".join(str(made).split()), self._files)
        raise made from None

    def _criteria(self) -> Any:
        """Return the criteria of the config."""
        subcommand = self.config.get("subcommand")
        model = (self.config[subcommand] if subcommand else self.config).get("model")
        return model.get("init_args", {}).get("criteria") if model is not None else None

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
    """Join the batches' outputs to one tensor or one mapping of tensors, if they are such; else return them as a list."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([batch.cpu() for batch in batches])
    if isinstance(first, Mapping) and all(isinstance(value, Tensor) for value in first.values()):
        return {key: torch.cat([batch[key].cpu() for batch in batches]) for key in first}
    return list(batches)
