"""Reads named layers of any ``nn.Module`` during its forward pass; ``references`` says how layers are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, call_model
from lit_distill.batch.layout import Layout, dense, observed, timm_channels
from lit_distill.batch.layouts import Layouts
from lit_distill.capture.call import explaining_inputs
from lit_distill.capture.formats import is_exported, refuse_hidden_layers
from lit_distill.capture.hooks import AllRead, InputHook, LayerCalls, OutputHook, Store
from lit_distill.outputs import OutputKey, Outputs, logits_or_reason, unread
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.lightning_names import is_module
from lit_distill.utils.names import chosen_call, hook_key, layer_path, match_layers

_STOPPED = object()


class Capture:
    """A model whose forward pass gives ``Outputs``: logits and the chosen layers' tensors.

    Hooks are registered here, so make the capture before the model is compiled and first called.
    Recomputation under gradient checkpointing happens outside the recorded pass and is not captured.

    Args:
        model: Any module; one wrapped by ``torch.compile`` is read through.
        references: Layers to capture, as ``match_layers`` takes them.
        output_key: The entry of the output that holds the logits, or a function that takes them out.
        owner: ``student`` or ``teacher``, for error messages.
        layouts: Layouts of layers that the network's modules do not tell, by reference or glob.
        class_dim: The classes' dimension in the logits; found out if None.

    Raises:
        ValueError: A reference names no layer of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        references: Iterable[str] = (),
        output_key: OutputKey | None = None,
        owner: str = "model",
        layouts: Mapping[str, Layout] | None = None,
        class_dim: int | None = None,
    ) -> None:
        self.model = model
        self.output_key = output_key
        self.owner = owner
        self.layouts = Layouts(owner, layouts or {}, class_dim)
        self.store = Store()
        self.finds_overwrites = False
        self.gradients_expected = True  # False where layers that are frozen are to be trained later
        self._handles: list[Any] = []
        inner, modules = uncompiled(model), self._modules()
        self._lightning = [module for module in inner.modules() if is_module(module)]
        wanted: set[str] = set()
        self.layouts.refuse_unknown(modules, f"the {owner} {type(inner).__name__}")
        for reference in references:
            wanted.update(match_layers(reference, modules, f"the {owner} {type(inner).__name__}"))
        order = {name: position for position, name in enumerate(modules)}
        self.layers = sorted(wanted, key=lambda reference: (order[layer_path(reference)], reference))
        refuse_hidden_layers(inner, map(layer_path, self.layers), owner)
        self.restore()

    def _register(self, module: nn.Module, key: str) -> None:
        if key.endswith(":input"):
            handle = module.register_forward_pre_hook(InputHook(key, self.store), with_kwargs=True)
        else:
            handle = module.register_forward_hook(OutputHook(key, self.store), with_kwargs=True)
        self._handles.append(handle)

    def run(
        self,
        inputs: Inputs,
        mask: Tensor | None = None,
        *,
        need_grad: bool = False,
        stop_early: bool = False,
    ) -> Outputs:
        """Run the model and read the layers.

        Args:
            inputs: What the model takes.
            mask: Passed on to the outputs.
            need_grad: Raise if a captured layer carries no gradient.
            stop_early: Run no layer after the last one that is captured; the logits are then empty. ``dry_run`` must have
                come before; a compiled model always runs to its end.

        Raises:
            ValueError: The model failed on its inputs in a dry run.
            RuntimeError: A layer did not run, ran several times with no call chosen, gave no tensor, was
                overwritten in place, or carries no gradient.
        """
        if self.layouts.known and not self.finds_overwrites:
            raw, calls = self._call(inputs, stop_early)
        else:
            raw, calls = self._first_call(inputs, stop_early)
        return self.read(raw, calls, mask, need_grad=need_grad)

    def dry_run(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        """Run the model once before training: learn which layers a later in-place operation overwrites, and clone them then.

        Args:
            inputs: What the model takes.
            mask: Passed on to the outputs.

        Raises:
            ValueError: The model failed on its inputs.
        """
        with self.finding_overwrites():
            return self.run(inputs, mask)

    @contextmanager
    def finding_overwrites(self) -> Iterator[None]:
        """Make every forward pass in the block a dry run."""
        self.finds_overwrites = True
        try:
            yield
        finally:
            self.finds_overwrites = False

    def _first_call(self, inputs: Inputs, stop_early: bool) -> tuple[Any, LayerCalls]:
        """Call the model, and find out the layouts and how many layers run."""
        dry = self.finds_overwrites
        if dry:
            self.store.expected = 0
        with self.observed(), self._explaining(inputs) if dry else nullcontext():
            raw, calls = self._call(inputs, stop_early)
        if dry and not is_compiled(self.model):
            self.store.expected = sum(map(len, calls.values()))
        return raw, calls

    def read(
        self,
        raw: Any,
        calls: LayerCalls,
        mask: Tensor | None = None,
        *,
        need_grad: bool = False,
    ) -> Outputs:
        """The outputs of a forward pass.

        Args:
            raw: What the model returned.
            calls: What its hooks read.
            mask: As in ``run``.
            need_grad: As in ``run``.

        Raises:
            RuntimeError: As in ``run``.
        """
        if not self.layers and self.output_key is None and isinstance(raw, Tensor) and self.layouts.are_usual(raw):
            return Outputs(raw, {}, mask)
        features = {layer: self._pick(layer, calls) for layer in self.layers}
        if need_grad and self.gradients_expected:
            self._check_gradients(features)
        return self.arrange(raw, features, mask)

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Find out in the forward passes meanwhile where each tensor holds its channels."""
        modules = self._modules()
        layers = list(dict.fromkeys(modules[layer_path(layer)] for layer in self.layers))
        with observed(uncompiled(self.model), layers, eager=not is_compiled(self.model)) as evidence:
            self.store.evidence, self.store.placed = evidence, {}
            try:
                yield
            finally:
                self.store.evidence = None
        self.layouts.learn(evidence, self.store.placed)

    def arrange(self, raw: Any, features: Mapping[str, Tensor], mask: Tensor | None = None) -> Outputs:
        """The outputs in the layout that criteria see.

        Args:
            raw: What the model returned.
            features: Each layer's tensor, as the model made it.
            mask: As in ``run``.

        Raises:
            ValueError: Which dimension holds a layer's channels cannot be told.
        """
        logits = logits_or_reason(raw, self.output_key, self.owner) if raw is not _STOPPED else _no_logits(features)
        channels = partial(timm_channels, uncompiled(self.model))
        placed = {layer: self.layouts.arrange(layer, value, channels) for layer, value in features.items()}
        if isinstance(logits, Tensor) and raw is not _STOPPED:
            try:
                logits = self.layouts.arrange_logits(dense(logits))
            except ValueError as error:
                logits = unread(str(error))
        self.layouts.forget()
        return Outputs(logits, placed, mask)

    def predict(self, inputs: Inputs) -> Outputs:
        """Run the model for its logits alone.

        Args:
            inputs: What the model takes.
        """
        with nullcontext() if self.layouts.known else self.observed(), self.muted(), self._explaining(inputs):
            raw = call_model(self.model, inputs)
        return self.arrange(raw, {})

    def _modules(self) -> dict[str, nn.Module]:
        """The model's modules by every path that leads to one."""
        return dict(uncompiled(self.model).named_modules(remove_duplicate=False))

    def _explaining(self, inputs: Inputs) -> AbstractContextManager[None]:
        """Have a failure say whose it is; one of an exported program, which has one size of inputs, is explained elsewhere."""
        inner = uncompiled(self.model)
        if any(map(is_exported, inner.modules())):
            return nullcontext()
        return explaining_inputs(self.owner, type(inner).__name__, inputs)

    def _call(self, inputs: Inputs, stop_early: bool) -> tuple[Any, LayerCalls]:
        """What the model returned, ``_STOPPED`` where it was stopped, and what the hooks read."""
        if self.layers and not self._handles:
            self.restore()
        store = self.store
        store.calls, store.recording, store.stop = {}, True, stop_early and store.expected > 0
        raw: Any = _STOPPED
        try:
            if self.layers or self._lightning:
                with self.muted(), _dense_encoders(bool(self.layers)):
                    raw = call_model(self.model, inputs)
            else:
                raw = call_model(self.model, inputs)
        except AllRead:
            pass
        finally:
            store.recording = store.stop = False
            calls, store.calls = store.calls, {}
        return raw, calls

    def _pick(self, layer: str, calls: LayerCalls) -> Tensor:
        key = hook_key(layer)
        made = calls.get(key, [])
        if not made:
            raise RuntimeError(
                f"the {self.owner}'s layer {layer!r} did not run in the forward pass: {self._why_not_run(layer)}"
            )
        chosen = chosen_call(layer)
        if chosen is None and len(made) > 1:
            raise RuntimeError(
                f"the {self.owner}'s layer {layer!r} ran {len(made)} times in one forward pass; choose a call: "
                f"'{layer}#0' is the first, '{layer}#-1' the last."
            )
        index = chosen or 0
        if not -len(made) <= index < len(made):
            raise RuntimeError(f"the {self.owner}'s layer {key!r} ran {len(made)} times; there is no call {index}.")
        value, version = made[index]
        if isinstance(value, list) and any(isinstance(item, Tensor) for item in value):
            shapes = ", ".join(str(list(item.shape)) for item in value if isinstance(item, Tensor))
            raise RuntimeError(
                f"the {self.owner}'s layer {layer!r} gave a list of several tensors ({shapes}), and which is meant cannot be "
                "told; name the layer inside it that makes the one to read."
            )
        if not isinstance(value, Tensor):
            raise RuntimeError(
                f"the {self.owner}'s layer {layer!r} gave {type(value).__name__} and no tensor. Attention maps are "
                "only there when the model is built with attn_implementation='eager'."
            )
        if version is not None and not value.is_inference() and value._version != version:
            if not self.finds_overwrites:
                raise RuntimeError(
                    f"the {self.owner}'s layer {layer!r} was overwritten in place after it ran "
                    "(ReLU(inplace=True)?); capture the later layer, or call dry_run once to clone it."
                )
            self.store.clone.add(key)
        return value

    def _why_not_run(self, layer: str) -> str:
        module = self._modules()[layer_path(layer)]
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)) and len(module):
            last = list(dict(module.named_children()))[-1]
            return f"it is a {type(module).__name__}, which is never called itself; name one of its modules, '{layer}.{last}'."
        return "the model skips it, calls it by another way than module(x), or was compiled and called before it was captured."

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

    @property
    def overwritten(self) -> set[str]:
        """The layers that a later in-place operation overwrites, as far as a dry run found them."""
        return self.store.clone

    def remove(self) -> None:
        """Take the hooks off the model, which is plain then; ``run`` puts them back."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def restore(self) -> None:
        """Put the hooks back, onto the modules that are at the layers' paths now."""
        self.remove()
        modules = self._modules()
        for key in dict.fromkeys(map(hook_key, self.layers)):
            self._register(modules[layer_path(key)], key)


@contextmanager
def _dense_encoders(reading: bool) -> Iterator[None]:
    """Keep PyTorch's Transformer encoders from their fast path, whose layers give nested tensors without the padding."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    if not (reading and enabled):
        yield
        return
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _no_logits(features: Mapping[str, Tensor]) -> Tensor:
    return next(iter(features.values())).new_zeros(0)


def is_compiled(model: nn.Module, itself: bool = False) -> bool:
    """Whether the model, or a part of it, runs compiled.

    Args:
        model: The model.
        itself: Leave its parts out.
    """
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in ([model] if itself else model.modules())
    )
