"""Structured pruning: what is taken out, what is kept in checkpoints, and what is refused."""

from __future__ import annotations

import builtins
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, FeatureDistillation, JointTeacher, LogitDistillation, SupervisedModule, load
from lit_distill.capture.capture import Capture
from lit_distill.compress import MissingPruningError, prune, pruning_history
from lit_distill.models import MultiHeadCNN, SmallCNN
from lit_distill.models.pruned import PRUNING_KEY, layer_widths
from lit_distill.utils.pruning_schedule import share_after
from tests.plain import Plain, quiet_trainer

SHAPE = [1, 1, 8, 8]


def digits(samples: int = 16) -> DataLoader[Any]:
    images = torch.rand(samples, 1, 8, 8)
    return DataLoader(TensorDataset(images, torch.arange(samples) % 10), batch_size=8)


def total(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def fitted(module: LightningModule, folder: Path, **options: Any) -> Path:
    trainer = quiet_trainer(enable_checkpointing=False, default_root_dir=folder, **options)
    trainer.fit(module, digits())
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


class TestWhatIsTakenOut:
    def test_the_hidden_units_with_the_smallest_weights_go(self) -> None:
        network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        with torch.no_grad():  # of a caller
            pruned = prune(network, [1, 4], ratio=0.5)
        scores = network[0].weight.square().sum(1) + network[2].weight.square().sum(0)  # of a unit's inputs and outputs
        left = scores.topk(3).indices.sort().values
        assert torch.equal(pruned[0].weight, network[0].weight[left])
        assert torch.equal(pruned[0].bias, network[0].bias[left])
        assert torch.equal(pruned[2].weight, network[2].weight[:, left])
        assert torch.equal(pruned[2].bias, network[2].bias)

    def test_the_channels_with_the_smallest_scale_go_by_bn_scale(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
        with torch.no_grad():
            network[1].weight.copy_(torch.tensor([0.1, -3.0, 0.2, 1.0]))
        pruned = prune(network, SHAPE, importance="bn_scale")
        assert torch.equal(pruned[0].weight, network[0].weight[[1, 3]])
        assert torch.equal(pruned[3].weight, network[3].weight.view(2, 4, 36)[:, [1, 3]].flatten(1))

    def test_the_units_with_the_smallest_product_with_the_gradient_go_by_taylor(self) -> None:
        network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        inputs, labels = torch.randn(12, 4), torch.arange(12) % 3
        loader = DataLoader(TensorDataset(inputs, labels), batch_size=12)
        pruned = prune(network, importance="taylor", data=loader)
        twin = copy.deepcopy(network)
        nn.functional.cross_entropy(twin(inputs), labels).backward()
        first, second = (twin[place].weight * twin[place].weight.grad for place in (0, 2))
        left = (first.sum(1).abs() + second.sum(0).abs()).topk(3).indices.sort().values
        assert torch.equal(pruned[0].weight, network[0].weight[left])
        assert all(parameter.grad is None for parameter in (*network.parameters(), *pruned.parameters()))

    def test_random_draws_the_same_for_one_seed_and_leaves_the_state_alone(self) -> None:
        torch.manual_seed(3)
        before = torch.get_rng_state()
        one = prune(SmallCNN(8), SHAPE, importance="random")
        assert total(one) == total(SmallCNN(4))
        torch.set_rng_state(before)
        assert_equal(one, prune(SmallCNN(8), SHAPE, importance="random"))

    def test_the_network_stays_as_it_was(self) -> None:
        network = SmallCNN(8).train()
        next(network.parameters()).requires_grad_(False)
        twin = copy.deepcopy(network)
        pruned = prune(network, SHAPE)
        assert_equal(network, twin)
        assert [one.requires_grad for one in network.parameters()] == [one.requires_grad for one in twin.parameters()]
        assert [one.requires_grad for one in pruned.parameters()] == [one.requires_grad for one in twin.parameters()]
        assert network.training
        assert pruned.training
        assert type(pruned) is SmallCNN
        assert not any(
            part._forward_hooks or part._forward_pre_hooks for part in (*pruned.modules(), *network.modules())
        )

    def test_all_layers_that_make_outputs_keep_their_width(self) -> None:
        network = MultiHeadCNN({"digit": 10, "parity": 2}, width=8)
        pruned = prune(network, SHAPE)
        outputs, expected = pruned(torch.zeros(2, 1, 8, 8)), network(torch.zeros(2, 1, 8, 8))
        assert {name: one.shape for name, one in outputs.items()} == {name: one.shape for name, one in expected.items()}
        assert total(pruned) < total(network) / 2

    def test_ignored_layers_keep_their_width(self) -> None:
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        assert list(layer_widths(prune(network, [1, 4], ignore=["0"])).values()) == [8, 4, 3]

    def test_global_pruning_takes_the_weakest_of_all_layers(self) -> None:
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        assert list(layer_widths(prune(network, [1, 4])).values()) == [4, 4, 3]
        found = list(layer_widths(prune(network, [1, 4], global_pruning=True)).values())
        assert sum(found[:2]) == 8
        assert found[2] == 3

    def test_widths_are_rounded(self) -> None:
        network = nn.Sequential(nn.Linear(4, 22), nn.ReLU(), nn.Linear(22, 3))
        assert layer_widths(prune(network, [1, 4], round_to=4))["0"] == 8

    def test_the_cost_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        prune(SmallCNN(8), SHAPE)
        said = [record.message for record in caplog.records if "prune:" in record.message]
        assert len(said) == 1
        assert f"{total(SmallCNN(8)):,} → {total(SmallCNN(4)):,}, MACs" in said[0]


class TestSteps:
    @pytest.mark.parametrize("schedule", ["linear", "cubic"])
    def test_widths_after_each_step_count_from_the_first_one(self, schedule: Any) -> None:
        network = nn.Sequential(nn.Linear(4, 17), nn.ReLU(), nn.Linear(17, 29), nn.ReLU(), nn.Linear(29, 3))
        found = []
        for step in (1, 2, 3):
            network = prune(network, [1, 4], ratio=0.7, step=step, steps=3, schedule=schedule)
            found.append(list(layer_widths(network).values()))
        left = [1 - 0.7 * (t / 3 if schedule == "linear" else 1 - (1 - t / 3) ** 3) for t in (1, 2, 3)]
        assert found == [[int(17 * share), int(29 * share), 3] for share in left]

    def test_a_step_continues_from_the_one_before(self) -> None:
        with pytest.raises(ValueError, match="step 2 of 3 continues from the student of step 1"):
            prune(SmallCNN(8), SHAPE, step=2, steps=3)
        first = prune(SmallCNN(8), SHAPE, step=1, steps=3)
        with pytest.raises(ValueError, match="comes from step 1"):
            prune(first, SHAPE, step=3, steps=3)

    def test_the_schedules_end_at_the_ratio(self) -> None:
        assert [round(share_after(0.6, step, 3), 9) for step in range(4)] == [0, 0.2, 0.4, 0.6]
        assert share_after(0.6, 3, 3, "cubic") == 0.6


class TestCheckpoints:
    def test_a_checkpoint_prunes_a_whole_network_as_it_was_pruned(self, tmp_path: Path) -> None:
        teacher = SmallCNN(8)
        student = prune(prune(teacher, SHAPE, 0.25), SHAPE, 0.25)
        module = LogitDistillation(student, teacher)
        path = fitted(module, tmp_path)
        content = torch.load(path, weights_only=True)
        history = content[PRUNING_KEY]["student"]
        assert [sorted(step) for step in history] == [
            ["channels", "example", "importance", "ratio", "removed", "schedule", "step", "steps"]
        ] * 2
        found = load(SmallCNN(8), path)
        assert_equal(found, student)
        assert pruning_history(found) == pruning_history(student) == history
        images = torch.rand(4, 1, 8, 8)
        assert torch.equal(found.eval()(images), student.eval()(images))
        assert_equal(load(prune(teacher, SHAPE, 0.25), path), student)  # the first of two steps was done
        assert_equal(load(copy.deepcopy(student), path), student)

    def test_a_fit_goes_on_exactly_and_a_whole_student_is_tested_alike(self, tmp_path: Path) -> None:
        teacher = SmallCNN(8)

        def module(student: nn.Module) -> SupervisedModule:
            return SupervisedModule(student, optimizer=lambda p: torch.optim.Adam(p, 1e-2))

        start = prune(teacher, SHAPE)
        (tmp_path / "half").mkdir()
        path = fitted(module(copy.deepcopy(start)), tmp_path / "half")
        torch.manual_seed(0)
        data = digits()
        results = []
        for student in (copy.deepcopy(start), SmallCNN(8)):
            again = module(student)
            trainer = quiet_trainer(enable_checkpointing=False, max_epochs=2, default_root_dir=tmp_path)
            trainer.fit(again, data, ckpt_path=path, weights_only=True)
            assert total(again.student) == total(start)
            assert len(trainer.optimizers[0].state) == len(list(again.student.parameters()))
            results.append((again.student, trainer.test(module(SmallCNN(8)), data, ckpt_path=path, verbose=False)))
        assert_equal(results[0][0], results[1][0])
        assert results[0][1] == results[1][1]

    def test_feature_criteria_read_the_pruned_layers(self, tmp_path: Path) -> None:
        teacher = SmallCNN(8)
        layer = "stage1"
        module = FeatureDistillation(prune(teacher, SHAPE), teacher, layer, layer)
        path = fitted(module, tmp_path)
        assert Capture(load(SmallCNN(8), path), [layer]).run(torch.zeros(2, 1, 8, 8)).features[layer].shape[1] == 4

    def test_distill_keeps_the_history_of_a_students_in_a_module_of_ones_own(self, tmp_path: Path) -> None:
        teacher = SmallCNN(8)
        student = prune(teacher, SHAPE)
        path = fitted(Plain(student), tmp_path, callbacks=[Distill(teacher)])
        assert list(torch.load(path, weights_only=True)[PRUNING_KEY]) == ["model"]
        assert_equal(load(SmallCNN(8), path), student)

    def test_the_student_is_meant_where_its_teacher_is_in_the_file_too(self, tmp_path: Path) -> None:
        teacher = SmallCNN(8)
        student = prune(teacher, SHAPE)
        module = LogitDistillation(student, JointTeacher(teacher))
        path = fitted(module, tmp_path)
        assert_equal(load(SmallCNN(8), path), student)
        assert module.teacher is not None
        assert_equal(load(SmallCNN(8), path, prefix="joint_teacher"), module.teacher)

    def test_a_network_that_was_pruned_otherwise_is_refused(self, tmp_path: Path) -> None:
        path = fitted(SupervisedModule(prune(SmallCNN(8), SHAPE)), tmp_path)
        other = SupervisedModule(prune(SmallCNN(8), SHAPE, 0.25))
        with pytest.raises(ValueError, match="pruned in another way than this one: .* there and .* here"):
            quiet_trainer(enable_checkpointing=False).test(other, digits(), ckpt_path=path)
        with pytest.raises(ValueError, match="does not fit"):
            load(prune(SmallCNN(8), SHAPE, 0.25), path)
        with pytest.raises(ValueError, match="does not fit"):
            load(SmallCNN(16), path)

    def test_copies_keep_the_history(self) -> None:
        pruned = prune(SmallCNN(8), SHAPE)
        assert pruning_history(copy.deepcopy(pruned)) == pruning_history(pruned) != []
        assert pruning_history(SmallCNN(8)) == []


class FixedReshape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.project(inputs).view(-1, 4, 4).transpose(1, 2).flatten(1))


class TestRefusals:
    @pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, float("nan")])
    def test_ratios_out_of_range(self, ratio: float) -> None:
        with pytest.raises(ValueError, match=r"ratio must be (in \(0, 1\)|finite)"):
            prune(SmallCNN(8), SHAPE, ratio)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"step": 4, "steps": 3}, "step must be in \\[1, 3\\]"),
            ({"importance": "magnitud"}, "magnitude"),
            ({"ignore": ["conv9"]}, "no layer 'conv9' in the SmallCNN"),
            ({"ignore": ["*"]}, r"nothing of the SmallCNN was pruned: every layer.*\(classifier\)"),
            ({"example": None}, "needs an example"),
            ({"example": [1, 3, 8, 8]}, "fails.*does not take the example"),
            ({"importance": "taylor"}, "needs labels, and there are no training data"),
            ({"schedule": "exponential"}, "schedule"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            prune(SmallCNN(8), **{"example": SHAPE, **options})

    def test_bn_scale_needs_batch_norm(self) -> None:
        with pytest.raises(ValueError, match="has no BatchNorm"):
            prune(nn.Linear(8, 3), [1, 8], importance="bn_scale")

    def test_a_fixed_reshape_is_named_with_what_to_ignore(self) -> None:
        with pytest.raises(ValueError, match=r"FixedReshape.*after 'project'.*ignore=\['project'\]"):
            prune(FixedReshape(), [1, 8])

    def test_a_vision_transformer_names_its_attention_and_goes_without_it(self) -> None:
        timm = pytest.importorskip("timm")
        options = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
        network = timm.models.vision_transformer.VisionTransformer(**options)
        with pytest.raises(ValueError, match=r"blocks\.0\.attn.*ignore=\['blocks\.\*\.attn'\]"):
            prune(network, [1, 3, 16, 16])
        pruned = prune(network, [1, 3, 16, 16], ignore=["blocks.*.attn"])
        assert {width for name, width in layer_widths(pruned).items() if "fc1" in name} == {32}

    def test_a_network_without_gradients_is_not_traced(self) -> None:
        class Detached(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(4, 3)

            def forward(self, inputs: Tensor) -> Tensor:
                return self.layer(inputs).detach()

        with pytest.raises(ValueError, match="cannot trace the Detached"):
            prune(Detached(), [1, 4])

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = fitted(SupervisedModule(prune(SmallCNN(8), SHAPE)), tmp_path)
        real = builtins.__import__

        def without(name: str, *rest: Any) -> Any:
            if name == "torch_pruning":
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", without)
        for call in (lambda: prune(SmallCNN(8), SHAPE), lambda: load(SmallCNN(8), path)):
            with pytest.raises(MissingPruningError, match=r"pip install 'lit-distill\[prune\]'"):
                call()
