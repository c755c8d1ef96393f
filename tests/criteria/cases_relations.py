"""Cases of the relations among samples and layers, of masked and reviewed features, and of the classics."""

from __future__ import annotations

from lit_distill.criteria import (
    AB,
    CC,
    CRD,
    CTKD,
    FSP,
    MGD,
    NST,
    OFA,
    PKT,
    RKD,
    SDD,
    VID,
    LogitRelation,
    MultiTemperature,
    ReviewKD,
    SimKD,
)
from tests.criteria.cases import Case

CASES = [
    Case("rkd", lambda: RKD("a", "a"), kind="vector"),
    Case("rkd, chunks of 2", lambda: RKD("a", "a", chunk=2), kind="map"),
    Case("rkd, distances", lambda: RKD("a", "a", angle=0.0), kind="tokens"),
    Case("pkt", lambda: PKT("a", "a"), kind="vector"),
    Case("pkt, maps", lambda: PKT("a", "a"), kind="map"),
    Case("crd", lambda: CRD("a", "a", 8, queue=10), kind="vector", zero_at_equality=False),
    Case("crd, no queue", lambda: CRD("a", "a", 8, queue=0), kind="map", zero_at_equality=False),
    Case(
        "crd, info_nce",
        lambda: CRD("a", "a", 8, queue=10, class_negatives=False, objective="info_nce"),
        kind="tokens",
        zero_at_equality=False,
    ),
    Case("vid", lambda: VID("a", "a"), kind="map", zero_at_equality=False),
    Case("vid, tokens", lambda: VID("a", "a"), kind="tokens", zero_at_equality=False),
    Case("vid, vectors", lambda: VID("a", "a"), kind="vector", zero_at_equality=False),
    Case("reviewkd", lambda: ReviewKD(["a", "a", "a"], ["a", "a", "a"]), kind="map", zero_at_equality=False),
    Case("simkd", lambda: SimKD("a", "a"), kind="map", zero_at_equality=False),
    Case("mgd", lambda: MGD("a", "a"), kind="map", zero_at_equality=False),
    Case("mgd, positions", lambda: MGD("a", "a", "positions", 0.65), kind="map", zero_at_equality=False),
    Case("ctkd", CTKD),
    Case("multi-temperature", MultiTemperature),
    Case("logit relation", LogitRelation),
    Case("ofa", lambda: OFA(["a", "a"]), kind="map", zero_at_equality=False),
    Case("ofa, tokens", lambda: OFA("a"), kind="tokens", zero_at_equality=False),
    Case("ofa, vectors", lambda: OFA("a"), kind="vector", zero_at_equality=False),
    Case("sdd", lambda: SDD("a", "a"), kind="tokens", same_width=True),
    # The gradient goes with the cube of the features: at 1e4 it leaves half precision.
    Case("fsp", lambda: FSP(["a", "a"], ["a", "a"]), kind="map", same_width=True, finite_in_float16=200.0),
    Case("nst", lambda: NST("a", "a"), kind="map"),
    Case("cc", lambda: CC("a", "a"), kind="vector"),
    Case("ab", lambda: AB("a", "a"), kind="map", zero_at_equality=False),
]
