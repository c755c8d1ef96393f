"""The command line: ``lit-distill VERB …``."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence

from lit_distill.cli.config_files import find_configs
from lit_distill.cli.fit import DistillationCLI
from lit_distill.cli.help import FIT_VERBS, asks_for_help, overview, verb_help
from lit_distill.cli.quiet import quiet
from lit_distill.cli.refusal import root_cause
from lit_distill.utils.names import nearest
from lit_distill.utils.signals import exit_code_on_sigterm

__all__ = ["VERBS", "DistillationCLI", "find_configs", "main"]

# What each verb does, and the module whose `main` it is; the verbs of a Trainer have none.
VERBS = {
    "demo": ("Distil on handwritten digits: half a minute, no download.", "lit_distill.cli.demo"),
    "fit": ("Train a student as a config says.", ""),
    "validate": ("Evaluate a student on the validation data.", ""),
    "test": ("Evaluate a student on the test data.", ""),
    "predict": ("Save a student's outputs as predictions.pt.", ""),
    "doctor": ("Look for mistakes in a config's set-up, in a few training steps.", "lit_distill.doctor"),
    "layers": ("List the layers of student and teacher, with shapes and stages.", "lit_distill.cli.layers"),
    "record": ("Record a RecordedTeacher's outputs, and train nothing.", "lit_distill.cli.record"),
    "chain": ("Run several fits, each student being the next one's teacher.", "lit_distill.chain"),
    "compare": ("Train students with teachers and methods, and say which to take.", "lit_distill.compare"),
    "report": ("Say what a student saves, what that costs, and whether its teacher helped.", "lit_distill.reporting"),
    "methods": ("List the methods, with what they read, their weights and papers.", "lit_distill.cli.methods"),
    "export": ("Write a student as a file for a server, a phone or C++, and check it.", "lit_distill.export.command"),
    "sensitivity": ("Say what compressing each layer alone does to a student.", "lit_distill.compress.command"),
    "strip": ("Remove what Distill added to a checkpoint.", "lit_distill.cli.strip"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after ``lit-distill``; the process's own if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = [part for word in words for part in (("--help", "all") if word == "--help=all" else (word,))]
    try:
        with exit_code_on_sigterm(), quiet():
            _run(given)
    except KeyboardInterrupt:
        print("\nlit-distill: stopped by Ctrl-C.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        cause = root_cause(error)
        if cause is not error:  # the parser's own words would come last, after all that it tried
            error.add_note(f"\nlit-distill: {cause}")
        raise


def _run(given: list[str]) -> None:
    verb, rest = (given[0], given[1:]) if given else ("--help", [])
    if verb in ("-h", "--help"):
        print(overview({name: line for name, (line, _) in VERBS.items()}))
        sys.exit(0 if given else 2)
    if verb == "--version":
        print(f"lit-distill {importlib.import_module('lit_distill').__version__}")
        return
    if verb not in VERBS and not verb.startswith("-"):
        raise SystemExit(f"lit-distill: no verb {verb!r}.{nearest(verb, VERBS)} Verbs: {', '.join(VERBS)}.")
    line, module = VERBS.get(verb, ("", ""))
    named = verb == "fit" and any(word.partition("=")[0] in ("--teacher", "--student") for word in rest)
    module = "lit_distill.by_name" if named else module
    if verb in FIT_VERBS and asks_for_help(rest) and not named:
        print(verb_help(verb, line, find_configs(rest)))
        sys.exit(0)
    if module:
        failed = importlib.import_module(module).main(rest)
        if failed:
            sys.exit(failed)
    else:
        DistillationCLI(find_configs([word for word in given if word != "all"] if "--help" in given else given))
