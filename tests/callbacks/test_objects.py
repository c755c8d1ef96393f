"""Students that take other things than tensors, and networks that cannot be deep-copied."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader

from lit_distill import Distill, EMATeacher, SoftTarget
from lit_distill.batch.batch import count_samples
from lit_distill.callbacks import Throughput
from lit_distill.utils.notices import DistillationWarning
from tests.callbacks.guests import Theirs, distill, fit, loader, network, same, theirs, weights


class Graph:
    """As PyTorch Geometric's ``Data``: neither a tensor nor a collection."""

    def __init__(self, x: Tensor, edge_index: Tensor, y: Tensor, num_graphs: int = 1) -> None:
        self.x, self.edge_index, self.y, self.num_graphs = x, edge_index, y, num_graphs

    def to(self, device: Any, **options: Any) -> Graph:
        return Graph(self.x.to(device), self.edge_index.to(device), self.y.to(device), self.num_graphs)


@dataclass
class Sample:
    features: Tensor
    label: Tensor


class OfGraphs(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = network(width)

    def forward(self, data: Graph) -> Tensor:
        x = data.x.index_add(0, data.edge_index[1], data.x[data.edge_index[0]])
        out: Tensor = self.inner(x)
        return out


class OfSamples(OfGraphs):
    def forward(self, data: Any) -> Tensor:
        out: Tensor = self.inner(data.features)
        return out


class OfTexts(OfGraphs):
    def forward(self, texts: list[str]) -> Tensor:
        out: Tensor = self.inner(torch.tensor([[float(len(text) + place) for place in range(5)] for text in texts]))
        return out


class OfSequences(OfGraphs):
    def forward(self, packed: PackedSequence) -> Tensor:
        out: Tensor = self.inner(packed.data[: int(packed.batch_sizes[0])])
        return out


def rows(kind: str) -> list[Any]:
    torch.manual_seed(5)
    y = torch.randint(0, 3, (4,))
    if kind == "graph":
        return [Graph(torch.randn(4, 5), torch.randint(0, 4, (2, 9)), y, 2) for _ in range(4)]
    if kind == "dataclass":
        return [Sample(torch.randn(4, 5), y) for _ in range(4)]
    if kind == "texts":
        return [(["a", "bc", "def", "ghij"], y) for _ in range(4)]
    return [(pack_sequence([torch.randn(n, 5) for n in (4, 3, 2, 1)]), y) for _ in range(4)]


class Objects(Theirs):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.model = kind(6)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        given = batch[0] if isinstance(batch, (list, tuple)) else batch
        y = batch[1] if isinstance(batch, (list, tuple)) else getattr(batch, "y", getattr(batch, "label", None))
        return F.cross_entropy(self.model(given), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=4)


@pytest.mark.parametrize(
    ("kind", "make"),
    [("graph", OfGraphs), ("dataclass", OfSamples), ("texts", OfTexts), ("packed", OfSequences)],
)
def test_the_teacher_gets_the_object_that_the_student_got(tmp_path: Path, kind: str, make: Any) -> None:
    network_t, seen = make(11), []
    network_t.register_forward_pre_hook(lambda m, args: seen.append(type(args[0])))
    data = DataLoader(rows(kind), batch_size=None)
    module = theirs(Objects, kind=make)
    guest = distill(teacher=network_t, criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
    trainer = fit(module, None, tmp_path, data=data, val=data, callbacks=[guest, Throughput(warm_up=0)])
    assert float(trainer.callback_metrics["distill/criteria/soft"]) > 0
    assert len(seen) >= 9
    assert len(set(seen)) == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (torch.zeros(4, 2), 4),
        ((torch.zeros(4, 2), torch.zeros(3)), 4),
        ([torch.zeros(4, 2), torch.zeros(4)], 4),
        ((["a", "b", "c"],), 3),
        ([[torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], [{}, {}]], 2),
        ({"size": torch.tensor(3), "image": torch.zeros(5, 2)}, 5),
        ((Graph(torch.zeros(9, 5), torch.zeros(2, 1), torch.zeros(9), 3),), 3),
        ((pack_sequence([torch.zeros(3, 2), torch.zeros(1, 2)]),), 2),
        (Sample(torch.zeros(6, 2), torch.zeros(6)), 6),
        ((object(),), None),
        (torch.tensor(1.0), None),
        ((), None),
    ],
)
def test_number_of_samples(data: Any, expected: int | None) -> None:
    assert count_samples(data) == expected


class Extra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor, scale: float = 1.0, names: list[str] | None = None) -> Tensor:
        out: Tensor = self.inner(x * scale)
        return out


class Named(Theirs):
    def __init__(self) -> None:
        super().__init__()
        self.model = Extra()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0], scale=2.0, names=["a"]), batch[1])


def test_arguments_that_the_teacher_does_not_take_are_left_out_and_said_once(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(theirs(Named), Distill(network(11)), tmp_path)
    said = [str(one.message) for one in told if issubclass(one.category, DistillationWarning)]
    assert len(said) == 1
    assert "scale=, names=, which the teacher (Sequential) does not take" in said[0]


def test_arguments_that_the_teacher_takes_reach_it(tmp_path: Path) -> None:
    network_t, seen = Extra(), []
    network_t.register_forward_pre_hook(lambda m, args, named: seen.append(named), with_kwargs=True)
    fit(theirs(Named), Distill(network_t), tmp_path)
    assert all(named == {"scale": 2.0, "names": ["a"]} for named in seen)


class Normed(Theirs):
    """With an old-style normalisation of its weights, a lock, and a loss that it keeps."""

    norm: Any = staticmethod(torch.nn.utils.weight_norm)

    def __init__(self) -> None:
        super().__init__()
        self.model[2] = self.norm(self.model[2])
        self.lock = threading.Lock()
        self.kept: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with self.lock:
            self.kept.append(super().training_step(batch, batch_idx))
        return self.kept[-1]


class SpectralNormed(Normed):
    norm = staticmethod(torch.nn.utils.spectral_norm)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("kind", [Normed, SpectralNormed])
@pytest.mark.parametrize("network_t", [None, EMATeacher(0.5)], ids=["frozen", "ema"])
def test_modules_that_cannot_be_deep_copied_train(tmp_path: Path, kind: Any, network_t: Any) -> None:
    module = theirs(kind)
    options: dict[str, Any] = {"criteria": {"soft": SoftTarget()}, "weights": {"soft": 1.0}}
    fit(module, distill(teacher=network_t, **options), tmp_path)
    fit(module, distill(teacher=network_t, **options), tmp_path)  # after a fit, tensors of its graph are left in it
    assert len(module.kept) == 16


def test_an_impossible_copy_says_what_to_give(tmp_path: Path) -> None:
    class Single:
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("there is one alone")

    module = theirs()
    module.single = Single()
    with pytest.raises(ValueError, match=r"there is one alone.*example_inputs"):
        fit(module, distill(), tmp_path)
    plain = theirs()
    fit(module, distill(example_inputs=torch.randn(2, 5)), tmp_path, data=loader())
    fit(plain, distill(), tmp_path, data=loader())
    assert same(weights(module), weights(plain))


class TestTheBatchsMask:
    """The positions that count, where the step does not hand them to the student."""

    def fitted(self, student: nn.Module, teacher: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        class Own(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = student

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                inputs = {key: batch[key] for key in ("x", "decoder_x") if key in batch}
                return self.model(**inputs).sum() * 0

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), 0.0)

        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Distill(teacher, {"soft": SoftTarget()}, {"task": 0.0, "soft": 1.0})],
        )
        trainer.fit(Own(), DataLoader([rows], batch_size=None))  # type: ignore[arg-type]
        return trainer.callback_metrics["distill/loss"]

    def test_is_used_though_the_student_is_not_given_it(self) -> None:
        keep = torch.arange(6) < torch.tensor([[2], [6], [4]])
        x = torch.randn(3, 6, 5)
        networks = nn.Linear(5, 4), nn.Linear(5, 4)
        student, teacher = (Taking(network) for network in networks)
        got = self.fitted(student, teacher, {"x": x, "attention_mask": keep.long()})
        s, t = (network(x[keep]) / 4 for network in networks)
        expected = 16 * torch.nn.functional.kl_div(
            s.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True
        )
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)

    def test_of_an_encoder_is_none_of_the_decoders(self) -> None:
        keep = torch.arange(6) < torch.tensor([[2], [6], [4]])
        x = torch.randn(3, 6, 5)
        networks = nn.Linear(5, 4), nn.Linear(5, 4)
        student, teacher = (Decoding(network) for network in networks)
        got = self.fitted(student, teacher, {"x": x, "decoder_x": x, "attention_mask": keep.long()})
        s, t = (network(x).flatten(0, 1) / 4 for network in networks)
        expected = 16 * torch.nn.functional.kl_div(
            s.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True
        )
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


class Taking(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x)
        return found


class Decoding(Taking):
    def forward(self, x: Tensor, decoder_x: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = self.network(decoder_x)
        return found
