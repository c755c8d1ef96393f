"""Finds the layers of criteria that leave theirs to the library, on an example before the first batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lit_distill.batch.batch import Batch
from lit_distill.capture.pairing import Pair, match, pair_stages
from lit_distill.capture.stages import Block, named_blocks
from lit_distill.criteria import Criterion, FeatureCriterion
from lit_distill.criteria.layers import AUTO
from lit_distill.engine.distiller import Distiller
from lit_distill.preflight.grids import refuse_sequences
from lit_distill.preflight.observed import ObservedNetwork, no_stages, observed_networks
from lit_distill.preflight.other_layers import attention_layers, layers_of_each_teacher, region_layers
from lit_distill.utils.names import first_line


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
    networks = observed_networks(distiller, data)
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


def _layers_for(
    criterion: Criterion, networks: dict[str, ObservedNetwork], data: Batch
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers of one criterion in both networks."""
    student = networks["student"]
    if not criterion.teacher_layers:
        return _own_layers(criterion, student), ()
    if "teacher" not in networks:
        raise ValueError("the teacher has no network whose stages could be found; name layers, or compare logits.")
    one_sided = {"attention": attention_layers, "regions": region_layers}.get(criterion.auto_stages)
    if one_sided is not None:
        return one_sided(criterion, student), one_sided(criterion, networks["teacher"])
    if criterion.auto_stages == "each_teacher":
        return layers_of_each_teacher(criterion, student, networks["teacher"])
    pairs = _Pairing(criterion, student, networks["teacher"], data).pairs()
    if criterion.auto_stages == "last":
        pairs = pairs[-1:]
    return tuple(one.layer for one, _ in pairs), tuple(other.layer for _, other in pairs)


def _own_layers(criterion: Criterion, student: ObservedNetwork) -> tuple[str, ...]:
    """Return the student's stages for a criterion that reads no layer of the teacher."""
    ends = student.stages.ends
    chosen = {"last": ends[-1:], "exits": ends[:-1]}.get(criterion.auto_stages, ends)
    if not chosen:
        raise ValueError(no_stages(student, "an exit needs a stage before the last one" if ends else ""))
    return tuple(end.layer for end in chosen)


@dataclass
class _Pairing:
    """Pairs the layers of two networks for one criterion, which is tried on each pair."""

    criterion: Criterion
    student: ObservedNetwork
    teacher: ObservedNetwork
    data: Batch
    refusals: list[str] = field(default_factory=list)

    def pairs(self) -> list[Pair]:
        """Return the pairs, at least as many as the criterion needs."""
        named = {owner: self._named(owner) for owner in ("student", "teacher")}
        for network in (self.student, self.teacher):
            if not named[network.owner] and not network.stages.ends:
                raise ValueError(no_stages(network))
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
            replace(self.teacher.outputs, features={teacher.layer: self.teacher.seen(teacher.feature)}),
        )
        try:
            with torch.no_grad(), isolate_rng():
                refuse_sequences(trial, *sides, self.data)
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
        means = " The recording holds only means of features (pool_features)." if self.teacher.pools else ""
        found = ", ".join(f"{one.layer} and {other.layer}" for one, other in pairs) or "no pair of layers"
        return (
            f"it needs {fewest} pair{'s' * (fewest > 1)} of layers, and of the stages of {self.student.name} and "
            f"{self.teacher.name} it can compare {found} ({tried}) Name layers that it can (lit-distill layers lists them), or "
            f"take Hint, whose projectors fit any.{means}"
        )


def _fewest(criterion: Criterion) -> int:
    return criterion.fewest_pairs if isinstance(criterion, FeatureCriterion) else 1
