"""``cluster``: a student whose layers share few values, so that its file compresses well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from lit_distill.models.clustered import share_values
from lit_distill.utils.arguments import check_network, check_whole
from lit_distill.utils.copying import copied
from lit_distill.utils.names import count, layers_within, listed

_WEIGHTS_PER_ENTRY = 4  # with fewer, the codebook saves little and costs accuracy


def cluster(student: nn.Module, entries: int = 16, ignore: Sequence[str] | None = None) -> nn.Module:
    """Copy a trained student, with the weights of each layer replaced by a few values that they share.

    Each convolution and linear layer gets a codebook by k-means over its weights (Han et al. 2016, "Deep Compression"). Trained
    on, with the teacher, the codebook's entries learn, and a weight keeps its entry. The exported file has as many bytes as
    before; zip, gzip and zstd, and so the packages of apps, make a small one of it.

    Args:
        student: The trained network; it does not change.
        entries: The size of a codebook, at least 2: 16 take 4 bits a weight once compressed, 32 take 5.
        ignore: Layers to leave as they are, by path or glob: ``classifier``, ``layer1.*``.

    Raises:
        ValueError: An argument is out of range, a layer is unknown, or none has weights enough.

    Example:
        >>> student = cluster(nn.Sequential(nn.Linear(8, 16)), entries=4)
        >>> len(student[0].weight.unique()), student[0].parametrizations.weight.original.shape
        (4, torch.Size([4]))
    """
    check_network("student", student)
    entries = check_whole("entries", entries, least=2)
    network = copied(student)
    layers = dict(network.named_modules())
    kept = layers_within(ignore or (), layers, f"the student {type(student).__name__}")
    tied = Counter(id(one) for _, one in network.named_parameters(remove_duplicate=False))
    chosen: list[tuple[str, nn.Module]] = []
    left: list[tuple[str, nn.Module]] = []
    for path, layer in layers.items():
        if isinstance(layer, (_ConvNd, nn.Linear)) and path not in kept:
            few = layer.weight.numel() < _WEIGHTS_PER_ENTRY * entries
            fits = not few and not parametrize.is_parametrized(layer) and tied[id(layer.weight)] == 1
            (chosen if fits else left).append((path, layer))
    if not chosen:
        raise ValueError(
            f"the student {type(student).__name__} has no convolution or linear layer with at least "
            f"{_WEIGHTS_PER_ENTRY * entries} weights of its own to cluster into {entries} values."
        )
    for _, layer in chosen:
        share_values(layer, entries)
    rest = f" As they were: {listed([path for path, _ in left])}." if left else ""
    rank_zero_info(f"cluster: the weights of {count(len(chosen), 'layer')} share {entries} values each.{rest}")
    return network
