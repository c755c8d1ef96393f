"""Several networks that train together, as one student."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from torch import Tensor, nn

from lit_distill.batch.labels import Task
from lit_distill.batch.untouched import called_in_turn
from lit_distill.capture.hooks import select_tensor
from lit_distill.models.ensemble import Ensemble, check_members, combine
from lit_distill.outputs import OutputKey, read_logits
from lit_distill.utils.arguments import check_sizes


class Peers(Ensemble):
    """An ensemble to train: networks side by side on the same inputs that share nothing.

    ``peers[0]`` is a plain network that can be saved by itself, and its output the layer ``"0"``. The ensemble's own output is
    the log of the mean of the peers' probabilities.

    Args:
        peers: 2 networks or more for the same classes; they need not be alike.
        task: ``multiclass``, ``binary`` or ``multilabel``.
        output_key: The entry of the peers' mapping outputs that holds the logits; if None, found by its usual names.

    Raises:
        ValueError: Fewer than two networks, or two that share parameters; or, when called, a peer's logits are not the
            first tensor that it returns.
    """

    def __init__(self, peers: list[nn.Module], task: Task = "multiclass", output_key: OutputKey | None = None) -> None:
        check_members("peers", peers)
        for index, peer in enumerate(peers):
            check_sizes(f"peer {index}", peer)
            if any(tensor.device.type == "meta" for tensor in peer.parameters()):
                raise ValueError(
                    f"peer {index} has no weights: they are on the device 'meta'. Build it on a real device."
                )
        if len(peers) < 2:
            raise ValueError(f"peers must be at least 2 networks, not {len(peers)}.")
        for (first, one), (second, other) in combinations(enumerate(peers), 2):
            _refuse_shared(first, one, second, other)
        super().__init__(peers, output_key=output_key, task=task)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the ensemble's logits for the peers' inputs, shaped like one peer's."""
        raw = called_in_turn(self.children(), self._guard, "peer", inputs, named)
        for index, output in enumerate(raw):
            if select_tensor(output) is not read_logits(output, self.output_key, f"peer {index}"):
                raise ValueError(
                    f"peer {index} returns another tensor before its logits; have it return the logits first."
                )
        logits: Tensor = combine(raw, self.weights, self.average, self.temperature, self.output_key, self.task)
        return logits

    def __getitem__(self, index: int) -> nn.Module:
        return list(self.children())[index]


def _refuse_shared(first: int, one: nn.Module, second: int, other: nn.Module) -> None:
    known = {id(parameter) for parameter in one.parameters()}
    shared = [name for name, parameter in other.named_parameters() if id(parameter) in known]
    if shared or one is other:
        what = f"share {len(shared)} parameters ({shared[0]}, …)" if shared else "are the same module"
        raise ValueError(f"peers {first} and {second} {what}; build each network anew, with weights of its own.")
