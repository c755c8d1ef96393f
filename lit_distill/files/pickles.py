"""Checks a pickle without running it: whether hashing its tuples would take all time, or all of the stack.

Also reads the size that it claims for each storage, which PyTorch 2.6 believes, and then reads past the end of its memory.
"""

from __future__ import annotations

import io
import pickle
from mmap import mmap
from typing import Any, Final

import torch

_MOST_NESTED: Final = 200  # tuples in tuples; Python hashes them recursively
_MOST_HELD: Final = 100_000_000  # values in a tuple, those of its tuples included as often as they stand in it

_Held = tuple[int, int]  # how deeply a tuple is nested, and how many values hashing it visits; 0, 0 of all else
_ATOM: Final = (0, 0)

# What follows the opcodes that weights and plain types are written with: bytes of a fixed number, or of a length given first.
_FIXED: Final = {b"J": 4, b"K": 1, b"M": 2, b"G": 8, b"\x80": 1}
_LENGTH: Final = {b"X": 4, b"U": 1, b"\x8a": 1}
_POPS: Final = {b"a": 1, b"s": 2, b"0": 1, b"R": 1, b"b": 1, b"\x81": 1}
_CONSTANTS: Final = (b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f")
_TUPLES: Final = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_UNKNOWN: Final = -1


class _OverwhelmingError(Exception):
    """Raised for a tuple that nobody should hash."""


class _Scan:
    """The stack of an unpickler that makes nothing."""

    def __init__(self, pickled: bytes | mmap) -> None:
        self._pickled = pickled
        self._stack: list[_Held] = []
        self._marked: list[list[_Held]] = []
        self._memo: dict[int, _Held] = {}

    def run(self, position: int) -> int:
        """Go through one pickle; return the position behind it, or -1 if PyTorch's safe reader would not read it."""
        while True:
            code = self._pickled[position : position + 1]
            position += 1
            if code == b".":
                return position
            position = self._step(code, position)
            if position == _UNKNOWN:
                return position

    def _step(self, code: bytes, position: int) -> int:
        stack = self._stack
        if code in _CONSTANTS:
            stack.append(_ATOM)
        elif code in _FIXED:
            position += _FIXED[code]
            if code != b"\x80":
                stack.append(_ATOM)
        elif code in _LENGTH:
            position += _LENGTH[code] + self._number(position, _LENGTH[code])
            stack.append(_ATOM)
        elif code in (b"q", b"r", b"h", b"j"):
            return self._remember(code, position)
        elif code in _TUPLES:
            self._make(_TUPLES[code])
        elif code in _POPS:
            del stack[-_POPS[code] :]
            if code in (b"R", b"b", b"\x81"):
                stack[-1] = _ATOM
        elif code == b"Q":
            stack[-1] = _ATOM
        elif code == b"c":
            stack.append(_ATOM)
            return self._behind_line(self._behind_line(position))
        else:
            return self._marks(code, position)
        return position

    def _marks(self, code: bytes, position: int) -> int:
        if code == b"(":
            self._marked.append(self._stack)
            self._stack = []
        elif code in (b"t", b"e", b"u"):
            items, self._stack = self._stack, self._marked.pop()
            if code == b"t":
                self._push(items)
        else:
            return _UNKNOWN
        return position

    def _remember(self, code: bytes, position: int) -> int:
        size = 1 if code in (b"q", b"h") else 4
        number = self._number(position, size)
        if code in (b"q", b"r"):
            self._memo[number] = self._stack[-1]
        else:
            self._stack.append(self._memo[number])
        return position + size

    def _make(self, count: int) -> None:
        items = self._stack[-count:]
        del self._stack[-count:]
        self._push(items)

    def _push(self, items: list[_Held]) -> None:
        depth = held = 0
        for nested, within in items:
            depth, held = max(depth, nested), held + within
        made = (depth + 1, held + len(items) + 1)
        if made[0] > _MOST_NESTED or made[1] > _MOST_HELD:
            raise _OverwhelmingError
        self._stack.append(made)

    def _behind_line(self, position: int) -> int:
        return self._pickled.find(b"\n", position) + 1 or len(self._pickled)

    def _number(self, position: int, size: int) -> int:
        return int.from_bytes(self._pickled[position : position + size], "little")


def overwhelms(pickled: bytes | mmap, pickles: int = 1) -> bool:
    """Return True if a pickle holds tuples that cannot be hashed in reasonable time, or without overflowing the stack.

    Return False for pickles that PyTorch's safe reader refuses anyway.
    """
    scan, position = _Scan(pickled), 0
    try:
        for _ in range(pickles):
            position = scan.run(position)
            if position == _UNKNOWN:
                break
    except _OverwhelmingError:
        return True
    except (IndexError, KeyError):  # cut off, or none
        pass
    return False


class _Named:
    """Stands for whatever a pickle names, and does nothing."""

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __new__(cls, *given: Any, **named: Any) -> _Named:
        return super().__new__(cls)

    def __call__(self, *given: Any, **named: Any) -> _Named:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __getattr__(self, name: str) -> type[_Named]:
        return _Named  # `append`, `extend`, `add` and `__setstate__`


class _Claims(pickle._Unpickler):  # in Python, as the one in C reserves memory for whatever a file asks
    """Unpickles into stand-ins, and keeps the bytes that each storage claims."""

    def __init__(self, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled))
        self.found: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> type[_Named]:
        return type(name, (_Named,), {})

    def persistent_load(self, pid: Any) -> _Named:
        _, kind, key, _, count = pid
        dtype = getattr(getattr(torch, kind.__name__, None), "_dtype", torch.uint8)
        self.found[key] = max(self.found.get(key, 0), count * dtype.itemsize)
        return _Named()


def claimed_storages(pickled: bytes) -> dict[str, int]:
    """Return the bytes that a pickle of ``torch.save`` claims for each storage, by its key; nothing in it is run."""
    claims = _Claims(pickled)
    claims.load()
    return claims.found
