"""Reads named layers of any ``nn.Module`` during its forward pass.

A layer reference is a dotted path as in ``model.named_modules()``. Each part of the path may be a glob
(``layer*`` matches ``layer1`` but not ``layer1.0``). ``path:input`` reads what enters the layer instead
of what leaves it; ``path#0``, ``path#1``, ``path#-1`` choose one call of a layer that runs several times.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_distill.batch import Inputs, call_model
from lit_distill.outputs import Outputs, read_logits

_REFERENCE = re.compile(r"^(?P<path>[^:#\s]+)(?P<input>:input)?(?P<call>#-?\d+)?$")


def match_layers(reference: str, names: Iterable[str], owner: str = "the model") -> list[str]:
    """Expand a layer reference into the layers that it names.

    Args:
        reference: ``path``, ``path:input``, ``path#call`` or both; each part of the path may be a glob.
        names: The known layers, in the model's order.
        owner: Whose layers they are, for the error.

    Returns:
        The references of the matching layers, in the order of ``names``.

    Raises:
        ValueError: The reference is malformed or matches nothing; the nearest names are listed.
    """
    parsed = _REFERENCE.match(reference)
    if parsed is None:
        raise ValueError(f"{reference!r} is no layer; write 'path', 'path:input' or 'path#call' (0, 1, … or -1).")
    suffix = (parsed["input"] or "") + (parsed["call"] or "")
    parts = parsed["path"].split(".")
    known = [name for name in dict.fromkeys(names) if name]
    found = [name for name in known if _matches(name.split("."), parts)]
    if not found:
        raise ValueError(_unknown_layer(parsed["path"], known, owner))
    return [name + suffix for name in found]


def _matches(name: list[str], parts: list[str]) -> bool:
    return len(name) == len(parts) and all(fnmatchcase(n, p) for n, p in zip(name, parts, strict=True))


def _unknown_layer(path: str, known: list[str], owner: str) -> str:
    close = difflib.get_close_matches(path, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    top = [name for name in known if "." not in name]
    return f"no layer {path!r} in {owner}{hint} Layers: {', '.join(top[:20])}{', …' if len(top) > 20 else ''}"


@dataclass
class _Store:
    """Where the hooks of one model write, and only while a forward pass is being read."""

    recording: bool = False
    clone: set[str] = field(default_factory=set)
    calls: dict[str, list[tuple[Any, int | None]]] = field(default_factory=dict)

    def put(self, key: str, value: Any) -> None:
        tensor = _select_tensor(value)
        if tensor is None:
            self.calls.setdefault(key, []).append((value, None))
            return
        if key in self.clone:
            tensor = tensor.clone()
        version = None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version
        self.calls.setdefault(key, []).append((tensor, version))


def _select_tensor(value: Any) -> Tensor | None:
    """A layer's tensor: itself, or the first tensor of a tuple or a mapping."""
    if isinstance(value, Tensor):
        return value
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((item for item in values if isinstance(item, Tensor)), None)


class _OutputHook:
    """A forward hook that pickles and deep-copies with its model, unlike a closure."""

    def __init__(self, key: str, store: _Store) -> None:
        self.key = key
        self.store = store

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.store.recording:
            self.store.put(self.key, output)


class _InputHook(_OutputHook):
    """A forward pre-hook: reads the first tensor among the arguments, before the layer can change it."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if self.store.recording:
            self.store.put(self.key, args if _select_tensor(args) is not None else kwargs)


class Capture:
    """A model whose forward pass gives ``Outputs``: logits and the chosen layers' tensors.

    Hooks are registered here, so make the capture before the model is compiled and first called.
    Recomputation under gradient checkpointing happens outside the recorded pass and is not captured.

    Args:
        model: Any module; one wrapped by ``torch.compile`` is read through.
        references: Layers to capture, as ``match_layers`` takes them.
        output_key: The entry of a mapping output that holds the logits.
        owner: ``student`` or ``teacher``, for error messages.

    Raises:
        ValueError: A reference names no layer of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        references: Iterable[str] = (),
        output_key: str | None = None,
        owner: str = "model",
    ) -> None:
        self.model = model
        self.output_key = output_key
        self.owner = owner
        self._store = _Store()
        self._handles: list[Any] = []
        inner = getattr(model, "_orig_mod", model)
        modules = dict(inner.named_modules(remove_duplicate=False))
        self._lightning = [module for module in inner.modules() if isinstance(module, LightningModule)]
        wanted: set[str] = set()
        for reference in references:
            wanted.update(match_layers(reference, modules, f"the {owner} {type(inner).__name__}"))
        order = {name: position for position, name in enumerate(modules)}
        self.layers = sorted(wanted, key=lambda reference: (order[_path(reference)], reference))
        for key in dict.fromkeys(map(_hook_key, self.layers)):
            self._register(modules[_path(key)], key)

    def _register(self, module: nn.Module, key: str) -> None:
        if key.endswith(":input"):
            handle = module.register_forward_pre_hook(_InputHook(key, self._store), with_kwargs=True)
        else:
            handle = module.register_forward_hook(_OutputHook(key, self._store), with_kwargs=True)
        self._handles.append(handle)

    def run(
        self,
        inputs: Inputs,
        mask: Tensor | None = None,
        *,
        calibrate: bool = False,
        need_grad: bool = False,
    ) -> Outputs:
        """Run the model and read the layers.

        Args:
            inputs: What the model takes.
            mask: Passed on to the outputs.
            calibrate: Learn which layers a later in-place operation overwrites, and clone them from the
                next pass on, instead of raising.
            need_grad: Raise where a captured layer carries no gradient.

        Raises:
            RuntimeError: A layer did not run, ran several times with no call chosen, gave no tensor, was
                overwritten in place, or carries no gradient.
        """
        self._store.calls = {}
        self._store.recording = True
        try:
            with self.muted():
                raw = call_model(self.model, inputs)
        finally:
            self._store.recording = False
            calls, self._store.calls = self._store.calls, {}
        features = {layer: self._pick(layer, calls, calibrate) for layer in self.layers}
        if need_grad:
            self._check_gradients(features)
        return Outputs(read_logits(raw, self.output_key), features, mask)

    def _pick(self, layer: str, calls: Mapping[str, list[tuple[Any, int | None]]], calibrate: bool) -> Tensor:
        key = _hook_key(layer)
        made = calls.get(key, [])
        if not made:
            raise RuntimeError(
                f"the {self.owner}'s layer {layer!r} did not run in the forward pass: the model skips it, "
                "calls it by another way than module(x), or was compiled and called before it was captured."
            )
        chosen = re.search(r"#(-?\d+)$", layer)
        if chosen is None and len(made) > 1:
            raise RuntimeError(
                f"the {self.owner}'s layer {layer!r} ran {len(made)} times in one forward pass; choose a call: "
                f"'{layer}#0' is the first, '{layer}#-1' the last."
            )
        index = int(chosen[1]) if chosen else 0
        if not -len(made) <= index < len(made):
            raise RuntimeError(f"the {self.owner}'s layer {key!r} ran {len(made)} times; there is no call {index}.")
        value, version = made[index]
        if not isinstance(value, Tensor):
            raise RuntimeError(
                f"the {self.owner}'s layer {layer!r} gave {type(value).__name__} and no tensor. Attention maps are "
                "only there when the model is built with attn_implementation='eager'."
            )
        if version is not None and not value.is_inference() and value._version != version:
            if not calibrate:
                raise RuntimeError(
                    f"the {self.owner}'s layer {layer!r} was overwritten in place after it ran "
                    "(ReLU(inplace=True)?); capture the later layer, or call run(calibrate=True) once to clone it."
                )
            self._store.clone.add(key)
        return value

    def _check_gradients(self, features: Mapping[str, Tensor]) -> None:
        dead = [name for name, feature in features.items() if not feature.requires_grad]
        if dead:
            raise RuntimeError(
                f"no gradient reaches the {self.owner} through {', '.join(dead)}: the layers up to there are frozen, "
                "or run inside a re-entrant gradient checkpoint (use checkpoint(..., use_reentrant=False))."
            )

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Let LightningModules inside the model log nothing: a Trainer only lets its own module log."""
        before = [vars(module).get("log") for module in self._lightning]
        for module in self._lightning:
            vars(module)["log"] = _log_nothing
        try:
            yield
        finally:
            for module, log in zip(self._lightning, before, strict=True):
                if log is None:
                    del vars(module)["log"]
                else:
                    vars(module)["log"] = log

    def remove(self) -> None:
        """Take the hooks off the model, for export."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _hook_key(reference: str) -> str:
    return reference.partition("#")[0]


def _path(reference: str) -> str:
    return _hook_key(reference).partition(":")[0]
