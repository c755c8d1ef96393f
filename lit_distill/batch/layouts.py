"""The layouts of one network's layers and logits: set by the user, or found in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor

from lit_distill.batch.layout import Evidence, Layout, Placement, usual_channel_dim
from lit_distill.utils.names import layer_path, match_layers

Channels = Callable[[str], int | None]
_LOGITS = ""  # stands for the network's output among its layers


class Layouts:
    """The dimensions of channels in each layer of a network and in its output: set by the user, or found in a forward pass.

    Args:
        owner: ``student`` or ``teacher``, for error messages.
        given: Layouts that the user set for layers, by reference or glob.
        class_dim: The classes' dimension in the logits, if the user set it.
    """

    def __init__(self, owner: str, given: Mapping[str, Layout], class_dim: int | None) -> None:
        self.owner, self.given, self.class_dim = owner, dict(given), class_dim
        self.known = False
        self._found: dict[str, Placement | None] = {}
        self._chosen: dict[str, Placement] = {}
        self._evidence: Evidence | None = None
        self.squashed = False  # the network ends in a sigmoid or a softmax
        self._undecided = False  # the observed pass did not show the logits' classes

    def learn(self, evidence: Evidence, found: Mapping[str, Placement | None]) -> None:
        """Take over what a forward pass showed."""
        self.known, self._evidence, self._undecided, self.squashed = True, evidence, False, False
        self._found, self._chosen = dict(found), {}

    def forget(self) -> None:
        """Release the activation that the evidence keeps."""
        self._evidence = None

    def arrange(self, layer: str, feature: Tensor, channels: Channels) -> Tensor:
        """Return a layer's tensor in the layout that criteria see.

        Raises:
            ValueError: The dimension of the channels is unknown.
        """
        dims = feature.dim()
        placement = self._chosen.get(layer)
        if placement is None or placement.dims != dims:
            placement = self._given(layer, dims) or self._seen(layer, feature, channels)
            self._chosen[layer] = placement
        return placement.arrange(feature)

    def arrange_logits(self, logits: Tensor) -> Tensor:
        """Return the logits in the layout that criteria see.

        Raises:
            ValueError: The dimension of the classes is unknown, or ``class_dim`` is out of range.
        """
        dims = logits.dim()
        last = self._evidence.squashed if self._evidence is not None else None
        if last is not None:
            self.squashed = last.data_ptr() == logits.data_ptr() and last.numel() == logits.numel()
        placement = self._chosen.get(_LOGITS)
        if placement is None or placement.dims != dims:
            placement = self._place_logits(logits)
            self._chosen[_LOGITS] = placement
        return placement.arrange(logits)

    def are_usual(self, logits: Tensor) -> bool:
        """Return True if logits are known to be ``[B, C]``, as criteria see them, so that nothing has to be arranged."""
        placement = self._chosen.get(_LOGITS)
        if placement is None or self._evidence is not None:
            return False
        return placement.dims == logits.dim() == 2 and not logits.is_nested

    def arrange_target(self, target: Tensor, logits: Tensor) -> Tensor:
        """Return labels of the logits' own shape (class probabilities, one-hot rows, numbers) in the layout of the logits."""
        placement = self._chosen.get(_LOGITS)
        if placement is None or target.dim() != placement.dims or target.dim() < 3 or target.dim() != logits.dim():
            return target
        arranged = placement.arrange(target)
        return arranged if arranged.shape == logits.shape else target

    def refuse_unknown(self, names: Iterable[str], owner: str) -> None:
        """Refuse a layout that was set for a layer which the network does not have."""
        known = list(names)
        for pattern in self.given:
            path = layer_path(pattern)
            if not any(fnmatchcase(name, path) for name in known):
                try:
                    match_layers(pattern, known, owner)
                except ValueError as error:
                    raise ValueError(f"{self._prefix()}layout of BatchFormat: {error}") from error

    def words(self, layer: str | None = None) -> str:
        """Describe what is unusual about a layer, or about the logits; empty if nothing is."""
        placement = self._chosen.get(layer or _LOGITS)
        return placement.words() if placement is not None else ""

    def _given(self, layer: str, dims: int) -> Placement | None:
        for pattern, layout in self.given.items():
            if fnmatchcase(layer, pattern) and dims > 2:
                return Placement(dims, 1 if layout == "channels_first" else dims - 1)
        return None

    def _seen(self, layer: str, feature: Tensor, channels: Channels) -> Placement:
        dims = feature.dim()
        usual = Placement(dims, usual_channel_dim(dims))
        found = self._found.get(layer.partition("#")[0], usual)
        if found is not None:
            return found if found.dims == dims else usual
        number = channels(layer.partition("#")[0].partition(":")[0])
        fitting = [dim for dim in (1, dims - 1) if feature.shape[dim] == number]
        if len(fitting) == 1:
            return Placement(dims, fitting[0])
        raise ValueError(
            f"which dimension of the {self.owner}'s layer {layer!r}, {list(feature.shape)}, holds the channels is unknown "
            f"from its modules; set BatchFormat({self._prefix()}layout={{{layer!r}: 'channels_first'}}), or "
            "'channels_last'."
        )

    def _place_logits(self, logits: Tensor) -> Placement:
        dims = logits.dim()
        if self.class_dim is not None and dims > 1:
            if not -dims <= self.class_dim < dims or self.class_dim % dims == 0:
                raise ValueError(
                    f"class_dim is {self.class_dim}, and the {self.owner}'s logits are {list(logits.shape)}; dimension 0 holds "
                    "the samples."
                )
            return Placement(dims, self.class_dim % dims)
        usual = Placement(dims, usual_channel_dim(dims))
        found = self._evidence.place(logits) if self._evidence is not None else usual
        if found is None or self._undecided:
            self._undecided = True
            raise ValueError(
                f"which dimension of the {self.owner}'s logits, {list(logits.shape)}, holds the classes is unknown from "
                f"its modules; set BatchFormat({self._prefix()}class_dim=1), or -1."
            )
        return found

    def _prefix(self) -> str:
        return "teacher_" if self.owner == "teacher" else ""
