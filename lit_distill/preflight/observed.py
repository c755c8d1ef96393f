"""The networks of a distillation, run on the example to find layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Batch, Inputs, count_samples
from lit_distill.batch.positions import input_mask
from lit_distill.capture.blocks import has_weight
from lit_distill.capture.call import explaining_inputs
from lit_distill.capture.observing import ForwardPass, observe
from lit_distill.capture.stages import Stages, stages_of
from lit_distill.criteria.ops.features import pooled
from lit_distill.engine.distiller import Distiller
from lit_distill.outputs import OutputKey, Outputs, logits_or_reason
from lit_distill.teachers import RecordedTeacher
from lit_distill.teachers.base import NoNetwork


@dataclass
class ObservedNetwork:
    """A network, observed on the example."""

    owner: str
    done: ForwardPass
    stages: Stages
    outputs: Outputs
    inputs: Inputs
    pools: bool = False  # criteria see only the mean of each feature, from a recording

    def seen(self, feature: Tensor) -> Tensor:
        """Return a feature as criteria will see it."""
        return pooled(feature, self.outputs.mask) if self.pools else feature

    @property
    def name(self) -> str:
        """Its owner and class, for messages."""
        return f"the {self.owner} {type(self.done.network).__name__}"


def observed_networks(distiller: Distiller, data: Batch) -> dict[str, ObservedNetwork]:
    """Run the networks of a distillation on the example; the teacher is left out if it has no network."""
    mask, format_ = input_mask(data), distiller.format
    networks = {"student": _observe("student", distiller.student, data.inputs, format_.output_key, mask)}
    teacher = distiller.teacher
    if teacher is not None and not isinstance(teacher.model, NoNetwork):
        key = format_.teacher_output_key if format_.teacher_output_key is not None else format_.output_key
        networks["teacher"] = _observe("teacher", teacher.model, data.for_teacher, key, mask)
        networks["teacher"].pools = isinstance(teacher, RecordedTeacher) and teacher.pool_features
    return networks


def _observe(
    owner: str, network: nn.Module, inputs: Inputs, key: OutputKey | None, mask: Tensor | None
) -> ObservedNetwork:
    with explaining_inputs(owner, type(network).__name__, inputs):
        done = observe(network, inputs)
    outputs = Outputs(logits_or_reason(done.returned, key, owner), {}, mask)
    return ObservedNetwork(owner, done, stages_of(done, count_samples(inputs)), outputs, inputs)


def no_stages(network: ObservedNetwork, why: str = "") -> str:
    """Return the error for a network in which no stages were found."""
    reason = why or _why_none(network)
    names = [name for name, _ in network.done.network.named_children()]
    shown = f" Its layers: {', '.join(names[:8])}." if names else ""
    return (
        f"no stages were found in {network.name}: {reason}. Name layers ({network.owner}_layer=…; lit-distill layers lists "
        f"them), or compare logits.{shown}"
    )


def _why_none(network: ObservedNetwork) -> str:
    """Return why a network shows no stages."""
    done, samples = network.done, count_samples(network.inputs)
    if any(isinstance(module, torch.jit.ScriptModule) for module in done.network.modules()):
        return "it is compiled by torch.jit, whose layers cannot be read; give the network from before"
    made = [call.output for call in done.calls if has_weight(call.module)]
    if not made:
        return "no module with weights runs in it"
    rows = [len(output) for output in made[:-1] if output is not None and output.dim()]
    if rows and samples is not None and all(row != samples for row in rows):
        return f"its layers give {rows[0]} rows for {samples} samples (nodes or windows)"
    return "no layer before its output repeats a block or ends a resolution"
