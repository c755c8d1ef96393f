"""Image classifiers of Hugging Face, by their name on the hub or their folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lit_distill.models.sources.base import Described, Source, numbers, pair
from lit_distill.models.sources.offline import offline_at_once
from lit_distill.utils.names import first_line


class HuggingFace(Source):
    """``hf:microsoft/resnet-50``, or a folder that ``save_pretrained`` has written, ``hf:models/mine``."""

    prefix = "hf"
    package = "transformers"

    def check(self, name: str) -> None:
        self._config(name)

    def make(self, name: str, num_classes: int | None) -> nn.Module:
        config = self._config(name)
        if num_classes is not None:
            config.num_labels = num_classes
        made: nn.Module = self._transformers().AutoModelForImageClassification.from_config(config)
        return made

    def pretrained(self, name: str, num_classes: int | None, tag: str | None) -> nn.Module:
        options: dict[str, Any] = {} if tag is None else {"revision": tag}
        if num_classes is not None:
            options |= {"num_labels": num_classes, "ignore_mismatched_sizes": True}
        self._config(name)
        try:
            with offline_at_once():
                made: nn.Module = self._transformers().AutoModelForImageClassification.from_pretrained(name, **options)
        except (OSError, RuntimeError) as error:
            raise self.unreachable(name, error) from error
        return made

    def describe(self, name: str, network: nn.Module) -> Described:
        transformers = self._transformers()
        try:
            with offline_at_once():
                found, _ = transformers.image_processing_utils.ImageProcessingMixin.get_image_processor_dict(name)
        except (OSError, ValueError, AttributeError):  # it has no processor
            config = getattr(network, "config", None)
            size = pair(getattr(config, "image_size", None))
            return Described(size, where="its config") if size else Described()
        crops = bool(found.get("do_center_crop", False))
        size = _size(found.get("crop_size")) if crops else None
        return Described(
            size or _size(found.get("size")),
            numbers(found.get("image_mean")),
            numbers(found.get("image_std")),
            "its image processor",
        )

    def _config(self, name: str) -> Any:
        transformers = self._transformers()
        if name.startswith((".", "/", "~")) and not Path(name).is_dir():
            raise ValueError(f"hf:{name}: there is no folder {name} (looked in {Path.cwd()}).")
        try:
            with offline_at_once():
                config = transformers.AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"hf:{name} cannot be had ({first_line(error).rstrip('.')}): is it a folder here or a name of the hub, and is "
                "there a network? Where there is none, write hf:FOLDER, a folder that `save_pretrained` has written."
            ) from error
        if type(config) not in transformers.AutoModelForImageClassification._model_mapping:
            raise ValueError(f"hf:{name} is a {config.model_type}, and Transformers makes no image classifier of it.")
        return config

    def _transformers(self) -> Any:
        try:
            import transformers
        except ImportError as error:
            raise self.absent() from error
        return transformers


def _size(given: object) -> tuple[int, int] | None:
    """Return the size that a processor's entry means: a height and width, a shorter edge, or a number."""
    if not isinstance(given, Mapping):
        return pair(given)
    if "height" in given and "width" in given:
        return pair([given["height"], given["width"]])
    return pair(given.get("shortest_edge"))
