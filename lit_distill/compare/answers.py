"""What a comparison answers, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from lit_distill.compare.choosing import choice_answer
from lit_distill.compare.losing import loss_answer
from lit_distill.compare.summary import Summary
from lit_distill.compare.words import unbroken


@dataclass(frozen=True)
class Answer:
    """A question and its answer.

    Attributes:
        question: In one sentence.
        paragraphs: The answer; the first says it shortest.
    """

    question: str
    paragraphs: Sequence[str]


def answers(summary: Summary) -> list[Answer]:
    """Return the two questions of every comparison, answered as far as its seeds allow.

    Example:
        >>> from lit_distill.compare.results import CONTROL, Result
        >>> from lit_distill.compare.summary import summarize
        >>> def run(teacher, method, seed, score):
        ...     return Result("small", teacher, method, seed, score, 0.99 if teacher else None, 1.0, (), 10, 40, 0.2, 2)
        >>> runs = [run("", CONTROL, seed, 0.90 + seed / 400) for seed in range(4)]
        >>> runs += [run("big", "KD", seed, 0.93 + seed / 500) for seed in range(4)]
        >>> for answer in answers(summarize(runs)):
        ...     print(answer.question, answer.paragraphs[0])
        Does distillation lose accuracy here? No: against no teacher, 1 of 1 case gains, and none loses beyond chance.
        Which teacher and which student? small: take KD from big, 93.3 % (4 seeds). It is better than no teacher.
    """
    return [
        Answer("Does distillation lose accuracy here?", loss_answer(summary)),
        Answer("Which teacher and which student?", choice_answer(summary)),
    ]


def answers_text(summary: Summary, width: int = 100) -> str:
    """Return the answers as text, wrapped."""
    parts = []
    for answer in answers(summary):
        paragraphs = [_wrapped(text, width) for text in answer.paragraphs]
        parts.append("\n".join([answer.question, *paragraphs]))
    return "\n\n".join(parts)


def _wrapped(text: str, width: int) -> str:
    """Wrap text, but not within an interval or before a percent sign."""
    lines = fill(unbroken(text), width, break_on_hyphens=False, initial_indent="  ", subsequent_indent="    ")
    return lines.replace("\xa0", " ")
