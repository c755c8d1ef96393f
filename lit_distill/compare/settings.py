"""What a run, or a teacher's training, is in the words of ``lit-distill fit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lit_distill.chain import read_chain, settings_of
from lit_distill.chain.link import Link, as_word
from lit_distill.cli.config_files import find_configs, read_config
from lit_distill.cli.methods import method_configs
from lit_distill.compare.base import in_proportion, planned_epochs, rescaled_scheduler, whole_config
from lit_distill.compare.plan import Choice, ComparisonPlan, Layers, PlannedMethod, PlannedTeacher
from lit_distill.compare.reader import Reader
from lit_distill.compare.results import CONTROL
from lit_distill.compare.weights import reweighted

_LAYER_KEYS = ("layer", "layers", "head", "classifier")
_FOUND = [f"{side}_{what}" for side in ("student", "teacher") for what in ("layer", "classifier")]


def words_of(plan: ComparisonPlan, choice: Choice, found: Mapping[str, float] | None = None) -> list[str]:
    """Return the words after ``lit-distill fit`` that train a choice, but for its seed; not of a chain.

    Args:
        plan: The plan.
        choice: Student, teacher and method.
        found: The weights that a method's ``scale`` multiplies; 1 for each if None, as before anything is trained.

    Raises:
        ValueError: The method cannot be laid over these networks.
    """
    method = plan.method_of(choice)
    if method.kind == "scheme":
        return _scheme(plan, choice, method)
    sections = _base(plan)
    if choice.method == CONTROL:
        module = {"class_path": "SupervisedModule", "init_args": {"model": _student(plan, choice), **plan.model}}
        return _as_words([*sections, {"model": module}], {}, plan.epochs)
    contents = [read_config(Path(find_configs([config])[0])) for config in method.configs] or [{"model": method.model}]
    for number, content in enumerate(contents):
        overlay = _overlay(plan, choice, method, content or {}, found)
        own = overlay.pop("model", {})
        module = own if number else _module(own, plan, choice)
        sections += [{"model": module}, overlay] if overlay else [{"model": module}]
    return _as_words(sections, _filled(method.options, plan, choice), plan.epochs)


def chain_links(plan: ComparisonPlan, choice: Choice, folder: Path) -> list[Link]:
    """Return the links of a chain, which leave their checkpoints in the folder."""
    method = plan.method_of(choice)
    links = read_chain(Path(find_configs(list(method.configs[:1]))[0]), folder)
    own = _filled(method.options, plan, choice)
    return [replace(link, options={**own, **link.options}) for link in links]


def link_words(plan: ComparisonPlan, link: Link) -> list[str]:
    """Return the words after ``lit-distill fit`` that train a link of a chain."""
    if plan.share == 1:
        return link.settings()
    return link.settings([f"--trainer.max_epochs={_shortened(settings_of(link)['trainer.max_epochs'], plan)}"])


def teachers_of(plan: ComparisonPlan, choice: Choice) -> tuple[str, ...]:
    """Return the teachers that a choice needs: its own, and those whose checkpoint its config names."""
    kind = plan.method_of(choice).kind
    if kind == "chain":
        links = chain_links(plan, choice, Path("links"))
        files = find_configs([config for link in links for config in link.configs])
        text = "\n".join([*(Path(file).read_text() for file in files), *(str(link.options) for link in links)])
    else:
        text = "\n".join(words_of(plan, choice)) if kind == "scheme" else ""
    named = (one.name for one in plan.teachers.values() if one.checkpoint is not None and str(one.checkpoint) in text)
    return tuple(dict.fromkeys([choice.teacher, *named] if choice.teacher else named))


def teacher_words(plan: ComparisonPlan, teacher: PlannedTeacher) -> list[str]:
    """Return the words after ``lit-distill fit`` that train a teacher."""
    if teacher.train == ("",):
        sections, epochs = _base(plan), plan.epochs
    else:
        sections = [whole_config(Reader("plan"), config) for config in teacher.train]
        epochs = 0
    if teacher.network is not None:
        sections = [{key: value for key, value in section.items() if key != "model"} for section in sections]
        sections.append({"model": {"class_path": "SupervisedModule", "init_args": {"model": teacher.network}}})
    return _as_words(sections, teacher.options, epochs)


def teacher_network(plan: ComparisonPlan, name: str) -> Any:
    """Return a trained teacher as a config writes it."""
    teacher = plan.teachers[name]
    network = teacher.network if teacher.network is not None else _network_in(teacher)
    if teacher.checkpoint is None:
        return network
    return {"class_path": "load", "init_args": {"model": network, "checkpoint": str(teacher.checkpoint)}}


def teacher_test_words(plan: ComparisonPlan, name: str) -> list[str]:
    """Return the words that make a teacher a module to test on the plan's data."""
    arguments = {"model": teacher_network(plan, name), **plan.model}
    module = {"class_path": "SupervisedModule", "init_args": arguments}
    return _as_words([*_base(plan), {"model": module}], {}, plan.epochs)


def _network_in(teacher: PlannedTeacher) -> Any:
    """Return the network of the config that a teacher is trained by."""
    arguments: dict[str, Any] = {}
    for config in teacher.train:
        model = whole_config(Reader("plan"), config).get("model", {})
        arguments |= model.get("init_args", model) if isinstance(model, Mapping) else {}
    network = arguments.get("model", arguments.get("student"))
    if network is None:
        raise ValueError(f"teacher {teacher.name!r}: {', '.join(teacher.train)} names no network as model.model.")
    changes = {
        path: value for path, value in teacher.options.items() if path.startswith(("model.model", "model.student"))
    }
    if changes:
        raise ValueError(
            f"teacher {teacher.name!r}: its options change the network ({', '.join(changes)}); write it as 'network:' instead."
        )
    return network


def _base(plan: ComparisonPlan) -> list[dict[str, Any]]:
    share = plan.epochs / (planned_epochs(plan.base) or plan.epochs)
    return [rescaled_scheduler(section, share) for section in plan.base]


def _as_words(sections: list[dict[str, Any]], options: Mapping[str, Any], epochs: int) -> list[str]:
    words = [word for section in sections if section for word in ("--config", yaml.safe_dump(section, sort_keys=False))]
    words += [f"--{path}={as_word(value)}" for path, value in options.items()]
    return [*words, f"--trainer.max_epochs={epochs}"] if epochs else words


def _student(plan: ComparisonPlan, choice: Choice) -> Any:
    return plan.students[choice.student].network


def _module(own: Any, plan: ComparisonPlan, choice: Choice) -> dict[str, Any]:
    """Return a run's module: the pair's networks, and then what the method says."""
    given = {"student": _student(plan, choice), "teacher": teacher_network(plan, choice.teacher), **plan.model}
    if "class_path" in own:
        return {"class_path": own["class_path"], "init_args": {**given, **own.get("init_args", {})}}
    return {"class_path": "DistillationModule", "init_args": {**given, **own}}


def _overlay(
    plan: ComparisonPlan,
    choice: Choice,
    method: PlannedMethod,
    content: Mapping[str, Any],
    found: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Return what a method says as it is laid over the pair."""
    content = dict(content)
    if method.epochs is not None:
        content = in_proportion(content, plan.epochs / method.epochs)
    if method.weights == "auto":
        content = reweighted(content, method.scale, found)
    if method.shipped:
        content = _placed(content, *_shipped_networks())
        _refuse_own_networks(method, content.get("model", {}))
    named = {key: _renamed(value, plan, choice, method) if key == "model" else value for key, value in content.items()}
    filled: dict[str, Any] = _filled(named, plan, choice)
    return filled


def _refuse_own_networks(method: PlannedMethod, model: Mapping[str, Any]) -> None:
    for side in ("student", "teacher"):
        if side in model and f"{{{side}}}" not in str(model[side]):
            raise ValueError(
                f"its config brings a {side} of its own; write a config for these networks, and give it as "
                f"{{name: my_{method.name}, config: FILE}}."
            )


def _shipped_networks() -> tuple[Any, Any]:
    """Return the student and teacher that the shipped methods' configs are written for."""
    base = yaml.safe_load(method_configs()[0].with_name("base.yaml").read_text())["model"]["init_args"]
    return base["student"], base["teacher"]


def _placed(value: Any, student: Any, teacher: Any) -> Any:
    """Put placeholders where a shipped method's config names the networks that it was written for."""
    if value in (student, teacher):
        return "{student}" if value == student else "{teacher}"
    if isinstance(value, Mapping):
        return {key: _placed(inner, student, teacher) for key, inner in value.items()}
    return [_placed(inner, student, teacher) for inner in value] if isinstance(value, list) else value


def _filled(value: Any, plan: ComparisonPlan, choice: Choice) -> Any:
    """Put the choice's networks in place of ``"{student}"`` and ``"{teacher}"``."""
    if value == "{student}":
        return _student(plan, choice)
    if value == "{teacher}" and choice.teacher:
        return teacher_network(plan, choice.teacher)
    if isinstance(value, Mapping):
        return {key: _filled(inner, plan, choice) for key, inner in value.items()}
    return [_filled(inner, plan, choice) for inner in value] if isinstance(value, list) else value


def _scheme(plan: ComparisonPlan, choice: Choice, method: PlannedMethod) -> list[str]:
    sections = [_filled(whole_config(Reader("plan"), config), plan, choice) for config in method.configs]
    if plan.share == 1:
        return _as_words(sections, _filled(method.options, plan, choice), 0)
    epochs = method.options.get("trainer.max_epochs", planned_epochs(sections))
    sections = [rescaled_scheduler(section, plan.share) for section in sections]
    return _as_words(sections, _filled(method.options, plan, choice), _shortened(epochs, plan))


def _shortened(epochs: int, plan: ComparisonPlan) -> int:
    return max(1, round(epochs * plan.share))


def _renamed(value: Any, plan: ComparisonPlan, choice: Choice, method: PlannedMethod, key: str = "") -> Any:
    """Return a method's settings with the layers' names of the two networks."""
    if isinstance(value, Mapping):
        return {name: _renamed(inner, plan, choice, method, _side(name, key)) for name, inner in value.items()}
    if not key.endswith(_LAYER_KEYS):
        return value
    names = _layers(plan, choice, method, "teacher" if key.startswith("teacher") else "student")
    if names == "auto":
        return "auto" if key in _FOUND else value
    if isinstance(value, list):
        return [_renamed(inner, plan, choice, method, key) for inner in value]
    return _renamed_path(value, names) if isinstance(value, str) and isinstance(names, Mapping) else value


def _side(name: Any, key: str) -> str:
    """Return a key with the network that it is about, which is that of the key above it."""
    above = next((side for side in ("teacher", "student") if key.startswith(side)), "")
    return str(name) if not above or str(name).startswith(("teacher", "student")) else f"{above}_{name}"


def _layers(plan: ComparisonPlan, choice: Choice, method: PlannedMethod, side: str) -> Layers:
    owner = plan.teachers[choice.teacher] if side == "teacher" and choice.teacher else plan.students[choice.student]
    default: Layers = "auto" if method.shipped else "configured"
    return next((one for one in (method.layers, owner.layers, plan.layers) if one is not None), default)


def _renamed_path(reference: str, names: Mapping[str, str]) -> str:
    """Return a layer reference with its parts renamed; ``layer*`` goes with ``layer1`` and so on."""
    path, mark, rest = reference.partition(":")
    return ".".join(_renamed_part(part, names) for part in path.split(".")) + mark + rest


def _renamed_part(part: str, names: Mapping[str, str]) -> str:
    if part in names or not part.endswith("*"):
        return names.get(part, part)
    matching = {new.rstrip("0123456789") for old, new in names.items() if old.startswith(part[:-1])}
    return f"{matching.pop()}*" if len(matching) == 1 else part
