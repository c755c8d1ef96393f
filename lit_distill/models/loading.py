"""Weights from elsewhere, read safely and loaded strictly; and any callable as a model."""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_distill.files.checkpoint_file import read_checkpoint
from lit_distill.models.finding import Entries, choose_network, same_tensors
from lit_distill.models.pruned import prune_as_in
from lit_distill.models.suitable import add_tied, mismatches, optional_names, refuse_unfillable, unsuitable
from lit_distill.utils.arguments import check_flag, check_named, check_network, wrong_type
from lit_distill.utils.names import first_line, nearest

_NESTED_KEYS = ("state_dict", "model_state_dict", "model", "net", "student", "module", "weights")
_WRAPPERS = (
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)  # that PyTorch puts around inner modules
_DEEPEST = 4  # mappings in mappings in which a state dict is looked for
_SHOWN = 5


def load(model: nn.Module, checkpoint: str | Path, prefix: str | None = None, trust: bool = False) -> nn.Module:
    """Load a checkpoint's weights into a model, strictly.

    Reads ``.pt``, ``.pth``, ``.th``, ``.ckpt`` (Lightning's too) and ``.safetensors``. The state dict may be
    nested (``state_dict``, ``model``, …) and its keys may carry a wrapper's prefix (``module.``, ``model.``,
    ``_orig_mod.``, ``student.``, …): the prefix under which the keys and shapes are the model's is found.
    If several networks fit, the ``student`` is taken, or the one in the usual ``state_dict``, with a warning; if neither shows
    which is meant, all are refused by name.
    For a checkpoint of a network that ``lit_distill.compress.prune`` has made, give the model as it was before: it is pruned in
    the same way. Tensors from any device are mapped to the CPU. Nothing in the file is executed, unless ``trust`` is set.

    Args:
        model: The network to fill, returned.
        checkpoint: The file.
        prefix: The prefix of the keys to read, or the key of the file under which the state dict is (``state_dict_ema``), if
            several fit.
        trust: Read a file that holds Python objects as well as weights, such as hyper-parameters that are a
            ``functools.partial``, a class or a Namespace, or a whole module. Loading it can run any code that its maker put
            there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds Python objects and is not trusted, or does not fit the model: what differs is
            listed. Or a weight is NaN, infinite, or of another kind than the model's (integers, complex, quantised). Or several
            networks fit.
        ImportError: The checkpoint's network was pruned, and torch-pruning is not installed.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.weight": torch.ones(1, 2)}}, f"{folder}/teacher.ckpt")
        ...     load(nn.Linear(2, 1, bias=False), f"{folder}/teacher.ckpt").weight.tolist()
        [[1.0, 1.0]]
    """
    check_network("model", model)
    trust = check_flag("trust", trust)
    if prefix is not None and not isinstance(prefix, str):
        raise wrong_type("prefix", prefix, "give the text that the keys start with, such as 'student.'.")
    path = _existing(checkpoint)
    refuse_unfillable(model)
    content = _read(path, trust)
    prune_as_in(model, content, prefix, path.name)
    wanted = dict(model.state_dict())
    extra = {name.rpartition(".")[2] for name, value in wanted.items() if not isinstance(value, Tensor)}
    entries = _networks(content, path.name, extra)
    found = choose_network(entries, wanted, optional_names(model, wanted), prefix, path.name)
    add_tied(model, found)
    problems = mismatches(wanted, found) or unsuitable(model, wanted, found)
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else ""
        shown = "\n  ".join(problems[:_SHOWN]) + more
        raise ValueError(f"{path.name} does not fit {type(model).__name__}:\n  {shown}")
    try:
        model.load_state_dict(found, strict=True)
    except Exception as error:  # a layer may load itself, and fail in any way
        raise ValueError(f"{path.name} does not fit {type(model).__name__}: {error}") from error
    return model


def entry_shapes(checkpoint: str | Path, name: str) -> list[list[int]]:
    """Return the shapes of all tensors in a checkpoint whose names end with a name, each once.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds no tensors.
    """
    path = _existing(checkpoint)
    found = [
        list(tensor.shape)
        for entries in _networks(_read(path, False), path.name, ())
        for key, tensor in entries.state.items()
        if key == name or key.endswith(f".{name}")
    ]
    return [shape for place, shape in enumerate(found) if shape not in found[:place]]


def create_model(function: str, arguments: dict[str, Any] | None = None) -> nn.Module:
    """Make a model with any importable callable, for those whose signature a config cannot read.

    Args:
        function: Import path, such as ``timm.create_model`` or a class method, ``package.Model.from_pretrained``.
        arguments: Keyword arguments.

    Raises:
        ValueError: The path cannot be imported, or what it made is no module.

    Example:
        >>> create_model("torch.nn.Linear", {"in_features": 4, "out_features": 2})
        Linear(in_features=4, out_features=2, bias=True)
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


def build(function: str, arguments: dict[str, Any] | None = None) -> nn.Module:
    """Call ``create_model``, its new name; this one will be removed after the next release."""
    warnings.warn("lit_distill.build is now lit_distill.create_model.", DeprecationWarning, stacklevel=2)
    return create_model(function, arguments)


def _existing(checkpoint: str | Path) -> Path:
    if not isinstance(checkpoint, (str, Path)):
        raise wrong_type(
            "checkpoint", checkpoint, "give the path of a file; weights in a dict load by model.load_state_dict."
        )
    path = Path(checkpoint)
    try:
        if path.is_file():
            return path
    except OSError as error:  # a name that is too long
        raise ValueError(f"{str(checkpoint)[:80]}… is no path of a checkpoint: {error.strerror}.") from error
    if "://" in str(checkpoint):
        raise FileNotFoundError(
            f"load reads files of this machine: download {checkpoint} first, and give the file's path."
        )
    kind = "it is a folder" if path.is_dir() else f"looked in {path.parent.absolute()}"
    known = [str(path.parent / one.name) for one in path.parent.glob("*")] if path.parent.is_dir() else []
    raise FileNotFoundError(f"no checkpoint at {path} ({kind}).{nearest(str(path), known)}")


def _read(path: Path, trust: bool) -> Any:
    if not _is_safetensors(path):
        return read_checkpoint(path, trust)
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"reading {path.name} needs a package: pip install safetensors") from error
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # damaged bytes can fail in any way
        raise ValueError(f"{path.name} is damaged or no safetensors file: {first_line(error)}") from error


def _is_safetensors(path: Path) -> bool:
    """Return True if a file is named as one, or starts like one: with the length of its description in JSON."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _networks(content: Any, name: str, extra: Collection[str]) -> list[Entries]:
    """Return the groups of tensors in a checkpoint, the one that is usually meant first.

    Raises:
        ValueError: There are none.
    """
    content = _state_of(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds a {type(content).__name__}, not a state dict.")
    found = _groups(content, name, extra)
    own = Entries("", _tensors(content, name, extra))
    if own.state:
        usual = found[:1] if found and found[0].place in _NESTED_KEYS else []
        found = [*usual, own, *found[len(usual) :]]
    if not found:
        keys = ", ".join(map(str, content)) or "nothing"
        raise ValueError(f"{name} holds no state dict; it holds: {keys}.")
    return found


def _groups(content: Mapping[Any, Any], name: str, extra: Collection[str], depth: int = 1) -> list[Entries]:
    """Return the groups of tensors under a mapping's keys, or further inside those keys that hold none themselves."""
    found = []
    for key in [*_NESTED_KEYS, *(key for key in content if isinstance(key, str) and key not in _NESTED_KEYS)]:
        group = _state_of(content.get(key))
        if not isinstance(group, Mapping):
            continue
        state = _tensors(group, name, extra)
        if state:
            found.append(Entries(key, state, key in _NESTED_KEYS))
        elif depth < _DEEPEST:
            inner = _groups(group, name, extra, depth + 1)
            found += [replace(entries, place=f"{key}.{entries.place}") for entries in inner]
    return found


def _state_of(content: Any) -> Any:
    return content.state_dict() if isinstance(content, nn.Module) else content


def _tensors(mapping: Mapping[Any, Any], file: str, extra: Collection[str]) -> dict[str, Any]:
    """Return the tensors of a mapping, and its extra state, by name without the parts that PyTorch's wrappers add.

    Raises:
        ValueError: Two names become one, and the tensors differ.
    """
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if not isinstance(key, str) or not (isinstance(value, Tensor) or key.rpartition(".")[2] in extra):
            continue
        name = key
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        if name in found and not same_tensors({"": found[name]}, {"": value}):
            raise ValueError(
                f"{file} holds {name!r} twice, once with a wrapper in its name ({key!r}), and the two differ."
            )
        found[name] = value
    return found
