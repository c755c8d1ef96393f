"""Finds the queries, keys and values of a network's last self-attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs
from lit_distill.capture.observing import ForwardPass, LayerCall, observe
from lit_distill.utils.compiling import uncompiled

_THREE = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("linear_q", "linear_k", "linear_v"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
_ONE = ("qkv", "qkv_proj", "Wqkv", "c_attn", "query_key_value")


def last_attention(done: ForwardPass, inputs: Inputs) -> tuple[str, ...]:
    """Return the layers of queries, keys and values of the last self-attention that ran; one if it gives all three.

    Layers are found by their usual names, and then tried: with values that are the same at all tokens, attention must give
    just these values on. Layers of another arrangement, one head after the other, do not pass.

    Args:
        done: A forward pass.
        inputs: Its inputs.

    Returns:
        Layer references; none if no layer passes.
    """
    for layers in _candidates(done):
        if layers[0].endswith(":qkv") or _pass_values_on(done.network, inputs, layers):
            return layers
    return ()


def _candidates(done: ForwardPass) -> Iterator[tuple[str, ...]]:
    """Yield the layers of each module that looks like self-attention, the last one first."""
    calls = {call.path: call for call in done.calls}
    seen: set[str] = set()
    for call in reversed(done.calls):
        parent, _, name = call.path.rpartition(".")
        if isinstance(call.module, nn.MultiheadAttention):
            if call.module.in_proj_weight is not None and _attends_to_itself(call):
                yield (_last_call(done, f"{call.path}:qkv"),)
            continue
        if parent in seen:
            continue
        if name in _ONE and _is_threefold(call):
            seen.add(parent)
            yield (_last_call(done, call.path),)
        for names in (names for names in _THREE if name == names[2]):
            three = [calls.get(f"{parent}.{one}".lstrip(".")) for one in names]
            found = [one for one in three if one is not None]
            if len(found) == 3 and _read_the_same(found):
                seen.add(parent)
                yield tuple(_last_call(done, one.path) for one in found)


def _last_call(done: ForwardPass, layer: str) -> str:
    times = done.times(layer.partition(":")[0])
    return f"{layer}#{times - 1}" if times > 1 else layer


def _attends_to_itself(call: LayerCall) -> bool:
    query, key, value = (*call.taken[:3], None, None, None)[:3]
    return query is not None and query.dim() == 3 and all(_are_same(query, one) for one in (key, value))


def _are_same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride()


def _is_threefold(call: LayerCall) -> bool:
    made, taken = call.feature, call.given
    return made is not None and taken is not None and made.dim() == 3 and made.shape[-1] % 3 == 0


def _read_the_same(calls: Sequence[LayerCall]) -> bool:
    """Return True if three layers read one tensor and give tokens of one number."""
    features = [call.feature for call in calls]
    tokens = {feature.shape[:2] for feature in features if feature is not None and feature.dim() == 3}
    return None not in features and len(tokens) == 1 and all(_are_same(calls[0].given, one.given) for one in calls)


def _pass_values_on(network: nn.Module, inputs: Inputs, layers: Sequence[str]) -> bool:
    """Return True if attention gives on values that the layers are made to give, the same for all tokens."""
    paths = [layer.partition("#")[0] for layer in layers]
    modules = dict(uncompiled(network).named_modules())
    # BERT's output layer is beside the module that holds the projections: look in the one around both.
    around = f"{paths[-1].rpartition('.')[0].rpartition('.')[0]}.".lstrip(".")
    width = 0
    expected = torch.empty(0)

    def give(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        nonlocal width, expected
        width = output.shape[-1] // (3 if len(paths) == 1 else 1)
        expected = torch.linspace(-1, 1, width, dtype=output.dtype, device=output.device)
        values = expected.expand(*output.shape[:-1], width)
        nothing = torch.zeros_like(values)
        return values if len(paths) == 3 else torch.cat([nothing, nothing, values], -1)

    handle = modules[paths[-1]].register_forward_hook(give)
    try:
        done = observe(network, inputs)
    finally:
        handle.remove()
    after = max(place for place, call in enumerate(done.calls) if call.path == paths[-1])
    within = [call for call in done.calls[after + 1 :] if call.path.startswith(around)]
    return any(_is(call.given, expected) for call in within)


def _is(given: Tensor | None, expected: Tensor) -> bool:
    """Return True if a tensor holds the values at each position, or some heads' values several times (grouped queries)."""
    if given is None or given.dim() < 2 or not given.is_floating_point():
        return False
    times, rest = divmod(given.shape[-1], max(len(expected), 1))
    if rest or not times:
        return False
    rows = given if times == 1 else given.sort(-1).values
    values = expected.repeat_interleave(times).to(given.dtype)
    return torch.allclose(rows, values.expand_as(rows), atol=1e-3)
