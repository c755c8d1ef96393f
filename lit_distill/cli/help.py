"""Prints ``--help``: the verbs, and a screen of options for a verb that reads configs."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docstring_parser import parse
from lightning.pytorch import LightningDataModule

from lit_distill.cli.bare_names import full_path, imported
from lit_distill.cli.config_files import option_values, read_config
from lit_distill.modules import DistillationModule

FIT_VERBS = ("fit", "validate", "test", "predict", "record")
_WIDTH = 100
_COLUMN = 32
_KINDS: dict[str, type] = {"model": DistillationModule, "data": LightningDataModule}

_OVERVIEW = """usage: lit-distill VERB [--config FILE] [--OPTION VALUE ...]

Knowledge distillation with PyTorch Lightning.

{verbs}

lit-distill VERB --help shows a verb's options; lit-distill --version the version. Start with:
  lit-distill demo
  lit-distill fit --teacher timm:resnet50 --student timm:mobilenetv3_small_100 --data FOLDER
  lit-distill fit --config configs/digits/teacher.yaml
  lit-distill fit --config configs/digits/logit.yaml"""

_COMMON = {
    "-c, --config FILE": "a config; of several, the later wins value by value",
    "--print_config": "print every value that would be used, and run nothing",
    "--seed_everything N": "seed of all random numbers (0)",
    "--ckpt_path FILE": "the checkpoint to go on from, or to evaluate",
    "--trainer.NAME VALUE": "an option of Lightning's Trainer: max_epochs, devices, precision, logger, callbacks, …",
    "--model CLASS": "the distillation; its options are --model.NAME VALUE",
    "--data CLASS": "a LightningDataModule; its options are --data.NAME VALUE",
    "--optimizer CLASS": "such as AdamW; its options are --optimizer.NAME VALUE",
    "--lr_scheduler CLASS": "such as CosineAnnealingLR; its options are --lr_scheduler.NAME VALUE",
}


def asks_for_help(words: Sequence[str]) -> bool:
    """Return True if a verb's words ask for the short help: ``--help=all`` asks for the parser's own."""
    return any(word in ("-h", "--help") for word in words) and "all" not in words


def overview(verbs: Mapping[str, str]) -> str:
    """Return the help of the command: its verbs, each with a line."""
    return _OVERVIEW.format(verbs="\n".join(f"  {name:10}{line}" for name, line in verbs.items()))


def verb_help(verb: str, line: str, words: Sequence[str]) -> str:
    """Return the help of a verb that reads configs, with the options of the classes that its words name."""
    lines = [f"usage: lit-distill {verb} --config FILE [--config FILE ...] [--OPTION VALUE ...]"]
    lines += ["       lit-distill fit --teacher NAME --student NAME --data FOLDER   (with --help: its options)"] * (
        verb == "fit"
    )
    lines += ["", line, ""]
    lines += [row for option, text in _COMMON.items() for row in _row(option, text)]
    for name, kind in _KINDS.items():
        made = _named(name, kind, words)
        if made is not None:
            lines += ["", f"{made.__name__}, by --{name}.NAME VALUE or under init_args:"]
            lines += [row for option, text in _options(made) for row in _row(option, text)]
    if _named("model", DistillationModule, words) is None:
        lines += ["", "With --config or --model, this shows the options of the model and the data as well. Models:"]
        lines += [row for kind in _models() for row in _row(kind.__name__, _first_line(kind))]
    lines += ["", f"All options, those of the Trainer included: lit-distill {verb} --help=all"]
    return "\n".join(lines)


def _named(name: str, kind: type, words: Sequence[str]) -> Any:
    """Return the class that words and their configs give for a section; None if they give none."""
    found = None
    for option, value in option_values(words):
        content: Any = None
        if option in ("-c", "--config"):
            content = read_config(Path(value))
        elif option in (f"--{name}", f"--{name}.class_path"):
            content = {name: value}
        section = content.get(name) if isinstance(content, Mapping) else None
        path = section.get("class_path") if isinstance(section, Mapping) else section
        found = path if isinstance(path, str) else found
    return imported(full_path(kind, found)) if found is not None else None


def _models() -> list[type]:
    import lit_distill.modules as rooms

    named = (getattr(rooms, name) for name in rooms.__all__)
    return [one for one in named if issubclass(one, DistillationModule)]


def _options(made: Any) -> Iterator[tuple[str, str]]:
    """Yield the options of a class, each with its default and what its docstring says first."""
    texts = {one.arg_name: one.description or "" for one in parse(inspect.getdoc(made) or "").params}
    for name, option in inspect.signature(made).parameters.items():
        default = option.default
        shown = "" if default is option.empty or default is None else f" ({default})"
        text = " ".join(texts.get(name, "").split()).partition(". ")[0].rstrip(".")
        yield name, ("" if default is not option.empty else "needed: ") + text + shown


def _first_line(made: Any) -> str:
    return (inspect.getdoc(made) or "").partition("\n")[0]


def _row(option: str, text: str) -> list[str]:
    """Return an option and its text in two columns."""
    lines = textwrap.wrap(text, _WIDTH - _COLUMN) or [""]
    first = f"  {option}".ljust(_COLUMN) if len(option) < _COLUMN - 3 else f"  {option}\n{' ' * _COLUMN}"
    return [first + lines[0], *(" " * _COLUMN + line for line in lines[1:])]
