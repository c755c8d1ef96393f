"""How fast is it? This library beside a loop written by hand and beside torchdistill, and what each option does.

    python benchmarks/speed.py --data DATA --weights resnet56-4bfd9763.th
    python benchmarks/speed.py --size smoke

The job: CIFAR-10 as JPEG files, ``DATA/train/<class>/<image>``, batches of 128 with a random crop and flip;
ResNet-56 teaches ResNet-20; SGD with momentum; temperature 4, weights 0.1 and 0.9.

The method: every variant has a process of its own, prepares and trains an epoch to warm up (compilation
included), and then waits. The parent lets one at a time train a round, in turn, while the others stand still; a
ratio is that of two variants in the same round, and its median over rounds is reported. A round is one epoch, in
which the first steps and the last ones are not timed: loading workers start with the epoch, so that none of them
gains from the idle time between rounds, and their queue is as full at the end of the timed steps as at their
start. Trainer-based variants train one long ``fit`` with logger and progress bar on. No variant validates.

Peers are imported in these files alone: ``pip install -e ".[bench]"``. ``--size smoke`` runs every row on images
of noise with small networks, to see that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from measure import machine, options, peer, report
from measure.job import Job, make_job
from measure.loops import by_hand, by_trainer
from measure.process import Failure
from measure.rounds import Result, Variant, interleave

BASELINES = ("hand-written", "hand-written, no teacher")
SECTIONS = ("teacher options", "student options")


def job_variants() -> list[Variant]:
    """The rows of the reference job."""
    found = [
        Variant("hand-written", by_hand),
        Variant("hand-written, no teacher", by_hand, {"with_teacher": False}),
        Variant("lit-distill", by_trainer, {"name": "plain"}),
        Variant("lit-distill, fast", by_trainer, {"name": "fast", "fast": True, "in_memory": True}),
        Variant("lit-distill, recorded", by_trainer, {"name": "recorded", "recorded": True}),
        Variant(
            "lit-distill, recorded, fast",
            by_trainer,
            {"name": "recorded-fast", "recorded": True, "fast": True, "in_memory": True},
        ),
        Variant("torchdistill", peer.by_torchdistill),
    ]
    return found + options.data_variants()


class Run:
    """One run of the benchmark: what it measured, and its report as it grows.

    Args:
        job: What to train.
        only: Rows and sections to run; all where empty.
    """

    def __init__(self, job: Job, only: list[str]) -> None:
        self.job, self.only = job, only
        self.machine = machine.describe_machine()
        self.figures: dict[str, Any] = {}
        self.failures: dict[str, Failure] = {}
        self.rounds: dict[str, Result] = {}

    def wants(self, name: str) -> bool:
        return not self.only or name in self.only

    def say(self, heading: str, text: str) -> None:
        """Print a part of the report at once, and add it to the file."""
        part = f"## {heading}\n\n{text}\n"
        print(part, flush=True)
        with (self.job.folder / "speed.md").open("a") as file:
            file.write(f"{part}\n")

    def keep(self, name: str, figures: Any) -> None:
        """Write the figures so far."""
        self.figures[name] = figures
        everything = {"machine": self.machine, "job": self.job, **self.figures}
        (self.job.folder / "speed.json").write_text(json.dumps(everything, indent=1, default=_plain) + "\n")

    def reference_job(self) -> None:
        chosen = [variant for variant in job_variants() if self.wants(variant.name)]
        if not chosen:
            return
        names = {variant.name for variant in chosen}
        if self.only:  # a ratio needs what it is a ratio of
            chosen = [v for v in job_variants() if v.name in names or v.name in BASELINES]
        missing = [v.name for v in chosen if v.name == "torchdistill" and not peer.installed()]
        self.rounds = interleave([v for v in chosen if v.name not in missing], self.job)
        for name in missing:
            self.rounds[name] = Result(0, failure=Failure("not installed", 'pip install -e ".[bench]"'))
        self._note_failures(self.rounds)
        beside = [*BASELINES, "torchdistill"]
        table = report.rounds_table(self.rounds, [name for name in beside if name in names or name in BASELINES])
        recording = [
            f"{name}: {result.notes['seconds_before_first_epoch']:.1f} s to prepare and to record {self.job.views} views of "
            f"{self.job.images:,} images, not in the rounds."
            for name, result in self.rounds.items()
            if "recorded" in name and result.usable()
        ]
        targets = "" if self.job.smoke else report.targets_table(self.rounds)
        parts = [report.settings_text(self.job), table, targets, "\n".join(recording)]
        self.say("Training", "\n\n".join(part for part in parts if part))
        self.keep("training", self.rounds)
        if report.can_plot() and self.rounds[BASELINES[0]].usable():
            report.plot_rounds(self.rounds, BASELINES[0], self.job.folder / "training.png")

    def teacher_options(self) -> None:
        found = options.measure_teachers(self.job)
        if isinstance(found, Failure):
            self._fail("teacher options", found)
            return
        header = ["teacher's forward pass", "images/s", "of plain", "mean difference of logits", "same prediction"]
        self.say("Teacher, one option at a time", report.markdown(header, options.teachers_table_rows(self.job, found)))
        self.keep("teacher options", found)

    def student_options(self) -> None:
        results = interleave(options.student_variants(), self.job)
        self._note_failures(results)
        self.say("Student, one option at a time", report.rounds_table(results, ["student, plain"]))
        self.keep("student options", results)

    def _note_failures(self, results: dict[str, Result]) -> None:
        self.failures |= {name: result.failure for name, result in results.items() if result.failure is not None}

    def _fail(self, name: str, failure: Failure) -> None:
        self.failures[name] = failure
        self.say(name.capitalize(), failure.error)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(variant.name for variant in job_variants()), *SECTIONS]
    parser.add_argument("--data", help="CIFAR-10 as train/<class> and test/<class> image folders")
    parser.add_argument("--weights", help="third-party ResNet-56 weights")
    parser.add_argument("--size", choices=["smoke", "full"], default="full")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=names, default=[], help=f"of: {'; '.join(names)}")
    parser.add_argument("--rounds", type=int, help="timed rounds of every variant")
    parser.add_argument("--steps", type=int, help="timed steps of a round")
    return parser.parse_args()


def main() -> None:
    given = parse()
    given.out.mkdir(parents=True, exist_ok=True)
    job = make_job(given.data, given.weights, given.out.resolve(), given.size == "smoke")
    changed = {name: getattr(given, name) for name in ("rounds", "steps") if getattr(given, name) is not None}
    cache = job.folder / "inductor"
    shutil.rmtree(cache, ignore_errors=True)  # so that the times to prepare include compilation
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    if job.smoke:  # threads that wait for each other on a busy machine would take most of the time
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    run = Run(dataclasses.replace(job, **changed), given.only)
    (given.out / "speed.md").write_text("# Speed\n\n")
    begun = time.perf_counter()
    run.reference_job()
    sections = [run.teacher_options, run.student_options]
    for name, section in zip(SECTIONS, sections, strict=True):
        if run.wants(name):
            section()
    if run.failures:
        run.say("Failures", report.failures_text(run.failures))
    run.say("Machine", f"{machine.in_words(run.machine)} {time.perf_counter() - begun:.0f} s in all.")
    if set(run.failures) - {"torchdistill"}:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
