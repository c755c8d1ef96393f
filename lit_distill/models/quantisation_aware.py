"""A network in quantisation-aware training: a graph whose weights and activations are rounded as int8 rounds them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from lit_distill.batch.batch import tensors_of
from lit_distill.models.fake_quantise import FakeQuantise
from lit_distill.models.graph_mode import has_batch_norm, set_graph_mode
from lit_distill.utils.copying import copied


class QuantisationAware(nn.Module):
    """Computes a network with weights and activations rounded to int8; ``lit_distill.compress.quantise`` makes it.

    Its parameters are the network's own, in floating point, at the same paths below ``graph``. The mode is that of
    ``train()`` and ``eval()``, read in each forward pass.

    Args:
        network: The Python network, for its structure.
        graph: Its program of ``torch.export``, in training mode, with ``FakeQuantise`` modules.
        target: What it is trained for: ``onnx`` or ``executorch``.
    """

    def __init__(self, network: nn.Module, graph: fx.GraphModule, target: str) -> None:
        super().__init__()
        self.graph = graph
        self.target = target
        self._network = (network,)  # in a tuple, as its parameters are the graph's
        self._mode: tuple[bool, bool] | None = None
        self._frozen = False
        self._has_norms = has_batch_norm(graph)

    @property
    def frozen(self) -> bool:
        """True if ranges and BatchNorm statistics no longer move."""
        return self._frozen

    def freeze(self, frozen: bool = True) -> None:
        """Keep the ranges of activations and the statistics of BatchNorm as they are, in training too.

        Args:
            frozen: False lets them move again.
        """
        self._frozen = frozen
        for one in self.graph.modules():
            if isinstance(one, FakeQuantise):
                one.frozen = frozen

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return what the network returns.

        Raises:
            ValueError: A batch of one sample in training, of which BatchNorm can learn nothing.
        """
        wanted = (self.training, self.training and not self._frozen)
        if wanted != self._mode:
            set_graph_mode(self.graph, training=wanted[0], statistics=wanted[1])
            self._mode = wanted
        if wanted[1] and self._has_norms:
            _refuse_one_sample((inputs, named))
        return self.graph(*inputs, **named)

    def float_network(self) -> nn.Module:
        """Return a copy of the Python network with the present weights, in floating point."""
        network = copied(self._network[0])
        state = self.graph.state_dict()
        own = network.state_dict()
        network.load_state_dict({name: state.get(name, value) for name, value in own.items()})
        return network.train(self.training)


def _refuse_one_sample(given: tuple[Any, Any]) -> None:
    first: Tensor | None = next((one for one in tensors_of(given) if one.dim()), None)
    if first is not None and len(first) == 1:
        raise ValueError(
            "a network in quantisation-aware training cannot be trained on a batch of one sample, from which BatchNorm learns "
            "nothing: set drop_last=True in the DataLoader, or another batch_size."
        )


def quantisers(network: nn.Module) -> list[FakeQuantise]:
    """Return a network's fake quantisers."""
    return [one for one in network.modules() if isinstance(one, FakeQuantise)]


def without_rounding(network: QuantisationAware, *inputs: Any, **named: Any) -> Any:
    """Run a network without its rounding, in its present mode."""
    all_of_them = quantisers(network)
    try:
        for one in all_of_them:
            one.enabled = False
        with torch.no_grad():
            return network(*inputs, **named)
    finally:
        for one in all_of_them:
            one.enabled = True
