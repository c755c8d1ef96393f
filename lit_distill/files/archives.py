"""Checks of a checkpoint's file before anything in it is read."""

from __future__ import annotations

import mmap
import zipfile
from collections import Counter
from typing import IO

from lit_distill.files.pickles import claimed_storages, overwhelms

_OLD_PICKLES = 5  # before the tensors, in PyTorch's format up to 1.5


def check_file(file: IO[bytes], name: str) -> None:
    """Refuse files that are damaged, hold programs, or are made to exhaust time or memory; the file ends at its start."""
    file.seek(0)
    start = file.read(4)
    if not start:
        raise ValueError(f"{name} is damaged or no checkpoint: it is empty.")
    if start == b"PK\x03\x04":
        _check_archive(file, name)
    elif start[:1] == b"\x80":
        _check_older(file, name)
    elif start == b"PK\x05\x06":
        raise ValueError(f"{name} is damaged or no checkpoint: it is an empty archive.")
    else:
        _check_other(file, name)
    file.seek(0)


def _check_archive(file: IO[bytes], name: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            _check_kind(archive, name)
            _check_records(archive, name)
    except Exception as error:  # damaged archives can fail in any way
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{name} is damaged or no checkpoint: it is an archive that cannot be read to its end ({reason})."
        ) from error


def _check_kind(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse the archives of TorchScript and ``torch.export``, which hold programs."""
    names = {member.partition("/")[2] for member in archive.namelist()}
    if "constants.pkl" in names:
        raise ValueError(
            f"{name} is a TorchScript archive, a whole network: give torch.jit.load({name!r}) as the teacher, with "
            "no network to fill."
        )
    # PyTorch 2.6 names its files otherwise, in no folder.
    if "models/model.json" in names or "serialized_exported_program.json" in archive.namelist():
        raise ValueError(
            f"{name} is a program of torch.export, a whole network: give torch.export.load({name!r}).module() as the "
            "teacher, with no network to fill."
        )
    if "data.pkl" not in names:
        held = ", ".join(sorted(archive.namelist())[:3]) or "nothing"
        raise ValueError(f"{name} is damaged or no checkpoint: it is an archive of other files ({held}).")


def _check_records(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse records that ``torch.save`` does not write, and those whose checksum is wrong."""
    records = archive.infolist()
    twice = [record for record, count in Counter(archive.namelist()).items() if count > 1]
    if twice:
        raise ValueError(f"{name} is damaged or no checkpoint: its archive holds the record {twice[0]!r} twice.")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError(
            f"{name} is no checkpoint as torch.save writes it: its records are compressed. Unpack the archive, and pack it "
            "with `zip -0`."
        )
    if any(record.CRC for record in records):  # none has one after torch.serialization.set_crc32_options(False)
        broken = archive.testzip()
        if broken is not None:
            raise ValueError(
                f"{name} is damaged or no checkpoint: its record {broken!r} is not what was written (the checksum differs)."
            )
    for record in records:
        if record.filename.endswith("/data.pkl"):
            pickled = _content(archive, record)
            _check_pickle(pickled, name)
            _check_sizes(archive, record.filename.removesuffix("data.pkl"), pickled, name)


def _check_sizes(archive: zipfile.ZipFile, folder: str, pickled: bytes, name: str) -> None:
    sizes = {record.filename: record.file_size for record in archive.infolist()}
    for key, claimed in claimed_storages(pickled).items():
        held = sizes.get(f"{folder}data/{key}", 0)
        if claimed > held:
            raise ValueError(
                f"{name} is damaged or no checkpoint: a tensor's storage claims {claimed} bytes, and its record has {held}."
            )


def _content(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    del record.CRC  # it was checked, or there is none: reading checks those that a record has
    return archive.read(record)


def _check_older(file: IO[bytes], name: str) -> None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pickled:
        _check_pickle(pickled, name, _OLD_PICKLES)


def _check_pickle(pickled: bytes | mmap.mmap, name: str, pickles: int = 1) -> None:
    if overwhelms(pickled, pickles):
        raise ValueError(f"{name} is damaged or made to do harm: it holds tuples that are nested without end.")


def _check_other(file: IO[bytes], name: str) -> None:
    file.seek(257)
    if file.read(5) == b"ustar":
        raise ValueError(
            f"{name} is a tar archive, as PyTorch wrote before version 0.1.10 and cannot read without running what is in it; "
            "it was refused. Have its author save it again."
        )
