"""Digests of a network's weights and buffers, computed on the tensors' device: equal if every bit is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_distill.utils.bits import value_digest


def network_digest(module: nn.Module) -> str:
    """Return 32 hexadecimal digits that depend on every bit of a network's parameters and buffers, and on their places.

    Names, types and shapes count, as do non-persistent buffers and the packed weights of quantised layers. The device, the
    memory format and the wrapper of ``torch.compile`` do not. Of tensors without values (on ``meta``, not yet initialised, or
    sharded over processes) only the shapes count. TorchScript and exported programs are networks as well.
    """
    return combined(tensor_digests(module))


def combined(digests: dict[str, str]) -> str:
    """Return the digest of a network from those of its tensors."""
    state = hashlib.sha256()
    for name in sorted(digests):
        state.update(f"{name}={digests[name]};".encode())
    return state.hexdigest()[:32]


@torch.no_grad()
def tensor_digests(module: nn.Module) -> dict[str, str]:
    """Return a digest of each parameter, buffer and other part of a network's state, by name."""
    known: dict[Any, str] = {}  # tied weights are read once
    found: dict[str, str] = {}
    with torch.inference_mode(False):
        for name, value in _state(module):
            key = _identity(value)
            found[name] = known.get(key) or value_digest(value)
            if key is not None:
                known[key] = found[name]
    return found


def _state(module: nn.Module) -> Iterator[tuple[str, Any]]:
    seen = set()
    for owned in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        for name, tensor in owned:
            seen.add(name)
            yield _plain(name), tensor
    if isinstance(module, torch.jit.ScriptModule):
        yield from _constants(module)
    for prefix, part in module.named_modules():
        for name, value in _packed(part):
            if f"{prefix}.{name}" not in seen:
                yield _plain(f"{prefix}.{name}"), value


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")  # the wrapper of torch.compile


def _packed(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the state of a module that is neither parameter nor buffer: packed weights, extra state."""
    own_state = type(part)._save_to_state_dict is not nn.Module._save_to_state_dict
    extra_state = type(part).get_extra_state is not nn.Module.get_extra_state
    if isinstance(part, torch.jit.ScriptModule) or not (own_state or extra_state):
        return
    state: dict[str, Any] = {}
    try:
        part._save_to_state_dict(state, "", False)
    except Exception:  # the state is not available now: only parameters and buffers count
        return
    own = {*part._parameters, *part._buffers}
    yield from ((name, value) for name, value in state.items() if name not in own)


def _constants(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the tensors in the graph of a frozen TorchScript module, which has no parameters any more."""
    graph = getattr(module, "inlined_graph", None)
    if graph is None or next(module.parameters(), None) is not None:
        return
    for index, node in enumerate(graph.findAllNodes("prim::Constant")):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield f"constant {index}", node.t("value")


def _identity(value: Any) -> Any:
    if type(value) not in (Tensor, nn.Parameter) or is_lazy(value) or value.layout != torch.strided:
        return None
    if value.device.type == "meta" or value.is_quantized or value.is_nested:
        return None
    return value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
