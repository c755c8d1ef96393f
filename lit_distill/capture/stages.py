"""Finds the layers of a network that end a stage.

A stage is a run of blocks at one resolution; its end is the last module that runs there and holds no block of another stage.
Blocks are the outermost modules of a class that occurs several times, with two or more convolutions or linear layers each;
in a network without such modules, its convolutions, recurrent and linear layers. A network whose blocks all have one
resolution is cut at the quarters of its depth. Stems, layers between stages, and what comes after the last block end no stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, count_samples
from lit_distill.capture.blocks import blocks_of, has_weight
from lit_distill.capture.declared import declared_blocks
from lit_distill.capture.observing import ForwardPass, LayerCall, observe, readable
from lit_distill.outputs import logits_or_reason
from lit_distill.utils.names import at_share, chosen_call, layer_path, match_layers

_GROUPS = 4  # of the blocks of a network with one resolution
_PREFIX = 8  # class tokens and registers do not change the resolution


@dataclass(frozen=True)
class Block:
    """A module that may end a stage.

    Attributes:
        layer: Its reference, as ``student_layer`` and ``teacher_layer`` take it.
        feature: Its output in the layout that criteria see.
        depth: The share of the network's depth at its end, in (0, 1].
    """

    layer: str
    feature: Tensor
    depth: float


@dataclass(frozen=True)
class Stages:
    """The stages of a network.

    Attributes:
        ends: The last block of each stage, in order.
        blocks: If all blocks have one resolution, all of them: any may take part in a pair. Else the ends.
        head: The vectors that the last linear layer takes, ``[B, D]``; None if it takes no vectors.
    """

    ends: tuple[Block, ...]
    blocks: tuple[Block, ...]
    head: Block | None = None

    @property
    def uniform(self) -> bool:
        """True if all blocks have one resolution."""
        return len(self.blocks) > len(self.ends) or len({count_positions(end.feature) for end in self.ends}) == 1

    @property
    def evenly(self) -> bool:
        """True if each block has the same share of the depth: it has not where encoder and decoder differ in length."""
        shares = [place / len(self.blocks) for place in range(1, len(self.blocks) + 1)]
        return all(math.isclose(block.depth, share) for block, share in zip(self.blocks, shares, strict=True))


@dataclass
class _Run:
    """Calls at one resolution, in order; ``blocks`` are the places of blocks among them."""

    calls: list[LayerCall]
    blocks: list[LayerCall]


def count_positions(feature: Tensor) -> int:
    """Return the number of positions in a feature; 1 for vectors."""
    if feature.dim() < 3:
        return 1
    return feature.shape[1] if feature.dim() == 3 else math.prod(feature.shape[2:])


def named_blocks(done: ForwardPass, stages: Stages, references: Sequence[str]) -> list[Block]:
    """Return the layers that references name, in the order in which they run, with their shares of the depth.

    Args:
        done: A forward pass.
        stages: The stages that it shows.
        references: Layer references.

    Raises:
        ValueError: A reference names no layer, or one that did not run or made nothing that can be read.
    """
    modules = [name for name, _ in done.network.named_modules()]
    names = [name for reference in references for name in match_layers(reference, modules, "the network")]
    return sorted((_named(done, stages, name) for name in names), key=lambda block: block.depth)


def _named(done: ForwardPass, stages: Stages, name: str) -> Block:
    path, index = layer_path(name), chosen_call(name)
    calls = [(place, call) for place, call in enumerate(done.calls) if call.path == path]
    if not calls or not -len(calls) <= (index or 0) < len(calls):
        raise ValueError(f"the layer {name!r} did not run on the example; name one that does.")
    place, call = calls[index or 0]
    feature = call.given if name.partition("#")[0].endswith(":input") else call.feature
    if feature is None:
        raise ValueError(f"the layer {name!r} made no tensor that can be read; name another.")
    ran = {call.path: place for place, call in enumerate(done.calls)}
    ends = [block.depth for block in stages.blocks if ran[layer_path(block.layer)] >= place]
    return Block(name, feature, min(ends, default=1.0))


def find_stages(network: nn.Module, inputs: Inputs) -> Stages:
    """Run a network on an example, and return the layers that end its stages; the network is left as it was.

    Args:
        network: Any module.
        inputs: Its inputs for a few samples.
    """
    return stages_of(observe(network, inputs), count_samples(inputs))


def stages_of(done: ForwardPass, samples: int | None) -> Stages:
    """Return the stages that one forward pass shows."""
    logits = logits_or_reason(done.returned, None, "network")
    calls = [call for call in readable(done.calls, samples) if call.output is not logits]
    head = _head(done, samples)
    blocks = blocks_of(done.network, calls, done.calls)
    members = declared_blocks(done, calls, blocks)
    if members:
        runs = _runs(members, set(members))
        if len(runs) == 1:
            listed = _numbered(done, [runs[0].blocks])
            return Stages(tuple(quarters(listed)), listed, head)
        return _pyramid(done, [run.calls[-1] for run in runs], head)
    plain = not blocks
    if plain:
        calls = _before_output(done, calls)
        blocks = [call for call in calls if has_weight(call.module)]
    paths = {call.path for call in blocks}
    around = [call for call in calls if plain or call in blocks or _holds(call.path, paths)]
    runs = _runs(around, set(blocks))
    if not runs:
        return Stages((), (), head)
    uniform = _uniform(runs, plain)
    if uniform is not None:
        listed = _numbered(done, uniform)
        return Stages(_cut(uniform, listed), listed, head)
    return _pyramid(done, [_end(run, runs, done) for run in runs], head)


def _before_output(done: ForwardPass, calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Return the calls that ended before the network's last layer with weights, which makes its output."""
    places = {call: place for place, call in enumerate(done.calls)}
    last = max((place for call, place in places.items() if has_weight(call.module)), default=0)
    return [call for call in calls if places[call] < last]


def _pyramid(done: ForwardPass, calls: Sequence[LayerCall], head: Block | None) -> Stages:
    calls = calls[_is_stem(calls) :]
    ends = tuple(
        Block(_reference(done, call), _feature(call), place / len(calls)) for place, call in enumerate(calls, start=1)
    )
    return Stages(ends, ends, head)


def _numbered(done: ForwardPass, groups: Sequence[Sequence[LayerCall]]) -> tuple[Block, ...]:
    """Return the blocks of groups of equal shares of the depth."""
    return tuple(
        Block(_reference(done, call), _feature(call), (place + index / len(group)) / len(groups))
        for place, group in enumerate(groups)
        for index, call in enumerate(group, start=1)
    )


def _is_stem(calls: Sequence[LayerCall]) -> bool:
    """Return True if the first of several ends lies outside the list that holds all others."""
    first, *rest = (call.path.rpartition(".")[0] for call in calls)
    return len(rest) > 1 and len(set(rest)) == 1 and first != rest[0]


def _holds(path: str, paths: set[str]) -> bool:
    return any(other.startswith(f"{path}.") for other in paths)


def _feature(call: LayerCall) -> Tensor:
    feature = call.feature
    assert feature is not None
    return feature


def _reference(done: ForwardPass, call: LayerCall) -> str:
    return f"{call.path}#{call.index}" if done.times(call.path) > 1 else call.path


def _runs(calls: Sequence[LayerCall], blocks: set[LayerCall]) -> list[_Run]:
    """Return the calls in runs of one resolution that have a block; runs of vectors and class tokens if there are no others."""
    runs: list[_Run] = []
    for call in calls:
        if not runs or not _same_resolution(_feature(runs[-1].calls[-1]), _feature(call)):
            runs.append(_Run([], []))
        runs[-1].calls.append(call)
        if call in blocks:
            runs[-1].blocks.append(call)
    runs = [run for run in runs if run.blocks]
    return [run for run in runs if _has_positions(_feature(run.blocks[-1]))] or runs


def _has_positions(feature: Tensor) -> bool:
    """Return True for maps, which small images may shrink to one position, and for more tokens than one."""
    return feature.dim() > 3 or count_positions(feature) > 1


def _same_resolution(one: Tensor, other: Tensor) -> bool:
    a, b = count_positions(one), count_positions(other)
    return a == b or (one.dim() == other.dim() == 3 and abs(a - b) <= min(_PREFIX, a // 8))


def _uniform(runs: Sequence[_Run], plain: bool) -> list[list[LayerCall]] | None:
    """Return the blocks of a network with one resolution, those of encoder and decoder apart; None for other networks."""
    blocks = [call for run in runs for call in run.blocks]
    features = [_feature(call) for call in blocks]
    parents = list(dict.fromkeys(call.path.rpartition(".")[0] for call in blocks))
    groups = [[call for call in blocks if call.path.rpartition(".")[0] == parent] for parent in parents]
    two = len(parents) == 2 and [call for group in groups for call in group] == blocks
    alike = all(feature.dim() == 3 and feature.shape[2] == features[0].shape[2] for feature in features)
    if len(runs) == 1:
        if plain and count_positions(features[0]) > 1:
            return None
        if plain:
            return [_after_each(runs[0])]
        return groups if two and alike else [blocks]
    return groups if len(runs) == 2 and two and alike else None


def _after_each(run: _Run) -> list[LayerCall]:
    """Return the last call after each block of a run, before the next one: a layer's activation."""
    found: list[LayerCall] = []
    for call in run.calls:
        if call in run.blocks:
            found.append(call)
        elif found:
            found[-1] = call
    return found


def _cut(groups: Sequence[Sequence[LayerCall]], blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Return the blocks at the quarters of the depth, as many from each group."""
    ends: list[Block] = []
    start = 0
    for group in groups:
        ends += quarters(blocks[start : start + len(group)], max(1, _GROUPS // len(groups)))
        start += len(group)
    return tuple(ends)


def quarters(blocks: Sequence[Block], parts: int = _GROUPS) -> list[Block]:
    """Return the last block of each of so many equal parts."""
    parts = min(parts, len(blocks))
    return [at_share(blocks, part, parts) for part in range(parts)]


def _end(run: _Run, runs: Sequence[_Run], done: ForwardPass) -> LayerCall:
    """Return the last call of a run that holds no block of another; the outermost module that makes the same tensor."""
    others = {block.path for other in runs if other is not run for block in other.blocks}
    own = [call for call in run.calls if not _holds(call.path, others)]
    end = own[-1]
    for call in done.calls:
        outer = end.path.startswith(f"{call.path}.") and call.output is end.output
        if outer and not _holds(call.path, others) and call.placement is not None:
            end = call
    return end


def _head(done: ForwardPass, samples: int | None) -> Block | None:
    """Return the input of the last linear layer, if it is of vectors."""
    linear = [call for call in done.calls if has_weight(call.module) and call.given is not None]
    if not linear or done.times(linear[-1].path) > 1:
        return None
    given = linear[-1].given
    assert given is not None
    if given.dim() != 2 or not given.is_floating_point() or (samples is not None and len(given) != samples):
        return None
    return Block(f"{linear[-1].path}:input", given, 1.0)
