"""``lit-distill methods``: the methods, with what they read, their papers and their costs."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lit_distill.batch.batch import Batch, BatchFormat
from lit_distill.cli.bare_names import bare_names, imported
from lit_distill.cli.words import Parser
from lit_distill.criteria import Criterion, FeatureCriterion, HardTarget, SoftTarget
from lit_distill.criteria.base import Citation
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.models import load, resnet20, resnet56
from lit_distill.modules import DistillationModule
from lit_distill.preflight.auto_layers import find_layers
from lit_distill.preflight.dry_run import DryRun
from lit_distill.schedules import Schedule
from lit_distill.utils.tensors import count_parameters

_PACKAGE = Path(__file__).parents[1]
_BATCH = 64


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    config: str  # the file in ``configs/methods``, without its ending
    name: str  # of the criterion's class
    method: str  # in the literature
    year: int
    paper: str
    needs: str
    weight: float  # the largest of its schedule if it has one
    parameters: int  # that it trains in addition to the student, for ResNet-56 to ResNet-20
    time: float | None  # of a training step, relative to plain soft targets


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = Parser("methods", __doc__)
    parser.add_argument("--time", action="store_true", help="measure a training step with each method (a minute)")
    options = parser.parse_args(list(arguments))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # each method would print its layers
    print(as_markdown(rows(timed=options.time)))


def rows(timed: bool = False) -> list[Row]:
    """Return a line for each config in ``configs/methods``; ``timed`` measures a training step of each."""
    found = [row for path in method_configs() for row in _rows_of(path, timed)]
    return sorted(found, key=lambda row: (row.needs, row.year, row.name))


def method_configs() -> list[Path]:
    """Return the paths of the methods' configs."""
    folder = next(
        home / "configs/methods" for home in (_PACKAGE, _PACKAGE.parent) if (home / "configs/methods").is_dir()
    )
    return sorted(path for path in folder.glob("*.yaml") if path.stem != "base")


def as_markdown(found: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    timed = any(row.time is not None for row in found)
    table = [
        {
            "config": f"`{row.config}`",
            "class": f"`{row.name}`",
            "method": row.method,
            "needs": row.needs,
            "weight": f"{row.weight:g}",
            "extra parameters": f"{row.parameters:,}",
            **({"step time": f"{row.time:.2f}" if row.time is not None else ""} if timed else {}),
            "paper": row.paper,
        }
        for row in found
    ]
    head, *lines = [f"| {' | '.join(cells)} |" for cells in (table[0], *(cells.values() for cells in table))]
    return "\n".join([head, f"|{'---|' * len(table[0])}", *lines])


def model_settings(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, full class paths and defaults included, that configs give a module, the later over the earlier."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DistillationModule, "model")
    parsed: Any = None
    with bare_names():
        for config in configs:
            parsed = parser.parse_object({"model": config["model"]}, parsed)
    found: dict[str, Any] = parsed.as_dict()["model"]["init_args"]
    return found


def _rows_of(path: Path, timed: bool) -> list[Row]:
    config = yaml.safe_load(path.read_text())
    settings = model_settings(yaml.safe_load(path.with_name("base.yaml").read_text()), config)
    torch.manual_seed(0)
    criteria = {name: instantiate(spec) for name, spec in settings["criteria"].items()}
    distiller = _distiller(settings, criteria)
    few = _batch(2)
    find_layers(distiller, few)
    with torch.no_grad():
        DryRun(distiller).run(distiller.capture.dry_run(few.inputs), few)
    spent = None
    if timed and "optimizer" not in config:  # the time of an optimizer's own would be missing
        plain = Distiller(
            resnet20(), resnet56(), WeightedCriteria({"soft": SoftTarget()}, {"soft": 1.0}), BatchFormat()
        )
        spent = step_time(distiller, _batch(_BATCH)) / step_time(plain, _batch(_BATCH))
    return [
        Row(
            path.stem,
            type(criterion).__name__,
            *_origin(criterion.citation, path),
            needs(criterion),
            weight_of(settings, name),
            count_parameters(criterion),
            spent,
        )
        for name, criterion in criteria.items()
        if criterion.citation is not None and _is_the_method(criterion, criteria)
    ]


def _origin(citation: Citation, path: Path) -> tuple[str, int, str]:
    """Return method, year and paper: the config's heading wins if its options make another paper's method."""
    year = int(re.findall(r"(?:19|20)\d\d", citation.paper)[0])
    heading = " ".join(line.removeprefix("# ") for line in path.read_text().splitlines()[1:4] if line.startswith("# "))
    named = re.search(r"\(([^()]*?((?:19|20)\d\d)[^()]*)\)", heading)
    if named is None or int(named[2]) == year:
        return citation.method, year, citation.paper
    return heading.partition(" (")[0], int(named[2]), named[1]


def _is_the_method(criterion: Criterion, criteria: Mapping[str, Criterion]) -> bool:
    """Return True if a config is about this criterion, and it does not merely accompany another."""
    others = [other for other in criteria.values() if not isinstance(other, (HardTarget, SoftTarget))]
    return criterion in others if others else isinstance(criterion, SoftTarget)


def _batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(size, 3, 32, 32, generator=generator), torch.arange(size) % 10)


def weight_of(settings: Mapping[str, Any], name: str) -> float:
    """Return a criterion's weight in a config; the largest of its schedule if it has one."""
    schedule = (settings.get("schedules") or {}).get(f"{name}.weight")
    if schedule is None:
        return float(settings["weights"][name])
    made: Schedule = instantiate(schedule)
    bounds = made.bounds()
    assert bounds is not None, "a schedule of the library says how far it goes"
    return bounds[1]


def _distiller(settings: Mapping[str, Any], criteria: dict[str, Criterion]) -> Distiller:
    networks = instantiate(settings["student"]), instantiate(settings["teacher"])
    return Distiller(*networks, WeightedCriteria(criteria, dict.fromkeys(criteria, 1.0)), BatchFormat())


def instantiate(spec: Any) -> Any:
    """Make what settings name by an import path and ``init_args``; a model to be loaded is made with random weights."""
    if isinstance(spec, list):
        return [instantiate(item) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    if "class_path" not in spec:
        return {key: instantiate(value) for key, value in spec.items()}
    arguments = spec.get("init_args", {})
    made = imported(spec["class_path"])
    return (
        instantiate(arguments["model"])
        if made is load
        else made(**{key: instantiate(value) for key, value in arguments.items()})
    )


def needs(criterion: Criterion) -> str:
    """Return what a criterion reads of the networks and the batch."""
    found = []
    if criterion.student_layers or isinstance(criterion, FeatureCriterion):
        found.append("features")
    if criterion.compares_logits or (criterion.needs_teacher and not criterion.teacher_layers):
        found.append("logits")
    if criterion.needs_target:
        found.append("labels")
    return ", ".join(found)


def step_time(distiller: Distiller, data: Batch, rounds: int = 3) -> float:
    """Return the seconds of the fastest of a few training steps: both networks, the criteria and the backward pass."""
    assert isinstance(data.inputs, Tensor)
    distiller.student.train()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        sides = distiller.run(data)
        losses = distiller.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
        torch.autograd.backward(distiller.step_loss(losses, sides).total)
        best = min(best, time.perf_counter() - start)
        _clear(distiller.student, distiller.criteria)
    return best


def _clear(*modules: nn.Module) -> None:
    for module in modules:
        module.zero_grad(set_to_none=True)
