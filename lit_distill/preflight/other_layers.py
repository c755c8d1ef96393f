"""Layers that criteria read instead of stages: those inside attention, and one of each of several teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_distill.batch.batch import count_samples
from lit_distill.capture.attention import last_attention
from lit_distill.capture.stages import Block, Stages, named_blocks, stages_of
from lit_distill.criteria import Criterion, MultiTeacher
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.sdd import RegionLogits
from lit_distill.models import Ensemble
from lit_distill.preflight.observed import ObservedNetwork, no_stages


def attention_layers(criterion: Criterion, network: ObservedNetwork) -> tuple[str, ...]:
    """Return the layers of queries, keys and values of a network's last self-attention, or those that are named.

    Raises:
        ValueError: There are none.
    """
    references = criterion.student_layers if network.owner == "student" else criterion.teacher_layers
    if AUTO not in references:
        return references
    found = last_attention(network.done, network.inputs)
    if not found:
        raise ValueError(
            f"no self-attention was found in {network.name} whose queries, keys and values are layers (nn.MultiheadAttention, "
            f"qkv, or query, key and value). Name the layers that give them ({network.owner}_layer=…; lit-distill layers lists "
            "them), or take TokenRelation, which compares tokens."
        )
    return found


def region_layers(criterion: Criterion, network: ObservedNetwork) -> tuple[str, ...]:
    """Return the layer of a ``RegionLogits`` that gives the logits of regions, or the one that is named.

    Raises:
        ValueError: The network has none.
    """
    references = criterion.student_layers if network.owner == "student" else criterion.teacher_layers
    if AUTO not in references:
        return references
    for path, module in network.done.network.named_modules():
        if isinstance(module, RegionLogits):
            return (f"{path}.regions".lstrip("."),)
    raise ValueError(
        f"{network.name} gives no logits of regions. Wrap both networks: {network.owner}=RegionLogits(…), of "
        "lit_distill.criteria.sdd, finds the last map and the classifier itself."
    )


def layers_of_each_teacher(
    criterion: Criterion, student: ObservedNetwork, teacher: ObservedNetwork
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return, for each member of an ``Ensemble``, the student's last stage that can be projected to the member's, and that.

    Raises:
        ValueError: A network has no stages, or no stage can be projected.
    """
    assert isinstance(criterion, MultiTeacher)
    named = [ref for ref in criterion.teacher_layers if ref != AUTO]
    members = _named(teacher, named) if named else _members(teacher)
    own = [reference for reference in criterion.student_layers if reference != AUTO]
    if own and len(own) not in (1, len(members)):
        raise ValueError(f"{len(own)} student layers for {len(members)} teachers; name one for all, or one for each.")
    places = _named(student, own) if own else []
    pairs = []
    for index, ends in enumerate(members):
        mine = places[index if len(places) > 1 else 0] if places else _with_head(student.stages)
        if not mine:
            raise ValueError(no_stages(student))
        if not ends:
            raise ValueError(no_stages(replace(teacher, done=teacher.done.inside(str(index)))))
        pairs.append(_last_pair(criterion, mine, ends, student, teacher))
    return tuple(one.layer for one, _ in pairs), tuple(other.layer for _, other in pairs)


def _members(teacher: ObservedNetwork) -> list[Sequence[Block]]:
    """Return what may be compared in each member, the best last; the teacher is its own only one if it is no ensemble."""
    network, samples = teacher.done.network, count_samples(teacher.inputs)
    if not isinstance(network, Ensemble):
        return [_with_head(teacher.stages)]
    found: list[Sequence[Block]] = []
    for name, _ in network.named_children():
        blocks = _with_head(stages_of(teacher.done.inside(name), samples))
        found.append([replace(block, layer=f"{name}.{block.layer}") for block in blocks])
    return found


def _with_head(stages: Stages) -> list[Block]:
    """Return what the last linear layer takes, and the last stage; nothing if there is no stage before that layer."""
    head = [stages.head] if stages.head is not None and stages.ends else []
    return [*head, *stages.ends[-1:]]


def _named(network: ObservedNetwork, references: Sequence[str]) -> list[Sequence[Block]]:
    found = [named_blocks(network.done, network.stages, [reference]) for reference in references]
    return [[block] for blocks in found for block in blocks]


def _last_pair(
    criterion: MultiTeacher,
    mine: Sequence[Block],
    ends: Sequence[Block],
    student: ObservedNetwork,
    teacher: ObservedNetwork,
) -> tuple[Block, Block]:
    """Return the pair of last stages, or one with a head's input where these cannot be projected."""
    refusal: ValueError | None = None
    for other in reversed(ends):
        for one in reversed(mine):
            try:
                criterion.make_projector(one.feature.shape, other.feature.shape)
            except ValueError as error:
                refusal = refusal or error
            else:
                return one, other
    raise ValueError(
        f"the last stages of {student.name} and {teacher.name} cannot be compared ({refusal}) Name layers that can "
        "(student_layer=…, teacher_layer=…)."
    )
