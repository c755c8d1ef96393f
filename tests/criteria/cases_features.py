"""Cases of the criteria that compare features, tokens and embeddings."""

from __future__ import annotations

from lit_distill.criteria import CWD, SP, CWDLogits, Hint, MiniLM, MultiTeacher, QueueKL, TokenRelation
from tests.criteria.cases import Case

CASES = [
    Case("hint, smooth l1", lambda: Hint("a", "a", "smooth_l1", "l2"), kind="vector"),
    Case("hint, cosine", lambda: Hint("a", "a", "cosine"), kind="map"),
    # It goes down without end as the two meet.
    Case(
        "srd", lambda: Hint("a", "a", "log_sum", "channel", projector="linear"), kind="vector", zero_at_equality=False
    ),
    # Their projectors are there at equal widths too, and are not the identity.
    Case(
        "vkd",
        lambda: Hint("a", "a", "smooth_l1", "layer", projector="orthogonal", normalise_student=False),
        kind="vector",
        zero_at_equality=False,
    ),
    Case(
        "vkd, maps", lambda: Hint("a", "a", "l2", "layer", projector="orthogonal"), kind="map", zero_at_equality=False
    ),
    Case("pefd", lambda: Hint("a", "a", "cosine", num_projectors=3), kind="vector", zero_at_equality=False),
    Case("sp", lambda: SP("a", "a"), kind="map"),
    Case("sp, two pairs", lambda: SP(["a", "a"], ["a", "a"]), kind="vector"),
    Case("token relation, gram", lambda: TokenRelation("a", "a"), kind="tokens"),
    Case("token relation, softmax", lambda: TokenRelation("a", "a", "softmax"), kind="map"),
    Case("minilm", lambda: MiniLM(["a", "a", "a"], ["a", "a", "a"], relation_heads=4), kind="tokens"),
    Case("queue kl", lambda: QueueKL("a", "a", size=8), kind="vector", zero_at_equality=False),
    Case(
        "queue kl, two temperatures",
        lambda: QueueKL("a", "a", size=16, temperature=0.2, teacher_temperature=0.01),
        kind="map",
        zero_at_equality=False,
    ),
    Case("cwd", lambda: CWD("a", "a"), kind="map"),
    Case("cwd, tokens", lambda: CWD("a", "a", 1.0), kind="tokens"),
    Case("cwd, logits", lambda: CWDLogits(), positions=(3, 4)),
    Case(
        "multi-teacher, phi-s",
        lambda: MultiTeacher("a", ["a", "a"], teacher_weights=[1.0, 0.5], batches=2),
        kind="tokens",  # more rows than dimensions: the rotation of a space without variance is arbitrary
        zero_at_equality=False,
    ),
    Case(
        "multi-teacher, dimension",
        lambda: MultiTeacher("a", ["a", "a"], "dimension"),
        kind="vector",
        zero_at_equality=False,
    ),
    Case("multi-teacher, raw", lambda: MultiTeacher("a", ["a"], "none"), kind="map", zero_at_equality=False),
]
