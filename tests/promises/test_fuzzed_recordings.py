"""A spoilt recording is refused by name or healed; no other exception comes of it, and no wrong output is read."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_distill import LogitDistillation, RecordedTeacher, SoftTarget
from lit_distill.recording import DamagedRecording, StaleRecording, plan

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]  # thousands of times the same lines
PROMISE = "a damaged recording is refused by name or repaired, and never read wrongly"
COUNT, SHARDS = 24, 3
EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Rows(Dataset[Tensor]):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(index))


class Comparing(LogitDistillation):
    """Keeps how far the teacher's outputs are from what it would say live."""

    furthest = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.furthest = max(self.furthest, float((self._teacher(batch).logits - self.teacher(batch)).abs().max()))
        return super().training_step(batch, batch_idx)


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def fit(folder: Path, seed: int = 1) -> Comparing:
    """Train an epoch on a recording."""
    soft: dict[str, Any] = {"criteria": {"soft": SoftTarget()}, "weights": {"soft": 1.0}}
    module = Comparing(nn.Linear(4, 3), RecordedTeacher(network(seed), folder, logits="float32"), **soft)
    quiet: dict[str, Any] = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar"], False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
    trainer.fit(module, DataLoader(Rows(), batch_size=4))
    return module


@pytest.fixture(scope="module", autouse=True)
def shards() -> Iterator[None]:
    """Small shards, so that there are several; warnings are not what this is about."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(plan, "_FEWEST_ROWS", COUNT // SHARDS)
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def recordings(shards: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished recordings, of one teacher and of another."""
    folder = tmp_path_factory.mktemp("recordings")
    fit(folder / "whole")
    fit(folder / "another", seed=2)
    assert len(list((folder / "whole").glob("*.npy"))) == SHARDS
    return folder


@pytest.fixture
def whole(recordings: Path, tmp_path: Path) -> Path:
    """A finished recording."""
    shutil.copytree(recordings / "whole", tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def another(recordings: Path, tmp_path: Path) -> Path:
    """A finished recording of another teacher."""
    shutil.copytree(recordings / "another", tmp_path / "another")
    return tmp_path / "another"


def outcome(folder: Path) -> str:
    """Fit on a recording: refused by name, or read rightly."""
    refused: Exception | None = None
    try:
        module = fit(folder)
    except (DamagedRecording, StaleRecording, OSError) as error:
        refused = error
    except ValueError as error:
        assert f"{folder} is not a recording" in str(error), error  # noqa: PT017
        return "refused"
    if refused is None:
        assert module.furthest < 1e-5
        return "read"
    assert str(folder) in str(refused), refused
    assert any(word in str(refused) for word in ("Delete", "delete", "another folder")), refused
    return "refused"


def copied(whole: Path) -> Path:
    folder = whole.parent / "spoilt"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    return folder


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
EDGES = [0, -1, True, False, 1.0, 4.0, 2**31, 2**63, 10**400, float("nan"), float("inf"), "", "4", [], {}, [[]], None]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value of nested dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


@EXAMPLES
@given(data=st.data())
def test_a_manifest_with_another_value(whole: Path, data: st.DataObject, tally: Any) -> None:
    folder = copied(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    path = data.draw(st.sampled_from(places(manifest)))
    value = data.draw(st.sampled_from(EDGES) | JSON)
    if path:
        holder = manifest
        for key in path[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[path[-1]] = value
        else:
            del holder[path[-1]]
    else:
        manifest = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    outcome(folder)
    tally(PROMISE)


@pytest.mark.parametrize("value", EDGES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("path", [("layout", "batch_size"), ("layout",), ("views",), ("format",), ("data", "digest")])
def test_a_manifest_with_an_edge(path: tuple[str, ...], value: Any, whole: Path, tally: Any) -> None:
    folder = copied(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    holder = manifest
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert outcome(folder) == "refused"
    tally(PROMISE)


DEEP = b"[" * 100_000
TEXTS = [b"", b"{", b"[]", b"null", b"NaN", b"1", b'"x"', b"{}", b"\xff\xfe{}", b"\x00" * 100, DEEP, b'{"a":' * 100_000]


@pytest.mark.parametrize("content", [*TEXTS, b"1" * 10_000], ids=range(len(TEXTS) + 1))
def test_a_manifest_of_something_else(content: bytes, whole: Path, tally: Any) -> None:
    folder = copied(whole)
    (folder / "manifest.json").write_bytes(content)
    assert outcome(folder) == "refused"
    tally(PROMISE)


@EXAMPLES
@given(data=st.data())
def test_a_file_with_other_bytes(whole: Path, data: st.DataObject, tally: Any) -> None:
    folder = copied(whole)
    path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.suffix != ".lock")))
    content = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["flip", "cut", "insert", "replace", "zeros"])):
        case "flip":
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        case "insert":
            place = data.draw(st.integers(0, len(content)))
            content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        case "replace":
            content = bytearray(data.draw(st.binary(max_size=200)))
        case _:
            content = bytearray(len(content))
    path.write_bytes(content)
    outcome(folder)
    tally(PROMISE)


def spoil(path: Path, how: str, folder: Path, other: Path) -> None:
    """Put something else where a file of a recording was."""
    content = path.read_bytes()
    path.unlink()
    match how:
        case "folder":
            path.mkdir()
        case "full folder":
            path.mkdir()
            (path / "x").write_bytes(content)
        case "link to nowhere":
            path.symlink_to(folder / "nowhere")
        case "link in a circle":
            path.symlink_to(path)
        case "link":
            (folder.parent / f"moved-{path.name}").write_bytes(content)
            path.symlink_to(folder.parent / f"moved-{path.name}")
        case "of another recording":
            shutil.copy(other / path.name, path)
        case "empty":
            path.touch()


HOWS = ["gone", "folder", "full folder", "link to nowhere", "link in a circle", "link", "of another recording", "empty"]
FILES = ["manifest.json", "shard-00001.npy", "shard-00001.npy.sha256", "shard-00002.npy.lock", "manifest.lock"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", FILES)
def test_something_else_where_a_file_was(name: str, how: str, whole: Path, another: Path, tally: Any) -> None:
    folder = copied(whole)
    for place in (folder, another):
        (place / name).touch()  # locks may be gone
    spoil(folder / name, how, folder, another)
    outcome(folder)
    tally(PROMISE)


@pytest.mark.parametrize("names", [["shard-00001.npy", "shard-00001.npy.sha256"], FILES[:3]], ids=["shard", "all"])
def test_a_shard_of_another_recording_with_its_checksum(
    names: list[str], whole: Path, another: Path, tally: Any
) -> None:
    folder = copied(whole)
    for name in names:
        shutil.copy(another / name, folder / name)
    assert outcome(folder) == "refused"
    tally(PROMISE)


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0], [0, 0, 0], [2, 1, 1]])
def test_shards_in_another_order(order: list[int], checksums: bool, whole: Path, tally: Any) -> None:
    folder = copied(whole)
    for to, source in enumerate(order):
        for suffix in ["", ".sha256"][: 1 + checksums]:
            shutil.copy(whole / f"shard-{source:05d}.npy{suffix}", folder / f"shard-{to:05d}.npy{suffix}")
    assert outcome(folder) == "refused"
    tally(PROMISE)


def test_files_beside_the_recording_are_left_alone(whole: Path, tally: Any) -> None:
    folder = copied(whole)
    for name in ("shard-00009.npy", "notes.txt", "shard-00000.npy.partial", "manifest.json.1.partial"):
        (folder / name).write_bytes(b"x")
    assert outcome(folder) == "read"
    assert (folder / "notes.txt").read_bytes() == b"x"
    tally(PROMISE)


def test_what_a_damaged_recording_says_to_do_heals_it(whole: Path, tally: Any) -> None:
    folder = copied(whole)
    (folder / "shard-00001.npy").write_bytes(b"x")
    with pytest.raises(DamagedRecording, match="Delete that file and run again"):
        fit(folder)
    (folder / "shard-00001.npy").unlink()
    assert fit(folder)._teacher.recorded == COUNT // SHARDS
    for path in folder.glob("*.npy*"):
        assert path.read_bytes() == (whole / path.name).read_bytes()
    tally(PROMISE)
