"""Answers at once on a machine without network, where the hub's client tries each file six times."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch
from urllib.parse import urlparse

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@contextmanager
def offline_at_once() -> Iterator[None]:
    """Let the hub's client look only into its cache if its host has no address here."""
    try:
        import huggingface_hub
    except ImportError:
        yield
        return
    with patch.object(
        huggingface_hub.constants, "HF_HUB_OFFLINE", huggingface_hub.constants.HF_HUB_OFFLINE or _no_host()
    ):
        yield


def _no_host() -> bool:
    from huggingface_hub import constants

    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return False  # the proxy finds the host
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False
