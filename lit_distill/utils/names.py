"""Names a model's layers.

A layer reference is a dotted path as in ``model.named_modules()``. Each part of the path may be a glob
(``layer*`` matches ``layer1`` but not ``layer1.0``). ``path:input`` reads what enters the layer instead
of what leaves it; ``path#0``, ``path#1``, ``path#-1`` choose one call of a layer that runs several times.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

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


def hook_key(reference: str) -> str:
    """A reference without its call: ``path`` or ``path:input``."""
    return reference.partition("#")[0]


def chosen_call(reference: str) -> int | None:
    """The call that a reference chooses, or None."""
    found = re.search(r"#(-?\d+)$", reference)
    return int(found[1]) if found else None


def layer_path(reference: str) -> str:
    """A reference's path alone."""
    return hook_key(reference).partition(":")[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that ends an error: which known name may have been meant; empty where none is near."""
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


def unprefixed(path: str) -> str:
    """Return one of the package's names without its modules, as a name may have several paths; other texts as they are."""
    return path.rpartition(".")[2] if path.startswith("lit_distill.") else path


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join the first ``most`` names with commas, and an ellipsis for the rest."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
