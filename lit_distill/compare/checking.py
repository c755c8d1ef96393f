"""Builds everything that a plan compares once, before the first run: what is wrong is found then."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lit_distill.batch.examples import has_numbered_samples, numbered_samples
from lit_distill.chain import settings_of
from lit_distill.compare.plan import Choice, ComparisonPlan
from lit_distill.compare.reader import Reader
from lit_distill.compare.results import CONTROL
from lit_distill.compare.settings import chain_links, teacher_network, teacher_words, words_of
from lit_distill.compare.training import Build, build_fit, deployed, said_to
from lit_distill.criteria.sim_kd import SimKD
from lit_distill.measures.whole import Measures, measure

_PLACES = ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary", "seed_everything")


@dataclass(frozen=True)
class Checked:
    """A choice that can be built.

    Attributes:
        choice: The choice.
        digest: Of every setting of its runs but the seed.
        measures: What the network costs that is tested.
        device: That a run takes: ``cpu`` or ``cuda``, say.
        epochs: Of a run.
    """

    choice: Choice
    digest: str
    measures: Measures
    device: str
    epochs: int


@dataclass(frozen=True)
class Checks:
    """What came of building everything.

    Attributes:
        choices: Those that can be built.
        left_out: Why others cannot, for methods that may be left out.
        teachers: The digest of each teacher's training, or of its checkpoint.
    """

    choices: tuple[Checked, ...]
    left_out: Mapping[Choice, str]
    teachers: Mapping[str, str]


def check_plan(plan: ComparisonPlan, where: str = "the plan") -> Checks:
    """Build every choice once, run an example through it, and measure the students.

    Args:
        plan: The plan.
        where: Its file, for errors.

    Raises:
        ValueError: Some cannot be built; the message has a line for each.
    """
    checker = _Checker(plan)
    problems: dict[str, str] = {}
    left_out: dict[Choice, str] = {}
    found: list[Checked] = []
    with tempfile.TemporaryDirectory() as scratch, isolate_rng(), said_to(plan.folder / "logs" / "checks.txt"):
        for name in plan.teachers:
            try:
                checker.add_teacher(name, Path(scratch))
            except Exception as error:
                problems[f"teacher {name}"] = _reason(error)
        for choice in [] if problems else plan.choices():
            try:
                found.append(checker.check(choice, Path(scratch)))
            except Exception as error:
                if plan.method_of(choice).optional:
                    left_out[choice] = _reason(error)
                else:
                    problems[choice.words] = _reason(error)
    if problems:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in problems.items())
        raise Reader(where).error(f"nothing was trained, as this cannot be built:\n{lines}")
    return Checks(tuple(found), left_out, checker.teachers)


class _Checker:
    """Builds choices, with random weights in place of those of teachers that are yet to be trained."""

    def __init__(self, plan: ComparisonPlan) -> None:
        self.plan = plan
        self.teachers: dict[str, str] = {}
        self._in_place_of: dict[str, str] = {}
        self._measures: dict[str, Measures] = {}

    def add_teacher(self, name: str, scratch: Path) -> None:
        """Note a teacher's digest, and make weights to stand in for those that it does not have yet."""
        teacher = self.plan.teachers[name]
        if not teacher.train:
            content = teacher.checkpoint.read_bytes() if teacher.checkpoint is not None else b""
            self.teachers[name] = _digest([str(teacher_network(self.plan, name)), hashlib.sha256(content).hexdigest()])
            return
        made = build_fit(teacher_words(self.plan, teacher), teacher.seed, scratch)
        self.teachers[name] = _digest([_settings(made), str(teacher.seed)])
        teacher_network(self.plan, name)  # that it can be named
        if teacher.checkpoint is not None and not teacher.checkpoint.is_file():
            stand_in = scratch / f"{len(self._in_place_of)}.pt"
            torch.save(_network(made.model).state_dict(), stand_in)
            self._in_place_of[str(teacher.checkpoint)] = str(stand_in)

    def check(self, choice: Choice, scratch: Path) -> Checked:
        """Build a choice and run an example through it."""
        print(f"--- {choice.words}", flush=True)
        teacher = self.teachers.get(choice.teacher, "")
        if self.plan.method_of(choice).kind == "chain":
            return self._check_chain(choice, teacher)
        words = words_of(self.plan, choice)
        made = build_fit([self._with_stand_ins(word) for word in words], 0, scratch)
        epochs = made.trainer.max_epochs or 0
        made.trainer.fit_loop.max_epochs = 0  # everything but the training
        made.trainer.fit(made.model, made.datamodule)
        if self.plan.method_of(choice).optional:
            _refuse_untrained_classifier(made.model)
        digest = _digest([_settings(made, self._in_place_of), teacher, str(self.plan.threads)])
        return Checked(choice, digest, self._measured(choice, made), made.trainer.strategy.root_device.type, epochs)

    def _check_chain(self, choice: Choice, teacher: str) -> Checked:
        links = chain_links(self.plan, choice, Path("chain"))
        settings = [settings_of(link) for link in links]
        digest = _digest([yaml.safe_dump(one) for one in settings] + [teacher, str(self.plan.threads)])
        epochs = sum(one["trainer.max_epochs"] or 0 for one in settings)
        return Checked(choice, digest, self._measures[choice.student], "cpu", epochs)

    def _with_stand_ins(self, word: str) -> str:
        for checkpoint, stand_in in self._in_place_of.items():
            word = word.replace(checkpoint, stand_in)
        return word

    def _measured(self, choice: Choice, made: Build) -> Measures:
        """Return what a network costs: the student, but for methods that use another one in the end."""
        module = deployed(made.model)
        if module is made.model and choice.student in self._measures:
            return self._measures[choice.student]
        loader = made.datamodule.train_dataloader()
        batch = numbered_samples(loader, whole=False) if has_numbered_samples(loader) else next(iter(loader))
        inputs = made.model.distiller.reader().read(batch).inputs
        measures = measure(_network(module), inputs, self.plan.threads)
        if choice.method == CONTROL:
            self._measures[choice.student] = measures
        return measures


def _network(module: Any) -> nn.Module:
    network: nn.Module = module.student
    return network


def _settings(made: Build, in_place_of: Mapping[str, str] | None = None) -> str:
    """Return every value of a fit as text, but for where it writes."""
    text: str = made.parser.dump(made.config, skip_none=False)
    for checkpoint, stand_in in (in_place_of or {}).items():
        text = text.replace(stand_in, checkpoint)
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith(_PLACES))


def _refuse_untrained_classifier(module: Any) -> None:
    criteria = list(module.criteria.criteria().values())
    if not any(one.needs_target or one.compares_logits or isinstance(one, SimKD) for one in criteria):
        raise ValueError("it trains no classifier, which is what is compared.")


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
