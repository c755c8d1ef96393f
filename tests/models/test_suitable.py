"""Which network ``load`` takes of several, and what it refuses to fill a model with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_distill import load
from lit_distill.utils.notices import DistillationWarning

State = dict[str, Any]


class Net(nn.Module):
    """A layer, a count, and a mask that holds -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("shown", torch.zeros(1), persistent=False)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight


def state(model: Callable[[], nn.Module] = Net, seed: int = 1) -> State:
    torch.manual_seed(seed)
    return dict(model().state_dict())


def under(prefix: str, given: State) -> State:
    return {prefix + name: value for name, value in given.items()}


def taken(
    path: Path, content: Any, prefix: str | None = None, model: Callable[[], nn.Module] = Net
) -> tuple[State, str]:
    """The weights that are loaded, and what is said."""
    torch.save(content, path)
    made = model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(made, path, prefix)
    said = [str(one.message) for one in caught if issubclass(one.category, DistillationWarning)]
    return dict(made.state_dict()), "\n".join(said)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


A, B, C = state(seed=1), state(seed=2), state(seed=3)


class TestSeveralNetworks:
    @pytest.mark.parametrize(
        ("content", "names"),
        [
            (under("model.", A) | under("ema_model.", B), "'model', 'ema_model'"),
            ({"state_dict": under("model.", A) | under("teacher.", B)}, "'model', 'teacher'"),
            ({"state_dict": under("nets.0.", A) | under("nets.1.", B)}, "'nets.0', 'nets.1'"),
            ({"first": A, "second": B}, "'first', 'second'"),
        ],
    )
    def test_are_refused_where_nothing_tells_which_is_meant(self, tmp_path: Path, content: Any, names: str) -> None:
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"w\.pt holds 2 networks of this architecture.*prefix=") as caught:
            load(Net(), tmp_path / "w.pt")
        assert all(name in str(caught.value) for name in names.split(", "))

    @pytest.mark.parametrize(
        ("content", "prefix", "expected"),
        [
            (under("model.", A) | under("ema_model.", B), "model", A),
            (under("model.", A) | under("ema_model.", B), "ema_model.", B),
            ({"state_dict": A, "state_dict_ema": B}, "state_dict_ema", B),
            ({"state_dict": A, "state_dict_ema": under("module.", B)}, "state_dict_ema", B),
            ({"state_dict": A, "state_dict_ema": under("module.", B)}, "state_dict_ema.module", B),
            ({"student": A, "teacher": B}, "teacher", B),
            ({"state_dict": A, **under("ema.", B)}, "ema", B),
            ({"state_dict": {**A, **under("x.", B)}}, "x", B),
        ],
    )
    def test_the_one_that_is_named_is_taken_in_silence(
        self, tmp_path: Path, content: Any, prefix: str, expected: State
    ) -> None:
        found, said = taken(tmp_path / "w.pt", content, prefix)
        assert same(found, expected)
        assert not said

    @pytest.mark.parametrize(
        ("content", "name"),
        [
            ({"state_dict": under("student.", A) | under("joint_teacher.", B)}, "student"),
            ({"state_dict": under("student.", A) | under("peers.0.", B) | under("peers.1.", C)}, "student"),
            ({"state_dict": A, "state_dict_ema": B}, "state_dict"),
            ({"model": A, "model_ema": B}, "model"),
            ({"student": A, "teacher": B}, "student"),
        ],
    )
    def test_the_usual_one_is_taken_and_said(self, tmp_path: Path, content: Any, name: str) -> None:
        found, said = taken(tmp_path / "w.pt", content)
        assert same(found, A)
        assert f"under '{name}' is loaded" in said
        assert "prefix=" in said

    def test_copies_of_one_network_are_one(self, tmp_path: Path) -> None:
        found, said = taken(tmp_path / "w.pt", under("model.", A) | under("again.", A))
        assert same(found, A)
        assert not said

    def test_names_that_compiling_makes_one_must_agree(self, tmp_path: Path) -> None:
        torch.save(under("_orig_mod.", A) | {"layer.weight": B["layer.weight"]}, tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"w\.pt holds 'layer\.weight' twice"):
            load(Net(), tmp_path / "w.pt")


def changed(name: str, change: Callable[[Tensor], Any]) -> State:
    return {**A, name: change(A[name].clone())}


def put(value: float) -> Callable[[Tensor], Tensor]:
    def fill(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return fill


REFUSED: dict[str, tuple[State, str]] = {
    "NaN": (changed("layer.weight", put(float("nan"))), r"layer\.weight holds NaN"),
    "infinity": (changed("layer.bias", put(float("inf"))), r"layer\.bias holds infinity"),
    "NaN in a buffer": (changed("norm.running_var", put(float("nan"))), r"norm\.running_var holds NaN"),
    "infinity elsewhere in the mask": (changed("mask", lambda mask: mask.flip(0)), "mask holds infinity"),
    "NaN in the mask": (changed("mask", put(float("nan"))), "mask holds NaN"),
    "too large": (changed("layer.bias", lambda bias: bias.double() * 1e300), r"layer\.bias is beyond the range of"),
    "integers": (changed("layer.weight", lambda weight: weight.int()), r"layer\.weight holds torch\.int32.*float32"),
    "booleans": (changed("layer.weight", lambda weight: weight > 0), r"layer\.weight holds torch\.bool"),
    "bytes": (changed("layer.weight", lambda weight: weight.to(torch.uint8)), r"layer\.weight holds torch\.uint8"),
    "floats for integers": (changed("steps", lambda steps: steps.float()), r"steps holds torch\.float32.*int64"),
    "complex": (
        changed("layer.weight", lambda weight: weight.to(torch.complex64)),
        r"layer\.weight holds torch\.complex64",
    ),
    "sparse": (changed("layer.weight", lambda weight: weight.to_sparse()), r"layer\.weight is sparse in one"),
    "on meta": (changed("layer.weight", lambda weight: weight.to("meta")), r"layer\.weight is without values"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_weights_can_be_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    content, words = REFUSED[kind]
    torch.save(content, tmp_path / "w.pt")
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w\.pt does not fit Net:\n  {words}"):
        load(model, tmp_path / "w.pt")
    assert same(dict(model.state_dict()), before)


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor", "ignore:TypedStorage is deprecated")
def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    content = changed("layer.weight", lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8))
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"layer\.weight is quantised in one"):
        load(Net(), tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_any_width_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    narrow = {name: value.to(dtype) if value.is_floating_point() else value for name, value in A.items()}
    found, _ = taken(tmp_path / "w.pt", narrow)
    assert same(found, {name: value.to(A[name].dtype) for name, value in narrow.items()})


def test_counters_that_averaging_has_made_floats_are_read(tmp_path: Path) -> None:
    found, _ = taken(tmp_path / "w.pt", changed("norm.num_batches_tracked", lambda count: count.float() + 4))
    assert found["norm.num_batches_tracked"] == 4


class TestModels:
    @pytest.mark.parametrize("left_out", ["embed.weight", "head.weight", None])
    def test_tied_weights_may_be_there_once(self, tmp_path: Path, left_out: str | None) -> None:
        content = {name: value for name, value in state(Tied).items() if name != left_out}
        found, _ = taken(tmp_path / "w.pt", under("model.", content), model=Tied)
        assert torch.equal(found["embed.weight"], state(Tied)["embed.weight"])
        assert torch.equal(found["head.weight"], state(Tied)["embed.weight"])

    def test_tied_weights_that_differ_are_refused(self, tmp_path: Path) -> None:
        content = state(Tied)
        torch.save({**content, "head.weight": content["head.weight"] + 1}, tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"embed\.weight and head\.weight are one weight in the model, and differ"):
            load(Tied(), tmp_path / "w.pt")

    def test_a_lazy_layer_takes_its_shape_from_the_file(self, tmp_path: Path) -> None:
        made = nn.Linear(5, 2)
        torch.save(made.state_dict(), tmp_path / "w.pt")
        model = load(nn.LazyLinear(2), tmp_path / "w.pt")
        assert torch.equal(model.weight, made.weight)

    def test_a_model_without_memory_is_refused(self, tmp_path: Path) -> None:
        torch.save(A, tmp_path / "w.pt")
        with torch.device("meta"):
            model = Net()
        with pytest.raises(ValueError, match="no memory to load weights into.*'meta'"):
            load(model, tmp_path / "w.pt")

    def test_state_that_is_no_tensor_is_given_back(self, tmp_path: Path) -> None:
        class Extra(nn.Linear):
            scale = 1.0

            def get_extra_state(self) -> Any:
                return {"scale": self.scale}

            def set_extra_state(self, state: Any) -> None:
                self.scale = state["scale"]

        made = Extra(2, 2)
        made.scale = 3.0
        torch.save(made.state_dict(), tmp_path / "w.pt")
        assert load(Extra(2, 2), tmp_path / "w.pt").scale == 3.0


class TestFiles:
    def test_safetensors_of_another_ending(self, tmp_path: Path) -> None:
        save_file(A, tmp_path / "w.bin")
        assert same(dict(load(Net(), tmp_path / "w.bin").state_dict()), A)

    def test_without_checksums(self, tmp_path: Path) -> None:
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(A, tmp_path / "w.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert same(dict(load(Net(), tmp_path / "w.pt").state_dict()), A)

    def test_addresses_and_folders_are_said(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="download http://somewhere/w.pt first"):
            load(Net(), "http://somewhere/w.pt")
        with pytest.raises(FileNotFoundError, match="it is a folder"):
            load(Net(), tmp_path)
