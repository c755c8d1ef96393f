"""The arguments that a network's ``forward`` takes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import nn

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Signature:
    """The arguments of a network.

    Attributes:
        names: Those that can be given by name.
        required: Those that must be given.
        positional: How many can be given by position; None for any number.
        labels_make_inputs: It is an encoder-decoder that makes its decoder's inputs from the labels if it gets no others.
        encodes_and_decodes: It takes inputs of an encoder and of a decoder.
        takes_batch: Its only required argument is a whole batch, by its name or its annotation.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    positional: int | None
    labels_make_inputs: bool = False
    encodes_and_decodes: bool = False
    takes_batch: bool = False


def signature_of(model: nn.Module | None) -> Signature | None:
    """Return the signature of a network, or of the one in a wrapper (compiled, data-parallel, an ensemble).

    None if it takes anything, or cannot be inspected.
    """
    while model is not None:
        found = _of_forward(model)
        if found is not None:
            return found
        model = _wrapped(model)
    return None


def _of_forward(model: nn.Module) -> Signature | None:
    schema = getattr(model.forward, "schema", None)  # TorchScript
    if schema is not None:
        arguments = schema.arguments[1:]
        required = tuple(a.name for a in arguments if not a.has_default_value())
        return Signature(tuple(a.name for a in arguments), required, len(arguments))
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return None
    known = [p for p in parameters if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
    stars = {p.kind for p in parameters} - {p.kind for p in known}
    if not known or (len(known) == 1 and len(stars) == 2):  # forward(first, *more, **named) takes anything, too
        return None
    names = tuple(p.name for p in known if p.kind != inspect.Parameter.POSITIONAL_ONLY)
    decodes = any(name.startswith(("decoder_", "tgt", "trg")) for name in names)
    return Signature(
        names,
        tuple(p.name for p in known if p.default is inspect.Parameter.empty),
        None if inspect.Parameter.VAR_POSITIONAL in stars else sum(p.kind in _POSITIONAL for p in known),
        labels_make_inputs="labels" in names and "decoder_input_ids" in names,
        encodes_and_decodes=decodes or bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False)),
        takes_batch=_takes_batch([p for p in known if p.default is inspect.Parameter.empty]),
    )


def _takes_batch(required: list[inspect.Parameter]) -> bool:
    if len(required) != 1:
        return False
    annotation = str(required[0].annotation).lower()
    return required[0].name in ("batch", "batch_dict", "sample") or "dict[" in annotation or "mapping[" in annotation


def _wrapped(model: nn.Module) -> nn.Module | None:
    for name in ("_orig_mod", "module", "base_model", "model", "0"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module):
            return inner
    return None
