"""Ends a command that cannot run, with its first error in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

_PACKAGE = Path(__file__).parents[1]


def refuse(reason: str, files: Sequence[str] = ()) -> NoReturn:
    """End the command with an error, and the config files that it is in, in one line."""
    where = f"{', '.join(files)}: " if files else ""
    print(f"lit-distill: {where}{reason}", file=sys.stderr)
    raise SystemExit(2)


def origin(error: BaseException) -> str:
    """Return the file that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename if trace is not None else ""


def is_ours(error: BaseException) -> bool:
    """Return True if this package raised an error."""
    return origin(error).startswith(str(_PACKAGE))


def behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, the first cause last."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:  # one that is raised again may be behind itself
        seen.add(id(inner))
        yield inner
        inner = inner.__cause__ or inner.__context__


def without_parser(error: BaseException) -> BaseException:
    """Return the error behind those of the parser; the error itself if only the parser raised."""
    return next((inner for inner in behind(error) if "jsonargparse" not in origin(inner)), error)


def root_cause(error: BaseException) -> BaseException:
    """Return the first error of this package among an error's causes; else the error itself."""
    return next((inner for inner in reversed(list(behind(error))) if is_ours(inner)), error)
