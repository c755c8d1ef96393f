"""Classifiers of torchvision, by the names of ``torchvision.models.list_models``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lit_distill.models.heads import with_classes
from lit_distill.models.sources.base import Described, Source, numbers, pair
from lit_distill.utils.names import nearest


class Torchvision(Source):
    """``torchvision:resnet50``, and with certain weights, ``torchvision:resnet50@IMAGENET1K_V1``."""

    prefix = "torchvision"
    package = "torchvision"

    def check(self, name: str) -> None:
        known = _names()
        if name not in known:
            raise ValueError(f"torchvision has no classifier {name!r}.{nearest(name, known)}")

    def make(self, name: str, num_classes: int | None) -> nn.Module:
        from torchvision import models

        options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        if name in ("googlenet", "inception_v3"):
            options |= {"init_weights": True}  # what it does anyway, after a warning
        made: nn.Module = models.get_model(name, weights=None, **options)
        return _without_extra_outputs(made)

    def pretrained(self, name: str, num_classes: int | None, tag: str | None) -> nn.Module:
        from torchvision import models

        known = [weights.name for weights in models.get_model_weights(name)]
        if tag is not None and tag not in [*known, "DEFAULT"]:
            raise ValueError(
                f"torchvision has no weights {tag!r} for {name}.{nearest(tag, known)} It has: {', '.join(known)}."
            )
        try:
            made: nn.Module = models.get_model(name, weights=tag or "DEFAULT")
        except (OSError, RuntimeError) as error:
            raise self.unreachable(name, error) from error
        made = _without_extra_outputs(made)
        return made if num_classes is None else with_classes(made, num_classes, self.describe(name, made).size)

    def describe(self, name: str, network: nn.Module) -> Described:
        from torchvision import models

        weights = next(iter(models.get_model_weights(name)), None)
        if weights is None:
            return Described()
        wanted = models.get_model_weights(name).DEFAULT.transforms()
        return Described(pair(wanted.crop_size), numbers(wanted.mean), numbers(wanted.std), "its weights' transforms")

    def suggestions(self, name: str) -> Sequence[str]:
        return [f"torchvision:{name}"] if name in _names() else []


def _names() -> list[str]:
    from torchvision import models

    found: list[str] = models.list_models(module=models)
    return found


def _without_extra_outputs(network: nn.Module) -> nn.Module:
    """Turn off the further classifiers that GoogLeNet and Inception train with."""
    for name in ("AuxLogits", "aux1", "aux2"):
        if isinstance(getattr(network, name, None), nn.Module):
            network.aux_logits = False  # type: ignore[assignment]
            setattr(network, name, None)
    return network
