"""Reads named layers of any ``nn.Module`` during its forward pass; ``utils.names`` says how layers are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, call_model
from lit_distill.batch.layout import Layout, dense, observed, timm_channels
from lit_distill.batch.layouts import Layouts
from lit_distill.capture.call import explaining_inputs
from lit_distill.capture.contexts import dense_encoders, muted
from lit_distill.capture.formats import is_exported, refuse_hidden_layers
from lit_distill.capture.hooks import AllRead, LayerCalls, Store, check_projections, register
from lit_distill.capture.picking import pick_output
from lit_distill.outputs import OutputKey, Outputs, logits_or_reason, unread
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.lightning_names import is_module
from lit_distill.utils.names import hook_key, layer_path, match_layers

_STOPPED = object()


class Capture:
    """Runs a model and returns ``Outputs``: its logits and the tensors of chosen layers.

    The constructor registers the hooks, so make the capture before the model is compiled and first called. Recomputation under
    gradient checkpointing is not captured.

    Args:
        model: Any module; of one compiled by ``torch.compile`` the original is read.
        references: Layers to capture: names, globs, ``layer:input``, ``layer:qkv``, ``layer#0`` for one of several calls.
        output_key: The entry of the output that holds the logits, or a function that takes them out.
        owner: ``student`` or ``teacher``, for error messages.
        layouts: Layouts of layers for which they cannot be found, by name or glob.
        class_dim: The classes' dimension in the logits; found from the data if None.

    Raises:
        ValueError: A reference names no layer of the model.

    Examples:
        >>> capture = Capture(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), ["0"])
        >>> outputs = capture.run(torch.zeros(2, 4))
        >>> outputs.logits.shape, outputs.features["0"].shape
        (torch.Size([2, 3]), torch.Size([2, 8]))
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
        self.gradients_expected = True  # False if frozen layers are trained later
        self._handles: list[Any] = []
        inner = uncompiled(model)
        self._lightning = [module for module in inner.modules() if is_module(module)]
        self.layouts.refuse_unknown(self._modules(), f"the {owner} {type(inner).__name__}")
        self.layers: list[str] = []
        self.set_layers(references)

    def set_layers(self, references: Iterable[str]) -> None:
        """Capture these layers from now on, as the constructor does, instead of those before."""
        inner, modules = uncompiled(self.model), self._modules()
        wanted: set[str] = set()
        for reference in references:
            wanted.update(match_layers(reference, modules, f"the {self.owner} {type(inner).__name__}"))
        order = {name: position for position, name in enumerate(modules)}
        self.layers = sorted(wanted, key=lambda reference: (order[layer_path(reference)], reference))
        refuse_hidden_layers(inner, map(layer_path, self.layers), self.owner)
        check_projections(self.layers, modules, self.owner)
        self.layouts.known = False
        self.restore()

    def run(
        self, inputs: Inputs, mask: Tensor | None = None, *, need_grad: bool = False, stop_early: bool = False
    ) -> Outputs:
        """Run the model and read the layers.

        Args:
            inputs: The model's inputs.
            mask: Passed on to the outputs.
            need_grad: Raise if a captured layer carries no gradient.
            stop_early: Run no layer after the last captured one; the logits are then empty. Needs an earlier ``dry_run``; a
                compiled model always runs to its end.

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
        """Run the model once before training, to find the layers that in-place operations overwrite: later runs clone them.

        Args:
            inputs: The model's inputs.
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
        """Call the model, and find the layouts and the number of layers that run."""
        dry = self.finds_overwrites
        if dry:
            self.store.expected = 0
        with self.observed(), self._explaining(inputs) if dry else nullcontext():
            raw, calls = self._call(inputs, stop_early)
        if dry and not is_compiled(self.model):
            self.store.expected = sum(map(len, calls.values()))
        return raw, calls

    def read(self, raw: Any, calls: LayerCalls, mask: Tensor | None = None, *, need_grad: bool = False) -> Outputs:
        """Return the outputs of a forward pass.

        Args:
            raw: The model's return value.
            calls: The layers' outputs that the hooks read.
            mask: Passed on to the outputs.
            need_grad: Raise if a captured layer carries no gradient.

        Raises:
            RuntimeError: A layer cannot be read (see ``run``).
        """
        if not self.layers and self.output_key is None and isinstance(raw, Tensor) and self.layouts.are_usual(raw):
            return Outputs(raw, {}, mask)
        features = {layer: self._pick(layer, calls) for layer in self.layers}
        if need_grad and self.gradients_expected:
            self._check_gradients(features)
        return self.arrange(raw, features, mask)

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Find, in the forward passes of the block, the channel dimension of each tensor."""
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
        """Return the outputs in the layout that criteria expect.

        Args:
            raw: The model's return value.
            features: Each layer's tensor in the model's own layout.
            mask: Passed on to the outputs.

        Raises:
            ValueError: A layer's channel dimension is unknown.
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
        """Run the model for its logits only.

        Args:
            inputs: The model's inputs.
        """
        with nullcontext() if self.layouts.known else self.observed(), self.muted(), self._explaining(inputs):
            raw = call_model(self.model, inputs)
        return self.arrange(raw, {})

    def _modules(self) -> dict[str, nn.Module]:
        """Return the model's modules by all their paths."""
        return dict(uncompiled(self.model).named_modules(remove_duplicate=False))

    def _explaining(self, inputs: Inputs) -> AbstractContextManager[None]:
        """Name the model in errors of the block; exported programs, with one size of inputs, are explained elsewhere."""
        inner = uncompiled(self.model)
        if any(map(is_exported, inner.modules())):
            return nullcontext()
        return explaining_inputs(self.owner, type(inner).__name__, inputs)

    def _call(self, inputs: Inputs, stop_early: bool) -> tuple[Any, LayerCalls]:
        """Return the model's return value, ``_STOPPED`` if it was stopped, and the layers' outputs."""
        if self.layers and not self._handles:
            self.restore()
        store = self.store
        store.calls, store.recording, store.stop = {}, True, stop_early and store.expected > 0
        raw: Any = _STOPPED
        try:
            if self.layers or self._lightning:
                with self.muted(), dense_encoders(bool(self.layers)):
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
        value, version = pick_output(layer, calls, self.owner, self._modules())
        if version is not None and not value.is_inference() and value._version != version:
            if not self.finds_overwrites:
                raise RuntimeError(
                    f"the {self.owner}'s layer {layer!r} was overwritten in place after it ran "
                    "(ReLU(inplace=True)?); capture the later layer, or call dry_run once to clone it."
                )
            self.store.clone.add(hook_key(layer))
        return value

    def _check_gradients(self, features: Mapping[str, Tensor]) -> None:
        dead = [name for name, feature in features.items() if not feature.requires_grad]
        if dead:
            raise RuntimeError(
                f"no gradient reaches the {self.owner} through {', '.join(dead)}: the layers up to there are frozen, "
                "or run inside a re-entrant gradient checkpoint (use checkpoint(..., use_reentrant=False))."
            )

    def muted(self) -> AbstractContextManager[None]:
        """Turn off logging of LightningModules inside the model."""
        return muted(self._lightning)

    @property
    def overwritten(self) -> set[str]:
        """The layers that in-place operations overwrite, found in a dry run."""
        return self.store.clone

    def remove(self) -> None:
        """Remove the hooks from the model; ``run`` restores them."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def restore(self) -> None:
        """Register the hooks on the modules that are now at the layers' paths."""
        self.remove()
        modules = self._modules()
        for key in dict.fromkeys(map(hook_key, self.layers)):
            self._handles.append(register(modules[layer_path(key)], key, self.store))


def _no_logits(features: Mapping[str, Tensor]) -> Tensor:
    return next(iter(features.values())).new_zeros(0)


def is_compiled(model: nn.Module, itself: bool = False) -> bool:
    """Return True if a model, or a part of it, runs compiled."""
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in ([model] if itself else model.modules())
    )
