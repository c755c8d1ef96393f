"""References of the layers that criteria read, and how those of two networks make pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import layer_tuple
from lit_distill.utils.names import at_share, match_layers

AUTO: Final = "auto"
Pairing = Literal["order", "depth"]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
AutoStages = Literal["all", "last", "exits", "attention", "each_teacher", "regions"]


def checked_layers(layers: Any, name: str) -> tuple[str, ...]:
    """Return one or more layer references as a tuple; ``auto`` stands alone."""
    found = layer_tuple(layers, name)
    if AUTO in found and len(found) > 1:
        raise ValueError(
            f"{name} is {list(found)}: 'auto' finds all of a network's layers, so give it alone, or only names."
        )
    return found


def expand_layers(references: Sequence[str], outputs: Outputs, owner: str) -> list[str]:
    """Return the names of the captured features that the references match, in the references' order."""
    names: list[str] = []
    for reference in references:
        if reference in outputs.features:
            names.append(reference)
            continue
        if reference == AUTO:
            raise ValueError(
                f"the {owner}'s layers are 'auto', and are found on an example when a fit begins; call Trainer.fit first, or "
                f"name layers ({owner}_layer=…)."
            )
        _, mark, rest = reference.partition(":" if ":" in reference else "#")
        captured = [name for name in outputs.features if name.endswith(mark + rest) and (mark or _is_plain(name))]
        paths = [name.removesuffix(mark + rest) for name in captured]
        names.extend(match_layers(reference, paths, f"the {owner}'s outputs"))
    return names


def _is_plain(name: str) -> bool:
    return ":" not in name and "#" not in name


def pair_layers(student: Sequence[str], teacher: Sequence[str], pairing: Pairing) -> list[tuple[str, str]]:
    """Return pairs of layers: in order, or each of the shorter list with the other's at the same share of the list.

    Raises:
        ValueError: They pair in order, and their numbers differ.

    Examples:
        >>> pair_layers(["a", "b"], ["1", "2", "3", "4"], "depth")
        [('a', '2'), ('b', '4')]
    """
    if pairing == "depth":
        count = min(len(student), len(teacher))
        return [(at_share(student, place, count), at_share(teacher, place, count)) for place in range(count)]
    if len(student) != len(teacher):
        raise ValueError(
            f"{len(student)} student layers ({', '.join(student)}) cannot pair with {len(teacher)} teacher layers "
            f"({', '.join(teacher)}) in order. Name as many of each, or let them pair by relative depth: pair='depth'."
        )
    return list(zip(student, teacher, strict=True))
