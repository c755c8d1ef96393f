"""Weights from elsewhere, read safely and loaded strictly; and any callable as a model."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_distill.arguments import check_named, check_network, wrong_type
from lit_distill.checkpoint_file import read_checkpoint

_NESTED_KEYS = ("state_dict", "model_state_dict", "model", "net", "student", "module", "weights")
_COUNTER = "num_batches_tracked"
_SHOWN = 5


def load(model: nn.Module, checkpoint: str | Path, prefix: str | None = None, trust: bool = False) -> nn.Module:
    """Load a checkpoint's weights into a model, strictly.

    Reads ``.pt``, ``.pth``, ``.th``, ``.ckpt`` (Lightning's too) and ``.safetensors``. The state dict may be
    nested (``state_dict``, ``model``, …) and its keys may carry a wrapper's prefix (``module.``, ``model.``,
    ``_orig_mod.``, ``student.``, …): the prefix under which the keys and shapes are the model's is found.
    Tensors from any device are mapped to the CPU. Nothing in the file is executed, unless ``trust`` says so.

    Args:
        model: The network to fill, returned.
        checkpoint: The file.
        prefix: The prefix of the keys to read, where several fit (as ``teacher`` and ``student`` of one
            architecture would; ``student`` comes first).
        trust: Read a file that holds Python objects beside weights, such as hyper-parameters that are a
            ``functools.partial``, a class or a Namespace, or a whole module. Loading it can run any code that its maker put
            there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds Python objects and is not trusted, or does not fit the model; what differs is
            listed.
    """
    check_network("model", model)
    if not isinstance(checkpoint, (str, Path)):
        raise wrong_type(
            "checkpoint", checkpoint, "give the path of a file; weights in a dict load by model.load_state_dict."
        )
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path} (looked in {path.parent.absolute()}).")
    state = {_unwrap(key): value for key, value in _state_dict(_read(path, trust), path).items()}
    wanted = _shapes(model.state_dict())
    fitting = [p for p in _prefixes(state) if not _differences(wanted, _under(state, p))]
    if prefix is not None:
        chosen = prefix.rstrip(".") + "." if prefix else ""
    elif fitting:
        chosen = "student." if "student." in fitting else fitting[0]
    else:
        chosen = max(_prefixes(state), key=lambda p: len(wanted.keys() & _under(state, p).keys()))
    found = _under(state, chosen)
    problems = _differences(wanted, found)
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else ""
        shown = "\n  ".join(problems[:_SHOWN]) + more
        raise ValueError(f"{path.name} does not fit {type(model).__name__}:\n  {shown}")
    model.load_state_dict(found, strict=True)
    return model


def build(function: str, arguments: dict[str, Any] | None = None) -> nn.Module:
    """Make a model with any importable callable, for those whose signature a config cannot read.

    Args:
        function: Import path, such as ``timm.create_model`` or a class method, ``package.Model.from_pretrained``.
        arguments: Keyword arguments.

    Raises:
        ValueError: The path cannot be imported, or what it made is no module.
    """
    if not isinstance(function, str):
        raise wrong_type("function", function, "give an import path, such as 'timm.create_model'.")
    if arguments is not None:
        check_named("arguments", arguments, "{'model_name': 'resnet18'}")
    try:
        made = pkgutil.resolve_name(function)(**(arguments or {}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{function!r} could not make a model: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"{function!r} made a {type(made).__name__}, not a torch.nn.Module.")
    return made


def _read(path: Path, trust: bool) -> Any:
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise ValueError(f"reading {path.name} needs a package: pip install safetensors") from error
        try:
            return load_file(path, device="cpu")
        except (SafetensorError, ValueError, OSError) as error:
            raise ValueError(f"{path.name} is damaged or no safetensors file: {error}") from error
    return read_checkpoint(path, trust)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    content = _state_of(content)
    if isinstance(content, Mapping):
        for key in _NESTED_KEYS:
            nested = _state_of(content.get(key))
            if isinstance(nested, Mapping) and _tensors(nested):
                return _tensors(nested)
        if _tensors(content):
            return _tensors(content)
        held = ", ".join(map(str, content)) or "nothing"
        raise ValueError(f"{path.name} holds no state dict; it holds: {held}.")
    raise ValueError(f"{path.name} holds a {type(content).__name__}, not a state dict.")


def _state_of(content: Any) -> Any:
    """A whole module's state dict; all else as it is."""
    return content.state_dict() if isinstance(content, nn.Module) else content


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}


def _unwrap(key: str) -> str:
    return key.replace("_orig_mod.", "")


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Every dotted prefix of the keys, the shortest first."""
    found = {""}
    for key in state:
        parts = key.split(".")[:-1]
        found.update(".".join(parts[:depth]) + "." for depth in range(1, len(parts) + 1))
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in state.items()}


def _differences(wanted: Mapping[str, list[int]], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``found`` from loading strictly, in words."""
    missing = [f"missing: {k}" for k in wanted if k not in found and not k.endswith(_COUNTER)]
    unexpected = [f"unexpected: {k}" for k in found if k not in wanted]
    shapes = [
        f"shape of {k}: {list(found[k].shape)} in the file, {shape} in the model"
        for k, shape in wanted.items()
        if k in found and list(found[k].shape) != shape
    ]
    return shapes + missing + unexpected
