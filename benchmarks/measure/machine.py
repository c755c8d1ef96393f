"""What was measured on what: the figures mean nothing without it."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "lightning", "lit-distill", "torchdistill")
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)


def describe_machine() -> dict[str, Any]:
    """Device, the instructions that decide what is fast, versions, and the date."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": gpu or f"CPU, {torch.get_num_threads()} threads",
        "cpu": _cpu_name(),
        "cpu_flags": _cpu_flags(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def in_words(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    flags = " ".join(machine["cpu_flags"]) or "unknown"
    return (
        f"{machine['date']}; {machine['device']}; {machine['cpu']} ({flags}); Python {machine['python']}; {versions}."
    )


def _cpu_text() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _cpu_name() -> str:
    found = re.search(r"model name\s*:\s*(.+)", _cpu_text())
    return found.group(1) if found else platform.processor() or platform.machine()


def _cpu_flags() -> list[str]:
    found = re.search(r"flags\s*:\s*(.+)", _cpu_text())
    present = set(found.group(1).split()) if found else set()
    return [flag for flag in _FLAGS if flag in present]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
