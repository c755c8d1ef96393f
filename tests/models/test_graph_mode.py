"""The mode of exported graphs, against that of the Python network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from lit_distill.models.graph_mode import norms_of, set_graph_mode


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps=0.1, momentum=0.3)
        self.drop, self.fc = nn.Dropout(0.9), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).mean((2, 3))[:, None]
        x = nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if self.training else 0.0)
        return self.fc(self.drop(x[:, 0]))  # type: ignore[no-any-return]


def exported(network: nn.Module, inputs: Tensor) -> fx.GraphModule:
    found = torch.export.export(copy.deepcopy(network).train(), (inputs,)).module()
    assert isinstance(found, fx.GraphModule)
    return found


def test_a_graph_in_either_mode_computes_what_the_network_does() -> None:
    network, inputs = Net(), torch.randn(4, 2, 5, 5)
    graph = exported(network, inputs)
    for training in (True, False, True, False):
        set_graph_mode(graph, training=training, statistics=training)
        network.train(training)
        torch.manual_seed(1)
        expected = network(inputs)
        torch.manual_seed(1)
        assert torch.allclose(graph(inputs), expected, atol=1e-6)
    state = graph.state_dict()
    assert all(torch.allclose(state[name], value) for name, value in network.state_dict().items())
    assert state["norm.num_batches_tracked"] == 2


def test_statistics_can_stay_while_dropout_goes_on() -> None:
    network, inputs = Net(), torch.randn(4, 2, 5, 5)
    graph = exported(network, inputs)
    set_graph_mode(graph, training=True, statistics=False)
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    assert not torch.equal(graph(inputs), graph(inputs))
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


def test_settings_of_batch_norm_are_read() -> None:
    assert norms_of(exported(Net(), torch.randn(4, 2, 5, 5))) == {"norm.running_mean": (0.3, 0.1)}
