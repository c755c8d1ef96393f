"""How a command ends that cannot be run: with what first went wrong, in one paragraph."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

_PACKAGE = Path(__file__).parents[1]


def refuse(reason: str, files: Sequence[str] = ()) -> NoReturn:
    """End the command with what is wrong, in one paragraph.

    Args:
        reason: What is wrong.
        files: The config files in which it is.
    """
    where = f"{', '.join(files)}: " if files else ""
    print(f"lit-distill: {where}{reason}", file=sys.stderr)
    raise SystemExit(2)


def origin(error: BaseException) -> str:
    """The file in which an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename if trace is not None else ""


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised in this package."""
    return origin(error).startswith(str(_PACKAGE))


def behind(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised in answer to, the first one last."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:  # one that is raised again may be behind itself
        seen.add(id(inner))
        yield inner
        inner = inner.__cause__ or inner.__context__


def without_parser(error: BaseException) -> BaseException:
    """The error behind those that the parser wraps around it; itself where it is the parser's own."""
    return next((inner for inner in behind(error) if "jsonargparse" not in origin(inner)), error)


def root_cause(error: BaseException) -> BaseException:
    """What first went wrong in this package, behind the errors that a parser wraps around it; else the error itself."""
    return next((inner for inner in reversed(list(behind(error))) if is_ours(inner)), error)
