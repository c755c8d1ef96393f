"""Formulas by name: each is there, documented, and has the value of its criterion."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_distill import criteria
from lit_distill import functional as f
from lit_distill.criteria import Criterion, FeatureCriterion, OnHead
from lit_distill.criteria.ops.features import pooled, unit_length
from lit_distill.outputs import Outputs
from tests.criteria.cases import Case, example

Formula = Callable[[Any, Outputs, Outputs, Tensor], Tensor]


def of_logits(formula: Callable[..., Tensor], *options: Any) -> Formula:
    return lambda c, s, t, y: formula(s.logits, t.logits, *options)


def of_labelled(formula: Callable[..., Tensor], *options: Any) -> Formula:
    return lambda c, s, t, y: formula(s.logits, t.logits, y, *options)


def of_pair(formula: Callable[..., Tensor], *options: Any) -> Formula:
    return lambda c, s, t, y: formula(*c.pair_features(s, t)[0], *options)


def of_crd(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
    queue = (c.queue_s, c.queue_t, c.queue_labels)
    return f.crd(c.embed_s(s.features["a"]), c.embed_t(t.features["a"]), y, queue)


def of_exits(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
    return f.ofa(c.exits[0](s.features["a"]), t.logits, y) + f.ofa(s.logits, t.logits, y)


def of_review(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
    return f.hcl(c.fusions[0](s.features["a"], None, (4, 4))[0], t.features["a"])


def of_masked(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
    ((projected, teacher),) = c.pair_features(s, t)  # nothing is masked in evaluation
    return f.mgd(c.generators[0](projected), teacher)


def of_queue(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
    return f.queue_kl(c.projector(s.features["a"]), t.features["a"], unit_length(t.features["a"]))


def of_qkv(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
    return f.minilm([s.features["a"]] * 3, [t.features["a"]] * 3, 4)


def of_relations(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
    return torch.stack([f.logit_relation(s.logits, t.logits, T) for T in (2.0, 3.0, 4.0, 5.0, 6.0)]).mean()


def of_members(weights: Callable[[list[Tensor], Tensor], Any]) -> Formula:
    def formula(c: Any, s: Outputs, t: Outputs, y: Tensor) -> Tensor:
        members = [t.logits, 2 * t.logits]
        return f.ensemble_target(s.logits, members, weights(members, y))

    return formula


# The criterion, what it reads, and its formula on the same outputs. Another line for each further formula of a criterion.
ROWS: list[tuple[Callable[[], Criterion], str, Formula]] = [
    (lambda: criteria.AB("a", "a"), "map", of_pair(f.activation_boundary)),
    (lambda: criteria.AttentionTransfer("a", "a"), "map", of_pair(f.attention_transfer)),
    (lambda: criteria.CC("a", "a"), "vector", of_pair(f.correlation_congruence)),
    (lambda: criteria.CRD("a", "a", 8, queue=10), "vector", of_crd),
    (criteria.CTKD, "logits", lambda c, s, t, y: f.ctkd(s.logits, t.logits, c._learned(c.theta))),
    (lambda: criteria.CWD("a", "a"), "map", of_pair(f.cwd)),
    (criteria.CWDLogits, "dense", of_logits(f.cwd)),
    (criteria.DIST, "logits", of_logits(f.dist)),
    (criteria.DKD, "logits", of_labelled(f.dkd)),
    (criteria.EnsembleTarget, "members", of_members(lambda z, y: None)),
    (lambda: criteria.EnsembleTarget(weighting="confidence"), "members", of_members(f.confidence_weights)),
    (
        lambda: criteria.EnsembleTarget(weighting="agreement"),
        "members",
        lambda c, s, t, y: of_members(lambda z, y: f.agreement_weights(s.logits, z))(c, s, t, y),
    ),
    (
        lambda: criteria.FSP(["a", "a"], ["a", "a"]),
        "same",
        lambda c, s, t, y: f.fsp([s.features["a"]] * 2, [t.features["a"]] * 2),
    ),
    (criteria.HardDistillation, "logits", of_logits(f.hard_distillation)),
    (criteria.HardTarget, "logits", lambda c, s, t, y: f.hard_target(s.logits, y)),
    (
        lambda: criteria.HardTarget(task="multilabel"),
        "multilabel",
        lambda c, s, t, y: f.hard_target_binary(s.logits, y),
    ),
    (
        lambda: criteria.HardTarget(task="regression"),
        "multilabel",
        lambda c, s, t, y: f.hard_target_regression(s.logits, y),
    ),
    (lambda: criteria.Hint("a", "a"), "map", of_pair(f.hint)),
    (criteria.LogitMSE, "logits", of_logits(f.logit_mse)),
    (criteria.LogitRelation, "logits", of_relations),
    (lambda: criteria.MGD("a", "a"), "map", of_masked),
    (lambda: criteria.MiniLM(["a"] * 3, ["a"] * 3, 4), "tokens", of_qkv),
    (lambda: criteria.MultiTeacher("a", ["a"], "none"), "vector", of_pair(f.match_features)),
    (criteria.MultiTemperature, "logits", of_logits(f.multi_temperature)),
    (lambda: criteria.Mutual(["0", "1"]), "members", lambda c, s, t, y: f.mutual([s.logits, 3 * s.logits])),
    (criteria.NKD, "logits", of_labelled(f.nkd)),
    (lambda: criteria.NST("a", "a"), "map", of_pair(f.nst)),
    (lambda: criteria.OFA("a"), "vector", of_exits),
    (
        lambda: criteria.OwnTeacher("a"),
        "map",
        lambda c, s, t, y: f.own_teacher(c.exits[0](pooled(s.features["a"])), s.logits, y),
    ),
    (lambda: criteria.PKT("a", "a"), "vector", of_pair(f.pkt)),
    (lambda: criteria.QueueKL("a", "a", size=8), "vector", of_queue),
    (lambda: criteria.ReviewKD("a", "a"), "map", of_review),
    (lambda: criteria.RKD("a", "a"), "vector", of_pair(f.rkd)),
    (lambda: criteria.RKD("a", "a", 1.0, 0.0), "vector", of_pair(f.rkd_distance)),
    (lambda: criteria.RKD("a", "a", 0.0, 1.0), "vector", of_pair(f.rkd_angle)),
    (criteria.RLD, "logits", of_labelled(f.rld)),
    (lambda: criteria.SDD("a", "a"), "regions", lambda c, s, t, y: f.sdd(s.features["a"], t.features["a"], y)),
    (lambda: criteria.SimKD("a", "a"), "map", of_pair(f.sim_kd)),
    (criteria.SoftTarget, "logits", of_logits(f.soft_target)),
    (lambda: criteria.SoftTarget(task="multilabel"), "logits", of_logits(f.soft_target_bernoulli)),
    (lambda: criteria.SP("a", "a"), "map", of_pair(f.similarity_preserving)),
    (criteria.TeacherFree, "logits", lambda c, s, t, y: f.teacher_free(s.logits, y)),
    (
        lambda: criteria.TeacherFree(temperature=3.0),
        "logits",
        lambda c, s, t, y: f.soft_target(s.logits, f.virtual_teacher(y, 5).double(), 3.0),
    ),
    (lambda: criteria.TokenRelation("a", "a"), "tokens", of_pair(f.token_relation)),
    (criteria.TTM, "logits", of_logits(f.ttm)),
    (criteria.WTTM, "logits", of_logits(f.ttm, 0.2, True)),
    (
        lambda: criteria.VID("a", "a"),
        "vector",
        lambda c, s, t, y: f.vid(c.means[0](s.features["a"]), t.features["a"], c.variances()[0]),
    ),
]


def outputs(make: Callable[[], Criterion], reads: str) -> tuple[Outputs, Outputs, Tensor]:
    kinds = {"same": "map", "regions": "tokens", "members": "logits", "multilabel": "logits", "dense": "logits"}
    positions = (3, 4) if reads == "dense" else ()
    case = Case("", make, kinds.get(reads, reads), same_width=reads in ("same", "regions"), positions=positions)
    student, teacher, target = example(case)
    if reads == "members":
        student = Outputs(student.logits, {"0": student.logits, "1": 3 * student.logits})
        teacher = Outputs(teacher.logits, {"0": teacher.logits, "1": 2 * teacher.logits})
    return student, teacher, torch.nn.functional.one_hot(target, 5).double() if reads == "multilabel" else target


@pytest.mark.parametrize(("make", "reads", "formula"), ROWS)
def test_a_formula_has_the_value_of_its_criterion(make: Callable[[], Criterion], reads: str, formula: Formula) -> None:
    torch.manual_seed(0)
    criterion = make()
    student, teacher, target = outputs(make, reads)
    criterion.build(student, teacher)
    criterion = criterion.double().eval()
    with torch.no_grad():
        expected = formula(criterion, student, teacher, target)
        torch.testing.assert_close(criterion(student, teacher, target), expected, rtol=1e-9, atol=1e-12)
    assert expected.dim() == 0
    assert abs(float(expected)) > 1e-6


def test_every_criterion_has_its_formula_here() -> None:
    bases = {Criterion, FeatureCriterion, OnHead}  # OnHead has the formula of the criterion inside
    public = {getattr(criteria, name) for name in criteria.__all__} - bases
    assert public == {type(make()) for make, _, _ in ROWS}


def test_every_formula_is_compared_with_its_criterion() -> None:
    called = set(re.findall(r"\bf\.(\w+)", Path(__file__).read_text()))
    assert set(f.__all__) - {"attention_relation"} <= called  # minilm is the sum of it


@pytest.mark.parametrize("name", f.__all__)
def test_a_formula_is_documented(name: str) -> None:
    text = getattr(f, name).__doc__
    assert text.startswith("Return ")
    for part in ("$$", "Args:", "Examples:\n        >>> "):
        assert part in text
    assert "https://" in text or name.startswith(("hard_target", "agreement", "logit_relation", "multi_temp"))
    assert getattr(f, name).__module__.startswith("lit_distill.criteria.")


@pytest.mark.parametrize("name", [name for name in criteria.__all__ if name not in ("Criterion", "FeatureCriterion")])
def test_a_criterion_is_documented(name: str) -> None:
    kind = getattr(criteria, name)
    assert ">>> " in kind.__doc__
    assert "Args:" in kind.__doc__ or name == "HardDistillation"
    if name != "OnHead":
        assert "$$" in kind.__doc__
        assert any(f"``{formula}``" in kind.__doc__ for formula in f.__all__)
    if kind.citation is not None:
        assert kind.citation.url in kind.__doc__


def test_formulas_start_with_the_student_and_the_teacher() -> None:
    others = {"hard_target", "hard_target_binary", "hard_target_regression", "teacher_free", "virtual_teacher",
              "confidence_weights", "mutual", "own_teacher", "agreement_weights"}  # fmt: skip
    for name in set(f.__all__) - others:
        first, second, *rest = inspect.signature(getattr(f, name)).parameters.values()
        assert first.name in ("student", "generated", "projected", "mean")
        assert second.name in ("teacher", "teachers")
        required = [one.name for one in rest if one.default is inspect.Parameter.empty]
        assert set(required) <= {"target", "bank", "temperature", "variance"}
