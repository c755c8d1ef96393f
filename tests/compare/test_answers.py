from __future__ import annotations

import math
import re

import pytest

from lit_distill.compare import Result
from lit_distill.compare.answers import answers, answers_text
from lit_distill.compare.choosing import rank
from lit_distill.compare.losing import gap_without_teacher, mean_difference
from lit_distill.compare.statistics import Difference
from lit_distill.compare.summary import summarize
from tests.compare.runs import controls, run, runs

ALONE = [0.900, 0.905, 0.895, 0.900]


def plus(gain: float, noise: float = 0.001) -> list[float]:
    """The control's scores with a gain that differs a little from seed to seed."""
    return [score + gain + noise * (-1) ** seed for seed, score in enumerate(ALONE)]


def loss(results: list[Result]) -> list[str]:
    return list(answers(summarize(results))[0].paragraphs)


def choice(results: list[Result]) -> list[str]:
    return list(answers(summarize(results))[1].paragraphs)


def test_it_does_not_lose() -> None:
    found = loss(controls("s", ALONE) + runs("s", "t", "KD", plus(0.02)) + runs("s", "t", "AT", plus(0.03)))
    assert found[0] == "No: against no teacher, 2 of 2 cases gain, and none loses beyond chance."
    assert found[2].startswith("It gains (4 seeds each): AT +3.0 points [+2.8, +3.2]; KD +2.0 points [+1.8, +2.2].")


def test_it_loses() -> None:
    assert (
        loss(controls("s", ALONE) + runs("s", "t", "KD", plus(-0.02)))[0]
        == "Yes: against no teacher, 1 of 1 case loses."
    )


def test_it_depends() -> None:
    noisy = [0.95, 0.85, 0.94, 0.88]
    results = controls("s", ALONE)
    for method, scores in {"up": plus(0.02), "down": plus(-0.02), "noisy": noisy}.items():
        results += runs("s", "t", method, scores)
    found = loss(results)
    assert (
        found[0]
        == "In some cases: against no teacher, of 3 cases 1 loses and 1 gains. Of 1 it cannot be told with 4 seeds."
    )
    assert any(re.match(r"Seeds that would tell.*: (about \d+|more than 200) for noisy\.$", text) for text in found)


def test_losing_in_some_cases_is_not_losing() -> None:
    noisy = [0.95, 0.85, 0.94, 0.88]
    found = loss(controls("s", ALONE) + runs("s", "t", "down", plus(-0.02)) + runs("s", "t", "noisy", noisy))
    assert found[0] == "In some cases: against no teacher, 1 of 2 cases loses. Of 1 it cannot be told with 4 seeds."


def test_one_seed_tells_nothing() -> None:
    results = [*controls("s", [0.9]), run("s", "t", "KD", 0, 0.99), run("s", "t", "AT", 0, 0.1)]
    found = loss(results)
    assert found[0].startswith("That cannot be told with 1 seed")
    assert not any("[" in text or "±" in text for text in found)
    chosen = choice(results)[0]
    assert "KD cannot be told apart from no teacher and AT with 1 seed." in chosen
    assert "better than" not in chosen.replace("better than it", "")


def test_nothing_beyond_chance() -> None:
    found = loss(controls("s", ALONE) + runs("s", "t", "KD", [0.91, 0.89, 0.91, 0.89]))
    assert found[0] == "That cannot be told with 4 seeds: 1 case looked at, and no difference is beyond chance."


def test_no_control() -> None:
    results = runs("s", "t", "KD", ALONE)
    assert loss(results)[0].startswith("That cannot be told: no distilled run has a run without a teacher")
    assert "No control: no run of s without a teacher" in summarize(results).absent[0]


def test_the_gap_to_the_teacher_by_hand() -> None:
    found = loss(controls("s", [0.90, 0.91]) + runs("s", "t", "KD", [0.93, 0.95], teacher_score=0.98))
    # -0.05 and -0.03, so -0.04, sd 0.01414, half width 12.706 * 0.01; without a teacher -0.08 and -0.07
    assert found[-1] == (
        "s and its teacher: KD from t reaches 94.0 % (2 seeds), -4.0 points [-16.7, +8.7] to the teacher's 98.0 %; "
        "without a teacher it is -7.5 points [-13.9, -1.1] (2 seeds)."
    )


def test_a_teacher_that_was_not_tested() -> None:
    found = loss(controls("s", ALONE) + runs("s", "t", "KD", plus(0.02), teacher_score=None))
    assert found[-1] == "How far s is from its teacher cannot be told: no teacher's score was measured."
    case = summarize(controls("s", ALONE) + runs("s", "t", "KD", plus(0.02), teacher_score=math.nan)).cases[0]
    assert gap_without_teacher(case) is None


def test_the_average_is_over_cases_first() -> None:
    """Two cases of one seed are not two independent observations."""
    mean = mean_difference([Difference({0: 0.1, 1: 0.3}), Difference({1: 0.1, 0: 0.3, 2: 9.0})])
    assert mean is not None
    assert {seed: round(value, 9) for seed, value in mean.by_seed.items()} == {0: 0.2, 1: 0.2}
    assert mean_difference([Difference({0: 0.1}), Difference({1: 0.1})]) is None
    assert mean_difference([]) is None


def test_ties_are_named() -> None:
    results = controls("s", ALONE) + runs("s", "A", "KD", plus(0.020)) + runs("s", "B", "KD", plus(0.0199, -0.001))
    found = choice(results)
    assert "s: take KD from A, 92.0 % (4 seeds). KD from A and KD from B cannot be told apart with 4 seeds" in found[0]
    assert "It is better than no teacher." in found[0]
    assert found[1].startswith(
        "Teachers of s, each by its best method (4 seeds each): A 92.0 % by KD and B 92.0 % by KD."
    )
    assert "cannot be told apart with 4 seeds." in found[1]


def test_the_best_teacher_by_its_best_method() -> None:
    results = controls("s", ALONE)
    results += runs("s", "A", "KD", plus(0.01)) + runs("s", "A", "AT", plus(0.03))
    results += runs("s", "B", "KD", plus(0.02, -0.001)) + runs("s", "B", "AT", plus(0.0, -0.001))
    found = choice(results)
    assert "s: take AT from A" in found[0]
    assert "A 93.0 % by AT and B 92.0 % by KD. A is better than B (+1.0 points" in found[1]


def test_no_teacher_can_be_the_best() -> None:
    results = controls("s", ALONE) + runs("s", "A", "KD", plus(-0.03))
    assert choice(results) == ["s: take no teacher, 90.0 % (4 seeds). It is better than KD."]


def test_what_is_tied_only_for_its_noise_is_not_recommended_for_its_speed() -> None:
    """Its interval reaches the best row, but nobody should take it for training fast."""
    wild = [0.95, 0.30, 0.93, 0.40]
    results = controls("s", ALONE) + runs("s", "t", "good", plus(0.02), seconds=9.0)
    results += runs("s", "t", "wild", wild, seconds=0.1) + runs("s", "t", "near", plus(0.0195, -0.001), seconds=5.0)
    found = choice(results)[0]
    assert "good cannot be told apart from near and wild with 4 seeds" in found
    assert "near trains in the least time, 5.0 s a run" in found


def test_fewer_seeds_are_not_considered() -> None:
    found = choice(controls("s", ALONE) + runs("s", "t", "KD", plus(0.02)) + [run("s", "t", "lucky", 0, 1.0)])
    assert "take KD" in found[0]
    assert "Not considered: 1 row with fewer seeds." in found[0]


def test_rank_sorts_by_what_is_known() -> None:
    results = controls("s", ALONE) + runs("s", "t", "KD", plus(0.02)) + runs("s", "t", "AT", plus(0.019, -0.01))
    ranked = rank("s", summarize(results))
    assert ranked.best.method == "KD"
    assert [row.method for row in ranked.tied] == ["AT"]
    assert [row.method for row in ranked.beaten] == ["no teacher"]


def test_the_choice_says_of_no_teacher_what_the_table_says() -> None:
    """Among the cases of all students: of two places that judge one difference, neither may say more than the other."""
    results = []
    for student in "abcdefgh":
        results += (
            controls(student, ALONE)
            + runs(student, "t", "KD", plus(0.009, 0.003))
            + runs(student, "t", "AT", plus(-0.1))
        )
    summary = summarize(results)
    assert {case.judged.verdict.value for case in summary.cases if case.row.method == "KD"} == {"better?"}
    ranked = rank("a", summary)
    assert [row.method for row in ranked.beaten_alone] == ["no teacher"]
    assert [row.method for row in ranked.beaten] == ["AT"]


def test_the_lead_of_no_teacher_is_that_of_the_table() -> None:
    summary = summarize(
        controls("s", ALONE) + runs("s", "t", "KD", plus(-0.02)) + runs("s", "t", "AT", plus(-0.001, 0.01))
    )
    ranked = rank("s", summary)
    assert ranked.best.is_control
    assert ranked.leads["t", "KD"].difference.mean == pytest.approx(0.02)
    assert [row.method for row in ranked.beaten] == ["KD"]
    assert [row.method for row in ranked.tied] == ["AT"]


def test_a_student_for_each_latency() -> None:
    results = controls("slow", plus(0.05), latency_ms=4.0) + controls("fast", ALONE, latency_ms=1.0)
    results += controls("bad", plus(-0.1), latency_ms=2.0) + controls("same", plus(0.0501, -0.002), latency_ms=5.0)
    text = choice(results)[0]
    assert (
        "from 1 ms: fast, no teacher, 90.0 % (4 seeds); from 4 ms: slow, no teacher, 95.0 % (4 seeds), +5.0 points"
        in text
    )
    assert re.search(
        r"from 5 ms: same, .*\+0\.0 points \[.*\] to the one before, and 4 seeds cannot tell them apart\.", text
    )
    assert "Not on the front: bad" in text


def test_a_row_that_is_larger_than_its_student_has_its_own_place() -> None:
    """As one has that keeps a projector and the teacher's classifier."""
    results = controls("s", ALONE) + runs("s", "t", "KD", plus(0.02)) + controls("x", plus(0.01), latency_ms=1.5)
    results += runs("s", "t", "simkd", plus(0.05), latency_ms=2.0)
    text = choice(results)[0]
    assert "from 1 ms: s, KD, 92.0 % (4 seeds); from 2 ms: s, simkd, 95.0 % (4 seeds)" in text
    assert "Not on the front: x" in text


def test_sizes_where_latencies_were_not_measured() -> None:
    results = controls("big", plus(0.05), latency_ms=math.nan, size_bytes=4000) + controls(
        "small", ALONE, latency_ms=math.nan
    )
    assert choice(results)[0].startswith("Which student for which size: from 40 bytes: small")


def test_text_is_wrapped_but_not_within_an_interval() -> None:
    results = controls("s", ALONE)
    for teacher in ("first", "second", "third"):
        results += runs("s", teacher, "a method with a name", plus(0.02))
    for width in range(60, 90, 3):
        lines = answers_text(summarize(results), width).splitlines()
        assert max(map(len, lines)) <= width
        assert all(line.count("[") == line.count("]") for line in lines)


def test_every_run_failed() -> None:
    summary = summarize(controls("s", [math.nan, math.nan]))
    assert answers(summary)[1].paragraphs == ["That cannot be told: no run was finished."]
    assert len(summary.absent) == 2
