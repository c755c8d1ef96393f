"""Cases of the criteria that everything started with."""

from __future__ import annotations

from lit_distill import AttentionTransfer, Hint, SoftTarget
from tests.criteria.cases import Case

CASES = [
    Case("soft target", lambda: SoftTarget(4.0)),
    Case("soft target, reverse", lambda: SoftTarget(1.0, divergence="reverse")),
    Case("soft target, jensen-shannon", lambda: SoftTarget(2.0, divergence="jensen_shannon", beta=0.3)),
    Case("hint", lambda: Hint("a", "a"), kind="map"),
    Case("hint, normalised", lambda: Hint("a", "a", normalise="channel"), kind="tokens"),
    Case("attention transfer", lambda: AttentionTransfer("a", "a"), kind="map"),
]
