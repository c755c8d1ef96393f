"""Reads single values of a plan; its errors name the plan's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lit_distill.cli.config_files import find_configs
from lit_distill.compare.plan import Layers, PlannedMethod, Spec
from lit_distill.compare.results import CONTROL
from lit_distill.utils.names import nearest


class Reader:
    """Reads values of a plan; its errors name the plan.

    Args:
        where: The plan's file.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def error(self, why: str) -> ValueError:
        """Return an error about the plan."""
        return ValueError(f"{self.where}: {why}")

    def keys(self, content: Mapping[Any, Any], known: Iterable[str], owner: str = "") -> None:
        """Refuse an unknown key."""
        for key in content:
            if key not in known:
                place = f"{owner} has" if owner else "there is"
                raise self.error(f"{place} no entry {key!r}.{nearest(str(key), known)} Known: {', '.join(known)}.")

    def known(self, name: Any, names: Iterable[str], kind: str) -> str:
        """Refuse an unknown name of a student, teacher or method."""
        if name not in names:
            raise self.error(f"there is no {kind} {name!r}.{nearest(str(name), names)} Known: {', '.join(names)}.")
        return str(name)

    def count(self, value: Any, name: str) -> int:
        """Return a whole number of at least 1."""
        if value is None:
            raise self.error(f"{name} is missing; write for example '{name}: 10'.")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(f"{name} must be a whole number of at least 1; it is {value!r}.")
        return value

    def mapping(self, value: Any, name: str) -> dict[str, Any]:
        """Return a mapping; an empty one for None."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.error(f"{name} must be a mapping (name: value); it is {value!r}.")
        return dict(value)

    def names(self, value: Any, name: str) -> tuple[str, ...]:
        """Return one name, or several."""
        found = [value] if isinstance(value, str) else value or []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self.error(f"{name} must be one name or a list of names; it is {value!r}.")
        return tuple(found)

    def files(self, value: Any, name: str) -> tuple[str, ...]:
        """Return the names of config files that exist."""
        found = self.names(value, name)
        for config, file in zip(found, find_configs(list(found)), strict=True):
            if not Path(file).is_file():
                raise self.error(f"{name}: there is no config {config} (looked in {Path.cwd()}).")
        return found

    def one_of(self, value: Any, known: tuple[str, ...], name: str) -> Any:
        """Return one of a few words."""
        if value not in known:
            raise self.error(f"{name} must be {' or '.join(known)}; it is {value!r}.{nearest(str(value), known)}")
        return value

    def layers(self, value: Any, name: str) -> Layers:
        """Return how layers are named: a mapping, ``auto`` or ``configured``."""
        if isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair):
            return dict(value)
        if isinstance(value, str):
            found: Layers = self.one_of(value, ("auto", "configured"), name)
            return found
        raise self.error(f"{name} must be auto, configured, or names of layers (layer3: stage3, say); it is {value!r}.")

    def network(self, value: Any, name: str) -> Spec:
        """Return a network as a config writes it."""
        if isinstance(value, str) and value:
            return value
        if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
            self.keys(value, ("class_path", "init_args", "dict_kwargs"), name)
            return dict(value)
        raise self.error(
            f"{name} must be a network: a class such as SmallCNN, or {{class_path: SmallCNN, init_args: {{width: 8}}}}; it "
            f"is {value!r}."
        )

    def control(self, content: Mapping[str, Any]) -> PlannedMethod | None:
        """Return how students are trained without a teacher; None if the plan does not say."""
        if "control" not in content:
            return None
        value = content["control"]
        if not isinstance(value, Mapping):
            raise self.error(
                f"control is {value!r}, but a comparison needs its control: the student without a teacher, on the same data "
                "and schedule. Leave the entry out, or say how it is trained: 'control: {scheme: my_config.yaml}'."
            )
        self.keys(value, ("scheme", "options", "score"), "control")
        configs = self.files(value.get("scheme"), "control: scheme")
        options = self.mapping(value.get("options"), "control: options")
        if not configs:
            raise self.error("control needs a config: 'control: {scheme: my_config.yaml}'.")
        return PlannedMethod(CONTROL, "scheme", configs, options=options, taught=False, figure=value.get("score"))
