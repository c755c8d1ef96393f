"""Finds and reads config files, and refuses a key given twice, whose first value YAML would drop in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_distill.cli.config_classes import ENDINGS, WEIGHTS, check_classes, check_sections
from lit_distill.utils.names import nearest

_OPTIONS = ("--config", "-c")
_MERGE = "tag:yaml.org,2002:merge"
_PACKAGE = Path(__file__).parents[1]
_HOMES = (_PACKAGE, _PACKAGE.parent)  # the folders that can hold the shipped configs


def find_configs(arguments: Sequence[str]) -> list[str]:
    """Let ``configs/…`` name a config that comes with the package, if there is no such file here."""
    found = []
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        name = Path(value)
        if value.startswith("configs/") and value.endswith((".yaml", ".yml")) and not name.exists():
            name = next((home / value for home in _HOMES if (home / value).is_file()), name)
        found.append(f"{option}{equals}{name if value.startswith('configs/') else value}")
    return found


def fit_words(configs: Sequence[str], further: Sequence[str] = ()) -> list[str]:
    """Return configs and further options as the words after ``lit-distill fit``."""
    return find_configs([*(word for path in configs for word in ("--config", path)), *further])


def read_config(path: Path) -> Any:
    """Return the content of a config file.

    Raises:
        ValueError: There is no such file, it is no YAML, or a key is in it twice; the message names the file.
    """
    return _parsed(_text_of(path), str(path))


def _parsed(text: str, where: str) -> Any:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _refuse_twins(node, where)
        return loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{where} is no YAML: {_in_one_line(error)}.") from error


def check_words(words: Sequence[str]) -> None:
    """Check every config file that a command names, and those that these name.

    Raises:
        ValueError: A file cannot be read, is no YAML, is empty or no mapping, or has a key twice.
    """
    try:
        _check_all(words)
    except RecursionError as error:
        raise ValueError("a config holds itself, by an anchor (&) that is used (*) inside of what it names.") from error


def _check_all(words: Sequence[str]) -> None:
    seen: set[Path] = set()
    for option, value in option_values(words):
        if option in _OPTIONS:
            if _is_inline(value):
                check_classes(_parsed(value, option), option)
            elif value != "-":
                _check_file(Path(value), seen, whole=True)
        elif value.endswith(ENDINGS) and Path(value).is_file():
            _check_file(Path(value), seen)


def config_files(words: Sequence[str]) -> list[str]:
    """Return the config files that a command names, as it names them."""
    return [value for option, value in option_values(words) if option in _OPTIONS and not _is_inline(value)]


def option_values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield options and their values, be they one word or two."""
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if equals and word.startswith("-"):
            yield option, value
        elif word.startswith("-") and index + 1 < len(words):
            yield word, words[index + 1]


def _is_inline(value: str) -> bool:
    """Return True if a word is a config's text rather than a file."""
    return value.lstrip().startswith("{") or "\n" in value or (": " in value and not Path(value).exists())


def _check_file(path: Path, seen: set[Path], whole: bool = False) -> None:
    """Check a file and those that it names; ``whole`` if it is a config itself, not a value in one."""
    if path.absolute() in seen:
        return
    seen.add(path.absolute())
    content = read_config(path)
    check_classes(content, str(path))
    if whole:
        check_sections(content, str(path))
    if whole and content is None:
        raise ValueError(f"{path} is empty; it must hold the options of a fit: model, data and trainer.")
    if whole and not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; a config is a mapping with model, data and trainer, each with its "
            "options."
        )
    for value in _texts(content):
        inner = path.parent / value
        if value.endswith(ENDINGS) and inner.is_file():
            _check_file(inner, seen)


def _texts(content: Any) -> Iterator[str]:
    """Yield every text among a config's values."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (Mapping, list)):
        for value in content.values() if isinstance(content, Mapping) else content:
            yield from _texts(value)


def _text_of(path: Path) -> str:
    if path.suffix in WEIGHTS:
        raise ValueError(
            f"{path} is a checkpoint and no config; give the config here, and the checkpoint as --ckpt_path."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the config file in it.")
    if not path.is_file():
        folders = [(path.parent, home / path.parent) for home in (Path(), *_HOMES) if (home / path.parent).is_dir()]
        known = [str(name / one.name) for name, place in folders for one in place.iterdir() if one.suffix in ENDINGS]
        raise ValueError(f"there is no file {path} (looked in {Path.cwd()}).{nearest(str(path), known)}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no YAML: it is no text (byte {error.start} is no UTF-8).") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def _in_one_line(error: Exception) -> str:
    """Return a YAML error and its place in one line."""
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).splitlines()[0].rstrip(".")
    if "'\\t'" in problem:
        problem = "a tab; indent by spaces"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else problem


def _refuse_twins(root: yaml.Node | None, where: str) -> None:
    """Refuse a mapping that has a key twice; keys that are merged in (``<<``) may be given again."""
    waiting: list[tuple[yaml.Node, str]] = [(root, "")] if root is not None else []
    seen: set[int] = set()
    while waiting:
        node, place = waiting.pop()
        if id(node) in seen:  # an anchor that is used again
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(entry, f"{place}[{index}]") for index, entry in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            _refuse_twins_in(node, place, where)
            waiting += [(value, _joined(place, key)) for key, value in node.value]


def _refuse_twins_in(node: yaml.MappingNode, place: str, where: str) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            raise ValueError(
                f"{where}: {_joined(place, key)!r} is there twice (lines {lines[name]} and {line}); give it once, as the first "
                "would be lost."
            )
        lines[name] = line


def _joined(place: str, key: yaml.Node) -> str:
    return f"{place}.{key.value}" if place else str(key.value)
