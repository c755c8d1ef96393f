"""Reads checkpoint files without running what is in them, unless their maker is trusted."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import torch
from fsspec.utils import get_protocol

from lit_distill.files.archives import check_file
from lit_distill.utils.names import first_line, listed

_SHOWN = 8
_TRUST = "trust=True, `trust: true` in a config, --trust on the command line"


def read_checkpoint(path: str | Path, trust: bool = False) -> Any:
    """Return what ``torch.save`` has written, with its tensors on the CPU.

    Files of weights and plain types are read without running anything. Others hold Python objects (hyper-parameters such as a
    ``functools.partial``, a class, a Namespace; a whole module), which pickle makes by calling what the file names.

    Args:
        path: The file, or an address for ``fsspec`` (``http://…``, ``s3://…``); it is fetched first.
        trust: Load Python objects too; anything that the file names can be run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, is of another kind, or holds Python objects and is not trusted.
    """
    name = short_name(path)
    with opened(path) as file:
        return read_opened(file, name, trust)


def read_opened(file: IO[bytes], name: str, trust: bool = False, remedy: str = _TRUST) -> Any:
    """Read an open file like ``read_checkpoint``; ``remedy`` is how to declare that its maker is trusted, for errors."""
    check_file(file, name)
    try:
        return _load(file, safe=True)
    except pickle.UnpicklingError as error:
        objects = _objects(file, error)
        if not objects:
            raise ValueError(f"{name} is damaged or no checkpoint: {_reason(error)}") from None
    except Exception as error:  # damaged bytes can fail in any way
        raise ValueError(f"{name} is damaged or no checkpoint: {first_line(error)}") from error
    if not trust:
        raise ValueError(
            f"{name} holds Python objects as well as weights, and loading them could run code; it was refused. It names "
            f"{objects}. If you trust its maker, use {remedy}. Otherwise have its author save only `model.state_dict()`."
        )
    return _read_trusted(file, name)


def short_name(path: str | Path) -> str:
    """Return a file's name in errors."""
    return os.path.basename(str(path).rstrip("/")) or str(path)


def is_remote(path: str | Path) -> bool:
    """Return True if a path is on no disk of this machine."""
    return get_protocol(str(path)) not in ("file", "local")


@contextmanager
def opened(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; a remote one is copied into a temporary file, anew each time.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    try:
        if is_remote(path):
            file: IO[bytes] = _fetched(str(path))
        else:
            file = _local(path).open("rb")
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder, no checkpoint file.") from error
    except Exception as error:  # a network error, a missing package, an unknown protocol
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from error
    with file:
        yield file


def _local(path: str | Path) -> Path:
    return Path(fsspec.core.strip_protocol(path)) if "://" in str(path) else Path(path)


def _fetched(url: str) -> IO[bytes]:
    target = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    try:
        with fsspec.open(url, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target


def _load(file: IO[bytes], safe: bool) -> Any:
    file.seek(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(file, map_location="cpu", weights_only=safe)


def _read_trusted(file: IO[bytes], name: str) -> Any:
    try:
        return _load(file, safe=False)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{name} holds objects of classes that cannot be imported here ({first_line(error)}): install the package, "
            "or run where the code is that made the file."
        ) from error
    except Exception as error:
        raise ValueError(f"{name} could not be read: {first_line(error)}") from error


def _objects(file: IO[bytes], error: Exception) -> str:
    """Return the Python objects that a file names; empty if it could not be read for another reason."""
    file.seek(0)
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # PyTorch's older format, or a damaged file
        names = []
    if names:
        return listed(sorted(names), _SHOWN)
    if "global" not in str(error).lower():
        return ""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    _, found, name = (lines[0] if lines else "").partition("GLOBAL ")
    return name.split(" ")[0] if found and name else "objects"


def _reason(error: Exception) -> str:
    _, found, reason = str(error).partition("WeightsUnpickler error: ")
    return reason.strip().splitlines()[0] if found and reason.strip() else first_line(error)
