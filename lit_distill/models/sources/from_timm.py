"""Networks of timm, by the names of ``timm.list_models()``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lit_distill.models.sources.base import Described, Source, numbers, pair
from lit_distill.models.sources.offline import offline_at_once
from lit_distill.utils.names import nearest


class Timm(Source):
    """``timm:resnet50``, and with a tag of timm's for certain weights, ``timm:resnet50.a1_in1k``."""

    prefix = "timm"
    package = "timm"

    def check(self, name: str) -> None:
        timm = self._timm()
        model, _, tag = name.partition(".")
        if not timm.is_model(model):
            raise ValueError(f"timm has no model {model!r}.{nearest(model, timm.list_models())}")
        if tag and name not in timm.list_models(f"{model}.*", pretrained=True):
            tags = timm.list_models(f"{model}.*", pretrained=True)
            raise ValueError(f"timm has no weights {name!r}.{nearest(name, tags)} It has: {', '.join(tags) or 'none'}.")

    def make(self, name: str, num_classes: int | None) -> nn.Module:
        made: nn.Module = self._timm().create_model(name, pretrained=False, **_classes(num_classes))
        return made

    def pretrained(self, name: str, num_classes: int | None, tag: str | None) -> nn.Module:
        timm = self._timm()
        if tag is not None:
            raise ValueError(f"timm:{name}@{tag}: timm's weights go by a dot, timm:{name.partition('.')[0]}.{tag}.")
        if not timm.is_model_pretrained(name):
            raise ValueError(f"timm has no weights for {name}; timm:{name}@random starts from random ones.")
        try:
            with offline_at_once():
                made: nn.Module = timm.create_model(name, pretrained=True, **_classes(num_classes))
        except (OSError, RuntimeError) as error:  # of the hub, of the network, of the disk
            raise self.unreachable(name, error) from error
        return made

    def describe(self, name: str, network: nn.Module) -> Described:
        return described_by_timm(network)

    def suggestions(self, name: str) -> Sequence[str]:
        try:
            timm = self._timm()
        except ValueError:
            return ()
        return [f"timm:{name}"] if timm.is_model(name.partition(".")[0]) else []

    def _timm(self) -> Any:
        try:
            import timm
        except ImportError as error:
            raise self.absent() from error
        return timm


def _classes(num_classes: int | None) -> dict[str, int]:
    return {} if num_classes is None else {"num_classes": num_classes}


def described_by_timm(network: nn.Module) -> Described:
    """Return what the ``pretrained_cfg`` of a network of timm's says; nothing if it has none."""
    config = getattr(network, "pretrained_cfg", None)
    if not isinstance(config, dict):
        return Described()
    size = config.get("input_size")
    sides = pair(size[1:]) if isinstance(size, (list, tuple)) else None
    return Described(sides, numbers(config.get("mean")), numbers(config.get("std")), "its pretrained_cfg")
