"""Files that nobody should trust: made to run code, to exhaust time or memory, damaged, or of another kind."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Make = Callable[[dict[str, Any], str], bytes]  # from a sound checkpoint and a command that would prove that it was run


class Reduces:
    """Calls what it is told when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


class Sets:
    """Runs a command as its state is set."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.system(state["command"])


class Layer(nn.Module):
    """A network that runs a command as its state is set."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self.command = command

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.system(state["command"])


def saved(content: Any, modern: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=modern)
    return buffer.getvalue()


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """An archive as ``torch.save`` writes it, with any pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in {"byteorder": b"little", "version": b"3\n", **more}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def records(file: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(file)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def packed(held: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in held.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tar(command: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Reduces(os.system, command))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def called(text: str, command: str) -> bytes:
    """A pickle that calls a function by the oldest opcodes: ``text`` is its module and name."""
    module, name = text.rsplit(".", 1)
    return f"c{module}\n{name}\n(S'{command}'\ntR.".encode()


def instance(command: str) -> bytes:
    return f"(S'{command}'\nios\nsystem\n.".encode()


def object_opcode(command: str) -> bytes:
    return f"(cos\nsystem\nS'{command}'\no.".encode()


def stack_global(command: str) -> bytes:
    def text(word: str) -> bytes:
        return b"\x8c" + bytes([len(word)]) + word.encode()

    return b"\x80\x04" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R."


def allows_itself(command: str) -> bytes:
    """First has ``os.system`` allowed, and then calls it."""
    return b"\x80\x02ctorch.serialization\nadd_safe_globals\n(cos\nsystem\nl\x85R0" + called("os.system", command)


def flipped(file: bytes, place: int) -> bytes:
    changed = bytearray(file)
    changed[place] ^= 0x41
    return bytes(changed)


def in_data(file: bytes, record: str) -> int:
    """A place in the middle of a record's bytes."""
    content = next(value for name, value in records(file).items() if name.endswith(record))
    return file.index(content) + len(content) // 2


def twice(file: bytes) -> bytes:
    buffer = io.BytesIO(file)
    with zipfile.ZipFile(buffer, "a") as opened:
        name = next(name for name in opened.namelist() if name.endswith("data/0"))
        opened.writestr(name, b"\x00" * len(opened.read(name)))
    return buffer.getvalue()


def huge_storage(file: bytes) -> bytes:
    """Says of every tensor that its storage has two thousand million elements."""
    held = {
        name: content.replace(b"cpuq", b"cpuq", 1) if not name.endswith("data.pkl") else _larger(content)
        for name, content in records(file).items()
    }
    return packed(held)


def _larger(pickled: bytes) -> bytes:
    at = pickled.index(b"cpuq") + 5
    length = {b"K": 2, b"M": 3, b"J": 5}[pickled[at : at + 1]]
    return pickled[:at] + b"J\x00\x00\x00\x7f" + pickled[at + length :]


def safetensors(description: Any, data: bytes = b"") -> bytes:
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    return struct.pack("<Q", len(text)) + text + data


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def numpy_object(command: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Reduces(os.system, command)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


RUNS_CODE: dict[str, Make] = {
    "reduce": lambda sound, command: saved(Reduces(os.system, command)),
    "reduce, older format": lambda sound, command: saved(Reduces(os.system, command), modern=False),
    "reduce beside weights": lambda sound, command: saved({**sound, "extra": Reduces(os.system, command)}),
    "reduce beside weights, older format": lambda sound, command: saved(
        {**sound, "extra": Reduces(os.system, command)}, modern=False
    ),
    "setstate": lambda sound, command: saved({**sound, "extra": Sets(command)}),
    "whole module": lambda sound, command: saved(Layer(command)),
    "module as state_dict": lambda sound, command: saved({**sound, "state_dict": Layer(command)}),
    "eval": lambda sound, command: saved({**sound, "x": Reduces(eval, f"__import__('os').system({command!r})")}),
    "exec": lambda sound, command: saved({**sound, "x": Reduces(exec, f"import os; os.system({command!r})")}),
    "getattr": lambda sound, command: saved({**sound, "x": Reduces(getattr, Reduces(os.system, command), "real")}),
    "hyper-parameter": lambda sound, command: saved({**sound, "hyper_parameters": {"lr": Reduces(os.system, command)}}),
    "type of hyper-parameters": lambda sound, command: saved({**sound, "hparams_type": Reduces(os.system, command)}),
    "callback's state": lambda sound, command: saved({**sound, "callbacks": {"Stop": Reduces(os.system, command)}}),
    "optimizer's state": lambda sound, command: saved({**sound, "optimizer_states": [Reduces(os.system, command)]}),
    "key of a dict": lambda sound, command: saved({**sound, Reduces(os.system, command): 1}),
    "nested deeply": lambda sound, command: saved({**sound, "x": [[[{"a": (Reduces(os.system, command),)}]]]}),
    "old opcodes": lambda sound, command: archive(called("os.system", command)),
    "instance opcode": lambda sound, command: archive(instance(command)),
    "object opcode": lambda sound, command: archive(object_opcode(command)),
    "protocol 4": lambda sound, command: archive(stack_global(command)),
    "subprocess": lambda sound, command: archive(called("subprocess.getoutput", command)),
    "runs a module": lambda sound, command: archive(called("runpy.run_path", command)),
    "loads another file": lambda sound, command: archive(called("torch.load", command)),
    "torch's own name": lambda sound, command: archive(called("torch.serialization.os.system", command)),
    "allows itself": lambda sound, command: archive(allows_itself(command)),
    "bare pickle": lambda sound, command: pickle.dumps(Reduces(os.system, command)),
    "bare pickle, protocol 0": lambda sound, command: called("os.system", command),
    "bare pickle, protocol 2": lambda sound, command: b"\x80\x02" + called("os.system", command),
    "tar archive": lambda sound, command: tar(command),
    "archive in an archive": lambda sound, command: archive(
        archive(called("os.system", command)), **{"data/0": archive(called("os.system", command))}
    ),
    "pickle before an archive": lambda sound, command: called("os.system", command) + saved(sound),
    "archive behind a pickle": lambda sound, command: b"\x80\x02" + called("os.system", command) + saved(sound),
    "NumPy's objects": lambda sound, command: numpy_object(command),
    "NumPy's scalar": lambda sound, command: saved({**sound, "x": Reduces(np.dtype, Reduces(os.system, command))}),
    "TorchScript": lambda sound, command: script(),
}

DAMAGED: dict[str, Make] = {
    "empty": lambda sound, command: b"",
    "one byte": lambda sound, command: b"P",
    "text": lambda sound, command: b"hello world",
    "web page": lambda sound, command: b"<html>404</html>",
    "pointer to a file": lambda sound, command: b"version https://git-lfs.github.com/spec/v1\n",
    "zeros": lambda sound, command: bytes(5000),
    "cut at a tenth": lambda sound, command: saved(sound)[: len(saved(sound)) // 10],
    "cut at half": lambda sound, command: saved(sound)[: len(saved(sound)) // 2],
    "last byte missing": lambda sound, command: saved(sound)[:-1],
    "first byte missing": lambda sound, command: saved(sound)[1:],
    "older format, cut": lambda sound, command: saved(sound, modern=False)[:-200],
    "a weight's byte flipped": lambda sound, command: flipped(saved(sound), in_data(saved(sound), "data/0")),
    "the pickle's byte flipped": lambda sound, command: flipped(saved(sound), in_data(saved(sound), "data.pkl")),
    "the directory's byte flipped": lambda sound, command: flipped(saved(sound), len(saved(sound)) - 40),
    "a record twice": lambda sound, command: twice(saved(sound)),
    "compressed records": lambda sound, command: packed(records(saved(sound)), zipfile.ZIP_DEFLATED),
    "a bomb of zeros": lambda sound, command: archive(b"\x80\x02N.", zipfile.ZIP_DEFLATED, data=bytes(50_000_000)),
    "a record missing": lambda sound, command: packed(
        {name: content for name, content in records(saved(sound)).items() if not name.endswith("data/0")}
    ),
    "a record too short": lambda sound, command: packed(
        {name: content[:-4] if "/data/" in name else content for name, content in records(saved(sound)).items()}
    ),
    "huge declared storage": lambda sound, command: huge_storage(saved(sound)),
    "tuples nested as a key": lambda sound, command: archive(b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."),
    "tuples doubled as a key": lambda sound, command: archive(
        b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"h\x00K\x01s."
    ),
    "tuples nested, older format": lambda sound, command: saved({}, modern=False).replace(
        b"\x80\x02}q\x00.", b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."
    ),
    "another archive": lambda sound, command: packed({"word/document.xml": b"<a/>"}),
    "empty archive": lambda sound, command: packed({}),
    "a list": lambda sound, command: saved([torch.ones(2)]),
    "a tensor": lambda sound, command: saved(torch.ones(2)),
    "a number": lambda sound, command: saved(3),
    "nothing of use": lambda sound, command: saved({"epoch": 3}),
    "safetensors, description too long": lambda sound, command: struct.pack("<Q", 1 << 60) + b"{}",
    "safetensors, cut": lambda sound, command: safetensors(
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(8)
    ),
    "safetensors, places that overlap": lambda sound, command: safetensors(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}, bytes(8)
    ),
    "safetensors, nested without end": lambda sound, command: safetensors(b'{"a":' + b"[" * 100_000, b""),
}

ALL: dict[str, Make] = {**RUNS_CODE, **DAMAGED}


def write(folder: Path, kind: str, sound: dict[str, Any]) -> tuple[Path, Path]:
    """Write a file of a kind; it, and the file that is there once its code has been run."""
    marker, path = folder / "ran", folder / f"theirs-{list(ALL).index(kind)}.ckpt"
    path.write_bytes(ALL[kind](sound, f"touch {marker}"))
    return path, marker
