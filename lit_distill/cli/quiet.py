"""Keeps advertisements and notices that a user can do nothing about off the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from lit_distill.utils.notices import DistillationWarning

_TIPS = (
    "💡 Tip",
    "Seed set to ",
    "GPU available: False",
    "TPU available: False",
    "HPU available: False",  # before Lightning 2.6
    "`Trainer.fit` stopped: `max_epochs=",
)
_WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's use of torch
    r"\s*Unable to serialize instance",  # jsonargparse prints defaults
)
_formatted = warnings.formatwarning


@contextmanager
def quiet() -> Iterator[None]:
    """Drop Lightning's advertisements, and other libraries' deprecations of what only they call."""
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
    ]
    with warnings.catch_warnings(), patch.object(warnings, "formatwarning", _in_one_line):
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.addFilter(_is_news)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_is_news)


def _in_one_line(message: Any, category: type[Warning], *place: Any, **line: Any) -> str:
    own = issubclass(category, DistillationWarning)  # what matters of ours is what it says, not the line that says it
    return f"lit-distill: {message}\n" if own else _formatted(message, category, *place, **line)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_TIPS)
