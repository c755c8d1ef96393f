"""Folds BatchNorm into the layer before it; the layers keep their paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lit_distill.utils.names import first_line

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(model: nn.Module) -> int:
    r"""Fold, in place, each BatchNorm that only follows one convolution or linear layer.

    The layer gets the new weights, and an ``Identity`` replaces the BatchNorm, so all other paths and hooks stay. A pair with
    hooks is not folded, as the values between the two would change. $w' = w \gamma / \sqrt{\mathrm{var} + \epsilon}$,
    $b' = (b - \mathrm{mean}) \gamma / \sqrt{\mathrm{var} + \epsilon} + \beta$. Return the number of pairs folded.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"BatchNorm cannot be folded into {type(model).__name__}: torch.fx cannot trace it "
            f"({first_line(error)}). Leave fold_batch_norm False."
        ) from error
    pairs = list(_find_pairs(model, graph))
    for layer_path, norm_path in pairs:
        layer, norm = model.get_submodule(layer_path), model.get_submodule(norm_path)
        assert isinstance(norm, _NORMS)
        with torch.no_grad():
            fused = fuse_linear_bn_eval(layer, norm) if isinstance(layer, nn.Linear) else fuse_conv_bn_eval(layer, norm)  # type: ignore[type-var]
        model.set_submodule(layer_path, fused.requires_grad_(False))
        model.set_submodule(norm_path, nn.Identity())
    return len(pairs)


def _find_pairs(model: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    paths = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer, norm = model.get_submodule(str(before.target)), model.get_submodule(node.target)
        once = calls[node.target] == calls[before.target] == paths[id(layer)] == paths[id(norm)] == 1
        if once and _can_fold(layer, norm):
            yield str(before.target), node.target


def _can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    # The exact classes: a subclass or a parametrised layer may compute something else.
    known = type(norm) in _NORMS and (
        type(layer) in _CONVOLUTIONS or (type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d)
    )
    return known and not norm.training and norm.running_mean is not None and not (_hooked(layer) or _hooked(norm))


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
