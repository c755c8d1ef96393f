"""Structured pruning as plain lists: kept in checkpoints, and done again on a network that is still whole.

A step is a mapping of plain types. ``example``: shapes and types of the inputs that the network is traced with. ``channels``:
the number of outputs of each layer before the step. ``removed``: as torch-pruning writes it, layer, outputs or inputs, indices.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Arguments, Inputs, call_model, tensors_of

PRUNING_KEY = "lit_distill_pruning"  # of a checkpoint
Step = dict[str, Any]
_ATTRIBUTE = "_lit_distill_pruning"
_ARGUMENTS = "positional", "named"


class MissingPruningError(ImportError):
    """torch-pruning is not installed; the message has the line that installs it."""


def torch_pruning() -> Any:
    """Return the package.

    Raises:
        MissingPruningError: It is not installed.
    """
    try:
        import torch_pruning as package
    except ImportError as error:
        raise MissingPruningError(
            "structured pruning needs torch-pruning, also to read a checkpoint of a pruned network: "
            "pip install 'lit-distill[prune]'"
        ) from error
    return package


def pruning_history(network: nn.Module) -> list[Step]:
    """Return the steps in which ``prune`` has made a network smaller, the first one first; none for a whole network."""
    return list(getattr(network, _ATTRIBUTE, ()))


def set_history(network: nn.Module, steps: Sequence[Step]) -> None:
    """Note on a network how it was pruned: an attribute of plain lists, which copies and pickles keep."""
    setattr(network, _ATTRIBUTE, list(steps))


def layer_widths(network: nn.Module) -> dict[str, int]:
    """Return the number of outputs of each convolution and linear layer, by path."""
    return {
        name: int(getattr(layer, "out_channels", 0) or getattr(layer, "out_features", 0))
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear))
    }


def is_before(network: nn.Module, steps: Sequence[Step]) -> bool:
    """Return True if a network has the widths that the first of some steps began with, so that they can be done on it."""
    return bool(steps) and layer_widths(network) == steps[0]["channels"]


def replay(network: nn.Module, steps: Sequence[Step]) -> None:
    """Prune a network as it was done before; its weights are then to be loaded.

    Raises:
        MissingPruningError: torch-pruning is not installed.
        ValueError: The network is not the one that the steps are of.
    """
    for step in steps:
        example = inputs_described(step["example"], network)
        try:
            with traceable(network):
                graph = dependency_graph(network, example)
                graph.load_pruning_history([list(one) for one in step["removed"]])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint's network was pruned, and the {type(network).__name__} cannot be pruned alike: {error}"
            ) from error
    set_history(network, [*pruning_history(network), *steps])


def dependency_graph(network: nn.Module, inputs: Inputs) -> Any:
    """Return torch-pruning's graph of a traceable network: which layers share channels."""
    return (
        torch_pruning()
        .DependencyGraph()
        .build_dependency(network, inputs, forward_fn=call_traced, output_transform=tensors_of)
    )


def call_traced(network: nn.Module, inputs: Inputs) -> Any:
    """Call a network as torch-pruning asks for it."""
    return call_model(network, inputs)


@contextmanager
def traceable(network: nn.Module) -> Iterator[None]:
    """Let gradients pass the whole network in evaluation, and restore modes and what trains, of layers that shrink as well."""
    trains = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    modes = [(part, part.training) for part in network.modules()]
    network.eval().requires_grad_(True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():  # a caller may have turned gradients off
            warnings.simplefilter("ignore")  # of torch-pruning, on parameters outside layers: what comes out is run
            yield
    finally:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(trains.get(name, True))
            parameter.grad = None
        for part, training in modes:
            part.training = training


def description_of(inputs: Any) -> Any:
    """Return shapes and types of inputs as plain types, from which ``inputs_described`` makes others."""
    if isinstance(inputs, Tensor):
        return {"shape": list(inputs.shape), "type": str(inputs.dtype).removeprefix("torch.")}
    if isinstance(inputs, Arguments):
        return {
            _ARGUMENTS[0]: [description_of(one) for one in inputs.positional],
            _ARGUMENTS[1]: description_of(inputs.named),
        }
    if isinstance(inputs, Mapping):
        return {"entries": {str(name): description_of(value) for name, value in inputs.items()}}
    if isinstance(inputs, (tuple, list)):
        return [description_of(one) for one in inputs]
    if inputs is None or isinstance(inputs, (bool, int, float, str)):
        return {"value": inputs}
    raise ValueError(f"a network is traced with tensors, and the example holds a {type(inputs).__name__}.")


def inputs_described(description: Any, network: nn.Module) -> Any:
    """Make inputs of the described shapes and types on a network's device: zeros for whole numbers, noise for others."""
    if isinstance(description, list):
        return tuple(inputs_described(one, network) for one in description)
    if "value" in description:
        return description["value"]
    if "entries" in description:
        return {name: inputs_described(value, network) for name, value in description["entries"].items()}
    if _ARGUMENTS[0] in description:
        return Arguments(*(inputs_described(description[name], network) for name in _ARGUMENTS))
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    values = torch.zeros(description["shape"], dtype=getattr(torch, description["type"]), device=device)
    generator = torch.Generator(device).manual_seed(0)
    return values.normal_(generator=generator) if values.is_floating_point() else values


def histories_of(module: nn.Module) -> dict[str, list[Step]]:
    """Return the history of each pruned network in a module, by its path."""
    return {name: history for name, part in module.named_modules() if (history := pruning_history(part))}


def write_histories(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Add the histories of a module's networks to its checkpoint."""
    found = histories_of(module)
    if found:
        checkpoint[PRUNING_KEY] = found


def histories_in(content: Any) -> dict[str, list[Step]]:
    """Return the histories in a checkpoint's content, by the path of the network in its module."""
    found = content.get(PRUNING_KEY) if isinstance(content, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def adopt_histories(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Prune the networks of a module as those of a checkpoint about to be loaded into it.

    Raises:
        MissingPruningError: torch-pruning is not installed.
        ValueError: A network was pruned otherwise.
    """
    for path, steps in histories_in(checkpoint).items():
        try:
            network = module.get_submodule(path)
        except AttributeError:
            continue  # loading says what is missing
        shapes = {
            name: list(tensor.shape)
            for name, tensor in checkpoint.get("state_dict", {}).items()
            if isinstance(tensor, Tensor) and name.startswith(f"{path}." if path else "")
        }
        adopt(
            network, steps, {name.removeprefix(f"{path}."): shape for name, shape in shapes.items()}, path or "module"
        )


def adopt(network: nn.Module, steps: Sequence[Step], shapes: Mapping[str, Sequence[int]], whose: str) -> None:
    """Prune a network as a checkpoint's, of which the shapes are known.

    Raises:
        MissingPruningError: torch-pruning is not installed.
        ValueError: It was pruned otherwise.
    """
    done = pruning_history(network)
    rest = list(steps[len(done) :])
    if done == list(steps):
        return
    if done == list(steps[: len(done)]) and is_before(network, rest):
        replay(network, rest)
        return
    own = network.state_dict()
    differs = [
        f"{name} is {shape} there and {list(mine.shape)} here"
        for name, shape in shapes.items()
        if (mine := own.get(name)) is not None and list(mine.shape) != list(shape)
    ]
    if differs:
        raise ValueError(
            f"the checkpoint's {whose} was pruned in another way than this one: {differs[0]}. Make it with "
            "lit_distill.load(network, checkpoint) from the network before pruning, which prunes it as there."
        )


def prune_as_in(model: nn.Module, content: Any, prefix: str | None, file: str) -> None:
    """Prune a model, or the network in it, as that of a checkpoint, if the model is still as it was before.

    Args:
        model: The network that is to be filled.
        content: Of the checkpoint.
        prefix: The network that is meant; the student, or the only one, if None.
        file: Its name, for errors.

    Raises:
        MissingPruningError: torch-pruning is not installed.
        ValueError: Several networks of the file can be meant, or the model is another one.
    """
    found: dict[str, tuple[nn.Module, list[Step]]] = {}
    for path, steps in histories_in(content).items():
        network = _still_whole(model, path, steps, prefix)
        if network is not None:
            found[path] = (network, steps)
    distinct: dict[int, list[str]] = {}
    for path, (network, _) in found.items():
        distinct.setdefault(id(network), []).append(path)
    for paths in distinct.values():
        meant = [path for path in paths if f"{path}.".startswith("student.")] or paths
        if len(meant) > 1:
            raise ValueError(
                f"{file} holds {len(meant)} pruned networks of this architecture, under {', '.join(map(repr, meant))}: choose "
                f"one, such as prefix={meant[0]!r}."
            )
        network, steps = found[meant[0]]
        replay(network, steps[len(pruning_history(network)) :])


def _still_whole(model: nn.Module, path: str, steps: Sequence[Step], prefix: str | None) -> nn.Module | None:
    """Return the part of a model that a history is of, if there are steps of it that were not done yet."""
    parts = path.split(".") if path else []
    for start in range(len(parts), -1, -1):  # the history is of the model itself, or of a part of it
        above, inner = ".".join(parts[:start]), ".".join(parts[start:])
        if prefix is not None and above != prefix.rstrip("."):
            continue
        try:
            network = model.get_submodule(inner)
        except AttributeError:
            continue
        done = pruning_history(network)
        if done == list(steps[: len(done)]) and is_before(network, steps[len(done) :]):
            return network
    return None
