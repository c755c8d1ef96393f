import copy

import pytest
import torch
from torch import nn

from lit_distill.models import MLP, Peers


def test_the_output_is_the_log_of_the_mean_of_probabilities() -> None:
    peers = Peers([MLP(4, (5,), 3), MLP(4, (), 3)]).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    mean = sum(peers[index](x).softmax(-1) for index in range(2)) / 2
    torch.testing.assert_close(peers(x), mean.log())


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_sigmoids_are_averaged_too(task: str) -> None:
    peers = Peers([nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)], task).double()  # type: ignore[arg-type]
    x = torch.randn(6, 4, dtype=torch.float64)
    mean = torch.stack([peers[index](x).sigmoid() for index in range(3)]).mean(0)
    torch.testing.assert_close(peers(x).sigmoid(), mean)


def test_children_are_numbered() -> None:
    peers = Peers([MLP(4, (5,), 3), MLP(4, (6,), 3)])
    assert [name for name, _ in peers.named_children()] == ["0", "1"]
    assert len(peers) == 2
    fresh = MLP(4, (6,), 3)
    fresh.load_state_dict(peers[1].state_dict(), strict=True)


def test_a_copy_shares_nothing() -> None:
    peers = Peers([MLP(4, (5,), 3), MLP(4, (6,), 3)])
    known = {id(parameter) for parameter in peers.parameters()}
    assert not known & {id(parameter) for parameter in copy.deepcopy(peers).parameters()}


def test_a_single_network_and_shared_ones_are_refused() -> None:
    one = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="at least 2 networks, not 1"):
        Peers([one])
    with pytest.raises(ValueError, match="peers 0 and 1 share 2 parameters"):
        Peers([one, one])
    activation = nn.ReLU()
    with pytest.raises(ValueError, match="peers 0 and 1 are the same module"):
        Peers([activation, activation])
