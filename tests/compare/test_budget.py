"""Budgets: what the halving trains and keeps, counted independently, on validation curves made by formulas."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from lit_distill.compare.budget import FullGrid, Halving, Stage
from lit_distill.compare.halving import Ladder, Rung, plan_ladder, score_at, smallest_cost
from lit_distill.compare.plan import Choice
from lit_distill.compare.results import CONTROL

pytest.importorskip("optuna")
STUDENTS, TEACHERS, METHODS = ("small", "large"), tuple("ABCDE"), ("kd", "dkd")


def grid(seeds: int = 3, epochs: int = 20, every: int = 2) -> FullGrid:
    controls = [Choice(student, "", CONTROL) for student in STUDENTS]
    rest = [Choice(*names) for names in itertools.product(STUDENTS, TEACHERS, METHODS)]
    return FullGrid((*controls, *rest), tuple(range(seeds)), epochs, every)


def quality(choice: Choice) -> float:
    """A different one for every choice; the best of ``small`` is (E, dkd), and the best of ``large`` (A, kd)."""
    if choice.method == CONTROL:
        return 0.5
    place = TEACHERS.index(choice.teacher) * len(METHODS) + METHODS.index(choice.method)
    return 0.6 + 0.03 * (place if choice.student == "small" else 9 - place)


class Training:
    """Trains by a formula, and counts what it is asked for, epoch by epoch."""

    def __init__(self, failing: Sequence[Choice] = ()) -> None:
        self.rungs: list[list[Stage]] = []
        self.epochs: set[tuple[Choice, int, int]] = set()
        self.failing = failing

    def __call__(self, stages: Sequence[Stage]) -> list[list[tuple[int, float]]]:
        self.rungs.append(list(stages))
        self.epochs |= {(one.choice, one.seed, epoch) for one in stages for epoch in range(1, one.until + 1)}
        return [[] if one.choice in self.failing else self.curve(one) for one in stages]

    def curve(self, stage: Stage) -> list[tuple[int, float]]:
        return [(epoch, quality(stage.choice) * (1 - 0.5**epoch)) for epoch in range(2, stage.until + 1, 2)]


@pytest.mark.parametrize("share", [0.13, 0.15, 0.2, 0.4, 0.9])
@pytest.mark.parametrize(("seeds", "epochs", "every"), [(3, 20, 2), (5, 60, 6), (5, 12, 1)])
def test_spends_no_more_than_its_share(tmp_path: Path, share: float, seeds: int, epochs: int, every: int) -> None:
    whole = grid(seeds, epochs, every)
    try:
        halving = Halving(whole, share, Training(), tmp_path / "optuna.log")
    except ValueError:
        least = smallest_cost(10, epochs, seeds, every) / (11 * seeds * epochs)
        assert share < least
        return
    planned = sum(ladder.cost for ladder in halving.ladders.values())
    assert planned <= share * whole.size
    assert all(rung.epochs % every == 0 for ladder in halving.ladders.values() for rung in ladder.rungs)


def test_epochs_survivors_and_choice(tmp_path: Path) -> None:
    training = Training()
    whole = grid()
    chosen = Halving(whole, 0.2, training, tmp_path / "optuna.log").run()
    assert {student: chosen.choice(student) for student in STUDENTS} == {
        "small": Choice("small", "E", "dkd"),
        "large": Choice("large", "A", "kd"),
    }
    # Counted one by one, the epochs that were trained are those that are reported, and within the share.
    assert chosen.epochs == len(training.epochs) <= 0.2 * whole.size
    assert chosen.epochs == sum(ladder.cost for ladder in chosen.ladders.values())
    for student in STUDENTS:
        rungs = chosen.ladders[student].rungs
        assert [rung.choices for rung in rungs] == [10, 4, 2]
        for number, rung in enumerate(rungs):
            ranked = sorted(whole.of(student), key=quality, reverse=True)
            asked = [one for one in training.rungs[number] if one.choice.student == student]
            assert {one.choice for one in asked} == set(ranked[: rung.choices])
            assert {one.seed for one in asked} == set(range(rung.seeds))
            assert {one.until for one in asked} == {rung.epochs}
    finals = [stage for stage in training.rungs[-1] if stage.choice.method == CONTROL]
    assert {stage.choice.student for stage in finals} == set(STUDENTS)
    assert {stage.until for stage in training.rungs[-1]} == {20}


def test_standings_go_from_the_chosen_to_the_first_dropped(tmp_path: Path) -> None:
    chosen = Halving(grid(), 0.2, Training(), tmp_path / "optuna.log").run()
    order = [one.choice for one in chosen.standings["small"]]
    assert order == sorted(order, key=quality, reverse=True)
    assert len(order) == 10


def test_the_same_again_whatever_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "optuna.log"
    first = Halving(grid(), 0.2, Training(), path).run()
    path.write_bytes(path.read_bytes()[:-7])  # as a kill may leave it
    again = Halving(grid(), 0.2, Training(), path).run()
    assert (first.standings, first.epochs) == (again.standings, again.epochs)


def test_optuna_can_read_the_study(tmp_path: Path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    Halving(grid(), 0.2, Training(), tmp_path / "optuna.log").run()
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    study = optuna.load_study(study_name="small", storage=storage)
    assert study.best_params == {"teacher": "E", "method": "dkd"}
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.PRUNED), states.count(TrialState.COMPLETE)) == (9, 1)


def test_a_choice_that_fails_is_dropped(tmp_path: Path) -> None:
    best = Choice("small", "E", "dkd")
    chosen = Halving(grid(), 0.2, Training([best]), tmp_path / "optuna.log").run()
    assert chosen.choice("small") == Choice("small", "E", "kd")
    assert math.isnan(chosen.standings["small"][-1].score)
    assert chosen.standings["small"][-1].choice == best


def test_a_student_of_which_all_choices_fail(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no choice of student 'large' could be trained"):
        Halving(grid(), 0.2, Training(grid().of("large")), tmp_path / "optuna.log").run()


def test_too_small_a_share_names_one_that_does(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"budget of 0.01 is too small here: 0\.\d+ of the full grid") as refused:
        Halving(grid(), 0.01, Training(), tmp_path / "optuna.log")
    named = float(str(refused.value).split("here: ")[1].split(" ")[0])
    assert Halving(grid(), named, Training(), tmp_path / "optuna.log").run().share <= named


def test_nothing_to_save() -> None:
    lonely = FullGrid((Choice("a", "", CONTROL), Choice("a", "T", "kd")), (0,), 10)
    with pytest.raises(ValueError, match="nothing to save"):
        lonely.ladders(0.9)


def test_a_student_with_nothing_to_choose_from_is_left_out() -> None:
    whole = grid()
    more = FullGrid((*whole.choices, Choice("other", "", CONTROL)), whole.seeds, whole.epochs, whole.every)
    assert more.students == STUDENTS


@pytest.mark.parametrize("choices", [1, 2, 3, 20, 100])
@pytest.mark.parametrize("seeds", [1, 2, 3, 8])
def test_ladders(choices: int, seeds: int) -> None:
    allotted = smallest_cost(choices, 30, seeds, 3)
    with pytest.raises(ValueError, match=f"at least {allotted} epochs, and {allotted - 1} are allotted"):
        plan_ladder(choices, 30, seeds, allotted - 1, 3)
    costs = []
    for more in range(allotted, 4 * allotted, 7):
        ladder = plan_ladder(choices, 30, seeds, more, 3)
        assert ladder.cost <= more
        assert ladder.rungs[0].choices == choices
        for before, after in itertools.pairwise(ladder.rungs):
            assert after.choices <= before.choices
            assert before.seeds <= after.seeds <= seeds
            assert before.epochs <= after.epochs <= 30
        costs.append(ladder.rungs[0].epochs)
    assert costs == sorted(costs)


def test_the_cost_of_a_ladder_by_hand() -> None:
    # 8 runs of 2 epochs; then 3 go on to 4 with two seeds, 2 + 4 epochs each; one goes on from 4 to 10 with both, and so
    # does the control from 0.
    ladder = Ladder((Rung(8, 1, 2), Rung(3, 2, 4)), finals=2, epochs=10)
    assert ladder.cost == 8 * 2 + 3 * (2 + 4) + 2 * 6 + 2 * 10


def test_scores_are_means_over_seeds_at_the_rungs_epoch() -> None:
    curves = [[(2, 0.5), (4, 0.7)], [(2, 0.6), (4, 0.9)]]
    assert score_at(Rung(1, 2, 4), curves) == pytest.approx(0.8)
    assert math.isnan(score_at(Rung(1, 2, 4), [curves[0], curves[1][:1]]))


def test_the_file_is_json_by_line(tmp_path: Path) -> None:
    Halving(grid(), 0.2, Training(), tmp_path / "new" / "optuna.log").run()
    assert all(json.loads(line) for line in (tmp_path / "new" / "optuna.log").read_text().splitlines())
