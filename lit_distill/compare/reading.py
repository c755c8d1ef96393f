"""Reads a comparison's plan from its YAML file, and refuses what is wrong in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_distill.cli.config_files import find_configs, read_config
from lit_distill.compare.base import base_sections, planned_epochs
from lit_distill.compare.entries import read_methods, read_students, read_teachers
from lit_distill.compare.plan import ComparisonPlan
from lit_distill.compare.reader import Reader
from lit_distill.compare.results import CONTROL

_KEYS = (
    *("title", "folder", "students", "teachers", "methods", "seeds", "epochs", "threads"),
    *("config", "data", "trainer", "optimizer", "lr_scheduler", "model"),
    *("metric", "mode", "weights", "layers", "control"),
)
_SECTIONS = ("data", "trainer", "optimizer", "lr_scheduler")


def read_plan(
    path: Path,
    folder: Path | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
) -> ComparisonPlan:
    """Read a plan.

    Args:
        path: The YAML file.
        folder: In place of the plan's.
        epochs: In place of the plan's; all schedules keep their share.
        seeds: How many, from 0 on, in place of the plan's.
        only: Names of methods to keep; all where empty.

    Returns:
        The plan. Its networks, layers and criteria are checked when they are built, before the first run.

    Raises:
        ValueError: The plan is wrong: the message says where, and what would be right.
    """
    file = Path(find_configs([str(path)])[0])
    content = read_config(file)
    read = Reader(str(path))
    if not isinstance(content, Mapping):
        raise read.error(f"a plan holds students, teachers, methods and data; this holds {content!r}.")
    read.keys(content, _KEYS)
    configs = read.names(content.get("config"), "config")
    sections = [base_sections(read, config) for config in configs]
    sections.append({key: content[key] for key in _SECTIONS if key in content})
    if not any("data" in section for section in sections):
        raise read.error(
            "there is no data; write for example 'data: {class_path: Digits, init_args: {train_size: 100}}'."
        )
    planned = read.count(content.get("epochs", planned_epochs(sections)), "epochs")
    students = read_students(read, content.get("students"))
    teachers = read_teachers(read, content.get("teachers"), _folder(read, content, folder, file))
    methods = read_methods(read, content.get("methods"), content.get("weights"), students, teachers)
    plan = ComparisonPlan(
        title=str(content.get("title") or file.stem),
        folder=_folder(read, content, folder, file),
        students=students,
        teachers=teachers,
        methods=methods,
        control=read.control(content),
        seeds=_seeds(read, content.get("seeds", 3) if seeds is None else seeds),
        epochs=planned,
        base=tuple(sections),
        model=read.mapping(content.get("model"), "model"),
        metric=str(content.get("metric", "accuracy/student")),
        mode=read.one_of(content.get("mode", "max"), ("max", "min"), "mode"),
        layers=read.layers(content["layers"], "layers") if "layers" in content else None,
        threads=read.count(content.get("threads", 1), "threads"),
    )
    if epochs is not None:
        plan = replace(plan, epochs=read.count(epochs, "epochs"), share=epochs / planned)
    return _kept(read, plan, only)


def _folder(read: Reader, content: Mapping[str, Any], folder: Path | None, file: Path) -> Path:
    place = folder or content.get("folder") or Path("runs/compare") / file.stem
    if not isinstance(place, (str, Path)):
        raise read.error(f"folder must be a path; it is {place!r}.")
    return Path(place)


def _seeds(read: Reader, value: Any) -> tuple[int, ...]:
    if isinstance(value, list):
        wrong = [one for one in value if isinstance(one, bool) or not isinstance(one, int) or one < 0]
        if wrong or not value or len(set(value)) < len(value):
            raise read.error(
                f"seeds must be a number of at least 1, or different numbers from 0 on; they are {value!r}."
            )
        return tuple(value)
    return tuple(range(read.count(value, "seeds")))


def _kept(read: Reader, plan: ComparisonPlan, only: Iterable[str]) -> ComparisonPlan:
    wanted = [name for name in only if name != CONTROL]
    named = dict.fromkeys(one for name, method in plan.methods.items() for one in (method.entry, name) if one)
    for name in wanted:
        read.known(name, named, "method")
    kept = {name: one for name, one in plan.methods.items() if name in wanted or one.entry in wanted}
    before = {one.found_by for one in kept.values()}
    kept = {name: one for name, one in plan.methods.items() if name in kept or name in before}
    return replace(plan, methods=kept) if list(only) else plan
