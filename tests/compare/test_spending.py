"""A budget with real trainings: what is trained, what the same command trains again, and what is refused."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

from lit_distill.compare import CONTROL, Choice, Comparison, read_plan
from lit_distill.compare import spending as spending_module
from lit_distill.compare.command import main
from lit_distill.compare.spending import chosen_text, grid_of, spend, validated_every
from lit_distill.compare.tasks import advance
from tests.compare.plans import network, teacher, write

pytest.importorskip("optuna")
BUDGET = 0.4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan of one student, two teachers and two methods, with three seeds of ten epochs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_distill.measures.whole._SECONDS", 0.01)
    teachers = {"wide": teacher(tmp_path), "other": teacher(tmp_path, seed=1)}
    return write(tmp_path, teachers=teachers, methods=["kd", "dist"], weights="configured", seeds=3, epochs=10)


def comparison(path: Path, **options: Any) -> Comparison:
    return Comparison(read_plan(path, **options), str(path), say=lambda line: None)


@pytest.mark.slow
def test_trains_its_share_and_the_same_command_nothing_more(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def counted(plan: Any, run: Any, until: int) -> Any:
        asked.append((run.stem, until))
        return advance(plan, run, until)

    monkeypatch.setattr(spending_module, "advance", counted)
    outcome, chosen = spend(comparison(path), BUDGET, jobs=1)
    assert not outcome.failed
    assert chosen.size == 5 * 3 * 10
    assert chosen.share <= BUDGET
    # What was trained, from the files: the last epoch of each run that was paused, and ten of those that ended.
    trained = dict(asked)
    finished = {one.run for one in outcome.results}
    assert finished == outcome.planned
    stems = {comparison(path).run_of(Choice(*run[:3]), run[3]).stem for run in finished}
    assert chosen.epochs == 10 * len(finished) + sum(end for stem, end in trained.items() if stem not in stems)
    winner = chosen.choice("small")
    assert {run[:3] for run in finished} == {(winner.student, winner.teacher, winner.method), ("small", "", CONTROL)}
    assert not list((tmp_path / "out" / "running").glob("small*"))
    asked.clear()
    again = spend(comparison(path), BUDGET, jobs=1)[1]
    assert not asked
    assert (again.standings, again.epochs) == (chosen.standings, chosen.epochs)
    assert f"Chosen with {chosen.epochs} of the full grid's 150 epochs" in chosen_text(chosen)
    # A run that paused and went on is one that never did.
    straight = comparison(path, folder=tmp_path / "straight")
    for run in finished:
        without_break = straight.train(Choice(*run[:3]), run[3])
        found = outcome.results.of(*run)[0]
        assert (found.curve, found.score) == (without_break.curve, without_break.score)


@pytest.mark.slow
def test_the_scores_of_a_full_grid_choose_what_a_budget_chose(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    stored: Any = importlib.import_module("budget")
    real = comparison(path)
    chosen, grid = spend(real, BUDGET, jobs=1)[1], grid_of(real)
    full = comparison(path, folder=tmp_path / "full").run(jobs=1).results
    rows = [full.of(one.student, one.teacher, one.method, seed)[0] for one in grid.choices for seed in grid.seeds]
    again = stored.replay(stored.of_results(rows), grid.seeds, BUDGET)
    assert (again.standings, again.finals, again.epochs) == (chosen.standings, chosen.finals, chosen.epochs)


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(plan: Any, run: Any, until: int) -> Any:
        if run.choice.teacher == "wide":
            raise RuntimeError("a fault")
        return advance(plan, run, until)

    monkeypatch.setattr(spending_module, "advance", failing)
    outcome, chosen = spend(comparison(path), BUDGET, jobs=1)
    assert {run[1] for run in outcome.failed} == {"wide"}
    assert set(outcome.failed.values()) == {"a fault"}
    assert chosen.choice("small").teacher == "other"
    assert {one.choice.teacher for one in chosen.standings["small"] if math.isnan(one.score)} == {"wide"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("0", "a share of the full grid's epochs is needed, as 0.15, not '0'"),
        ("1", "a share of the full grid's epochs is needed"),
        ("15", "not '15'; 15 % is 0.15"),
        ("nan", "a share of the full grid's epochs is needed"),
        ("much", "not 'much'"),
        ("0.01", "a budget of 0.01 is too small here"),
    ],
)
def test_shares_that_are_refused(path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(path), "--budget", words])
    assert message in " ".join(capsys.readouterr().err.split())


def test_whole_configs_are_refused(tmp_path: Path, path: Path) -> None:
    scheme = {"name": "mean", "scheme": "configs/digits/ema.yaml", "options": {"model.student": "{student}"}}
    plan = write(tmp_path, students={"small": network(2)}, methods=["kd", scheme])
    with pytest.raises(ValueError, match="'mean' is a whole config with its own epochs"):
        grid_of(comparison(plan))


@pytest.mark.parametrize(("given", "epochs", "every"), [(None, 60, 6), (None, 7, 1), (5, 60, 5), (1, 30, 3)])
def test_rungs_end_where_runs_are_validated(tmp_path: Path, given: int | None, epochs: int, every: int) -> None:
    trainer = {"accelerator": "cpu"} | ({} if given is None else {"check_val_every_n_epoch": given})
    assert validated_every(read_plan(write(tmp_path, trainer=trainer, epochs=epochs))) == every
