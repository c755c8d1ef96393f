"""Distillation criteria: one file a method, the formula beside its module."""

from lit_distill.criteria.attention_transfer import AttentionTransfer
from lit_distill.criteria.base import Criterion, FeatureCriterion
from lit_distill.criteria.hard_target import HardTarget
from lit_distill.criteria.hint import Hint
from lit_distill.criteria.soft_target import SoftTarget

__all__ = ["AttentionTransfer", "Criterion", "FeatureCriterion", "HardTarget", "Hint", "SoftTarget"]
