"""Names of layers, and lists of names for messages.

A layer reference is a dotted path as in ``model.named_modules()``. Each part of the path may be a glob
(``layer*`` matches ``layer1`` but not ``layer1.0``). ``path:input`` reads the layer's input instead of
its output, ``path:qkv`` the queries, keys and values inside an ``nn.MultiheadAttention``; ``path#0``, ``path#1``, ``path#-1``
choose one call of a layer that runs several times.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

_Item = TypeVar("_Item")
_REFERENCE = re.compile(r"^(?P<path>[^:#\s]+)(?P<part>:input|:qkv)?(?P<call>#-?\d+)?$")


def match_layers(reference: str, names: Iterable[str], owner: str = "the model") -> list[str]:
    """Return the references of the layers that a reference names, in the order of ``names``; ``owner`` has them.

    Raises:
        ValueError: The reference is malformed or matches nothing; the nearest names are listed.
    """
    parsed = _REFERENCE.match(reference)
    if parsed is None:
        raise ValueError(
            f"{reference!r} is no layer; write 'path', 'path:input', 'path:qkv' or 'path#call' (0, 1, … or -1)."
        )
    suffix = (parsed["part"] or "") + (parsed["call"] or "")
    parts = parsed["path"].split(".")
    known = [name for name in dict.fromkeys(names) if name]
    found = [name for name in known if _matches(name.split("."), parts)]
    if not found:
        raise ValueError(unknown_layer(parsed["path"], known, owner))
    return [name + suffix for name in found]


def layers_within(references: Iterable[str], names: Iterable[str], owner: str = "the model") -> set[str]:
    """Return the layers that references name, as ``match_layers`` finds them, and all layers in them.

    Raises:
        ValueError: A reference is malformed or matches nothing.
    """
    known = [name for name in names if name]
    tops = [path for one in references for path in match_layers(one, known, owner)]
    return {path for path in known if any(f"{path}.".startswith(f"{top}.") for top in tops)}


def _matches(name: list[str], parts: list[str]) -> bool:
    return len(name) == len(parts) and all(fnmatchcase(n, p) for n, p in zip(name, parts, strict=True))


def unknown_layer(path: str, known: Sequence[str], owner: str) -> str:
    """Return the error for a layer that is not there: the nearest names, and the top layers."""
    hint = nearest(path, known, most=3).replace(" Did", "; did") or "."
    top = [name for name in known if "." not in name]
    return f"no layer {path!r} in {owner}{hint} Layers: {listed(top, 20)}"


def hook_key(reference: str) -> str:
    """Return a reference without its call: ``path``, ``path:input`` or ``path:qkv``."""
    return reference.partition("#")[0]


def chosen_call(reference: str) -> int | None:
    """Return the call that a reference chooses, or None."""
    found = re.search(r"#(-?\d+)$", reference)
    return int(found[1]) if found else None


def layer_path(reference: str) -> str:
    """Return only the path of a reference."""
    return hook_key(reference).partition(":")[0]


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return a question to end an error with: which known names may have been meant; empty if none is near."""
    lowered = {one.lower(): one for one in known}
    close = [lowered[one] for one in difflib.get_close_matches(name.lower(), lowered, n=most)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def unprefixed(path: str) -> str:
    """Return one of the package's names without its modules, as a name may have several paths; other texts as they are."""
    return path.rpartition(".")[2] if path.startswith("lit_distill.") else path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join the first ``most`` names with commas, and an ellipsis for the rest."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def at_share(items: Sequence[_Item], place: int, count: int) -> _Item:
    """Return the last item of the part ``place`` of ``count`` equal parts."""
    return items[math.ceil(len(items) * (place + 1) / count) - 1]


def count(number: int, what: str) -> str:
    """Return a number and its noun.

    Example:
        >>> count(1, "seed"), count(1234, "seed")
        ('1 seed', '1,234 seeds')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"
