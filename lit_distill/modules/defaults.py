"""The criteria that a distillation starts with, and those that it refuses."""

from __future__ import annotations

from collections.abc import Mapping

from lit_distill.criteria import Criterion

DEFAULT_TEMPERATURE = 4.0


def choose(
    criteria: Mapping[str, Criterion] | None,
    weights: Mapping[str, float] | None,
    default_criteria: Mapping[str, Criterion],
    default_weights: Mapping[str, float],
) -> tuple[Mapping[str, Criterion], Mapping[str, float]]:
    """The user's criteria and weights where given, the defaults where not.

    Raises:
        ValueError: Criteria were given without weights.
    """
    if criteria is None:
        return default_criteria, {**default_weights, **(weights or {})}
    if weights is None:
        example = ", ".join(f"{name!r}: 1.0" for name in criteria)
        raise ValueError(f"criteria were given without weights; add weights={{{example}}}.")
    return criteria, weights


def refuse_unused(given: Mapping[str, object], criteria: Mapping[str, Criterion] | None) -> None:
    """Refuse settings of the default criteria beside criteria that replace them.

    Args:
        given: The settings by name; None where one is left at its default.
        criteria: The user's criteria, or None.

    Raises:
        ValueError: Both were given; the settings would silently do nothing.
    """
    unused = [name for name, value in given.items() if value is not None]
    if criteria is not None and unused:
        raise ValueError(
            f"{' and '.join(unused)} belong to the default criteria, and criteria were given in their place; set them in "
            "the criteria themselves."
        )


def changed_temperature(temperature: float) -> float | None:
    """The temperature where it was set, None where it is the default."""
    return None if temperature == DEFAULT_TEMPERATURE else temperature


def reading_layers(criteria: Mapping[str, Criterion]) -> list[str]:
    """Names of the criteria that read layers."""
    return [name for name, criterion in criteria.items() if criterion.student_layers or criterion.teacher_layers]


def comparing_logits(criteria: Mapping[str, Criterion]) -> list[str]:
    """Names of the criteria that compare logits."""
    return [name for name, criterion in criteria.items() if criterion.compares_logits]


def refuse_layers(owner: str, criteria: Mapping[str, Criterion]) -> None:
    """Refuse criteria that read layers.

    Raises:
        ValueError: One does.
    """
    found = reading_layers(criteria)
    if found:
        raise ValueError(
            f"{owner} compares logits alone, and {', '.join(map(repr, found))} reads layers; use CombinedDistillation."
        )


def need_layers(owner: str, criteria: Mapping[str, Criterion]) -> None:
    """Refuse criteria of which none reads layers.

    Raises:
        ValueError: None does.
    """
    if not reading_layers(criteria):
        raise ValueError(
            f"{owner} needs a criterion that reads layers (Hint, AttentionTransfer), and was given "
            f"{', '.join(map(repr, criteria))}; use LogitDistillation."
        )


def layer_pair(owner: str, student_layer: str | None, teacher_layer: str | None) -> tuple[str, str]:
    """The layers of the default hint.

    Raises:
        ValueError: One is missing.
    """
    if student_layer is None or teacher_layer is None:
        raise ValueError(
            f"{owner} needs layers to match: give student_layer and teacher_layer (such as 'layer2', or 'layer*' for "
            "each), or your own criteria."
        )
    return student_layer, teacher_layer
