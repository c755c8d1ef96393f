"""Turns the parser's account of all that it tried with a config into one line.

The parser's message is a tree: keys and classes lead to what was refused, every alternative of a type is a branch, and each
level repeats the values given. Here the branch that led deepest is taken, and its path written as the config has it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_distill.cli.config_classes import SECTIONS, WEIGHTS, stray_keys
from lit_distill.cli.config_entries import Given, Step, name_entries
from lit_distill.utils.names import nearest

_ROOTS = (
    "lit_distill",
    "torch",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "timm",
    "transformers",
)
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
    "dict": "a mapping (name: value)",
    "list": "a list",
}
_NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value type:",
    "Subclass types expect one of:",
    "a class path (str)",
    "a dict with",
    "a dict without",
    "Expected a path but",
)
_SHOWN = 100
_UNKNOWN = r"(?:Subcommand '\w+' does not accept option '(.+)'|[Uu]nrecognized arguments: (\S+).*)"


@dataclass(frozen=True)
class Leaf:
    """A value that was refused.

    Attributes:
        text: The parser's words.
        keys: The path to it: keys, and the classes whose options they are.
        value: The value given, as Python writes it; empty if unknown.
        depth: How far down the tree it stands.
    """

    text: str
    keys: tuple[tuple[str, str], ...]
    value: str
    depth: int

    @property
    def owner(self) -> str:
        """The class that refused it; empty if none did."""
        return next((name for kind, name in reversed(self.keys) if kind == "class"), "")

    @property
    def place(self) -> str:
        """The path as a config has it: ``model.init_args.student``."""
        found = ""
        inside = False
        for kind, name in self.keys:
            if kind == "key":
                found += f"{'.init_args' * inside}.{name}" if found else name
            inside = kind == "class"
        return found


def explain(message: str, options: Iterable[str] = ()) -> str:
    """Return jsonargparse's message in one line; ``options`` are all that the parser knows."""
    unknown = re.fullmatch(_UNKNOWN, message.strip())
    if unknown is not None:
        return _unknown_option((unknown[1] or unknown[2]).lstrip("-").partition("=")[0], options)
    leaves = _leaves(message)
    if not leaves:
        return " ".join(message.split())
    deepest = max(leaf.depth for leaf in leaves)
    chosen = [leaf for leaf in leaves if leaf.depth == deepest]
    # What a class says of its own values, rather than that it is none of the other classes that could stand there.
    for other in ("does not correspond to a subclass", "needed here.$", "to use here.$", "^Not a valid subclass"):
        chosen = [leaf for leaf in chosen if not re.search(other, leaf.text)] or chosen
    told = list(dict.fromkeys(_in_words(leaf) for leaf in _together(chosen)))
    place = chosen[0].place
    return f"{place}: {' Or: '.join(told)}" if place else " Or: ".join(told)


def _together(leaves: Sequence[Leaf]) -> list[Leaf]:
    """Merge the leaves that want an object of several kinds into one."""
    kinds = [
        found[1] for leaf in leaves if (found := re.match(r"Not a valid subclass of (\w+)", leaf.text)) is not None
    ]
    if len(kinds) < len(leaves) or len(kinds) < 2:
        return list(leaves)
    return [replace(leaves[0], text=f"Not a valid subclass of {' or '.join(kinds)}")]


def _leaves(message: str) -> list[Leaf]:
    """Return what was refused, branch by branch, each with the path to it."""
    found: list[tuple[int, str, list[Step]]] = []
    values: list[Given] = []
    above: list[Step] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        indent = len(line) - len(line.lstrip()) + line.lstrip().startswith("- ")
        if text.startswith("Given value:"):
            values.append((len(found), indent, text.removeprefix("Given value:").strip()))
        if not text or text.startswith(("Given value:", *_NOISE)):
            continue
        above = [one for one in above if one[0] < indent]
        step = _step(text)
        if step is not None:
            above = [*above, (indent, *step)]
        else:
            found.append((indent, text, above))
    return [
        Leaf(
            text,
            name_entries(steps, index, values),
            _value_of(index, indent, values),
            len(steps) - text.startswith("there is no class"),
        )
        for index, (indent, text, steps) in enumerate(found)
    ]


def _step(text: str) -> tuple[str, str] | None:
    """Return a key or a class on the way to a refused value; None for anything else."""
    key = re.fullmatch(r'Parser key "([^"]+)":', text)
    if key is not None:
        return "key", key[1]
    path = re.fullmatch(r"Problem with given class_path '([^']+)':", text)
    return ("class", path[1]) if path is not None else None


def _value_of(index: int, indent: int, values: Sequence[Given]) -> str:
    """Return the first value reported after a leaf, and no deeper than it."""
    return next((value for after, level, value in values if after > index and level <= indent), "")


# What was refused, in words --------------------------------------------------------------------------


def _in_words(leaf: Leaf) -> str:
    for pattern, words in _RULES:
        found = re.match(pattern, leaf.text)
        if found is not None:
            return words(leaf, *found.groups())
    return leaf.text if leaf.text.endswith((".", "?", "!")) else f"{leaf.text}."


def _no_option(leaf: Leaf, name: str) -> str:
    known = _parameters(leaf.owner)
    hint = nearest(name, known) or (f" It takes {', '.join(known)}." if known else "")
    given = _literal(leaf.value)
    missing = ""
    if isinstance(given, dict) and "class_path" not in given and "init_args" in given:
        missing = " No class_path is given next to init_args; write class_path: lit_distill.LogitDistillation, say."
    return f"{leaf.owner or 'it'} takes no {name!r}.{missing or hint}"


def _no_name(leaf: Leaf, module: str, name: str) -> str:
    known = [one for one in dir(_imported(module)) if not one.startswith("_")]
    hint = nearest(name, [one for one in known if not one.islower()]) or nearest(name, known)
    return f"{module} has no {name!r}.{hint}"


def _no_module(leaf: Leaf, name: str) -> str:
    if leaf.owner.endswith(WEIGHTS):
        return (
            f"{leaf.owner!r} is a file, and a network is needed; lit_distill.models.load reads it into one: class_path: "
            f"lit_distill.models.load, init_args: {{model: …, checkpoint: {leaf.owner}}}."
        )
    parent, _, last = name.rpartition(".")
    parts = getattr(_imported(parent), "__path__", []) if parent else []
    known = [f"{parent}.{one.name}" for one in pkgutil.iter_modules(parts)] if parent else list(_ROOTS)
    return f"there is no module {name!r} to take {leaf.owner or last!r} from.{nearest(name, known)}"


def _missing(leaf: Leaf, names: str) -> str:
    if not leaf.keys:
        return "no model and no data are given; name a config: --config configs/digits/logit.yaml, say."
    return f"{leaf.owner or 'it'} needs {names}, which {'is' if ',' not in names else 'are'} not given."


def _expected(leaf: Leaf, kind: str, value: str | None) -> str:
    given = value if value is not None else leaf.value
    return f"{_KINDS.get(kind, f'a {kind}')} is needed, not {_shown(given)}."


def _choice(leaf: Leaf, choices: str, value: str | None) -> str:
    given = value if value is not None else leaf.value
    hint = nearest(given, re.findall("'([^']+)'", choices))
    return f"it must be one of {choices}, not {_shown(given)}.{hint}"


def _no_object(leaf: Leaf, kind: str, value: str | None) -> str:
    given = value if value is not None else leaf.value
    found = _literal(given)
    if isinstance(found, dict) and all(str(key).startswith("init_args.") for key in found):
        return f"options are given for an entry that has no class: {', '.join(found)}. Is its name misspelt?"
    stray = stray_keys(found) if isinstance(found, dict) and "class_path" in found else ""
    if stray:
        return stray
    return f"a {kind} is needed, not {_shown(given)}; write its class_path, and its options under init_args."


def _other_class(leaf: Leaf, path: str, kind: str) -> str:
    return f"{path} is no {kind}, which is needed there."


def _abstract(leaf: Leaf, path: str) -> str:
    return f"no class_path is given, and {path} takes only subclasses; write class_path: …, and init_args: …."


def _no_path(leaf: Leaf, value: str) -> str:
    return f"{value!r} is no class_path; write its options by name, or class_path and init_args."


_RULES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"Option '([^']+)' is not accepted", _no_option),
    (r"module '([^']+)' has no attribute '([^']+)'", _no_name),
    (r"No module named '([^']+)'", _no_module),
    (r"the following arguments are required: (.+)", _missing),
    (r"Expected a typing\.Literal\[(.+?)\](?:\. Got value: (.*))?$", _choice),
    (r"Expected a <class '(\w+)'>(?:\. Got value: (.*))?$", _expected),
    (r"Not a valid subclass of ([\w ]+?)(?:\. Got value: (.*))?$", _no_object),
    (r"Import path (\S+) does not correspond to a subclass of (\w+)", _other_class),
    (r"Expected an instantiatable class, but (\S+) is abstract", _abstract),
    (r"Expected a dot import path string: (.*)", _no_path),
)


def _unknown_option(name: str, options: Iterable[str]) -> str:
    known = sorted({option.lstrip("-") for option in options if not option.endswith(".help")})
    section = name.partition(".")[0]
    meant = nearest(section, SECTIONS) if section not in (name, *SECTIONS) else ""
    if meant:
        return f"there is no option {name!r}.{meant}"
    if name.endswith((".yaml", ".yml")):
        return f"{name!r} stands there alone; a config is given as --config {name}."
    hint = nearest(name, known)
    if not hint and name.rpartition(".")[2] not in ("class_path", "init_args"):
        hint = " Options of the model, the data and the optimizer go under their init_args."
    return f"there is no option {name!r}.{hint}"


def _shown(value: str) -> str:
    """Return a value as it was given, cut if it is long."""
    text = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
    return repr(text) if re.fullmatch(r"[^\[({'\"].*\D.*|[^\W\d]", text) else text


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception:  # whatever a module does when it is imported
        return None


def _parameters(path: str) -> list[str]:
    """Return the options of a class or a function."""
    try:
        return [name for name in inspect.signature(pkgutil.resolve_name(path)).parameters if name != "self"]
    except Exception:  # there is none, or it says nothing of its arguments
        return []
