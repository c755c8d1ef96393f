"""Reads the config of a chain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_distill.chain.link import Link
from lit_distill.cli.config_files import find_configs, read_config
from lit_distill.utils.names import nearest

_KEYS = ("folder", "config", "links")
_LINK_NAME = re.compile(r"\w[\w.-]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_OURS = ("ckpt_path", "trainer.default_root_dir")


def read_chain(path: Path, folder: Path | None = None) -> list[Link]:
    """Read a chain's config.

    Args:
        path: A YAML file with ``folder``, ``config`` and ``links``.
        folder: In place of the config's.

    Returns:
        The links, in the order in which they run.

    Raises:
        ValueError: The config is wrong: the message says where, and what would be right.
    """
    chain = read_config(path)
    if not isinstance(chain, Mapping):
        raise ValueError(f"{path} must hold folder, config and links; it holds {chain!r}.")
    for key in chain:
        if key not in _KEYS:
            raise ValueError(f"{path} has an unknown entry {key!r}.{_known(key, _KEYS)}")
    links = chain.get("links")
    if not isinstance(links, Mapping) or not links:
        raise ValueError(f"{path} has no links; write them under 'links:', each with a name and its own options.")
    place = folder or chain.get("folder")
    if not isinstance(place, (str, Path)) or not str(place):
        raise ValueError(f"{path} names no folder for its links; write for example 'folder: runs/{path.stem}'.")
    found: list[Link] = []
    for name, options in links.items():
        found.append(_read_link(name, options, chain.get("config"), Path(place), found, list(links)))
    return found


def _read_link(name: Any, options: Any, shared: Any, folder: Path, earlier: list[Link], names: list[Any]) -> Link:
    if not isinstance(name, str) or not _LINK_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a link: its folder is named so. Use letters, digits, '_', '-' and '.'.")
    own = {} if options is None else options
    if not isinstance(own, Mapping):
        raise ValueError(f"link {name!r} must hold options of `lit-distill fit`, path: value; it holds {own!r}.")
    for path in own:
        if not isinstance(path, str) or path.startswith("-"):
            raise ValueError(f"link {name!r}: {path!r} is no option path; write it without dashes: model.temperature.")
        if path in _OURS:
            raise ValueError(f"link {name!r}: the chain decides {path} itself; leave it out.")
    checkpoints = {link.name: str(link.checkpoint) for link in earlier}
    teachers: dict[str, None] = {}
    filled = {
        path: _fill(value, checkpoints, teachers, f"link {name!r}, {path}", names)
        for path, value in own.items()
        if path != "config"
    }
    configs = _read_configs(own.get("config", shared), name)
    return Link(name, folder / name, configs, filled, tuple(teachers))


def _read_configs(given: Any, name: str) -> tuple[str, ...]:
    configs = [given] if isinstance(given, str) else given or []
    if not isinstance(configs, list) or not all(isinstance(config, str) for config in configs):
        raise ValueError(f"link {name!r}: config must be a file or a list of files; it is {given!r}.")
    if not configs:
        raise ValueError(f"link {name!r} starts from no config: write 'config: [FILE]' for all links, or in the link.")
    for config, file in zip(configs, find_configs(configs), strict=True):
        if not Path(file).is_file():
            raise ValueError(f"link {name!r}: there is no config {config} (looked in {Path.cwd()}).")
    return tuple(configs)


def _fill(value: Any, checkpoints: dict[str, str], teachers: dict[str, None], where: str, names: list[Any]) -> Any:
    """Replace every ``"{link}"`` by the checkpoint's path, and note the link."""
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in names and next(iter(value.values())) is None:
            raise ValueError(f'{where}: put it in quotes, "{{{next(iter(value))}}}": YAML reads braces as a mapping.')
        return {key: _fill(entry, checkpoints, teachers, where, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_fill(entry, checkpoints, teachers, where, names) for entry in value]
    placeholder = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    if placeholder is None:
        return value
    link = placeholder[1]
    if link not in checkpoints:
        if link in names:
            raise ValueError(f"{where}: {value} must name an earlier link, and {link!r} runs no earlier than this one.")
        raise ValueError(f"{where}: {value} names no link.{_known(link, list(checkpoints))}")
    teachers[link] = None
    return checkpoints[link]


def _known(word: Any, known: Sequence[str]) -> str:
    return f"{nearest(str(word), known)} Known here: {', '.join(known) or 'nothing, as it is the first link'}."
