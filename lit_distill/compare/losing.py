"""Does distillation lose accuracy here? The answer in words, against no teacher and against the teacher."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lit_distill.compare.statistics import MOST_SEEDS, Difference, TableRow, complete
from lit_distill.compare.summary import Case, Summary
from lit_distill.compare.verdicts import LEVEL, Verdict
from lit_distill.compare.words import joined, listed_cases, measured, scored, seeds_in_words
from lit_distill.utils.names import count

_FEW = 4  # cases that a sentence can name
_LIMITS = (5, 10, 20, 50, MOST_SEEDS, MOST_SEEDS + 1)
_HEADINGS = {
    Verdict.BETTER: "It gains",
    Verdict.WORSE: "It loses",
    Verdict.BETTER_ALONE: "Taken alone, it would gain",
    Verdict.WORSE_ALONE: "Taken alone, it would lose",
}


def loss_answer(summary: Summary) -> list[str]:
    """Return the answer as paragraphs, the shortest first."""
    cases = summary.cases
    if not cases:
        return [
            "That cannot be told: no distilled run has a run without a teacher of the same student and seed beside it."
        ]
    parts = [_short(cases), _on_average(summary)]
    for verdict, heading in _HEADINGS.items():
        found = [case for case in cases if case.judged.verdict is verdict]
        parts.append(_listed(heading, found, summary))
    parts += [_chance(cases), _seeds_to_tell(summary), *_to_the_teacher(summary)]
    return [part for part in parts if part]


def _short(cases: Sequence[Case]) -> str:
    differences = [case.judged.difference for case in cases]
    if all(one.seeds == 1 for one in differences):
        return (
            "That cannot be told with 1 seed: nothing says how much of a difference is chance. Train 3 seeds or more."
        )
    gains, losses = (sum(case.judged.verdict is one for case in cases) for one in (Verdict.BETTER, Verdict.WORSE))
    rest, seeds, number = len(cases) - gains - losses, seeds_in_words(differences), count(len(cases), "case")
    if rest == len(cases):
        return f"That cannot be told with {seeds}: {number} looked at, and no difference is beyond chance."
    left = f" Of {rest} it cannot be told with {seeds}." if rest else ""
    gain, lose = _verb("gain", gains), _verb("lose", losses)
    if gains and losses:
        return f"In some cases: against no teacher, of {number} {losses} {lose} and {gains} {gain}.{left}"
    if gains:
        return f"No: against no teacher, {gains} of {number} {gain}, and none loses beyond chance.{left}"
    return f"{'In some cases' if rest else 'Yes'}: against no teacher, {losses} of {number} {lose}.{left}"


def _verb(verb: str, number: int) -> str:
    return f"{verb}s" if number == 1 else verb


def _on_average(summary: Summary) -> str:
    texts = []
    for student in summary.students:
        differences = [case.judged.difference for case in summary.cases if case.row.student == student]
        mean = mean_difference(differences)
        if len(differences) > 1 and mean is not None:
            texts.append(f"{student} {measured(mean, summary.units)} over {len(differences)} cases")
    return f"On average, against no teacher: {listed_cases(texts)}." if texts else ""


def mean_difference(differences: Sequence[Difference]) -> Difference | None:
    """Average over cases, seed by seed: seeds are independent of each other, the cases of one seed are not.

    None if there is no seed that all cases have.
    """
    seeds = differences[0].by_seed if differences else ()
    common = [seed for seed in seeds if all(seed in one.by_seed for one in differences)]
    means = {seed: statistics.fmean(one.by_seed[seed] for one in differences) for seed in common}
    return Difference(means) if means else None


def _listed(heading: str, cases: Sequence[Case], summary: Summary) -> str:
    if not cases:
        return ""
    ordered = sorted(cases, key=lambda case: -abs(case.judged.difference.mean))
    seeds = seeds_in_words([case.judged.difference for case in cases])
    each = " each" if len(cases) > 1 and " to " not in seeds else ""
    texts = [
        f"{summary.name(case.row)} {measured(case.judged.difference, summary.units, seeds=not each and len(cases) > 1)}"
        for case in ordered
    ]
    return f"{heading} ({seeds}{each}): {listed_cases(texts)}."


def _chance(cases: Sequence[Case]) -> str:
    alone = any(case.judged.verdict in (Verdict.BETTER_ALONE, Verdict.WORSE_ALONE) for case in cases)
    tried = sum(case.judged.measured for case in cases)
    if not alone:
        return ""
    return (
        f"With {count(tried, 'difference')} looked at, chance alone gives about {LEVEL * tried:.1g} that would count."
    )


def _seeds_to_tell(summary: Summary) -> str:
    undecided = [case for case in summary.cases if case.judged.measured and not case.judged.decided]
    if not undecided:
        return ""
    needed = sorted((case.judged.seeds_to_tell or MOST_SEEDS + 1, summary.name(case.row)) for case in undecided)
    if len(needed) <= _FEW:
        texts = [f"{_about(seeds)} for {name}" for seeds, name in needed]
    else:
        upto = [next(limit for limit in _LIMITS if seeds <= limit) for seeds, _ in needed]
        texts = [f"{_up_to(limit)} for {count(upto.count(limit), 'case')}" for limit in _LIMITS if limit in upto]
    return f"Seeds that would tell, if the differences are what they seem: {joined(texts)}."


def _about(seeds: int) -> str:
    return f"about {seeds}" if seeds <= MOST_SEEDS else f"more than {MOST_SEEDS}"


def _up_to(limit: int) -> str:
    return f"up to {limit}" if limit <= MOST_SEEDS else f"more than {MOST_SEEDS}"


def _to_the_teacher(summary: Summary) -> list[str]:
    parts = []
    for student in summary.students:
        taught = [row for row in complete(summary.rows, student) if row.against_teacher is not None]
        if taught:
            parts.append(_gap(max(taught, key=lambda row: row.mean), summary))
        else:
            parts.append(f"How far {student} is from its teacher cannot be told: no teacher's score was measured.")
    return parts


def _gap(best: TableRow, summary: Summary) -> str:
    units, case, gap = summary.units, summary.case_of(best), best.against_teacher
    if gap is None:
        return ""
    teacher = statistics.fmean(best.results[seed].score - gap.by_seed[seed] for seed in gap.by_seed)
    text = (
        f"{best.student} and its teacher: {best.name} reaches {scored(best, units)}, "
        f"{measured(gap, units, seeds=gap.seeds != len(best.seeds))} to the teacher's {units.score(teacher)}"
    )
    without = gap_without_teacher(case) if case else None
    return f"{text}; without a teacher it is {measured(without, units)}." if without else f"{text}."


def gap_without_teacher(case: Case) -> Difference | None:
    """Return the control's score less the teacher's, with the seeds that a case has."""
    gap, gain = case.row.against_teacher, case.judged.difference
    if gap is None:
        return None
    gaps = {seed: gap.by_seed[seed] - gain.by_seed[seed] for seed in gain.by_seed if seed in gap.by_seed}
    return Difference(gaps) if gaps else None
