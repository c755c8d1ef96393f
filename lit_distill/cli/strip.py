"""``lit-distill strip``: takes what distilling added out of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_distill.callbacks import strip_file
from lit_distill.cli.words import Parser


def main(arguments: Sequence[str]) -> None:
    """Write a checkpoint without what distilling added.

    Raises:
        SystemExit: The checkpoint cannot be read or written.
    """
    parser = Parser(
        "strip",
        "Take out of a checkpoint of your own LightningModule what distilling has added, so that it loads "
        "where lit-distill is not used.",
    )
    parser.add_argument("source", metavar="IN", type=Path, help="the checkpoint")
    parser.add_argument("destination", metavar="OUT", type=Path, help="where to write what is left")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="read a checkpoint whose hyper-parameters are Python objects; loading it can run code that its maker put there",
    )
    options = parser.parse_args(arguments)
    if not options.source.is_file():
        parser.error(f"there is no file {options.source} (looked in {Path.cwd()}).")
    try:
        print(*strip_file(options.source, options.destination, options.trust), sep="\n")
    except (ValueError, OSError, RuntimeError) as error:  # the last: what cannot be written
        raise SystemExit(f"lit-distill strip: {options.source}: {error}") from error
