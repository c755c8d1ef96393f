"""Import paths that checkpoints, recordings and configs name: they stay where they are.

A checkpoint names the class of every criterion, network and balance of weights, a recording those of its network and data, a
chain's command its callback, and a config whatever its author wrote.
"""

import importlib

import pytest

# Where users import a class from: every one of these stays valid in configs and code.
IMPORTED_FROM = """
lit_distill.AttentionTransfer
lit_distill.Balance
lit_distill.BatchFormat
lit_distill.Capture
lit_distill.CombinedDistillation
lit_distill.Criterion
lit_distill.Distill
lit_distill.DistillationModule
lit_distill.EMATeacher
lit_distill.Ensemble
lit_distill.EnsembleTarget
lit_distill.FeatureCriterion
lit_distill.FeatureDistillation
lit_distill.FrozenTeacher
lit_distill.GradientNorm
lit_distill.HardTarget
lit_distill.Hint
lit_distill.JointTeacher
lit_distill.LogitDistillation
lit_distill.MultiTaskDistillation
lit_distill.Mutual
lit_distill.MutualDistillation
lit_distill.OnHead
lit_distill.Outputs
lit_distill.OwnTeacher
lit_distill.Projector
lit_distill.RecordedTeacher
lit_distill.SelfDistillation
lit_distill.SoftTarget
lit_distill.SupervisedModule
lit_distill.Teacher
lit_distill.TeacherFree
lit_distill.TeacherRuntime
lit_distill.Uncertainty
lit_distill.Unfreeze
lit_distill.balance.Balance
lit_distill.balance.GradientNorm
lit_distill.balance.Uncertainty
lit_distill.callbacks.Distill
lit_distill.callbacks.Throughput
lit_distill.callbacks.Unfreeze
lit_distill.chain.Link
lit_distill.chain.LinkCheckpoint
lit_distill.chain.Record
lit_distill.chain.Step
lit_distill.criteria.AB
lit_distill.criteria.AttentionTransfer
lit_distill.criteria.CC
lit_distill.criteria.CRD
lit_distill.criteria.CTKD
lit_distill.criteria.CWD
lit_distill.criteria.CWDLogits
lit_distill.criteria.Criterion
lit_distill.criteria.DIST
lit_distill.criteria.DKD
lit_distill.criteria.EnsembleTarget
lit_distill.criteria.FSP
lit_distill.criteria.FeatureCriterion
lit_distill.criteria.HardDistillation
lit_distill.criteria.HardTarget
lit_distill.criteria.Hint
lit_distill.criteria.LogitMSE
lit_distill.criteria.LogitRelation
lit_distill.criteria.MGD
lit_distill.criteria.MiniLM
lit_distill.criteria.MultiTeacher
lit_distill.criteria.MultiTemperature
lit_distill.criteria.Mutual
lit_distill.criteria.NKD
lit_distill.criteria.NST
lit_distill.criteria.OFA
lit_distill.criteria.OnHead
lit_distill.criteria.OwnTeacher
lit_distill.criteria.PKT
lit_distill.criteria.QueueKL
lit_distill.criteria.RKD
lit_distill.criteria.RLD
lit_distill.criteria.ReviewKD
lit_distill.criteria.SDD
lit_distill.criteria.SP
lit_distill.criteria.SimKD
lit_distill.criteria.SoftTarget
lit_distill.criteria.TTM
lit_distill.criteria.TeacherFree
lit_distill.criteria.TokenRelation
lit_distill.criteria.VID
lit_distill.criteria.WTTM
lit_distill.data.CIFAR10
lit_distill.data.CIFAR100
lit_distill.data.DigitTasks
lit_distill.data.Digits
lit_distill.data.ImageDataModule
lit_distill.data.ImageFolder
lit_distill.models.Adapted
lit_distill.models.CifarResNet
lit_distill.models.Ensemble
lit_distill.models.MLP
lit_distill.models.MultiHeadCNN
lit_distill.models.Peers
lit_distill.models.SmallCNN
lit_distill.modules.BatchFormat
lit_distill.modules.CombinedDistillation
lit_distill.modules.DistillationModule
lit_distill.modules.FeatureDistillation
lit_distill.modules.LogitDistillation
lit_distill.modules.MultiTaskDistillation
lit_distill.modules.MutualDistillation
lit_distill.modules.SelfDistillation
lit_distill.modules.SupervisedModule
lit_distill.optim.DOT
lit_distill.schedules.Between
lit_distill.schedules.Cosine
lit_distill.schedules.Linear
lit_distill.schedules.Ramp
lit_distill.schedules.Schedule
lit_distill.schedules.Step
lit_distill.schedules.TimedSchedule
lit_distill.teachers.EMATeacher
lit_distill.teachers.FrozenTeacher
lit_distill.teachers.JointTeacher
lit_distill.teachers.RecordedTeacher
lit_distill.teachers.Teacher
lit_distill.teachers.TeacherRuntime
lit_distill.doctor.Finding
lit_distill.doctor.Report
lit_distill.pytorch_lightning.Distill
""".split()

# What ``type(thing).__module__`` and its name say: what checkpoints, recordings and chains hold.
PERSISTED = """
lit_distill.balance.Balance
lit_distill.balance.GradientNorm
lit_distill.balance.Uncertainty
lit_distill.chain.link.Link
lit_distill.chain.link.LinkCheckpoint
lit_distill.chain.link.Record
lit_distill.chain.planning.Step
lit_distill.criteria.ab.AB
lit_distill.criteria.attention_transfer.AttentionTransfer
lit_distill.criteria.base.Criterion
lit_distill.criteria.base.FeatureCriterion
lit_distill.criteria.cc.CC
lit_distill.criteria.crd.CRD
lit_distill.criteria.ctkd.CTKD
lit_distill.criteria.cwd.CWD
lit_distill.criteria.cwd.CWDLogits
lit_distill.criteria.dist.DIST
lit_distill.criteria.dkd.DKD
lit_distill.criteria.ensemble_target.EnsembleTarget
lit_distill.criteria.fsp.FSP
lit_distill.criteria.hard_distillation.HardDistillation
lit_distill.criteria.hard_target.HardTarget
lit_distill.criteria.hint.Hint
lit_distill.criteria.logit_mse.LogitMSE
lit_distill.criteria.logit_relation.LogitRelation
lit_distill.criteria.mgd.MGD
lit_distill.criteria.minilm.MiniLM
lit_distill.criteria.multi_teacher.MultiTeacher
lit_distill.criteria.multi_temperature.MultiTemperature
lit_distill.criteria.mutual.Mutual
lit_distill.criteria.nkd.NKD
lit_distill.criteria.nst.NST
lit_distill.criteria.ofa.OFA
lit_distill.criteria.on_head.OnHead
lit_distill.criteria.own_teacher.OwnTeacher
lit_distill.criteria.pkt.PKT
lit_distill.criteria.queue_kl.QueueKL
lit_distill.criteria.review_kd.ReviewKD
lit_distill.criteria.rkd.RKD
lit_distill.criteria.rld.RLD
lit_distill.criteria.sdd.SDD
lit_distill.criteria.sim_kd.SimKD
lit_distill.criteria.soft_target.SoftTarget
lit_distill.criteria.sp.SP
lit_distill.criteria.teacher_free.TeacherFree
lit_distill.criteria.token_relation.TokenRelation
lit_distill.criteria.ttm.TTM
lit_distill.criteria.ttm.WTTM
lit_distill.criteria.vid.VID
lit_distill.data.base.ImageDataModule
lit_distill.data.cifar.CIFAR10
lit_distill.data.cifar.CIFAR100
lit_distill.data.digit_tasks.DigitTasks
lit_distill.data.digits.Digits
lit_distill.data.image_folder.ImageFolder
lit_distill.models.adapt.Adapted
lit_distill.models.cifar_resnet.CifarResNet
lit_distill.models.ensemble.Ensemble
lit_distill.models.peers.Peers
lit_distill.models.small.MLP
lit_distill.models.small.MultiHeadCNN
lit_distill.models.small.SmallCNN
lit_distill.modules.base.DistillationModule
lit_distill.modules.combined.CombinedDistillation
lit_distill.modules.feature.FeatureDistillation
lit_distill.modules.logit.LogitDistillation
lit_distill.modules.multitask.MultiTaskDistillation
lit_distill.modules.mutual.MutualDistillation
lit_distill.modules.self_distillation.SelfDistillation
lit_distill.modules.supervised.SupervisedModule
lit_distill.optim.dot.DOT
lit_distill.schedules.Between
lit_distill.schedules.Cosine
lit_distill.schedules.Linear
lit_distill.schedules.Ramp
lit_distill.schedules.Schedule
lit_distill.schedules.Step
lit_distill.schedules.TimedSchedule
""".split()


@pytest.mark.parametrize("path", IMPORTED_FROM)
def test_a_class_is_found_where_configs_import_it_from(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type)


@pytest.mark.parametrize("path", PERSISTED)
def test_a_class_calls_itself_what_checkpoints_call_it(path: str) -> None:
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    assert f"{cls.__module__}.{cls.__qualname__}" == path
