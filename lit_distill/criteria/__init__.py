"""Distillation criteria, one file per method: the formula, and the module that applies it."""

from lit_distill.criteria.ab import AB
from lit_distill.criteria.attention_transfer import AttentionTransfer
from lit_distill.criteria.base import Criterion, FeatureCriterion
from lit_distill.criteria.cc import CC
from lit_distill.criteria.crd import CRD
from lit_distill.criteria.ctkd import CTKD
from lit_distill.criteria.cwd import CWD, CWDLogits
from lit_distill.criteria.dist import DIST
from lit_distill.criteria.dkd import DKD
from lit_distill.criteria.ensemble_target import EnsembleTarget
from lit_distill.criteria.fsp import FSP
from lit_distill.criteria.hard_distillation import HardDistillation
from lit_distill.criteria.hard_target import HardTarget
from lit_distill.criteria.hint import Hint
from lit_distill.criteria.logit_mse import LogitMSE
from lit_distill.criteria.logit_relation import LogitRelation
from lit_distill.criteria.mgd import MGD
from lit_distill.criteria.minilm import MiniLM
from lit_distill.criteria.multi_teacher import MultiTeacher
from lit_distill.criteria.multi_temperature import MultiTemperature
from lit_distill.criteria.mutual import Mutual
from lit_distill.criteria.nkd import NKD
from lit_distill.criteria.nst import NST
from lit_distill.criteria.ofa import OFA
from lit_distill.criteria.on_head import OnHead
from lit_distill.criteria.own_teacher import OwnTeacher
from lit_distill.criteria.pkt import PKT
from lit_distill.criteria.queue_kl import QueueKL
from lit_distill.criteria.review_kd import ReviewKD
from lit_distill.criteria.rkd import RKD
from lit_distill.criteria.rld import RLD
from lit_distill.criteria.sdd import SDD
from lit_distill.criteria.sim_kd import SimKD
from lit_distill.criteria.soft_target import SoftTarget
from lit_distill.criteria.sp import SP
from lit_distill.criteria.teacher_free import TeacherFree
from lit_distill.criteria.token_relation import TokenRelation
from lit_distill.criteria.ttm import TTM, WTTM
from lit_distill.criteria.vid import VID

__all__ = [
    "AB",
    "CC",
    "CRD",
    "CTKD",
    "CWD",
    "DIST",
    "DKD",
    "FSP",
    "MGD",
    "NKD",
    "NST",
    "OFA",
    "PKT",
    "RKD",
    "RLD",
    "SDD",
    "SP",
    "TTM",
    "VID",
    "WTTM",
    "AttentionTransfer",
    "CWDLogits",
    "Criterion",
    "EnsembleTarget",
    "FeatureCriterion",
    "HardDistillation",
    "HardTarget",
    "Hint",
    "LogitMSE",
    "LogitRelation",
    "MiniLM",
    "MultiTeacher",
    "MultiTemperature",
    "Mutual",
    "OnHead",
    "OwnTeacher",
    "QueueKL",
    "ReviewKD",
    "SimKD",
    "SoftTarget",
    "TeacherFree",
    "TokenRelation",
]
