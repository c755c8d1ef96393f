"""What a frozen teacher said is remembered while neither the batch nor the weights change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import LogitDistillation
from lit_distill.batch.batch import Arguments
from lit_distill.engine.teacher_cache import TeacherCache

PLACE = ("val", 0, 0)

pytestmark = [
    pytest.mark.filterwarnings("ignore:the teacher's accuracy.*chance"),  # the teachers here were never trained
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(*shape: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def test_memory_recalls_what_it_kept_as_a_copy() -> None:
    memory, images, logits = TeacherCache(), draw(4, 3, 5, 5), draw(4, 10).requires_grad_()
    assert memory.recall(PLACE, images) is None
    memory.keep(PLACE, images, logits)
    with torch.no_grad():
        kept = logits.clone()
        logits.zero_()
    found = memory.recall(PLACE, images.clone())
    assert found is not None
    assert torch.equal(found, kept)
    assert not found.requires_grad


@pytest.mark.parametrize("place", [("test", 0, 0), ("val", 1, 0), ("val", 0, 1)])
def test_memory_tells_places_apart(place: tuple[str, int, int]) -> None:
    memory, images = TeacherCache(), draw(4, 3, 5, 5)
    memory.keep(PLACE, images, draw(4, 10))
    assert memory.recall(place, images) is None


def changed_images() -> dict[str, Tensor]:
    images = draw(4, 3, 5, 5)
    one_flipped, one_pixel = images.clone(), images.clone()
    one_flipped[2] = images[2].flip(-1)
    one_pixel[3, 0, 0, 0] += 0.01
    return {
        "all flipped sideways": images.flip(-1),
        "all upside down": images.flip(-2),
        "channels swapped": images.flip(1),
        "one flipped": one_flipped,
        "one pixel": one_pixel,
        "another order": images[[1, 0, 2, 3]],
        "fewer": images[:3],
        "shifted": images.roll(1, -1),
    }


@pytest.mark.parametrize("change", changed_images())
def test_memory_notices_changed_data(change: str) -> None:
    memory = TeacherCache()
    memory.keep(PLACE, draw(4, 3, 5, 5), draw(4, 10))
    assert memory.recall(PLACE, changed_images()[change]) is None


def test_memory_reads_every_tensor_of_the_inputs() -> None:
    memory, ids, mask = TeacherCache(), labels_of(3, 6, classes=50), torch.ones(3, 6, dtype=torch.long)
    memory.keep(PLACE, {"input_ids": ids, "attention_mask": mask}, draw(3, 2))
    assert memory.recall(PLACE, {"input_ids": ids, "attention_mask": mask}) is not None
    shorter = mask.clone()
    shorter[1, 5] = 0
    assert memory.recall(PLACE, {"input_ids": ids, "attention_mask": shorter}) is None
    assert memory.recall(PLACE, {"input_ids": ids.flip(1), "attention_mask": mask}) is None


def test_memory_reads_samples_of_one_number() -> None:
    memory = TeacherCache()
    memory.keep(PLACE, torch.tensor([1.0, 2.0]), draw(2, 3))
    assert memory.recall(PLACE, torch.tensor([1.0, 2.0])) is not None
    assert memory.recall(PLACE, torch.tensor([2.0, 1.0])) is None


def test_memory_replaces_a_changed_batch() -> None:
    memory, images = TeacherCache(), draw(4, 3, 5, 5)
    memory.keep(PLACE, images, draw(4, 10))
    memory.keep(PLACE, images.flip(-1), draw(4, 10, seed=1))
    assert memory.recall(PLACE, images) is None
    found = memory.recall(PLACE, images.flip(-1))
    assert found is not None
    assert torch.equal(found, draw(4, 10, seed=1))


def test_memory_stops_at_its_limit_and_frees_what_it_replaces() -> None:
    images, logits = draw(2, 3), draw(2, 10)  # 80 bytes of logits
    memory = TeacherCache(limit=200)
    for index in range(3):
        memory.keep(("val", 0, index), images + index, logits)
    assert [memory.recall(("val", 0, i), images + i) is not None for i in range(3)] == [True, True, False]
    for _ in range(5):
        memory.keep(("val", 0, 1), images + 9, logits)
    assert memory.recall(("val", 0, 1), images + 9) is not None
    assert memory.recall(("val", 0, 0), images) is not None
    memory.keep(("val", 0, 1), images, draw(100, 10))
    assert memory.recall(("val", 0, 1), images) is None
    memory.keep(("val", 0, 2), images, logits)
    assert memory.recall(("val", 0, 2), images) is not None


def test_a_limit_of_zero_keeps_nothing() -> None:
    memory = TeacherCache(limit=0)
    memory.keep(PLACE, draw(2, 3), draw(2, 10))
    assert memory.recall(PLACE, draw(2, 3)) is None


@dataclass
class Graph:
    nodes: Tensor
    edges: Tensor
    name: str = ""


def node(value: float) -> Tensor:
    nodes = draw(30, 5)
    nodes[7, 2] = value
    return nodes


EDGES = torch.arange(160).reshape(2, 80)
UNALIKE: dict[str, Callable[[float], Any]] = {
    "a graph": lambda value: (node(value), EDGES),
    "a dataclass": lambda value: Graph(node(value), EDGES),
    "a scalar": lambda value: (draw(4, 3), value),
    "a tensor without dimensions": lambda value: (draw(4, 3), torch.tensor(value)),
    "a flag": lambda value: (draw(4, 3), bool(value)),
    "nested": lambda value: {"x": [draw(4, 3), {"y": (node(value), None)}], "name": "a"},
    "by name": lambda value: Arguments((draw(4, 3),), {"scale": value}),
    "texts": lambda value: [f"text {value}", "another"],
    "complex": lambda value: (draw(2, 3) * 1j * (1 + value),),
    "nothing in it": lambda value: (draw(0, 3), value),
    "flags": lambda value: torch.tensor([True, bool(value)]),
}


@pytest.mark.parametrize("kind", UNALIKE)
def test_inputs_of_every_form_are_known_again_and_told_apart(kind: str) -> None:
    make, memory, logits = UNALIKE[kind], TeacherCache(), draw(4, 3)
    memory.keep(PLACE, make(0.0), logits)
    found = memory.recall(PLACE, make(0.0))
    assert found is not None
    assert torch.equal(found, logits)
    assert memory.recall(PLACE, make(1.0)) is None


def test_another_type_or_shape_of_the_same_numbers_is_another_input() -> None:
    memory, x = TeacherCache(), torch.zeros(2, 6)
    memory.keep(PLACE, x, draw(2, 3))
    for other in (x.double(), x.reshape(2, 2, 3), x.reshape(2, 3, 2), (x,), (x, 0)):
        assert memory.recall(PLACE, other) is None


@pytest.mark.parametrize("unknown", [object(), iter([1]), torch.eye(3).to_sparse()])
def test_what_cannot_be_marked_is_not_remembered(unknown: Any) -> None:
    memory = TeacherCache()
    memory.keep(PLACE, (draw(4, 3), unknown), draw(4, 3))
    assert memory.recall(PLACE, (draw(4, 3), unknown)) is None


def test_other_weights_are_another_answer_and_all_can_be_dropped() -> None:
    memory, x = TeacherCache(limit=48), draw(4, 3)
    memory.keep(PLACE, x, draw(4, 3), weights=1)
    assert memory.recall(PLACE, x, weights=1) is not None
    assert memory.recall(PLACE, x, weights=2) is None
    memory.forget()
    assert memory.recall(PLACE, x, weights=1) is None
    memory.keep(PLACE, x, draw(4, 3), weights=2)
    assert memory.recall(PLACE, x, weights=2) is not None


# In a run ------------------------------------------------------------------------------------------------------------

GOOD = nn.Linear(4, 3)


def load_state(network: nn.Module) -> None:
    network.load_state_dict(GOOD.state_dict())


def assign(network: nn.Module) -> None:
    network.load_state_dict({name: value.clone() for name, value in GOOD.state_dict().items()}, assign=True)


def data_pointer(network: nn.Module) -> None:
    for mine, theirs in zip(network.parameters(), GOOD.parameters(), strict=True):
        mine.data = theirs.detach().clone()


def through_data(network: nn.Module) -> None:
    for mine, theirs in zip(network.parameters(), GOOD.parameters(), strict=True):
        mine.data.copy_(theirs)


def labelled() -> DataLoader[Any]:
    x = draw(64, 4)
    return DataLoader(TensorDataset(x, GOOD(x).argmax(1)), batch_size=16)


@pytest.mark.parametrize("change", [load_state, assign, data_pointer, through_data])
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_weights_loaded_between_two_runs_are_measured(
    quick_trainer: Callable[..., Trainer], change: Callable[[nn.Module], None], verb: str
) -> None:
    torch.manual_seed(1)
    module, trainer = LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3)), quick_trainer()
    name = {"validate": "val", "test": "test"}[verb]
    getattr(trainer, verb)(module, labelled(), verbose=False)
    assert float(trainer.callback_metrics[f"{name}/accuracy/teacher"]) < 0.9
    change(module.teacher)
    getattr(trainer, verb)(module, labelled(), verbose=False)
    assert float(trainer.callback_metrics[f"{name}/accuracy/teacher"]) == 1


@pytest.mark.filterwarnings("ignore:the frozen teacher .* changed during the fit")
def test_weights_loaded_during_a_fit_are_measured_at_the_next_epoch(quick_trainer: Callable[..., Trainer]) -> None:
    class Load(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                load_state(pl_module.teacher)

    seen: list[float] = []

    class Watch(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(float(trainer.callback_metrics["val/accuracy/teacher"]))

    torch.manual_seed(1)
    module = LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3))
    trainer = quick_trainer(max_epochs=2, callbacks=[Load(), Watch()], num_sanity_val_steps=0)
    trainer.fit(module, labelled(), labelled())
    assert seen[0] < 0.9
    assert seen[1] == 1


def test_an_unchanged_teacher_answers_each_batch_once_in_a_fit(quick_trainer: Callable[..., Trainer]) -> None:
    module = LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3))
    asked: list[int] = []
    predict = module._teacher.predict
    module._teacher.predict = lambda *args: (asked.append(1), predict(*args))[1]  # type: ignore[method-assign]
    quick_trainer(max_epochs=3, num_sanity_val_steps=0).fit(module, labelled(), labelled())
    assert len(asked) == 4
