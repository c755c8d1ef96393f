"""Networks in every format teach, where they can; else it is said what to give."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    CombinedDistillation,
    EMATeacher,
    FrozenTeacher,
    JointTeacher,
    LogitDistillation,
    RecordedTeacher,
    SoftTarget,
    TeacherRuntime,
)
from lit_distill.capture.formats import cast_floats, freeze, is_exported, map_tensors, set_mode, weights_mark
from lit_distill.models import Ensemble, SmallCNN
from lit_distill.utils.notices import DistillationWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated"),
    pytest.mark.filterwarnings("ignore:the teacher's accuracy.*chance"),  # the teachers here were never trained
]


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def exported(net: nn.Module | None = None, train: bool = False) -> Any:
    torch._dynamo.reset()  # PyTorch 2.6 exports no more than eight programs otherwise
    net = net or network()
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.export.export(net.train(train), (torch.randn(2, 4),), dynamic_shapes=shapes)


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(network().eval(), {nn.Linear})  # type: ignore[no-untyped-call,no-any-return]


class Function(nn.Module):
    """A rule in place of a network: it has no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] * 2


FORMATS: dict[str, Callable[[], nn.Module]] = {
    "exported": lambda: exported().module(),
    "exported, copied": lambda: copy.deepcopy(exported().module()),
    "scripted": lambda: torch.jit.script(network()),
    "traced": lambda: torch.jit.trace(network().eval(), torch.randn(2, 4)),
    "frozen TorchScript": lambda: torch.jit.freeze(torch.jit.script(network().eval())),
    "fx": lambda: torch.fx.symbolic_trace(network()),
    "quantised": quantised,
    "no parameters": Function,
    "bf16": lambda: network().bfloat16(),
    "fp16": lambda: network().half(),
    "float64": lambda: network().double(),
    "bf16, exported": lambda: torch.export.export(
        network().eval().bfloat16(),
        (torch.randn(2, 4).bfloat16(),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    ).module(),
    "bf16, scripted": lambda: torch.jit.script(network().bfloat16()),
    "exported member": lambda: Ensemble([network(), exported().module(), torch.jit.script(network())]),
    "within a module": lambda: nn.Sequential(nn.Identity(), exported().module()),
}


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 4, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(0, 3, (16,), generator=generator)), batch_size=8)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("recorded", [False, True], ids=["live", "recorded"])
def test_a_teacher_of_any_format_teaches(quick_trainer: Callable[..., Trainer], kind: str, recorded: bool) -> None:
    teacher = FORMATS[kind]()
    reference = Function() if kind == "no parameters" else network().eval()
    student = nn.Linear(4, 3)
    before = copy.deepcopy(student)
    module = LogitDistillation(
        student,
        RecordedTeacher(teacher, logits="float32") if recorded else teacher,
        criteria={"soft": SoftTarget(1.0)},
        weights={"soft": 1.0},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
    )
    trainer = quick_trainer()
    trainer.fit(module, data(), data())
    x = next(iter(DataLoader(data().dataset, batch_size=16)))[0][8:]
    with torch.no_grad():
        target = reference(x).softmax(-1)
        expected = (target * (target.log() - before(x).log_softmax(-1))).sum(-1).mean()
    tolerance = 5e-2 if any(name in kind for name in ("16", "quantised")) else 1e-5
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected, rtol=tolerance, atol=tolerance)
    assert "val/accuracy/teacher" in trainer.callback_metrics
    outputs = module._teacher(x)
    assert outputs.logits.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("runtime", [None, TeacherRuntime(), TeacherRuntime("bf16"), TeacherRuntime(batch_size=3)])
def test_half_weights_give_features_that_the_student_can_be_compared_with(
    quick_trainer: Callable[..., Trainer], kind: str, runtime: TeacherRuntime | None
) -> None:
    teacher = SmallCNN(4).to({"bf16": torch.bfloat16, "fp16": torch.float16}[kind])
    module = CombinedDistillation(
        SmallCNN(2), FrozenTeacher(teacher, runtime), student_layer="stage1.0", teacher_layer="stage1.0"
    )
    images = DataLoader(TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8)), batch_size=4)
    quick_trainer().fit(module, images, images)
    for outputs in (module._teacher(torch.randn(4, 1, 8, 8)), module._teacher.predict(torch.randn(4, 1, 8, 8))):
        assert outputs.logits.dtype == torch.float32
        assert outputs.features["stage1.0"].dtype == torch.float32
    assert next(teacher.parameters()).dtype != torch.float32


def test_a_half_student_gets_half_outputs() -> None:
    teacher = FrozenTeacher(network().bfloat16())
    student = nn.Linear(4, 3).bfloat16()
    teacher.set_student(student)
    assert teacher(torch.randn(2, 4)).logits.dtype == torch.bfloat16


@dataclass
class Graph:
    x: Tensor
    edges: Tensor


class GCN(nn.Module):
    def __init__(self, width: int, scale: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, scale: Any, graph: Any) -> Tensor:
        x, edges = (graph.x, graph.edges) if isinstance(graph, Graph) else graph
        return self.b(self.a(x.index_add(0, edges[1], x[edges[0]])).relu()) * scale


@pytest.mark.parametrize("scale", [2.0, torch.tensor(2.0)], ids=["a number", "no dimensions"])
@pytest.mark.parametrize("graph", [tuple, Graph])
@pytest.mark.parametrize("half", [False, True])
def test_scalars_and_graphs_reach_the_teacher(scale: Any, graph: Any, half: bool) -> None:
    x, edges = torch.randn(30, 5), torch.randint(0, 30, (2, 80))
    inputs = (scale, (x, edges) if graph is tuple else Graph(x, edges))
    net = GCN(8)
    expected = net(2.0, (x, edges))
    for runtime in (None, TeacherRuntime(), TeacherRuntime("bf16")):
        teacher = FrozenTeacher(copy.deepcopy(net).bfloat16() if half else copy.deepcopy(net), runtime)
        teacher.set_student(net)
        for outputs in (teacher(inputs), teacher.predict(inputs)):
            torch.testing.assert_close(outputs.logits, expected.detach(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", ["exported", "scripted", "traced", "within a module"])
def test_layers_that_nobody_can_see_are_refused(kind: str) -> None:
    layer = "1.0" if kind == "within a module" else "0"
    with pytest.raises(ValueError, match=rf"the teacher's layer '{layer}' cannot be read.*criteria on logits"):
        CombinedDistillation(network(), FORMATS[kind](), student_layer="0", teacher_layer=layer)
    with pytest.raises(ValueError, match="the student's layer '0' cannot be read"):
        CombinedDistillation(torch.jit.script(network()), network(), student_layer="0", teacher_layer="0")


def test_a_member_that_is_no_python_module_is_read_as_a_whole(quick_trainer: Callable[..., Trainer]) -> None:
    teacher = Ensemble([network(), exported().module()])
    module = CombinedDistillation(network(), teacher, student_layer="4", teacher_layer="1")
    quick_trainer().fit(module, data())


def test_an_exported_student_is_refused() -> None:
    for student in (exported().module(), nn.Sequential(exported().module())):
        with pytest.raises(ValueError, match=r"the student .* is a program of torch.export.*cannot be trained"):
            LogitDistillation(student, network())


def test_an_exported_program_cannot_train_beside_the_student() -> None:
    with pytest.raises(ValueError, match=r"the teacher .* cannot be trained"):
        JointTeacher(exported().module())


def test_a_scripted_network_trains_as_student_as_joint_teacher_and_as_average(
    quick_trainer: Callable[..., Trainer],
) -> None:
    for student, teacher in (
        (torch.jit.script(network()), network()),
        (network(), JointTeacher(torch.jit.script(network()))),
        (torch.jit.script(network()), EMATeacher()),
    ):
        module = LogitDistillation(student, teacher)
        watched = teacher.model if isinstance(teacher, JointTeacher) else student
        before = [parameter.detach().clone() for parameter in watched.parameters()]
        quick_trainer().fit(module, data(), data())
        assert not all(torch.equal(a, b) for a, b in zip(before, watched.parameters(), strict=True))


def test_a_teacher_exported_in_training_mode_is_said() -> None:
    with pytest.warns(DistillationWarning, match="exported in training mode"):
        freeze(exported(train=True).module())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DistillationWarning)
        freeze(exported().module())


def test_a_program_of_one_size_says_how_to_export_it_for_all(quick_trainer: Callable[..., Trainer]) -> None:
    fixed = torch.export.export(network().eval(), (torch.randn(3, 4),)).module()
    with pytest.raises(ValueError, match=r"exported for inputs of another size.*dynamic_shapes"):
        quick_trainer().fit(LogitDistillation(network(), fixed), data())
    with pytest.raises(ValueError, match="dynamic_shapes"):
        FrozenTeacher(nn.Sequential(fixed)).predict(torch.randn(2, 4))
    assert FrozenTeacher(fixed)(torch.randn(3, 4)).logits.shape == (3, 3)


def test_what_is_no_network_is_refused_with_what_to_give() -> None:
    with pytest.raises(TypeError, match=r"teacher is an ExportedProgram; give program.module\(\)"):
        LogitDistillation(network(), exported())
    with pytest.raises(TypeError, match="teacher is the function <lambda>; give a network"):
        LogitDistillation(network(), lambda x: x)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["exported", "scripted"])
@pytest.mark.parametrize(
    "runtime", [TeacherRuntime("bf16"), TeacherRuntime(compile=True), TeacherRuntime(fold_batch_norm=True)]
)
def test_a_graph_that_is_made_cannot_be_prepared_anew(kind: str, runtime: TeacherRuntime) -> None:
    teacher = FrozenTeacher(FORMATS[kind](), runtime)
    with pytest.raises(ValueError, match="whose graph is made already"):
        teacher(torch.randn(2, 4))


def test_fast_leaves_a_graph_that_is_made_as_it_is(
    quick_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_distill.engine import acceleration

    monkeypatch.setattr(acceleration, "tune_malloc", lambda: True)
    monkeypatch.setattr(acceleration, "why_not_compile", lambda device: "not here")
    for kind in ("exported", "scripted", "frozen TorchScript"):
        module = LogitDistillation(network(), FORMATS[kind](), fast=True)
        with pytest.warns(UserWarning, match="nothing is compiled"):
            quick_trainer().fit(module, data())
        assert module._teacher.runtime is None


# A copy that is prepared ---------------------------------------------------------------------------------------------


def test_a_prepared_copy_notices_weights_that_change() -> None:
    net, other = network(), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1)
    teacher, x = FrozenTeacher(net, TeacherRuntime(channels_last=True)), torch.randn(4, 4)
    first = teacher(x).logits
    engine = teacher._prepared
    assert torch.equal(teacher(x).logits, first)
    assert teacher._prepared is engine
    net.load_state_dict(other.state_dict())
    torch.testing.assert_close(teacher(x).logits, other.eval()(x).detach())


def test_a_calibrated_copy_of_other_weights_is_put_aside_and_that_is_said() -> None:
    net = network()
    teacher, x = FrozenTeacher(net, TeacherRuntime("int8")), torch.randn(64, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teacher.prepare_runtime(lambda: [x])
    assert not torch.equal(teacher(x).logits, net(x))
    with torch.no_grad():
        net[4].weight.mul_(3)
    with pytest.warns(DistillationWarning, match="calibrated for the old ones"):
        outputs = teacher(x)
    assert torch.equal(outputs.logits, net(x))


# The parts -----------------------------------------------------------------------------------------------------------


def test_the_mark_of_weights_changes_with_them_and_not_by_use() -> None:
    net = network().eval()
    mark = weights_mark(net)
    net(torch.randn(2, 4))
    assert weights_mark(net) == mark
    with torch.no_grad():
        net[1].running_mean.add_(1)
    assert weights_mark(net) != mark
    with torch.inference_mode():
        weights_mark(nn.Linear(2, 2))


def test_casting_keeps_the_form_and_leaves_other_types_alone() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 3, 4), torch.tensor([3, 2]), batch_first=True)
    value = {"a": [torch.ones(2), torch.arange(2)], "b": (packed, "text", None, Graph(torch.ones(1), torch.arange(1)))}
    cast = cast_floats(value, torch.float64)
    assert [tensor.dtype for tensor in cast["a"]] == [torch.float64, torch.int64]
    assert isinstance(cast["b"][0], nn.utils.rnn.PackedSequence)
    assert cast["b"][0].data.dtype == torch.float64
    assert cast["b"][0].batch_sizes.dtype == torch.int64
    assert cast["b"][1:3] == ("text", None)
    assert cast["b"][3].x.dtype == torch.float64
    assert map_tensors(lambda tensor: tensor, value).keys() == value.keys()
    assert cast_floats(value, None) is value


def test_the_mode_reaches_all_that_has_one() -> None:
    model = nn.Sequential(nn.Dropout(), exported().module(), torch.jit.script(network()))
    set_mode(model, True)
    assert model[0].training
    assert model[2].training
    set_mode(model, False)
    assert not model[0].training
    assert not model[2].training
    assert is_exported(model[1])
    assert not is_exported(torch.fx.symbolic_trace(network()))
