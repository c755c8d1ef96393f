"""Finds the layers of criteria that leave theirs to the library, on an example before the first batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lit_distill.batch.batch import Batch, Inputs, count_samples
from lit_distill.batch.positions import input_mask
from lit_distill.capture.call import explaining_inputs
from lit_distill.capture.observing import ForwardPass, observe
from lit_distill.capture.pairing import Pair, match, pair_stages
from lit_distill.capture.stages import Block, Stages, named_blocks, stages_of
from lit_distill.criteria import Criterion, FeatureCriterion
from lit_distill.criteria.layers import AUTO
from lit_distill.engine.distiller import Distiller
from lit_distill.outputs import OutputKey, Outputs, logits_or_reason
from lit_distill.teachers.base import NoNetwork
from lit_distill.utils.names import first_line


@dataclass
class _Network:
    """A network, observed on the example."""

    owner: str
    done: ForwardPass
    stages: Stages
    outputs: Outputs

    @property
    def name(self) -> str:
        return f"the {self.owner} {type(self.done.network).__name__}"


def find_layers(distiller: Distiller, data: Batch, trainer: Trainer | None = None) -> bool:
    """Find the layers of all criteria that ask for them, and capture these from now on.

    Both networks run once on the example. In a distributed fit, all processes take what the first one finds.

    Args:
        distiller: The distillation.
        data: The example.
        trainer: The running trainer, if there is one.

    Returns:
        True if a criterion asked.

    Raises:
        ValueError: A network has no stages that a criterion can compare.
    """
    asking = {name: one for name, one in distiller.criteria.innermost().items() if one.needs_layers}
    if not asking:
        return False
    networks = _observed(distiller, data)
    found = {}
    for name, criterion in asking.items():
        try:
            found[name] = _layers_for(criterion, networks, data)
        except ValueError as error:
            raise ValueError(f"criterion {name!r} ({type(criterion).__name__}): {error}") from error
    if trainer is not None and trainer.world_size > 1:
        found = trainer.strategy.broadcast(found)
    distiller.checkpoint_entry.found.keep(asking)
    for name, layers in found.items():
        asking[name].set_found_layers(*layers)
    distiller.capture_layers()
    return True


def _observed(distiller: Distiller, data: Batch) -> dict[str, _Network]:
    mask, format_ = input_mask(data), distiller.format
    networks = {"student": _observe("student", distiller.student, data.inputs, format_.output_key, mask)}
    teacher = distiller.teacher
    if teacher is not None and not isinstance(teacher.model, NoNetwork):
        key = format_.teacher_output_key if format_.teacher_output_key is not None else format_.output_key
        networks["teacher"] = _observe("teacher", teacher.model, data.for_teacher, key, mask)
    return networks


def _observe(owner: str, network: nn.Module, inputs: Inputs, key: OutputKey | None, mask: Tensor | None) -> _Network:
    with explaining_inputs(owner, type(network).__name__, inputs):
        done = observe(network, inputs)
    outputs = Outputs(logits_or_reason(done.returned, key, owner), {}, mask)
    return _Network(owner, done, stages_of(done, count_samples(inputs)), outputs)


def _layers_for(
    criterion: Criterion, networks: dict[str, _Network], data: Batch
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers of one criterion in both networks."""
    student = networks["student"]
    if not criterion.teacher_layers:
        return _own_layers(criterion, student), ()
    if "teacher" not in networks:
        raise ValueError("the teacher has no network whose stages could be found; name layers, or compare logits.")
    pairs = _Pairing(criterion, student, networks["teacher"], data).pairs()
    if criterion.auto_stages == "last":
        pairs = pairs[-1:]
    return tuple(one.layer for one, _ in pairs), tuple(other.layer for _, other in pairs)


def _own_layers(criterion: Criterion, student: _Network) -> tuple[str, ...]:
    """Return the student's stages for a criterion that reads no layer of the teacher."""
    ends = student.stages.ends
    chosen = {"all": ends, "last": ends[-1:], "exits": ends[:-1]}[criterion.auto_stages]
    if not chosen:
        raise ValueError(_no_stages(student, "an exit needs a stage before the last one" if ends else ""))
    return tuple(end.layer for end in chosen)


def _no_stages(network: _Network, why: str = "") -> str:
    reason = why or "no layer before its output repeats a block or ends a resolution"
    names = [name for name, _ in network.done.network.named_children()]
    shown = f" Its layers: {', '.join(names[:8])}." if names else ""
    return (
        f"no stages were found in {network.name}: {reason}. Name layers ({network.owner}_layer=…; lit-distill layers lists "
        f"them), or compare logits.{shown}"
    )


@dataclass
class _Pairing:
    """Pairs the layers of two networks for one criterion, which is tried on each pair."""

    criterion: Criterion
    student: _Network
    teacher: _Network
    data: Batch
    refusals: list[str] = field(default_factory=list)

    def pairs(self) -> list[Pair]:
        """Return the pairs, at least as many as the criterion needs."""
        named = {owner: self._named(owner) for owner in ("student", "teacher")}
        for network in (self.student, self.teacher):
            if not named[network.owner] and not network.stages.ends:
                raise ValueError(_no_stages(network))
        if any(named.values()):
            own = named["student"] or self.student.stages.blocks
            other = named["teacher"] or self.teacher.stages.blocks
            pairs = match(own, other, self._fits)
        else:
            pairs = pair_stages(self.student.stages, self.teacher.stages, self._fits)
        fewest = max(_fewest(self.criterion), len(named["student"]), len(named["teacher"]))
        if len(pairs) < fewest:
            raise ValueError(self._too_few(pairs, fewest))
        return pairs

    def _named(self, owner: str) -> Sequence[Block]:
        network = self.student if owner == "student" else self.teacher
        references = self.criterion.student_layers if owner == "student" else self.criterion.teacher_layers
        return [] if AUTO in references else named_blocks(network.done, network.stages, references)

    def _fits(self, student: Block, teacher: Block) -> bool:
        """Return True if a copy of the criterion computes a value of the pair."""
        count = _fewest(self.criterion)
        trial = copy.deepcopy(self.criterion)
        trial.set_found_layers([student.layer] * count, [teacher.layer] * count)
        sides = (
            replace(self.student.outputs, features={student.layer: student.feature}),
            replace(self.teacher.outputs, features={teacher.layer: teacher.feature}),
        )
        try:
            with torch.no_grad(), isolate_rng():
                trial.eval()
                trial.build(*sides)
                trial.to(student.feature.device)
                trial(*sides, self.data.target if self.criterion.needs_target else None)
        except Exception as error:  # a criterion of the user's may refuse in its own way
            self.refusals.append(f"{student.layer} and {teacher.layer}: {first_line(error)}")
            return False
        return True

    def _too_few(self, pairs: Sequence[Pair], fewest: int) -> str:
        tried = self.refusals[0] if self.refusals else "there are no more stages"
        found = ", ".join(f"{one.layer} and {other.layer}" for one, other in pairs) or "no pair of layers"
        return (
            f"it needs {fewest} pair{'s' * (fewest > 1)} of layers, and of the stages of {self.student.name} and "
            f"{self.teacher.name} it can compare {found} ({tried}) Name layers that it can (lit-distill layers lists them), or "
            "take Hint, whose projectors fit any."
        )


def _fewest(criterion: Criterion) -> int:
    return criterion.fewest_pairs if isinstance(criterion, FeatureCriterion) else 1
