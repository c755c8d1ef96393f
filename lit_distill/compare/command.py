"""The command: ``lit-distill compare plan.yaml``."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from lit_distill.cli.refusal import is_ours, refuse
from lit_distill.cli.words import Parser, whole_number
from lit_distill.compare.reading import read_plan
from lit_distill.compare.report import write_report
from lit_distill.compare.results import Results
from lit_distill.compare.running import Comparison, Outcome, Say
from lit_distill.compare.spending import chosen_text, spend
from lit_distill.utils.arguments import check_number


def compare(
    plan: str | Path,
    folder: str | Path | None = None,
    jobs: int | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    again: bool = False,
    budget: float | None = None,
) -> Results:
    """Train each student with each teacher and method of a plan, and without a teacher, and write a report.

    What was finished before is not trained again.

    Args:
        plan: The YAML file, as docs/compare.md describes it.
        folder: For results and report, in place of the plan's.
        jobs: How many runs at once; one for each GPU or core if None.
        epochs: In place of the plan's; all schedules keep their share.
        seeds: How many, from 0 on, in place of the plan's.
        again: Train again what was trained with other settings.
        budget: Share of the full grid's epochs, in (0, 1), at which to choose each student's teacher and method; the report
            is then of the chosen ones. All runs if None.

    Returns:
        The results of all runs.

    Raises:
        ValueError: The plan is wrong, or something in it cannot be built; nothing was trained then.
        RuntimeError: Runs failed; the message says which and why. The results of the others are kept.
        ImportError: A budget is set, and Optuna is missing.
    """
    share = None if budget is None else check_number("budget", budget, above=0, below=1)
    outcome = _run(Path(plan), folder, jobs, epochs, seeds, again, (), print, share)
    if outcome.failed:
        raise RuntimeError(_failures(outcome))
    return outcome.results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a comparison from the command line.

    Args:
        arguments: The words after ``lit-distill compare``; the process's own if None.

    Returns:
        The exit code: 1 if a run failed.
    """
    options = _parser().parse_args(arguments)
    try:
        outcome = _run(
            options.plan,
            options.folder,
            options.jobs,
            options.epochs,
            options.seeds,
            options.again,
            options.only,
            lambda line: print(line, flush=True),
            options.budget,
        )
    except (ValueError, ImportError) as error:
        if not is_ours(error):
            raise
        refuse(str(error))
    if outcome.failed:
        print(_failures(outcome), file=sys.stderr)
    return int(bool(outcome.failed))


def _parser() -> Parser:
    parser = Parser(
        "compare",
        "Train each student of a plan with each teacher and method, and without a teacher, at equal schedule and data order, "
        "and report which to take. What was finished before is not trained again.",
    )
    parser.add_argument("plan", type=Path, help="a YAML file with students, teachers, methods and data")
    parser.add_argument("--folder", type=Path, help="for results and report, in place of the plan's")
    parser.add_argument("--jobs", type=whole_number, help="runs at once (default: one for each GPU or core)")
    parser.add_argument("--epochs", type=whole_number, help="in place of the plan's; all schedules keep their share")
    parser.add_argument("--seeds", type=whole_number, help="how many, from 0 on, in place of the plan's")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="methods of the plan to run")
    parser.add_argument(
        "--budget", type=_share, metavar="SHARE", help="of the full grid's epochs (0.15): choose by halving"
    )
    parser.add_argument("--again", action="store_true", help="train again what was trained with other settings")
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        hint = f"; {share:g} % is {share / 100:g}" if 1 < share < 100 else ""
        raise argparse.ArgumentTypeError(f"a share of the full grid's epochs is needed, as 0.15, not {text!r}{hint}")
    return share


def _run(
    path: Path,
    folder: str | Path | None,
    jobs: int | None,
    epochs: int | None,
    seeds: int | None,
    again: bool,
    only: Sequence[str],
    say: Say,
    budget: float | None,
) -> Outcome:
    plan = read_plan(path, Path(folder) if folder is not None else None, epochs, seeds, only)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparison = Comparison(plan, str(path), again, say)
        if budget is None:
            outcome = comparison.run(jobs)
        else:
            outcome, chosen = spend(comparison, budget, jobs)
    shown = [one for one in outcome.results if one.run in outcome.planned]
    if shown:
        say(write_report(shown, plan.title, plan.folder, outcome.planned, outcome.failed))
    if budget is not None:
        say(f"\n{chosen_text(chosen)}")
    return outcome


def _failures(outcome: Outcome) -> str:
    lines = [f"  {', '.join(filter(None, run[:3]))}, seed {run[3]}: {why}" for run, why in outcome.failed.items()]
    return "\n".join([f"{len(lines)} runs failed; the same command again tries them again:", *lines])
