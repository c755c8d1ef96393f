r"""The formulas of all criteria as functions: tensors in, a scalar out.

| method | function | method | function |
|---|---|---|---|
| AB | ``activation_boundary`` | MLKD | ``multi_temperature``, ``logit_relation`` |
| AM-RADIO | ``match_features`` | NKD | ``nkd`` |
| AT | ``attention_transfer`` | NST | ``nst`` |
| BYOT | ``own_teacher`` | OFA-KD | ``ofa`` |
| CC | ``correlation_congruence`` | PKT | ``pkt`` |
| CRD | ``crd`` | ReviewKD | ``hcl`` |
| CTKD | ``ctkd`` | RKD | ``rkd``, ``rkd_distance``, ``rkd_angle`` |
| CWD | ``cwd`` | RLD | ``rld`` |
| DeiT | ``hard_distillation`` | SDD | ``sdd`` |
| DINOv3 (Gram) | ``token_relation`` | SEED | ``queue_kl`` |
| DIST | ``dist`` | SimKD | ``sim_kd`` |
| DKD | ``dkd`` | SP | ``similarity_preserving`` |
| DML | ``mutual`` | Tf-KD | ``teacher_free`` with ``virtual_teacher`` |
| FitNets, PKD, SRD, VkD, PEFD | ``hint`` | TTM, WTTM | ``ttm`` |
| FSP | ``fsp`` | VID | ``vid`` |
| KD | ``soft_target``, ``soft_target_bernoulli`` | several teachers | ``ensemble_target`` |
| MGD | ``mgd`` | labels | ``hard_target``, ``hard_target_binary``, ``hard_target_regression`` |
| MiniLMv2 | ``minilm``, ``attention_relation`` | logit MSE | ``logit_mse`` |

Arguments come in the order student, teacher, labels, options; the defaults are those of the criteria. Each function is
defined next to its criterion, whose documentation tells weights and differences from published code.
``confidence_weights`` and ``agreement_weights`` give the weights for ``ensemble_target``.
"""

from lit_distill.criteria.ab import activation_boundary
from lit_distill.criteria.attention_transfer import attention_transfer
from lit_distill.criteria.cc import correlation_congruence
from lit_distill.criteria.crd import crd
from lit_distill.criteria.ctkd import ctkd
from lit_distill.criteria.cwd import cwd
from lit_distill.criteria.dist import dist
from lit_distill.criteria.dkd import dkd
from lit_distill.criteria.ensemble_target import agreement_weights, confidence_weights, ensemble_target
from lit_distill.criteria.fsp import fsp
from lit_distill.criteria.hard_distillation import hard_distillation
from lit_distill.criteria.hard_target import hard_target, hard_target_binary, hard_target_regression
from lit_distill.criteria.hint import hint
from lit_distill.criteria.logit_mse import logit_mse
from lit_distill.criteria.logit_relation import logit_relation
from lit_distill.criteria.mgd import mgd
from lit_distill.criteria.minilm import attention_relation, minilm
from lit_distill.criteria.multi_teacher import match_features
from lit_distill.criteria.multi_temperature import multi_temperature
from lit_distill.criteria.mutual import mutual
from lit_distill.criteria.nkd import nkd
from lit_distill.criteria.nst import nst
from lit_distill.criteria.ofa import ofa
from lit_distill.criteria.own_teacher import own_teacher
from lit_distill.criteria.pkt import pkt
from lit_distill.criteria.queue_kl import queue_kl
from lit_distill.criteria.review_kd import hcl
from lit_distill.criteria.rkd import rkd, rkd_angle, rkd_distance
from lit_distill.criteria.rld import rld
from lit_distill.criteria.sdd import sdd
from lit_distill.criteria.sim_kd import sim_kd
from lit_distill.criteria.soft_target import soft_target, soft_target_bernoulli
from lit_distill.criteria.sp import similarity_preserving
from lit_distill.criteria.teacher_free import teacher_free, virtual_teacher
from lit_distill.criteria.token_relation import token_relation
from lit_distill.criteria.ttm import ttm
from lit_distill.criteria.vid import vid

__all__ = [
    "activation_boundary",
    "agreement_weights",
    "attention_relation",
    "attention_transfer",
    "confidence_weights",
    "correlation_congruence",
    "crd",
    "ctkd",
    "cwd",
    "dist",
    "dkd",
    "ensemble_target",
    "fsp",
    "hard_distillation",
    "hard_target",
    "hard_target_binary",
    "hard_target_regression",
    "hcl",
    "hint",
    "logit_mse",
    "logit_relation",
    "match_features",
    "mgd",
    "minilm",
    "multi_temperature",
    "mutual",
    "nkd",
    "nst",
    "ofa",
    "own_teacher",
    "pkt",
    "queue_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "rld",
    "sdd",
    "sim_kd",
    "similarity_preserving",
    "soft_target",
    "soft_target_bernoulli",
    "teacher_free",
    "token_relation",
    "ttm",
    "vid",
    "virtual_teacher",
]
