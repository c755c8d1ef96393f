"""Reads checkpoint files without running what is in them, unless their maker is trusted."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

_SHOWN = 8


def read_checkpoint(path: Path, trust: bool = False) -> Any:
    """What ``torch.save`` has written, with its tensors on the CPU.

    Files of weights and plain types are read without running anything. Others hold Python objects (hyper-parameters such as a
    ``functools.partial``, a class, a Namespace; a whole module), which pickle makes by calling what the file names.

    Args:
        path: The file.
        trust: Load Python objects too; anything that the file names can be run.

    Raises:
        ValueError: The file is damaged, is of another kind, or holds Python objects and is not trusted.
    """
    _refuse_other_kinds(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = _objects(path, error)
        if not objects:
            raise ValueError(f"{path.name} is damaged or no checkpoint: {_reason(error)}") from None
    except Exception as error:  # damaged bytes can fail in any way
        raise ValueError(f"{path.name} is damaged or no checkpoint: {_first_line(error)}") from error
    if not trust:
        raise ValueError(
            f"{path.name} holds Python objects beside weights, and loading them could run code; it was refused. It names "
            f"{objects}. If you trust whoever made it, say so: trust=True, `trust: true` in a config, --trust on the command "
            "line. Else have its author save `model.state_dict()` alone."
        )
    return _read_trusted(path)


def _read_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path.name} holds objects of classes that cannot be imported here ({_first_line(error)}): install the package, "
            "or run where the code is that made the file."
        ) from error
    except Exception as error:
        raise ValueError(f"{path.name} could not be read: {_first_line(error)}") from error


def _refuse_other_kinds(path: Path) -> None:
    """Refuse the archives of TorchScript and ``torch.export``, which hold programs."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):  # PyTorch's older format, or damaged
        return
    if "constants.pkl" in names:
        raise ValueError(
            f"{path.name} is a TorchScript archive, a whole network: give torch.jit.load({path.name!r}) as the teacher, with "
            "no network to fill."
        )
    if "models/model.json" in names:
        raise ValueError(
            f"{path.name} is a program of torch.export, a whole network: give torch.export.load({path.name!r}).module() as the "
            "teacher, with no network to fill."
        )


def _objects(path: Path, error: Exception) -> str:
    """The Python objects that a file names; empty where that is not why it could not be read."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of a file in PyTorch's older format, or a damaged one
        names = []
    if names:
        return ", ".join(sorted(names)[:_SHOWN]) + (", …" if names[_SHOWN:] else "")
    if "global" not in str(error).lower():
        return ""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    _, found, name = (lines[0] if lines else "").partition("GLOBAL ")
    return name.split(" ")[0] if found and name else "objects"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _reason(error: Exception) -> str:
    _, found, reason = str(error).partition("WeightsUnpickler error: ")
    return reason.strip().splitlines()[0] if found and reason.strip() else _first_line(error)
