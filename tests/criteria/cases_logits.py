"""Cases of the criteria that compare logits."""

from __future__ import annotations

from lit_distill.criteria import DIST, DKD, NKD, RLD, TTM, WTTM, HardDistillation, LogitMSE, SoftTarget
from tests.criteria.cases import Case

CASES = [
    Case("soft target, skew", lambda: SoftTarget(2.0, divergence="skew")),
    Case("soft target, standardized", lambda: SoftTarget(2.0, standardize=True)),
    Case("logit mse", lambda: LogitMSE()),
    Case("logit mse, centred", lambda: LogitMSE(centre=True)),
    Case("logit mse, standardized", lambda: LogitMSE(standardize=True)),
    Case("dkd", lambda: DKD(1.0, 8.0, 4.0)),
    Case("dkd, standardized", lambda: DKD(1.0, 8.0, 2.0, standardize=True)),
    Case("dist", lambda: DIST(1.0, 2.0, 4.0)),
    Case("dist, standardized", lambda: DIST(tau=1.0, standardize=True)),
    # Cross-entropies, whose value at equality is an entropy.
    Case("hard distillation", lambda: HardDistillation(), zero_at_equality=False),
    Case("nkd", lambda: NKD(1.5, 2.0), zero_at_equality=False),
    Case("nkd, standardized", lambda: NKD(1.5, 2.0, standardize=True), zero_at_equality=False),
    Case("ttm", lambda: TTM(1.0)),
    Case("ttm, softened teacher", lambda: TTM(0.1), zero_at_equality=False),
    Case("wttm", lambda: WTTM(1.0)),
    Case("wttm, softened teacher", lambda: WTTM(0.2), zero_at_equality=False),
    Case("wttm, standardized", lambda: WTTM(0.2, standardize=True), zero_at_equality=False),
    # Zero where the teacher is right alone.
    Case("rld", lambda: RLD(1.0, 8.0, 4.0), zero_at_equality=False),
    Case("rld, standardized", lambda: RLD(1.0, 8.0, 2.0, 2.0, standardize=True), zero_at_equality=False),
]
