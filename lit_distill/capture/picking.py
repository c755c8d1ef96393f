"""Picks a layer's tensor among the outputs that the hooks have read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lit_distill.capture.hooks import LayerCalls
from lit_distill.utils.names import chosen_call, hook_key, layer_path


def pick_output(
    layer: str, calls: LayerCalls, owner: str, modules: Mapping[str, nn.Module]
) -> tuple[Tensor, int | None]:
    """Return a layer's tensor and its version from when it was read.

    Refuse a layer that did not run, ran several times with no call chosen, or gave no tensor.
    """
    key = hook_key(layer)
    made = calls.get(key, [])
    if not made:
        reason = _why_not_run(layer, modules[layer_path(layer)])
        raise RuntimeError(f"the {owner}'s layer {layer!r} did not run in the forward pass: {reason}")
    chosen = chosen_call(layer)
    if chosen is None and len(made) > 1:
        raise RuntimeError(
            f"the {owner}'s layer {layer!r} ran {len(made)} times in one forward pass; choose a call: "
            f"'{layer}#0' is the first, '{layer}#-1' the last."
        )
    index = chosen or 0
    if not -len(made) <= index < len(made):
        raise RuntimeError(f"the {owner}'s layer {key!r} ran {len(made)} times; there is no call {index}.")
    value, version = made[index]
    if not isinstance(value, Tensor):
        raise RuntimeError(f"the {owner}'s layer {layer!r} gave {_no_tensor(value)}")
    return value, version


def _why_not_run(layer: str, module: nn.Module) -> str:
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)) and len(module):
        last = list(dict(module.named_children()))[-1]
        return (
            f"it is a {type(module).__name__}, which is never called itself; name one of its modules, '{layer}.{last}'."
        )
    return "the model skips it, does not call it as module(x), or was compiled and called before it was captured."


def _no_tensor(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, Tensor) for item in value):
        shapes = ", ".join(str(list(item.shape)) for item in value if isinstance(item, Tensor))
        return f"a list of several tensors ({shapes}); name the layer inside it whose output is to be read."
    return (
        f"{type(value).__name__} and no tensor. Attention maps are "
        "only there when the model is built with attn_implementation='eager'."
    )
