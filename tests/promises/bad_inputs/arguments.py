"""Arguments that are wrong, and what their refusals must say; and arguments that look odd and are right."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

import lit_distill as ld
from lit_distill import criteria as all_criteria
from lit_distill import data, models, schedules
from lit_distill.callbacks.throughput import Throughput
from lit_distill.optim import DOT

Row = tuple[str, Callable[[], Any], tuple[str, ...]]  # what is wrong, what makes it, words of the refusal
NAN, INF = float("nan"), float("inf")


class Own(LightningModule):
    """A module of the user's own, with a network in it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x)
        return found


class OwnTarget(ld.SoftTarget):
    """A subclass of a criterion."""


def net() -> nn.Module:
    return nn.Sequential(OrderedDict(stage=nn.Linear(4, 4), head=nn.Linear(4, 3)))


def logit(**options: Any) -> Any:
    return ld.LogitDistillation(**{"student": net(), "teacher": net(), **options})


def combined(**options: Any) -> Any:
    layers = {"student_layer": "stage", "teacher_layer": "stage"}
    return ld.CombinedDistillation(**{"student": net(), "teacher": net(), **layers, **options})


def mutual(**options: Any) -> Any:
    return ld.MutualDistillation(**{"peers": [net(), net()], **options})


def several(**options: Any) -> Any:
    given = {"student": net(), "heads": {"a": "head"}, "teacher": net(), **options}
    return ld.MultiTaskDistillation(**given)


def guest(**options: Any) -> Any:
    return ld.Distill(**{"teacher": net(), **options})


def only(criterion: Any, weight: Any = 1.0, **options: Any) -> Any:
    return logit(criteria={"soft": criterion}, weights={"soft": weight}, **options)


def scheduled(schedule: Any, key: str = "soft.weight") -> Any:
    return logit(schedules={key: schedule})


def optimized(**options: Any) -> Any:
    return logit(**options).configure_optimizers()


def made_optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


def make_network() -> nn.Module:
    return net()


# Networks --------------------------------------------------------------------------------------------

NO_NETWORK: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a path": ("teacher.ckpt", ("is a str", "give a network", "load")),
    "a Path": (Path("teacher.ckpt"), ("PosixPath", "give a network", "load")),
    "a dict of weights": (OrderedDict(weight=torch.zeros(1)), ("OrderedDict", "weights", "load")),
    "a class": (nn.Linear, ("the class Linear", "give an object", "not the class")),
    "an own module's class": (Own, ("the class Own", "Own()", "not the class")),
    "a function": (make_network, ("the function make_network", "give a network")),
    "a partial": (functools.partial(nn.Linear, 4, 3), ("a partial of Linear", "give a network")),
    "a list of networks": ([net(), net()], ("is a list", "Ensemble")),
    "a tensor": (torch.zeros(2, 3), ("a Tensor of shape [2, 3]", "give a network")),
    "a number": (4, ("is an int", "give a network")),
    "True": (True, ("is a bool", "give a network")),
    "bytes": (b"weights", ("is a bytes", "give a network")),
    "a criterion class": (ld.SoftTarget, ("the class SoftTarget", "not the class")),
}
NETWORKS: list[Row] = [
    *(
        (f"student is {what}", lambda v=value: logit(student=v), ("student", *words))
        for what, (value, words) in NO_NETWORK.items()
    ),
    *(
        (f"teacher is {what}", lambda v=value: logit(teacher=v), ("teacher", *words))
        for what, (value, words) in NO_NETWORK.items()
    ),
    *(
        (f"Distill's teacher is {what}", lambda v=value: guest(teacher=v), ("teacher", *words))
        for what, (value, words) in NO_NETWORK.items()
    ),
    *(
        (f"FrozenTeacher of {what}", lambda v=value: ld.FrozenTeacher(v), ("teacher", *words))
        for what, (value, words) in NO_NETWORK.items()
    ),
    ("student is None", lambda: logit(student=None), ("student is None", "give a network")),
    ("teacher is None", lambda: logit(teacher=None), ("'soft'", "teacher", "none")),
    ("Distill's teacher is None", lambda: guest(teacher=None), ("teacher is None", "give a network")),
    ("student is a Teacher", lambda: logit(student=ld.FrozenTeacher(net())), ("student is a FrozenTeacher", "network")),
    ("teacher is a Teacher's class", lambda: logit(teacher=ld.EMATeacher), ("the class EMATeacher", "EMATeacher()")),
    ("JointTeacher of a path", lambda: ld.JointTeacher("a.ckpt"), ("teacher is a str", "load")),
    ("SupervisedModule of a path", lambda: ld.SupervisedModule("a.ckpt"), ("model is a str", "load")),
    (
        "FeatureDistillation of a path",
        lambda: ld.FeatureDistillation("a", net(), "stage", "stage"),
        ("student is a str",),
    ),
    (
        "SelfDistillation of a class",
        lambda: ld.SelfDistillation(nn.Linear, "stage"),
        ("the class Linear", "not the class"),
    ),
    ("peers is a network", lambda: mutual(peers=net()), ("peers", "Sequential", "list of networks")),
    ("peers is a text", lambda: mutual(peers="ab"), ("peers is a str", "list of networks")),
    ("a peer is a path", lambda: mutual(peers=[net(), "b.ckpt"]), ("peers[1]", "a str", "load")),
    ("peers is a dict", lambda: mutual(peers={"a": net(), "b": net()}), ("peers is a dict", "list of networks")),
    ("one peer", lambda: mutual(peers=[net()]), ("peers", "at least 2", "1")),
    ("Ensemble of a network", lambda: ld.Ensemble(models.resnet8()), ("models is a CifarResNet", "list of networks")),
    ("Ensemble of paths", lambda: ld.Ensemble(["a.ckpt", "b.ckpt"]), ("models[0]", "a str", "load")),
    ("Ensemble of nothing", lambda: ld.Ensemble([]), ("no models", "at least one")),
    ("adapt a path", lambda: ld.adapt("a.ckpt", size=8), ("model is a str", "load")),
    ("inherit into a path", lambda: ld.inherit("a", net(), {"stage": "stage"}), ("student is a str", "network")),
    (
        "inherit from weights",
        lambda: ld.inherit(net(), net().state_dict(), {"head": "head"}),
        ("teacher is an OrderedDict", "load"),
    ),
    ("load into a class", lambda: ld.load(nn.Linear, "a.ckpt"), ("model is the class Linear", "not the class")),
    (
        "load from weights",
        lambda: ld.load(net(), net().state_dict()),
        ("checkpoint is an OrderedDict", "load_state_dict"),
    ),
    ("load from nothing", lambda: ld.load(net(), None), ("checkpoint is None", "path")),
    ("build a class", lambda: ld.build(nn.Linear), ("function is the class Linear", "import path")),
    ("build with a list", lambda: ld.build("torch.nn.Linear", [4, 3]), ("arguments is a list", "dict")),
    (
        "build without an argument",
        lambda: ld.build("torch.nn.Linear", {"in_features": 4}),
        ("torch.nn.Linear", "out_features"),
    ),
]

# Criteria and weights --------------------------------------------------------------------------------

DOORS: dict[str, Callable[..., Any]] = {"LogitDistillation": logit, "Distill": guest, "MutualDistillation": mutual}
CRITERIA: list[Row] = [
    *(
        (
            f"{door}: criteria is {what}",
            lambda make=make, v=value: make(criteria=v, weights={"soft": 1.0}),
            ("criteria", *words),
        )
        for door, make in DOORS.items()
        for what, value, words in (
            ("a list", [ld.SoftTarget()], ("is a list", "dict by name", "'soft': SoftTarget()")),
            ("a criterion", ld.SoftTarget(), ("is a SoftTarget", "dict by name")),
            ("a class", ld.SoftTarget, ("the class SoftTarget", "dict by name")),
            ("a text", "soft", ("is a str", "dict by name")),
            ("numbered", {0: ld.SoftTarget()}, ("a key that is an int", "names")),
        )
    ),
    ("no criteria", lambda: logit(criteria={}, weights={}), ("no criteria", "at least one")),
    (
        "criterion is a class",
        lambda: only(ld.SoftTarget),
        ("'soft'", "the class SoftTarget", "SoftTarget()", "not the class"),
    ),
    (
        "Distill's criterion is a class",
        lambda: guest(criteria={"soft": ld.SoftTarget}),
        ("SoftTarget()", "not the class"),
    ),
    (
        "criterion's class needs arguments",
        lambda: only(all_criteria.OnHead),
        ("the class OnHead", "OnHead(…)", "not the class"),
    ),
    ("criterion is None", lambda: only(None), ("'soft' is None", "Criterion")),
    ("criterion is a function", lambda: only(nn.functional.mse_loss), ("'soft'", "the function mse_loss", "Criterion")),
    ("criterion is a loss of torch", lambda: only(nn.MSELoss()), ("'soft'", "a MSELoss", "Criterion")),
    ("criterion is a text", lambda: only("SoftTarget"), ("'soft' is a str", "SoftTarget()")),
    ("criterion is a number", lambda: only(0.9), ("'soft' is a float", "Criterion")),
    (
        "a balance without weights",
        lambda: logit(criteria={"soft": ld.SoftTarget()}, balance=ld.GradientNorm("soft")),
        ("criterion 'soft' has no weight", "GradientNorm", "soft: 1.0"),
    ),
    ("weight is a wrong word", lambda: logit(weights={"soft": "aut"}), ("weight of criterion 'soft'",)),
    ("strength is below 0", lambda: logit(strength=-1), ("strength must be", "at least 0")),
    ("strength is text", lambda: logit(strength="high"), ("strength",)),
    ("weights is a list", lambda: logit(weights=[0.1, 0.9]), ("weights is a list", "dict by name")),
    ("weights is a text", lambda: logit(weights="hard=1"), ("weights is a str", "dict by name")),
    ("weights is a number", lambda: logit(weights=0.9), ("weights is a float", "dict by name")),
    ("weights is an empty list", lambda: logit(weights=[]), ("weights is a list", "dict by name")),
    ("Distill's weights is a list", lambda: guest(weights=[1.0]), ("weights is a list", "dict by name")),
    ("weight of nothing", lambda: logit(weights={"sotf": 1.0}), ("'sotf'", "hard, soft", "Did you mean 'soft'")),
    ("weights are all 0", lambda: logit(weights={"hard": 0, "soft": 0}), ("every weight is 0", "nothing")),
    *(
        (f"weight is {what}", lambda v=value: logit(weights={"soft": v}), ("weight of criterion 'soft'", *words))
        for what, value, words in (
            ("a text", "0.9", ("is a str", "the number, 0.9")),
            ("a word", "most", ("is a str", "give a number")),
            ("True", True, ("is a bool", "give a number")),
            ("None", None, ("is None", "give a number")),
            ("a list", [0.9], ("is a list", "give a number")),
            ("NaN", NAN, ("finite and at least 0", "nan")),
            ("infinite", INF, ("finite and at least 0", "inf")),
            ("negative", -0.1, ("finite and at least 0", "-0.1")),
            ("NumPy's NaN", np.float64("nan"), ("finite and at least 0", "nan")),
            ("several numbers", np.ones(2), ("shape [2]", "give a number")),
            ("learned", torch.ones((), requires_grad=True), ("a Tensor", "a plain number")),
            ("a schedule", schedules.Linear(0, 1, 3), ("a Linear", "give a number")),
        )
    ),
    (
        "name of a method",
        lambda: logit(criteria={"forward": ld.SoftTarget()}, weights={"forward": 1.0}),
        ("'forward'", "choose another"),
    ),
    (
        "name with a dot",
        lambda: logit(criteria={"a.b": ld.SoftTarget()}, weights={"a.b": 1.0}),
        ("'a.b'", "cannot name"),
    ),
]

# Numbers of criteria ---------------------------------------------------------------------------------

NO_TEMPERATURE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a text": ("4", ("is a str", "the number, 4")),
    "a word": ("warm", ("is a str", "give a number")),
    "None": (None, ("is None", "give a number")),
    "True": (True, ("is a bool", "give a number")),
    "a list": ([4.0], ("is a list", "give a number")),
    "0": (0, ("above 0", "not 0")),
    "negative": (-1.0, ("above 0", "-1.0")),
    "NaN": (NAN, ("above 0 and finite", "nan")),
    "infinite": (INF, ("above 0 and finite", "inf")),
    "an array": (np.linspace(1, 8, 8), ("ndarray of shape [8]", "give a number")),
    "a tensor of one": (torch.tensor([4.0]), ("Tensor of shape [1]", "give a number")),
    "a parameter": (nn.Parameter(torch.tensor(4.0)), ("Parameter", "a plain number")),
    "complex": (4j, ("complex", "give a number")),
    "a function": (lambda step: 4.0, ("the function", "give a number")),
}
WITH_TEMPERATURE: dict[str, Callable[[Any], Any]] = {
    "SoftTarget": lambda t: ld.SoftTarget(t),
    "LogitDistillation": lambda t: logit(temperature=t),
    "CombinedDistillation": lambda t: combined(temperature=t),
    "MutualDistillation": lambda t: mutual(temperature=t),
    "MultiTaskDistillation": lambda t: several(temperature=t),
    "DKD": lambda t: all_criteria.DKD(temperature=t),
    "CRD": lambda t: all_criteria.CRD("a", "a", temperature=t),
    "Mutual": lambda t: ld.Mutual(["0", "1"], temperature=t),
    "Ensemble": lambda t: ld.Ensemble([net(), net()], temperature=t),
}
TEMPERATURES: list[Row] = [
    (f"{whose}: temperature is {what}", lambda make=make, v=value: make(v), ("temperature", *words))
    for whose, make in WITH_TEMPERATURE.items()
    for what, (value, words) in NO_TEMPERATURE.items()
]
NUMBERS: list[Row] = [
    *(
        (f"{name} is {value!r}", lambda make=make, v=value: make(v), (name, *words))
        for name, make, least in (
            ("margin", lambda v: all_criteria.AB("a", "a", margin=v), "above 0"),
            ("gamma", lambda v: all_criteria.NKD(gamma=v), "at least 0"),
            ("alpha", lambda v: all_criteria.DKD(alpha=v), "at least 0"),
            ("ratio", lambda v: all_criteria.MGD("a", "a", ratio=v), "in [0, 1)"),
            ("label_smoothing", lambda v: ld.HardTarget(v), "in [0, 1)"),
            ("beta", lambda v: ld.SoftTarget(beta=v), "in (0, 1)"),
            ("variance", lambda v: all_criteria.VID("a", "a", variance=v), "above"),
            ("ratio", lambda v: ld.GradientNorm("hard", ratio=v), "above 0"),
            ("momentum", lambda v: ld.GradientNorm("hard", momentum=v), "in [0, 1)"),
            ("decay", lambda v: ld.EMATeacher(v), "in [0, 1)"),
            ("lr", lambda v: DOT([nn.Parameter(torch.zeros(1))], lr=v), "at least 0"),
            ("weight", lambda v: ld.JointTeacher(net(), weight=v), "above 0"),
            ("lr_factor", lambda v: ld.Unfreeze(["stage"], 1, lr_factor=v), "above 0"),
            ("val_fraction", lambda v: data.Digits(val_fraction=v), "in (0, 1)"),
        )
        for value, words in (
            ("0.5", ("is a str", "the number, 0.5")),
            (None, ("is None", "give a number")),
            (True, ("is a bool", "give a number")),
            ([0.5], ("is a list", "give a number")),
            (NAN, (least, "nan")),
            (-1.0, (least, "-1.0")),
        )
    ),
    *(
        (f"{name} is {value!r}", lambda make=make, v=value: make(v), (name, *words))
        for name, make in (
            ("embedding", lambda v: all_criteria.CRD("a", "a", embedding=v)),
            ("order", lambda v: all_criteria.CC("a", "a", order=v)),
            ("num_projectors", lambda v: ld.Hint("a", "a", num_projectors=v)),
            ("relation_heads", lambda v: all_criteria.MiniLM("a", "a", relation_heads=v)),
            ("size", lambda v: all_criteria.QueueKL("a", "a", size=v)),
            ("every", lambda v: ld.GradientNorm("hard", every=v)),
            ("epoch", lambda v: ld.Unfreeze(["stage"], v)),
            ("window", lambda v: Throughput(window=v)),
            ("batch_size", lambda v: data.Digits(batch_size=v)),
            ("batch_size", lambda v: ld.TeacherRuntime(batch_size=v)),
        )
        for value, words in (
            ("8", ("is a str", "the number, 8")),
            (True, ("is a bool", "give a number")),
            (2.5, ("whole number", "2.5")),
            (0, ("at least 1", "0")),
        )
    ),
    *(
        (f"{name} is {value!r}", lambda make=make, v=value: make(v), (name, "True or False"))
        for name, make in (
            ("standardize", lambda v: ld.SoftTarget(standardize=v)),
            ("fast", lambda v: logit(fast=v)),
            ("class_negatives", lambda v: all_criteria.CRD("a", "a", class_negatives=v)),
            ("warm_up", lambda v: ld.EMATeacher(warm_up=v)),
            ("evaluate", lambda v: guest(evaluate=v)),
            ("train_batch_norm", lambda v: ld.Unfreeze(["stage"], 1, train_batch_norm=v)),
            ("compile", lambda v: ld.TeacherRuntime(compile=v)),
            ("shift_labels", lambda v: ld.BatchFormat(shift_labels=v)),
        )
        for value in ("false", 2, [True])
    ),
    (
        "temperatures is a number",
        lambda: all_criteria.MultiTemperature(4.0),
        ("temperatures is a float", "list of numbers"),
    ),
    (
        "a temperature of several is text",
        lambda: all_criteria.MultiTemperature((2.0, "4")),
        ("temperatures[1]", "a str", "4"),
    ),
    (
        "class_weights is a dict",
        lambda: ld.HardTarget(class_weights={0: 1.0}),
        ("class_weights is a dict", "list of numbers"),
    ),
    (
        "class_weights is balanced",
        lambda: ld.HardTarget(class_weights="balanced"),
        ("class_weights is a str", "list of numbers"),
    ),
    ("a class weight is text", lambda: ld.HardTarget(class_weights=[1.0, "2"]), ("class_weights[1]", "a str", "2")),
    (
        "Ensemble's weights are a dict",
        lambda: ld.Ensemble([net(), net()], weights={"a": 1}),
        ("weights is a dict", "list of numbers"),
    ),
    ("Ensemble's weight is text", lambda: ld.Ensemble([net(), net()], weights=[1, "2"]), ("weights[1]", "a str")),
    ("adapt's size is text", lambda: ld.adapt(net(), size="8"), ("size is a str", "the number, 8")),
    ("adapt's size has three", lambda: ld.adapt(net(), size=(8, 8, 3)), ("size", "height and a width")),
    ("adapt's mean is text", lambda: ld.adapt(net(), mean="imagenet", std=[1.0]), ("mean is a str", "list of numbers")),
    ("adapt's std is 0", lambda: ld.adapt(net(), mean=[0.5], std=[0.0]), ("std[0]", "above 0")),
    (
        "delta above the momentum",
        lambda: DOT([nn.Parameter(torch.zeros(1))], lr=0.1, delta=0.95),
        ("delta", "momentum", "0.95"),
    ),
]

# Layers and names ------------------------------------------------------------------------------------

NO_LAYER: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a module": (nn.Linear(4, 3), ("is a Linear", "a layer's name")),
    "a class": (nn.Linear, ("the class Linear", "a layer's name")),
    "an index": (3, ("is an int", "a layer's name")),
    "None": (None, ("is None", "a layer's name")),
    "empty": ("", ("is empty", "a layer's name")),
    "an empty list": ([], ("names no layer",)),
    "a list of modules": ([nn.Linear(4, 3)], ("is a Linear", "a layer's name")),
    "a dict": ({"a": "b"}, ("is a dict", "a layer's name")),
}
LAYERS: list[Row] = [
    *(
        (f"Hint's student_layer is {what}", lambda v=v: ld.Hint(v, "a"), ("student_layer", *w))
        for what, (v, w) in NO_LAYER.items()
    ),
    *(
        (f"AT's teacher_layer is {what}", lambda v=v: ld.AttentionTransfer("a", v), ("teacher_layer", *w))
        for what, (v, w) in NO_LAYER.items()
    ),
    *(
        (f"Unfreeze's layers is {what}", lambda v=v: ld.Unfreeze(v, 1), ("layers", *w))
        for what, (v, w) in NO_LAYER.items()
    ),
    *(
        (f"MiniLM's student_layer is {what}", lambda v=v: all_criteria.MiniLM(v, "a"), ("student_layer", *w))
        for what, (v, w) in NO_LAYER.items()
    ),
    ("unknown layer", lambda: combined(student_layer="stege"), ("'stege'", "did you mean 'stage'")),
    ("a wrong word for pairs", lambda: ld.Hint(pair="dept"), ("pair must be one of 'order', 'depth'", "mean 'depth'")),
    (
        "OnHead of a class",
        lambda: ld.OnHead(ld.HardTarget, "head"),
        ("criterion is the class HardTarget", "HardTarget()"),
    ),
    ("OnHead on a module", lambda: ld.OnHead(ld.HardTarget(), nn.Linear(4, 3)), ("student_head is a Linear", "name")),
    ("OnHead on several", lambda: ld.OnHead(ld.HardTarget(), "heads.*"), ("'heads.*'", "one layer")),
    (
        "Distill's student is a network",
        lambda: guest(student=net()),
        ("student is a Sequential", "the name of the network"),
    ),
    ("Distill's student is empty", lambda: guest(student=""), ("student is empty", "the name of the network")),
    ("Distill's call is a word", lambda: guest(call="first"), ("call is 'first'", "0 the first")),
    ("Distill's call is True", lambda: guest(call=True), ("call is True", "0 the first")),
    (
        "Distill's parameter_group is text",
        lambda: guest(parameter_group="head"),
        ("parameter_group is a str", "give a number"),
    ),
    ("heads is a list", lambda: several(heads=["a"]), ("heads is a list", "dict by name")),
    ("heads is empty", lambda: several(heads={}), ("heads is empty",)),
    (
        "a head is a module",
        lambda: several(heads={"a": nn.Linear(4, 3)}),
        ("heads['a'] is a Linear", "the layer's name"),
    ),
    ("teacher_heads is a list", lambda: several(teacher_heads=["a"]), ("teacher_heads is a list", "dict by name")),
    ("task of several is a list", lambda: several(task=["binary"]), ("task is a list", "dict by name")),
    (
        "reference is a criterion",
        lambda: ld.GradientNorm(ld.HardTarget()),
        ("reference is a HardTarget", "a criterion's name"),
    ),
    ("inherit's layers is a list", lambda: ld.inherit(net(), net(), ["stage"]), ("layers is a list", "dict by name")),
    ("Unfreeze's module is a network", lambda: ld.Unfreeze(["a"], 1, module=net()), ("module is a Sequential", "name")),
]

# Choices ---------------------------------------------------------------------------------------------

CHOICES: list[Row] = [
    *(
        (f"{whose}: task is {value!r}", lambda make=make, v=value: make(task=v), ("task", "'multiclass'", *words))
        for whose, make in {"LogitDistillation": logit, "CombinedDistillation": combined, "Distill": guest}.items()
        for value, words in (
            ("multiclas", ("Did you mean 'multiclass'",)),
            ("Binary", ("Did you mean 'binary'",)),
            ("regresion", ("Did you mean 'regression'",)),
            (1, ("not 1",)),
            (["binary"], ("not ['binary']",)),
        )
    ),
    ("divergence misspelt", lambda: ld.SoftTarget(divergence="foward"), ("divergence", "Did you mean 'forward'")),
    ("distance of regression misspelt", lambda: ld.HardTarget(task="regression", distance="L1"), ("distance", "'l1'")),
    ("projector_norm misspelt", lambda: ld.Hint("a", "a", projector_norm="batchnorm"), ("projector_norm", "'batch'")),
    ("normalise misspelt", lambda: ld.Hint("a", "a", normalise="chanel"), ("normalise", "Did you mean 'channel'")),
    ("weighting misspelt", lambda: ld.EnsembleTarget(weighting="averages"), ("weighting", "Did you mean 'average'")),
    ("average misspelt", lambda: ld.Ensemble([net()], average="logit"), ("average", "Did you mean 'logits'")),
    ("precision misspelt", lambda: ld.TeacherRuntime("bfloat16"), ("precision", "'bf16'")),
    ("precision is a number", lambda: ld.TeacherRuntime(16), ("precision", "'fp16'", "not 16")),
    ("lr_interval misspelt", lambda: logit(lr_interval="epochs"), ("lr_interval", "Did you mean 'epoch'")),
    (
        "lr_monitor is a metric",
        lambda: logit(lr_monitor=MulticlassAccuracy(3)),
        ("lr_monitor is a MulticlassAccuracy", "name"),
    ),
    ("unit misspelt", lambda: schedules.Linear(0, 1, 3, unit="epochs"), ("unit", "Did you mean 'epoch'")),
    ("in_memory is a word", lambda: data.Digits(in_memory="gpu"), ("in_memory", "'device'")),
    (
        "layout misspelt",
        lambda: ld.BatchFormat(layout={"a": "channel_last"}),
        ("layout['a']", "Did you mean 'channels_last'"),
    ),
    ("layout is a word", lambda: ld.BatchFormat(layout="channels_last"), ("layout is a str", "dict by name")),
    ("target_key is True", lambda: ld.BatchFormat(target_key=True), ("target_key is a bool", "a key")),
    ("target_key is a list", lambda: ld.BatchFormat(target_key=["a"]), ("target_key is a list", "a key")),
    ("output_key is a class", lambda: ld.BatchFormat(output_key=dict), ("output_key is the class dict", "a key")),
    ("input_key is a number with a fraction", lambda: ld.BatchFormat(input_key=0.5), ("input_key is a float", "a key")),
    ("missing_label is text", lambda: ld.BatchFormat(missing_label="-1"), ("missing_label is a str", "the number, -1")),
    ("class_dim is text", lambda: ld.BatchFormat(class_dim="1"), ("class_dim is a str", "the number, 1")),
]

# Objects ---------------------------------------------------------------------------------------------

OBJECTS: list[Row] = [
    *(
        (f"{whose}: {name} is {what}", lambda make=make, n=name, v=value: make(**{n: v}), (name, *words))
        for whose, make in {"LogitDistillation": logit, "Distill": guest, "MutualDistillation": mutual}.items()
        for name, what, value, words in (
            ("balance", "a text", "uncertainty", ("is a str", "give a Balance")),
            ("balance", "a class", ld.Uncertainty, ("the class Uncertainty", "Uncertainty()", "not the class")),
            ("balance", "a dict", {"hard": 1.0}, ("is a dict", "give a Balance")),
            ("balance", "True", True, ("is a bool", "give a Balance")),
            ("batch_format", "a dict", {"input_key": "x"}, ("is a dict", "give a BatchFormat")),
            ("batch_format", "a text", "image", ("is a str", "give a BatchFormat")),
            ("batch_format", "a class", ld.BatchFormat, ("the class BatchFormat", "BatchFormat()", "not the class")),
            ("schedules", "a list", [schedules.Linear(0, 1, 3)], ("is a list", "dict by name")),
            ("schedules", "a schedule", schedules.Linear(0, 1, 3), ("is a Linear", "dict by name")),
        )
    ),
    ("schedule is a number", lambda: scheduled(0.5), ("'soft.weight'", "is a float", "Schedule")),
    ("schedule is a class", lambda: scheduled(schedules.Linear), ("'soft.weight'", "the class Linear", "Linear(…)")),
    ("schedule is a text", lambda: scheduled("linear"), ("'soft.weight'", "is a str", "Schedule")),
    ("schedule is a function", lambda: scheduled(lambda step: 1.0), ("'soft.weight'", "the function", "Schedule")),
    (
        "schedule of no criterion",
        lambda: scheduled(schedules.Linear(0, 1, 3), "sotf.weight"),
        ("'sotf.weight'", "Did you mean 'soft.weight'"),
    ),
    (
        "schedule of no setting",
        lambda: scheduled(schedules.Linear(1, 2, 3), "soft.temprature"),
        ("Did you mean 'soft.temperature'",),
    ),
    (
        "schedule to a negative weight",
        lambda: scheduled(schedules.Linear(0, -1, 3)),
        ("'soft.weight'", "-1", "at least 0"),
    ),
    ("schedule's start is text", lambda: schedules.Linear("0", 1, 3), ("start is a str", "the number, 0")),
    ("schedule's until is text", lambda: schedules.Cosine(0, 1, "3"), ("until is a str", "the number, 3")),
    (
        "schedule's until before begin",
        lambda: schedules.Linear(0, 1, 3, begin=5),
        ("until must come after begin", "3", "5"),
    ),
    ("schedule's changes is a list", lambda: schedules.Step(0, [(3, 1.0)]), ("changes is a list", "dict")),
    ("schedule's change is text", lambda: schedules.Step(0, {3: "1"}), ("changes[3]", "a str", "the number, 1")),
    ("schedule's moment is text", lambda: schedules.Step(0, {"three": 1}), ("moment of changes", "'three'", "a str")),
    ("schedule's end is text", lambda: schedules.Between(1, end="9"), ("end is a str", "the number, 9")),
    (
        "optimizer is made already",
        lambda: logit(optimizer=made_optimizer()),
        ("optimizer", "SGD", "made already", "partial"),
    ),
    ("optimizer is a text", lambda: logit(optimizer="SGD"), ("optimizer is a str", "partial")),
    ("optimizer is a list", lambda: logit(optimizer=[SGD]), ("optimizer is a list", "partial")),
    ("optimizer is a dict", lambda: logit(optimizer={"lr": 0.1}), ("optimizer is a dict", "partial")),
    (
        "optimizer is a function of nothing",
        lambda: logit(optimizer=lambda: 1),
        ("optimizer", "the function", "partial"),
    ),
    ("optimizer is a network", lambda: logit(optimizer=net()), ("optimizer is a Sequential", "partial")),
    ("optimizer makes a list", lambda: optimized(optimizer=list), ("optimizer", "a list", "partial")),
    (
        "optimizer's lr is text",
        lambda: optimized(optimizer=functools.partial(SGD, lr="0.1")),
        ("optimizer", "partial of SGD"),
    ),
    (
        "optimizer's lr is negative",
        lambda: optimized(optimizer=functools.partial(SGD, lr=-0.1)),
        ("optimizer", "learning rate", "-0.1"),
    ),
    (
        "lr_scheduler is made already",
        lambda: logit(lr_scheduler=lr_scheduler.StepLR(made_optimizer(), 1)),
        ("lr_scheduler", "StepLR", "made already", "partial"),
    ),
    (
        "lr_scheduler's class needs more",
        lambda: logit(lr_scheduler=lr_scheduler.StepLR),
        ("lr_scheduler", "StepLR", "step_size", "partial"),
    ),
    ("lr_scheduler is a text", lambda: logit(lr_scheduler="cosine"), ("lr_scheduler is a str", "partial")),
    (
        "lr_scheduler gives the optimizer back",
        lambda: optimized(lr_scheduler=lambda o: o),
        ("lr_scheduler", "AdamW", "not a scheduler"),
    ),
    (
        "lr_scheduler makes nothing",
        lambda: optimized(lr_scheduler=lambda o: None),
        ("lr_scheduler", "NoneType", "not a scheduler"),
    ),
    ("metrics is a list", lambda: logit(metrics=[MulticlassAccuracy(3)]), ("metrics", "a list", "mapping")),
    ("metrics is a metric", lambda: logit(metrics=MulticlassAccuracy(3)), ("metrics", "MulticlassAccuracy", "mapping")),
    (
        "a metric is a class",
        lambda: logit(metrics={"f": MulticlassAccuracy}),
        ("metrics['f']", "the class MulticlassAccuracy"),
    ),
    ("a metric is a function", lambda: logit(metrics={"f": len}), ("metrics['f']", "Metric")),
    ("runtime is a text", lambda: ld.FrozenTeacher(net(), "int8"), ("runtime is a str", "TeacherRuntime(precision=")),
    (
        "runtime is a class",
        lambda: ld.FrozenTeacher(net(), ld.TeacherRuntime),
        ("the class TeacherRuntime", "not the class"),
    ),
    (
        "augment is a transform",
        lambda: data.Digits(augment=v2.RandomHorizontalFlip()),
        ("augment is a RandomHorizontalFlip", "list"),
    ),
    (
        "a transform is a class",
        lambda: data.Digits(augment=[v2.RandomHorizontalFlip]),
        ("augment[0]", "the class RandomHorizontalFlip"),
    ),
    ("a transform is text", lambda: data.Digits(augment=["flip"]), ("augment[0]", "a str")),
    ("mix is a class", lambda: data.Digits(mix=v2.MixUp), ("mix is the class MixUp", "MixUp(num_classes=10)")),
    ("root is a number", lambda: data.ImageFolder(3), ("root is an int", "path of a folder")),
    *(
        (f"load's trust is {value!r}", lambda v=value: ld.load(net(), "a.ckpt", trust=v), ("trust", "True or False"))
        for value in ("no", None, [False])
    ),
    ("load's prefix is a list", lambda: ld.load(net(), "a.ckpt", prefix=["a."]), ("prefix is a list", "'student.'")),
    (
        "inherit's blocks is a number",
        lambda: ld.inherit(net(), net(), blocks=3),
        ("blocks is an int", "'encoder.layer'"),
    ),
    ("inherit's blocks is empty", lambda: ld.inherit(net(), net(), blocks=""), ("blocks is empty",)),
    ("adapt's channels is a tensor", lambda: ld.adapt(net(), channels=torch.ones(2)), ("channels is a Tensor",)),
    (
        "Ensemble's output_key is a list",
        lambda: ld.Ensemble([net(), net()], output_key=["logits"]),
        ("output_key is a list", "a key, an index"),
    ),
    ("Throughput's clock is a number", lambda: Throughput(clock=3), ("clock is an int", "time.perf_counter")),
    ("standardize is a tensor", lambda: ld.SoftTarget(standardize=torch.ones(2)), ("standardize", "True or False")),
    *(
        (f"images' {name} is {value!r}", lambda n=name, v=value: data.CIFAR10(**{n: v}), (name, words))
        for name, value, words in (
            ("mean", 0.5, "list of numbers"),
            ("mean", "imagenet", "list of numbers"),
            ("mean", [0.5, 0.5], "each of 3 channels"),
            ("std", [0.2, 0.2, 0], "above 0"),
            ("root", 3, "path of a folder"),
            ("download", "false", "True or False"),
        )
    ),
    *(
        (f"{whose}: {value!r}", lambda make=make, v=value: make(v), (whose.split()[-1], words))
        for whose, make in {
            "SmallCNN's width": lambda v: models.SmallCNN(width=v),
            "SmallCNN's num_classes": lambda v: models.SmallCNN(num_classes=v),
            "MLP's in_features": lambda v: models.MLP(in_features=v),
            "CifarResNet's blocks": lambda v: models.CifarResNet(v),
            "MultiHeadCNN's heads": lambda v: models.MultiHeadCNN({"a": v}),
        }.items()
        for value, words in (("8", "a str"), (0, "at least 1"), (2.5, "whole number"), (None, "None"))
    ),
    ("MLP's hidden is a number", lambda: models.MLP(hidden=16), ("hidden is an int", "list of numbers")),
    ("a lazy teacher", lambda: ld.FrozenTeacher(nn.LazyLinear(3)), ("teacher LazyLinear", "lazy", "network(example)")),
    ("a lazy joint teacher", lambda: ld.JointTeacher(nn.LazyLinear(3)), ("teacher LazyLinear", "lazy")),
    ("a lazy peer", lambda: mutual(peers=[net(), nn.LazyLinear(3)]), ("peer 1 LazyLinear", "lazy", "network(example)")),
    ("a peer on meta", lambda: mutual(peers=[net().to("meta"), net()]), ("peer 0", "no weights", "'meta'")),
    ("strip a path", lambda: ld.strip("a.ckpt"), ("checkpoint is a str", "lit-distill strip")),
    ("a Distill task of its own loss", lambda: guest(criteria={"task": ld.SoftTarget()}), ("'task'", "own loss")),
]

BAD: list[Row] = [*NETWORKS, *CRITERIA, *TEMPERATURES, *NUMBERS, *LAYERS, *CHOICES, *OBJECTS]

# What is right ---------------------------------------------------------------------------------------

RIGHT_NUMBERS: dict[str, Any] = {
    "an int": 4,
    "NumPy's float64": np.linspace(1, 8, 8)[3],
    "NumPy's float32": np.float32(4),
    "NumPy's float16": np.float16(4),
    "NumPy's int64": np.int64(4),
    "NumPy's uint8": np.uint8(4),
    "an array of no dimension": np.array(4.0),
    "a tensor of no dimension": torch.tensor(4.0),
    "a tensor of bf16": torch.tensor(4.0, dtype=torch.bfloat16),
    "an integer tensor": torch.tensor(4),
    "a fraction": Fraction(4),
    "a decimal": Decimal("4"),
}
Right = tuple[str, Callable[[], Any]]


def proxied(criterion: Any) -> Mapping[str, Any]:
    return MappingProxyType({"soft": criterion})


RIGHT: list[Right] = [
    *(
        (f"{whose}: temperature is {what}", lambda make=make, v=value: make(v))
        for whose, make in WITH_TEMPERATURE.items()
        for what, value in RIGHT_NUMBERS.items()
    ),
    *((f"weight is {what}", lambda v=value: logit(weights={"soft": v})) for what, value in RIGHT_NUMBERS.items()),
    *((f"window is {what}", lambda v=value: Throughput(window=v)) for what, value in RIGHT_NUMBERS.items()),
    *(
        (f"embedding is {what}", lambda v=value: all_criteria.CRD("a", "a", embedding=v))
        for what, value in RIGHT_NUMBERS.items()
    ),
    ("criteria in order", lambda: logit(criteria=OrderedDict(soft=ld.SoftTarget()), weights=OrderedDict(soft=1))),
    (
        "criteria that cannot be changed",
        lambda: logit(criteria=proxied(ld.SoftTarget()), weights=MappingProxyType({"soft": 1})),
    ),
    (
        "criteria in a ModuleDict",
        lambda: logit(criteria=nn.ModuleDict({"soft": ld.SoftTarget()}), weights={"soft": 1.0}),
    ),
    (
        "Distill's criteria in a ModuleDict",
        lambda: guest(criteria=nn.ModuleDict({"soft": ld.SoftTarget()}), weights={"soft": 1.0}),
    ),
    ("a subclass of a criterion", lambda: only(OwnTarget())),
    ("weights of 0 and 1", lambda: logit(weights={"hard": 0, "soft": 1})),
    ("some weights alone", lambda: logit(weights={"soft": 0.5})),
    ("no weights", lambda: logit(weights={})),
    ("no schedules", lambda: logit(schedules={})),
    (
        "schedules that cannot be changed",
        lambda: logit(schedules=MappingProxyType({"soft.weight": schedules.Linear(0, 1, 3)})),
    ),
    ("student of Lightning", lambda: logit(student=Own())),
    ("teacher of Lightning", lambda: logit(teacher=Own())),
    ("a teacher of no parameters", lambda: logit(teacher=nn.Flatten())),
    ("a frozen teacher", lambda: logit(teacher=ld.FrozenTeacher(net()))),
    ("a joint teacher", lambda: logit(teacher=ld.JointTeacher(net()))),
    ("a moving average", lambda: logit(teacher=ld.EMATeacher())),
    ("a scripted teacher", lambda: logit(teacher=torch.jit.trace(net(), torch.zeros(1, 4)))),
    ("an ensemble as teacher", lambda: logit(teacher=ld.Ensemble([net(), net()]))),
    ("an ensemble of a ModuleList", lambda: ld.Ensemble(nn.ModuleList([net(), net()]))),
    ("an ensemble of a tuple", lambda: ld.Ensemble((net(), net()), weights=(1, 2))),
    ("an ensemble's weights in an array", lambda: ld.Ensemble([net(), net()], weights=np.array([1.0, 2.0]))),
    ("peers in a tuple", lambda: mutual(peers=(net(), net()))),
    (
        "no teacher where none is needed",
        lambda: ld.DistillationModule(net(), None, {"hard": ld.HardTarget()}, {"hard": 1.0}),
    ),
    ("optimizer is a class", lambda: optimized(optimizer=SGD)),
    ("optimizer is a partial", lambda: optimized(optimizer=functools.partial(SGD, lr=0.1))),
    ("optimizer is a lambda", lambda: optimized(optimizer=lambda parameters: SGD(parameters, lr=0.1))),
    ("optimizer is AdamW", lambda: optimized(optimizer=torch.optim.AdamW)),
    ("optimizer is DOT", lambda: optimized(optimizer=functools.partial(DOT, lr=0.1))),
    ("scheduler is a partial", lambda: optimized(lr_scheduler=functools.partial(lr_scheduler.StepLR, step_size=1))),
    ("scheduler is a lambda", lambda: optimized(lr_scheduler=lambda o: lr_scheduler.CosineAnnealingLR(o, 10))),
    ("scheduler is a class that needs no more", lambda: optimized(lr_scheduler=lr_scheduler.ConstantLR)),
    (
        "scheduler in Lightning's dict",
        lambda: optimized(lr_scheduler=lambda o: {"scheduler": lr_scheduler.StepLR(o, 1), "interval": "step"}),
    ),
    ("lr_interval", lambda: logit(lr_interval="step", lr_scheduler=lr_scheduler.ConstantLR)),
    ("metrics in a collection", lambda: logit(metrics=MetricCollection({"top": MulticlassAccuracy(3)}))),
    ("metrics in a dict", lambda: logit(metrics={"top": MulticlassAccuracy(3)})),
    ("balance", lambda: logit(balance=ld.GradientNorm("hard", every=np.int64(5)))),
    ("layers in a tuple", lambda: ld.Hint(("a", "b"), ("c", "d"))),
    ("layers by a glob", lambda: ld.Hint("layer*", "layer*")),
    ("a layer that is paired twice", lambda: ld.Hint(["a", "a"], ["b", "c"])),
    ("a layer's input and call", lambda: ld.Hint("a:input", "b#-1")),
    ("layers of Unfreeze in a text", lambda: ld.Unfreeze("stage", 1)),
    ("Unfreeze in the module itself", lambda: ld.Unfreeze(["stage"], np.int64(2), module="")),
    ("temperatures in a list", lambda: all_criteria.MultiTemperature([2, 4.0, np.float32(6)])),
    ("temperatures in an array", lambda: all_criteria.MultiTemperature(np.linspace(1, 4, 3))),
    ("class weights in a tensor", lambda: ld.HardTarget(class_weights=torch.tensor([1.0, 2.0, 0.0]))),
    ("class weights in an array", lambda: ld.HardTarget(class_weights=np.array([1, 2]))),
    ("NumPy's True", lambda: ld.SoftTarget(standardize=np.bool_(True))),
    ("1 for True", lambda: logit(fast=0)),
    ("missing label is NaN", lambda: ld.BatchFormat(missing_label=NAN)),
    ("missing label of NumPy", lambda: ld.BatchFormat(missing_label=np.int64(255))),
    ("keys that are functions", lambda: ld.BatchFormat(input_key=lambda batch: batch[0], output_key=torch.log)),
    ("keys that are indices", lambda: ld.BatchFormat(input_key=0, target_key=-1)),
    ("inputs in a list", lambda: ld.BatchFormat(input_key=["a", "b"], unused=["id", 3])),
    ("no mask", lambda: ld.BatchFormat(mask_key=None, layout={"a": "channels_last"})),
    ("batch format", lambda: guest(batch_format=ld.BatchFormat(target_key="y"))),
    ("Distill on the module itself", lambda: guest(student=".", call=-1, parameter_group=0)),
    ("Distill on all calls", lambda: guest(student="net.body", call="all")),
    ("schedule by steps", lambda: schedules.Linear(np.float64(0), 1, np.int64(100), unit="step")),
    ("changes by numbers of NumPy", lambda: schedules.Step(0, {np.int64(3): np.float32(1), 4.5: 2})),
    ("between for ever", lambda: schedules.Between(1, 2)),
    ("transforms in a Sequential", lambda: data.Digits(augment=nn.Sequential(v2.RandomHorizontalFlip()))),
    ("no transforms", lambda: data.Digits(augment=[], train_size=np.int64(100))),
    ("a root that is a Path", lambda: data.ImageFolder(Path("images"))),
    ("adapt by two sides", lambda: ld.adapt(net(), size=[8, 8], mean=(0.5,), std=(1,))),
    ("build by keywords", lambda: ld.build("torch.nn.Linear", OrderedDict(in_features=4, out_features=3))),
    ("strip what torch.load gives", lambda: ld.strip({"state_dict": {}})),
    ("heads that cannot be changed", lambda: several(heads=MappingProxyType({"a": "head"}), task={"a": "multiclass"})),
    ("shares of 0", lambda: all_criteria.RKD("a", "a", distance=0, angle=1)),
    ("a share of 1", lambda: ld.EMATeacher(0.99, final_decay=1, steps=np.int64(5))),
]
