"""Checkpoints changed at random give the exact weights, or an error that names the file; never another, and nothing is run."""

from __future__ import annotations

import io
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as as_safetensors
from torch import nn

from lit_distill import load
from lit_distill.callbacks import strip_file
from tests.promises.conftest import Tally
from tests.promises.foreign import archive, packed, records, saved
from tests.promises.test_foreign_files import batches, module, network, sound, trainer

__all__ = ["sound"]

pytestmark = [pytest.mark.slow, pytest.mark.no_cover, pytest.mark.filterwarnings("ignore::UserWarning")]

EXACT = "a checkpoint changed at random gives the exact weights or an error that names it"
EXAMPLES = 150
quickly = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def weights() -> dict[str, Any]:
    torch.manual_seed(3)
    return dict(network().state_dict())


WEIGHTS = weights()
MODERN, OLDER, SAFETENSORS = saved(WEIGHTS), saved(WEIGHTS, modern=False), as_safetensors(WEIGHTS)


def _is_named(error: ValueError, name: str) -> None:
    assert name in str(error), error


def loads_exactly_or_is_named(content: bytes, checked: bool = True, name: str = "theirs.ckpt") -> bool:
    """Load changed bytes; whether they were taken. Where the format has checksums, what is taken is exact."""
    before = set(os.listdir("."))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        model, start = network(), time.monotonic()
        kept = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            load(model, path)
        except ValueError as error:
            _is_named(error, name)
            assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
            return False
        finally:
            assert time.monotonic() - start < 20
            assert set(os.listdir(".")) == before
    for key, value in model.state_dict().items():
        assert bool(value.isfinite().all())
        assert not checked or torch.equal(value, WEIGHTS[key])
    return True


@given(st.lists(st.tuples(st.integers(0, len(MODERN) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@quickly
def flipped_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(MODERN)
    for place, by in changes:
        content[place] ^= by
    loads_exactly_or_is_named(bytes(content))


@given(st.lists(st.tuples(st.integers(0, len(OLDER) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@quickly
def flipped_bytes_of_the_older_format(changes: list[tuple[int, int]]) -> None:
    content = bytearray(OLDER)
    for place, by in changes:
        content[place] ^= by
    loads_exactly_or_is_named(bytes(content), checked=False)  # it has no checksums


@given(st.lists(st.tuples(st.integers(0, len(SAFETENSORS) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@quickly
def flipped_bytes_of_safetensors(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SAFETENSORS)
    for place, by in changes:
        content[place] ^= by
    loads_exactly_or_is_named(bytes(content), checked=False, name="theirs.safetensors")  # nor has it


@given(st.sampled_from([MODERN, OLDER, SAFETENSORS]), st.integers(0, 10_000), st.binary(max_size=20))
@quickly
def cut_off_and_continued(content: bytes, place: int, more: bytes) -> None:
    name = "theirs.safetensors" if content is SAFETENSORS else "theirs.ckpt"
    loads_exactly_or_is_named(content[: place % len(content)] + more, checked=False, name=name)


@given(st.data())
@quickly
def records_in_others_places(data: st.DataObject) -> None:
    held = records(MODERN)
    names = sorted(held)
    one, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    kind = data.draw(st.sampled_from(["swap", "copy", "drop", "empty", "long", "rename"]))
    changed = dict(held)
    if kind == "swap":
        changed[one], changed[other] = held[other], held[one]
    elif kind == "copy":
        changed[one] = held[other]
    elif kind == "rename":
        changed[data.draw(st.text(min_size=1, max_size=8))] = changed.pop(one)
    else:
        changed |= {one: {"drop": b"", "empty": b"", "long": held[one] * 2}[kind]}
        if kind == "drop":
            del changed[one]
    loads_exactly_or_is_named(packed(changed), checked=False)  # sums of the new archive are right: it is another file


@given(st.data())
@quickly
def mutated_pickles(data: st.DataObject) -> None:
    held = records(MODERN)
    name = next(one for one in held if one.endswith("data.pkl"))
    pickled = bytearray(held[name])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(pickled) - 1))
        kind = data.draw(st.sampled_from(["set", "insert", "delete"]))
        if kind == "set":
            pickled[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            pickled[place:place] = data.draw(st.binary(min_size=1, max_size=6))
        elif len(pickled) > 1:
            del pickled[place]
    loads_exactly_or_is_named(packed({**held, name: bytes(pickled)}), checked=False)


OPCODES = st.sampled_from([bytes([code]) for code in b"]}()tuesaqQhR\x85\x86\x87Nb0(.K\x01\x80\x02"])


@given(st.lists(st.one_of(OPCODES, st.binary(max_size=3)), max_size=60).map(b"".join))
@example(b"(" * 5000)
@example(b"]" * 50_000 + b"a" * 49_999 + b".")
@quickly
def pickles_of_any_opcodes(pickled: bytes) -> None:
    assert not loads_exactly_or_is_named(archive(b"\x80\x02" + pickled))
    loads_exactly_or_is_named(pickled, checked=False)


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.just(torch.ones(2))),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
@quickly
def other_contents(content: Any) -> None:
    assert not loads_exactly_or_is_named(saved(content))


LOADED = [
    flipped_bytes,
    flipped_bytes_of_the_older_format,
    flipped_bytes_of_safetensors,
    cut_off_and_continued,
    records_in_others_places,
    mutated_pickles,
    pickles_of_any_opcodes,
    other_contents,
]


@pytest.mark.parametrize("change", LOADED, ids=lambda change: change.__name__)
def test_load_of_a_changed_file(change: Callable[[], None], tally: Tally) -> None:
    change()
    tally(EXACT, cases=EXAMPLES)


# As ckpt_path, and to be stripped ----------------------------------------------------------------------------------


def spoil(content: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    """A checkpoint with another value somewhere in it."""
    changed = dict(content)
    at: Any = changed
    for number, step in enumerate(path):
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            break
        key = keys[step % len(keys)]
        inner = at[key]
        if number == len(path) - 1 or not isinstance(inner, (dict, list)) or not inner:
            at[key] = value
            break
        at[key] = dict(inner) if isinstance(inner, dict) else list(inner)
        at = at[key]
    return changed


VALUES = st.one_of(
    st.none(), st.integers(-3, 3), st.text(max_size=3), st.just([]), st.just({}), st.just([1]), st.just({"a": 1})
)


@pytest.mark.parametrize("door", ["fit", "strip"])
@pytest.mark.parametrize("kind", ["bytes", "cut", "values"])
def test_going_on_from_a_changed_file(
    tmp_path: Path, sound: dict[str, Any], kind: str, door: str, tally: Tally
) -> None:
    whole, count = saved(sound), 40
    strategies = {
        "bytes": st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)),
        "cut": st.integers(0, len(whole) - 1),
        "values": st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=6), VALUES),
    }

    @given(strategies[kind])
    @settings(quickly, max_examples=count)
    def tried(change: Any) -> None:
        content = whole[:change] if kind == "cut" else whole
        if kind == "bytes":
            content = whole[: change[0]] + bytes([whole[change[0]] ^ change[1]]) + whole[change[0] + 1 :]
        elif kind == "values":
            content = saved(spoil(sound, *change))
        path = tmp_path / "theirs.ckpt"
        path.write_bytes(content)
        try:
            if door == "strip":
                strip_file(path, tmp_path / "out.ckpt")
            else:
                run = trainer(tmp_path)
                run.fit_loop.max_epochs = 1  # nothing is left to train: what is loaded stays
                made = module()
                run.fit(made, batches(), ckpt_path=path)
                if kind != "values":
                    state = sound["state_dict"]
                    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
        except ValueError as error:
            _is_named(error, "theirs.ckpt")

    tried()
    tally(EXACT, cases=count)


def test_many_networks_names_are_read_in_time_that_grows_with_their_number(tmp_path: Path, tally: Tally) -> None:
    from lit_distill.models.finding import Entries, choose_network

    wanted = {f"layer.{number}.weight": torch.zeros(1) for number in range(50)}
    times = []
    for others in (20_000, 80_000):
        state = {f"model.{name}": value for name, value in wanted.items()}
        state |= {f"other.{number}.weight": torch.zeros(1) for number in range(others)}
        start = time.process_time()
        found = choose_network([Entries("", state)], wanted, set(), None, "theirs.ckpt")
        times.append(time.process_time() - start)
        assert found.keys() == wanted.keys()
    assert times[1] < 12 * times[0] + 1
    start = time.process_time()
    dotted = {"a." * 200_000 + "weight": torch.zeros(1), "x.layer.0.weight": torch.zeros(1)}
    choose_network([Entries("", dotted)], {"layer.0.weight": torch.zeros(1)}, set(), None, "theirs.ckpt")
    nested = {"weight." * depth + "weight": torch.zeros(1) for depth in range(1500)}
    choose_network([Entries("", nested)], {"weight": torch.zeros(1)}, set(), None, "theirs.ckpt")
    assert time.process_time() - start < 5
    tally("load is linear in the number of keys", cases=4)


def test_an_archive_of_many_small_records_is_read(tmp_path: Path) -> None:
    state = {f"{number}.weight": torch.zeros(1, 1) for number in range(2000)}
    model = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(2000)])
    torch.save(state, tmp_path / "many.pt")
    load(model, tmp_path / "many.pt")
    with zipfile.ZipFile(io.BytesIO((tmp_path / "many.pt").read_bytes())) as opened:
        assert len(opened.namelist()) > 2000
