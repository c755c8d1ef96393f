"""Makes a module from its checkpoint, and runs nothing that the checkpoint names unless its maker is trusted."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lit_distill.files.checkpoint_file import opened, read_opened, short_name
from lit_distill.files.resuming import MisfitError, naming_file, problem_of
from lit_distill.utils.names import listed

_INSTANTIATOR = "_instantiator"
_CLASS = "_class_path"
_PAST_KEYS = ("hparams", "module_arguments")  # under which Lightning looks for hyper-parameters too
_SHOWN = 4
_REMEDY = "load_from_checkpoint(…, trust=True)"


def check_revivable(content: Any, name: str, kind: type[Any], given: Mapping[str, Any], trust: bool) -> None:
    """Refuse a checkpoint whose hyper-parameters would be called to make a ``kind``, unless that is trusted.

    The user's arguments, ``given``, replace the checkpoint's.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        held = ", ".join(map(str, list(content)[:_SHOWN])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{name} is no checkpoint of Lightning (it holds {held or 'nothing'}): read its weights into a network, "
            f"lit_distill.load(network, {name!r})."
        )
    values = _hyper_parameters(content, kind)
    problem = problem_of(content) or (
        "" if isinstance(values, Mapping) else f"its hyper-parameters are a {values!r:.50}"
    )
    if problem:
        raise ValueError(f"{name} is damaged: {problem}.")
    if trust:
        return
    named = sorted(set(_called({key: value for key, value in values.items() if key not in given and key != _CLASS})))
    if named:
        shown = listed(named, _SHOWN)
        raise ValueError(
            f"{name} was made from a config, and making its module again calls what its hyper-parameters name ({shown}), which "
            f"can be anything: it was refused. If you trust its maker, use {_REMEDY}. Otherwise give what they stand for "
            f"yourself, {kind.__name__}.load_from_checkpoint(…, student=…, teacher=…), or read only the weights: "
            f"lit_distill.load(network, {name!r})."
        )
    made = values.get(_CLASS)
    if made is not None and str(made).rpartition(".")[2] != kind.__name__:
        raise ValueError(f"{name} is of a {made}, not of a {kind.__name__}: call that class's load_from_checkpoint.")


def _hyper_parameters(content: Mapping[str, Any], kind: type[Any]) -> Any:
    """Return all that Lightning would take for hyper-parameters, in this version and past ones."""
    found: dict[str, Any] = {}
    for key in (*_PAST_KEYS, kind.CHECKPOINT_HYPER_PARAMS_KEY):
        values = content.get(key, {})
        if not isinstance(values, Mapping):
            return values
        found |= values
    return found


def _called(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            if "class_path" in one:
                yield str(one["class_path"])[:200]
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one


class Revivable:
    """Mixin for a LightningModule or a DataModule whose ``load_from_checkpoint`` runs nothing that the file names."""

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        trust: bool = False,
        **arguments: Any,
    ) -> Any:
        """Make the module that a checkpoint was saved from.

        One that was made in Python needs its networks again, ``student=…, teacher=…``. One that was made from a config names
        all that it consists of by import paths, and can be made with no argument; as this calls whatever is named there, it
        has to be trusted.

        Args:
            checkpoint_path: The file, an address for ``fsspec`` (``http://…``), or an open file.
            map_location: The device to map tensors to, as ``torch.load`` takes it.
            hparams_file: Lightning's file of hyper-parameters, which replaces those in the checkpoint.
            strict: The weights must fit by name; if None, they must.
            weights_only: False trusts the file, like ``trust``.
            trust: Load Python objects in the file, and call what its hyper-parameters name: both can run any code that its
                maker put there.
            **arguments: Arguments of the module, which replace those in the checkpoint.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, is no checkpoint of Lightning, or has to be trusted and is not.
        """
        trusted = trust or weights_only is False
        options = {"map_location": map_location, "hparams_file": hparams_file, "strict": strict}
        if not isinstance(checkpoint_path, (str, Path)):
            return cls._revive(checkpoint_path, "the file", trusted, options, arguments)
        with opened(checkpoint_path) as file:
            return cls._revive(file, short_name(checkpoint_path), trusted, options, arguments)

    @classmethod
    def _revive(
        cls, file: IO[bytes], name: str, trust: bool, options: dict[str, Any], arguments: dict[str, Any]
    ) -> Any:
        content = read_opened(file, name, trust, _REMEDY)
        check_revivable(content, name, cls, arguments, trust)
        del content  # Lightning reads it again
        own = super().load_from_checkpoint  # type: ignore[misc]
        taken = inspect.signature(own).parameters  # an older Lightning lacks some
        options = {key: value for key, value in {**options, "weights_only": not trust}.items() if key in taken}
        if not trust:
            options[_INSTANTIATOR] = None  # Lightning then calls this class, and nothing that the file names
        file.seek(0)
        try:
            with naming_file(name):
                return own(file, **options, **arguments)
        except RuntimeError as error:
            raise MisfitError(f"{name} does not fit this {cls.__name__}: {error}") from error
