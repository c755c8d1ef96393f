"""Layers that are found for criteria which read no stages: MiniLM, MultiTeacher and SDD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import DistillationModule, criteria
from lit_distill.criteria.sdd import RegionLogits
from lit_distill.models import MLP, Ensemble, resnet8, resnet20
from tests.capture.networks import HUGGING_FACE
from tests.conftest import QuickTrainer
from tests.preflight.test_auto_layers import alone, loader


def encoder(width: int, depth: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
    return nn.Sequential(
        nn.Unflatten(1, (6, 32)),
        nn.Linear(32, width),
        nn.TransformerEncoder(layer, depth),
        nn.Flatten(),
        nn.Linear(6 * width, 10),
    )


def rows() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(4, 192), torch.tensor([0, 1, 2, 3])), batch_size=2)


def texts() -> DataLoader[Any]:
    tokens = torch.randint(1, 100, (4, 8))
    return DataLoader(
        [{"input_ids": row, "attention_mask": row * 0 + 1, "labels": row[0] % 2} for row in tokens], batch_size=2
    )


def found_in(module: DistillationModule) -> Any:
    return module.criteria["own"].found_layers


def test_minilm_reads_the_last_attention_of_both(quick_trainer: QuickTrainer, caplog: pytest.LogCaptureFixture) -> None:
    module = alone(criteria.MiniLM(), encoder(12, 1), encoder(20, 2))
    with caplog.at_level("INFO"):
        quick_trainer(fast_dev_run=True).fit(module, rows())
    names = [f"2.layers.{place}.self_attn:qkv" for place in (0, 1)]
    assert found_in(module) == ((names[0],), (names[1],))
    assert f"{names[0]} -> {names[1]}" in caplog.text

    texts_module = alone(criteria.MiniLM(), HUGGING_FACE["distilbert"](), HUGGING_FACE["bert"]())
    quick_trainer(fast_dev_run=True).fit(texts_module, texts())
    assert [layers[0].rpartition(".")[2] for layers in found_in(texts_module)] == ["q_lin", "query"]


def test_minilm_takes_a_named_side_as_it_is(quick_trainer: QuickTrainer) -> None:
    module = alone(criteria.MiniLM(teacher_layer="2.layers.0.self_attn:qkv"), encoder(12, 1), encoder(20, 2))
    quick_trainer(fast_dev_run=True).fit(module, rows())
    assert found_in(module)[1] == ("2.layers.0.self_attn:qkv",)


def test_minilm_refuses_a_network_without_attention(quick_trainer: QuickTrainer) -> None:
    with pytest.raises(ValueError, match=r"no self-attention was found in the student CifarResNet .*student_layer="):
        quick_trainer(fast_dev_run=True).fit(alone(criteria.MiniLM(), resnet8(), resnet8()), loader())


def test_each_teacher_gets_the_students_last_stage(quick_trainer: QuickTrainer) -> None:
    many = Ensemble([resnet8(), HUGGING_FACE["vit"]()], average="none")
    module = alone(criteria.MultiTeacher(standardise="dimension"), resnet8(), many)
    quick_trainer(fast_dev_run=True).fit(module, loader(32, classes=2))
    student, teacher = found_in(module)
    assert student == ("layer3", "layer3")
    assert teacher[0] == "0.layer3"
    assert teacher[1].startswith("1.vit.")
    assert module.criteria["own"].teacher_weights == [1.0, 1.0]


@pytest.mark.parametrize(
    ("student_layer", "teacher_layer", "expected"),
    [
        ("layer2", "auto", (("layer2", "layer2"), ("0.layer3", "1.layer3"))),
        ("auto", ["0.layer2", "1.layer1"], (("layer3", "layer3"), ("0.layer2", "1.layer1"))),
        (["layer1", "layer2"], "auto", (("layer1", "layer2"), ("0.layer3", "1.layer3"))),
    ],
)
def test_one_side_of_several_teachers_may_be_named(
    student_layer: Any, teacher_layer: Any, expected: Any, quick_trainer: QuickTrainer
) -> None:
    criterion = criteria.MultiTeacher(student_layer, teacher_layer, standardise="none")
    module = alone(criterion, resnet8(), Ensemble([resnet8(), resnet20()]))
    quick_trainer(fast_dev_run=True).fit(module, loader())
    assert found_in(module) == expected


def test_vectors_meet_what_the_teachers_heads_take(quick_trainer: QuickTrainer) -> None:
    module = alone(criteria.MultiTeacher(standardise="none"), MLP(192), Ensemble([resnet8(), resnet20()]))
    quick_trainer(fast_dev_run=True).fit(module, loader())
    assert found_in(module) == (("hidden", "hidden"), ("0.linear:input", "1.linear:input"))


def test_a_teacher_without_stages_and_weights_of_another_number_are_refused(quick_trainer: QuickTrainer) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(ValueError, match="no stages were found in the teacher Sequential"):
        quick_trainer(fast_dev_run=True).fit(
            alone(criteria.MultiTeacher(), resnet8(), Ensemble([resnet8(), flat])), loader()
        )
    three = criteria.MultiTeacher(teacher_weights=[1, 1, 1])
    with pytest.raises(ValueError, match="2 pairs of layers for 3 teachers"):
        quick_trainer(fast_dev_run=True).fit(alone(three, resnet8(), Ensemble([resnet8(), resnet20()])), loader())
    named = criteria.MultiTeacher(["layer1", "layer2", "layer3"], "auto")
    with pytest.raises(ValueError, match="3 student layers for 2 teachers"):
        quick_trainer(fast_dev_run=True).fit(alone(named, resnet8(), Ensemble([resnet8(), resnet20()])), loader())


def test_regions_are_those_of_the_map_that_the_classifier_pools(
    quick_trainer: QuickTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = RegionLogits(resnet8()), RegionLogits(resnet20())
    own = {"hint": criteria.Hint(), "sdd": criteria.SDD(), "hard": criteria.HardTarget()}
    module = DistillationModule(student, teacher, own, {})
    with caplog.at_level("INFO"):
        quick_trainer(fast_dev_run=True).fit(module, loader(32))
    assert caplog.text.count("Regions of CifarResNet: the map layer3, the classifier linear.") == 2
    assert module.criteria["hint"].pairs[-1] == ("model.layer3", "model.layer3")
    named = RegionLogits(student.model, "layer3", "linear").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(named(images), student.eval()(images))


def test_a_map_that_no_classifier_pools_is_refused() -> None:
    images = torch.randn(2, 3, 8, 8)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    with pytest.raises(ValueError, match=r"no map in Sequential .* its last linear layer \(2\) takes"):
        RegionLogits(flat)(images)
    with pytest.raises(ValueError, match="has no linear classifier"):
        RegionLogits(nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))(images)


def test_networks_without_regions_are_to_be_wrapped(quick_trainer: QuickTrainer) -> None:
    module = alone(criteria.SDD(), RegionLogits(resnet8()), resnet20())
    with pytest.raises(ValueError, match="the teacher CifarResNet gives no logits of regions. Wrap both networks"):
        quick_trainer(fast_dev_run=True).fit(module, loader(32))
