"""Checks of what users give: they say whose argument it is, what was given, and what would be right.

They are for constructors alone; nothing of them runs in a training step. Numbers of NumPy and tensors of one number are taken
for the plain numbers that they are, so that settings and checkpoints hold plain types.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_distill.utils.names import nearest

_SHOWN = 40  # characters of a text


def described(value: object) -> str:
    """What a value is, in words that can stand in a sentence: ``a str``, ``the class SoftTarget``, ``None``."""
    if value is None or isinstance(value, type) or inspect.isroutine(value):
        return _named(value)
    kind = "partial" if isinstance(value, functools.partial) else type(value).__name__
    detail = ""
    if isinstance(value, (Tensor, np.ndarray)):
        detail = f" of shape {list(value.shape)}"
    elif isinstance(value, functools.partial):
        detail = f" of {getattr(value.func, '__name__', value.func)}"
    return f"{_article(kind)} {kind}{detail}"


def _named(value: object) -> str:
    if value is None:
        return "None"
    what = "class" if isinstance(value, type) else "function"
    return f"the {what} {getattr(value, '__name__', value)}"


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeio" else "a"


def wrong_type(name: str, value: object, remedy: str) -> TypeError:
    """The error that says what an argument is and what to give in its place."""
    return TypeError(f"{name} is {described(value)}; {remedy}")


# Numbers ---------------------------------------------------------------------------------------------


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A finite number in its range, as a float.

    Args:
        name: The argument's.
        value: An int, a float, or a number of NumPy or torch.
        least: The smallest one that is right.
        above: It must be above that.
        most: The largest one that is right.
        below: It must be below that.

    Raises:
        TypeError: It is no number: a text, a bool, a list.
        ValueError: It is not finite, or out of range.
    """
    number = plain_number(name, value)
    if not (math.isfinite(number) and least <= number <= most and above < number < below):
        raise ValueError(f"{name} must be {_range(least, above, most, below)}, not {value}.")
    return number


def plain_number(name: str, value: Any) -> float:
    """A number as a float, whatever it holds.

    Raises:
        TypeError: It is none.
    """
    learned = isinstance(value, Tensor) and value.requires_grad
    several = isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0
    if isinstance(value, (bool, np.bool_)) or not hasattr(type(value), "__float__") or learned or several:
        raise wrong_type(name, value, _as_number(value))
    try:
        return float(value)
    except (
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ) as error:  # a NumPy scalar of another kind, a complex tensor
        raise wrong_type(name, value, "give a number.") from error


def _as_number(value: Any) -> str:
    """What to give in place of something that is no number."""
    if isinstance(value, str):
        try:
            return f"give the number, {float(value):g}, in place of the text {value!r}."
        except ValueError:
            return f"give a number in place of {value[:_SHOWN]!r}."
    if isinstance(value, Tensor) and value.requires_grad:
        return "give a plain number: what is learned belongs into a criterion of its own."
    return "give a number."


def _range(least: float, above: float, most: float, below: float) -> str:
    """A range in words."""
    low = f"[{least:g}" if least > above else f"({above:g}"
    high = f"{most:g}]" if most < below else f"{below:g})"
    if math.isfinite(min(most, below)):
        return f"in {low}, {high}"
    if math.isfinite(least):
        return f"finite and at least {least:g}"
    return f"above {above:g} and finite" if math.isfinite(above) else "finite"


def check_whole(name: str, value: Any, *, least: int | None = None) -> int:
    """A whole number in its range, as an int.

    Args:
        name: The argument's.
        value: An int, a float without a fraction, or a number of NumPy or torch.
        least: The smallest one that is right; any is where None.

    Raises:
        TypeError: It is no number.
        ValueError: It has a fraction, or is out of range.
    """
    number = plain_number(name, value)
    if not number.is_integer():
        raise ValueError(f"{name} must be a whole number, not {value}.")
    whole = int(value) if isinstance(value, numbers.Integral) else int(number)  # a large one is no float
    if least is not None and whole < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return whole


def check_size(name: str, value: Any) -> int:
    """A number of channels, classes or layers, as an int.

    Raises:
        TypeError: It is no number.
        ValueError: It has a fraction, or is below 1.
    """
    return check_whole(name, value, least=1)


def check_flag(name: str, value: Any) -> bool:
    """True or False; a text is neither, as ``"false"`` would count as True.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise wrong_type(name, value, "give True or False.")


def check_temperature(temperature: Any, name: str = "temperature") -> float:
    """A valid temperature, as a float.

    Raises:
        TypeError: It is no number.
        ValueError: It is not finite and above 0.
    """
    return check_number(name, temperature, above=0)


def check_share(name: str, share: Any) -> float:
    """The weight of a criterion's own term, as a float.

    Raises:
        TypeError: It is no number.
        ValueError: It is not finite or below 0.
    """
    return check_number(name, share, least=0)


def check_shares(shares: Mapping[str, Any]) -> tuple[float, ...]:
    """The weights of a criterion's own terms, as floats.

    Raises:
        TypeError: One is no number.
        ValueError: One is not finite or below 0, or none is above.
    """
    found = tuple(check_share(name, share) for name, share in shares.items())
    if not any(found):
        raise ValueError(f"{' and '.join(shares)} are all 0: nothing would be compared.")
    return found


def check_numbers(name: str, values: Any, *, least: float = -math.inf, above: float = -math.inf) -> list[float]:
    """A list of finite numbers, each in the range, as floats.

    Args:
        name: The argument's.
        values: A list, a tuple, or an array or a tensor of one dimension.
        least: The smallest one that is right.
        above: Each must be above that.

    Raises:
        TypeError: It is no list, or something in it is no number.
        ValueError: A number is not finite, or out of range.
    """
    if isinstance(values, (Tensor, np.ndarray)) and values.ndim == 1:
        values = values.tolist()
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise wrong_type(name, values, "give a list of numbers.")
    return [check_number(f"{name}[{index}]", one, least=least, above=above) for index, one in enumerate(values)]


def check_temperatures(temperatures: Any) -> tuple[float, ...]:
    """Several valid temperatures, as floats.

    Raises:
        TypeError: They are no list of numbers.
        ValueError: There is none, or one is not finite and above 0.
    """
    found = tuple(check_numbers("temperatures", temperatures, above=0))
    if not found:
        raise ValueError("temperatures must name at least one.")
    return found


# Names -----------------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value outside its choices.

    Raises:
        ValueError: The value is none of the choices; the nearest is named.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")
    if value not in choices:
        hint = nearest(value, choices) or nearest(value.lower(), choices)
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.{hint}")


def check_text(name: str, value: Any, example: str) -> str:
    """A text that is not empty.

    Args:
        name: The argument's.
        value: The text.
        example: What would be right.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty.
    """
    if not isinstance(value, str):
        raise wrong_type(name, value, f"give {example}.")
    if not value.strip():
        raise ValueError(f"{name} is empty; give {example}.")
    return value


def check_entry(name: str, entry: object) -> None:
    """Refuse what can name no entry of a batch or of an output.

    Args:
        name: The argument's.
        entry: A key, an index, a function that finds the entry, or None where it is found by itself.

    Raises:
        TypeError: It is something else.
    """
    read = entry is None or isinstance(entry, (str, int)) or callable(entry)
    if not read or isinstance(entry, (type, bool)):
        raise wrong_type(name, entry, "give a key, an index, or a function.")


def check_named(name: str, value: Any, example: str) -> None:
    """Refuse what is no mapping from names.

    Args:
        name: The argument's.
        value: A dict or another mapping, or an ``nn.ModuleDict``.
        example: A dict that would be right.

    Raises:
        TypeError: It is none, or a key is no text.
    """
    if isinstance(value, type) or not isinstance(value, (Mapping, nn.ModuleDict)):
        raise wrong_type(name, value, f"give a dict by name: {example}.")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} has a key that is {described(key)}; its keys are names: {example}.")


def check_folder(root: Any) -> str | Path:
    """The path of a data set's folder, which need not exist yet.

    Raises:
        TypeError: It is no path.
    """
    if not isinstance(root, (str, Path)):
        raise wrong_type("root", root, "give the path of a folder.")
    return root


def layer_tuple(layers: Any, name: str) -> tuple[str, ...]:
    """One layer reference or several, as a tuple.

    Args:
        layers: A reference, or a list or a tuple of them.
        name: The argument that they come from.

    Raises:
        TypeError: There is something else among them.
        ValueError: There is none, or an empty one.
    """
    found = layers if isinstance(layers, (list, tuple)) else tuple(layers) if _is_list(layers) else (layers,)
    if not found:
        raise ValueError(f"{name} names no layer.")
    example = "a layer's name, such as 'layer3', or a list of names"
    return tuple(check_text(name, layer, example) for layer in found)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


# Objects ---------------------------------------------------------------------------------------------


def check_object(name: str, value: Any, kind: type | tuple[type, ...], remedy: str) -> None:
    """Refuse what is no object of a kind; of a class that would make one, say that an object is needed.

    Args:
        name: The argument's, or the thing's.
        value: What was given.
        kind: Of what it must be.
        remedy: What would be right, as a sentence.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        raise wrong_type(name, value, f"give an object, {value.__name__}({_dots(value)}), not the class.")
    raise wrong_type(name, value, remedy)


def _dots(kind: type) -> str:
    """What stands between the brackets of a call in an example: nothing where no argument is needed."""
    try:
        given = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return "…"
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return "…" if any(one.default is one.empty and one.kind not in fixed for one in given) else ""


def check_network(name: str, value: Any, also: tuple[type, ...] = ()) -> None:
    """Refuse what is no network, and say how to make one of what was given.

    Args:
        name: Whose it is: ``student``, ``teacher``.
        value: The network.
        also: Classes whose objects may stand in its place.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, (nn.Module, *also)):
        check_object(name, value, (nn.Module, *also), _network_remedy(value))


def check_sizes(owner: str, network: nn.Module) -> None:
    """Refuse a network with lazy layers that have not seen an input yet: they have no weights.

    Args:
        owner: ``student`` or ``teacher``.
        network: The network.

    Raises:
        ValueError: A layer is lazy still.
    """
    lazy = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"the {owner} {type(network).__name__} has lazy layers without weights: {', '.join(lazy[:3])}"
            f"{', …' if lazy[3:] else ''}. Call it once with an example first, network(example), or give the layers their "
            "sizes."
        )


def _network_remedy(value: Any) -> str:
    if isinstance(value, Mapping):
        what = "it holds weights, and the network is needed" if _holds_tensors(value.values()) else "give a network"
        return f"{what}: lit_distill.load(network, 'weights.ckpt') reads weights into one."
    if isinstance(value, (list, tuple)):
        return "give a network; lit_distill.Ensemble makes one of several."
    if hasattr(value, "graph_module") and hasattr(value, "module"):  # torch.export's program
        return "give program.module()."
    if isinstance(value, type) or not (inspect.isroutine(value) or isinstance(value, functools.partial)):
        return "give a network: lit_distill.load(network, 'weights.ckpt') reads its weights."
    return "give a network, a torch.nn.Module: what the function makes, if it makes one."


def _holds_tensors(values: Iterable[Any]) -> bool:
    return any(isinstance(value, (Tensor, Mapping)) for value in values)


def as_object(name: str, value: Any, kind: type, example: str) -> None:
    """Refuse an optional argument that is neither None nor an object of a kind.

    Raises:
        TypeError: It is something else.
    """
    if value is not None:
        check_object(name, value, kind, f"give {_article(kind.__name__)} {kind.__name__}: {example}.")
