"""Networks by name: ``timm:resnet50``, ``torchvision:resnet18@random``, ``hf:microsoft/resnet-50``, ``my_package.make_net``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from torch import nn

from lit_distill.models.heads import classifier_path, with_classes
from lit_distill.models.loading import entry_shapes, load
from lit_distill.models.recorded_network import name_in_checkpoint
from lit_distill.models.sources import Described, HuggingFace, ImportPath, Source, Timm, Torchvision
from lit_distill.utils.arguments import check_size, check_text
from lit_distill.utils.names import nearest

_SOURCES: dict[str, Source] = {source.prefix: source for source in (Timm(), Torchvision(), HuggingFace())}
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_PREFIXED = re.compile(r"(\w\w+):(?!//)(.+)", re.DOTALL)
_FILES = (".ckpt", ".pt", ".pth", ".th", ".bin", ".safetensors")
_RANDOM: Final = "random"
_OURS = "lit_distill.models."
_GRAMMAR = (
    "write timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, an import path (package.function), or a checkpoint's file; "
    "after any but the last, @random for random weights or @FILE for a checkpoint's"
)
Start = Literal["pretrained", "random", "file", "own"]


@dataclass(frozen=True)
class ModelName:
    """A network's name in its parts.

    Attributes:
        text: The whole, as it was written.
        source: Who knows the name.
        name: By which the source knows it.
        start: Its weights: the ``pretrained`` ones of its source, ``random`` ones, those of a ``file``, or, for an import path,
            its ``own``: those that it is made with.
        tag: Which pretrained weights; the usual ones if None.
        file: The checkpoint.
        inside: The prefix of the network in the checkpoint, such as ``teacher``; found if None.
    """

    text: str
    source: Source
    name: str
    start: Start
    tag: str | None = None
    file: Path | None = None
    inside: str | None = None

    @property
    def architecture(self) -> str:
        """The name of the same network with no weights of its own, for a checkpoint that fills it."""
        return self.name if isinstance(self.source, ImportPath) else f"{self.source.prefix}:{self.name}@{_RANDOM}"

    @property
    def short(self) -> str:
        """The name of the architecture alone, such as ``resnet50``."""
        return Path(self.name).name if isinstance(self.source, HuggingFace) else self.name.rpartition(".")[2]

    def make(self, num_classes: int | None = None) -> nn.Module:
        """Make the network; with its own number of classes if None.

        Raises:
            ValueError: It cannot be made, or its weights cannot be had.
        """
        if self.file is not None:
            return self._from_file(self.file, num_classes)
        if self.start == "random":
            made = self.source.make(self.name, num_classes)
        else:
            made = self.source.pretrained(self.name, num_classes, self.tag)
        return made if num_classes is None else with_classes(made, num_classes, self.describe(made).size)

    def describe(self, network: nn.Module) -> Described:
        """Return what the network says of the images that it takes."""
        return self.source.describe(self.name, network)

    def _from_file(self, file: Path, num_classes: int | None) -> nn.Module:
        """Make the network with as many classes as the checkpoint has, fill it, and give it the classes that are wanted."""
        made = self.source.make(self.name, None)
        size = self.describe(made).size
        held = entry_shapes(file, f"{classifier_path(made, size)}.weight")
        if len({shape[0] for shape in held}) == 1:
            made = self.source.make(self.name, held[0][0])
            made = with_classes(made, held[0][0], size)
        made = load(made, file, self.inside)
        return made if num_classes is None else with_classes(made, num_classes, size)


def named_model(name: str, num_classes: int | None = None) -> nn.Module:
    """Make a network by its name, with its pretrained weights unless the name says otherwise.

    | name | network |
    |---|---|
    | ``timm:resnet50``, ``timm:resnet50.a1_in1k`` | timm's, with its usual weights, or with those of a tag |
    | ``torchvision:resnet50``, ``torchvision:resnet50@IMAGENET1K_V1`` | torchvision's |
    | ``hf:microsoft/resnet-50``, ``hf:FOLDER`` | an image classifier of Hugging Face's hub, or of a folder |
    | ``my_package.make_net`` | what a function or class makes; it may take ``num_classes`` |
    | ``FILE`` | the student of a checkpoint that ``lit-distill fit`` has left, if it was made by its name |
    | ``…@random`` | any of them with random weights |
    | ``…@FILE``, ``…@FILE#teacher`` | with the weights in a checkpoint, those under a prefix if it holds several networks |

    Args:
        name: As in the table.
        num_classes: With another number of classes than the weights have, the classifier is replaced by a new, random one.

    Raises:
        ValueError: The name is unknown, the package that knows it is not installed, or its weights cannot be had or do not fit.
        FileNotFoundError: There is no such checkpoint.

    Example:
        >>> network = named_model("torchvision:mobilenet_v3_small@random", num_classes=4)
        >>> network(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 4])
    """
    classes = None if num_classes is None else check_size("num_classes", num_classes)
    return read_name("name", name).make(classes)


def read_name(owner: str, text: str) -> ModelName:
    """Read a network's name; ``owner`` is whose it is, for errors.

    Raises:
        ValueError: It is no name, or its source does not know it.
        FileNotFoundError: It names a checkpoint that is not there.
    """
    check_text(owner, text, "a network's name, such as 'timm:resnet50'")
    try:
        found = _parts(text.strip())
        found.source.check(found.name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{owner}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from error
    return found


def _parts(text: str) -> ModelName:
    prefixed = _PREFIXED.fullmatch(text)
    if prefixed is None and _is_file(text.partition("#")[0]):
        return _of_checkpoint(text)
    if prefixed is not None and prefixed[1] not in _SOURCES:
        grammar = _GRAMMAR[0].upper() + _GRAMMAR[1:]
        raise ValueError(f"{text!r}: there is no source {prefixed[1]!r}.{nearest(prefixed[1], _SOURCES)} {grammar}.")
    rest = text if prefixed is None else prefixed[2]
    name, at, weights = rest.partition("@")
    source: Source = ImportPath() if prefixed is None else _SOURCES[prefixed[1]]
    if prefixed is None and not _IMPORT_PATH.fullmatch(name):
        raise ValueError(f"{text!r} does not say where the network comes from{_meant(name)}; {_GRAMMAR}.")
    if at and not weights:
        raise ValueError(f"{text!r} ends with @; {_GRAMMAR}.")
    plain = ModelName(text, source, name, "own" if prefixed is None else "pretrained")
    if not at:
        return plain
    return replace(plain, start=_RANDOM) if weights == _RANDOM else _with_weights(plain, weights)


def _with_weights(plain: ModelName, weights: str) -> ModelName:
    path, _, inside = weights.partition("#")
    if path.endswith(_FILES) or Path(path).is_file():
        if not Path(path).is_file():
            raise FileNotFoundError(_no_file(path))
        return replace(plain, start="file", file=Path(path), inside=inside or None)
    hint = nearest(weights, [_RANDOM])
    if isinstance(plain.source, ImportPath) or hint:
        raise ValueError(f"{plain.text!r}: {weights!r} is no file, and not 'random'.{hint}")
    return replace(plain, tag=weights)


def _of_checkpoint(text: str) -> ModelName:
    """Return the name of the network that a checkpoint of ours says that it holds."""
    path, _, inside = text.partition("#")
    if not Path(path).is_file():
        raise FileNotFoundError(_no_file(path))
    name, prefix = name_in_checkpoint(Path(path), inside or None)
    found = _parts(name)
    if isinstance(found.source, ImportPath) and not found.name.startswith(
        _OURS
    ):  # a file must not choose what code runs
        raise ValueError(f"{path} says that it holds {found.name}, which is code of yours: write {found.name}@{text}.")
    return replace(found, text=text, start="file", file=Path(path), inside=prefix)


def _is_file(text: str) -> bool:
    return (text.endswith(_FILES) and "@" not in text) or Path(text).is_file()


def _no_file(path: str) -> str:
    folder = Path(path).parent
    known: Iterable[str] = (str(folder / one.name) for one in folder.glob("*")) if folder.is_dir() else ()
    return f"there is no file {path} (looked in {Path.cwd()}).{nearest(path, known)}"


def _meant(name: str) -> str:
    """Return the question which of the sources' networks of a name is meant; empty if none has it."""
    from lit_distill import models

    found = [whole for source in _SOURCES.values() for whole in source.suggestions(name)]
    found += [f"lit_distill.models.{name}"] if name in models.__all__ else []
    return f" (did you mean {' or '.join(found)}?)" if found else ""
