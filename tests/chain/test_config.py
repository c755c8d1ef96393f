"""What a chain's config may say, and what is said of a mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_distill.chain import read_chain

SHIPPED = Path(__file__).parents[2] / "configs/digits"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("seed_everything: 0\n")
    return tmp_path


def read(text: str, folder: str = "runs/x") -> list[tuple[str, tuple[str, ...], dict[str, object], tuple[str, ...]]]:
    Path("chain.yaml").write_text(text)
    return [(link.name, link.configs, dict(link.options), link.teachers) for link in read_chain(Path("chain.yaml"))]


def test_links_keep_their_order_and_read_the_checkpoints_of_earlier_ones() -> None:
    links = read(
        """
        folder: runs/x
        config: [a.yaml, b.yaml]
        links:
          zebra: {model.width: 16}
          ape: {model.checkpoint: "{zebra}", model.width: 8}
          bee: {config: b.yaml, model.all: [{file: "{ape}"}, {file: "{zebra}"}], model.weights: {hard: 0.1}}
          cat:
        """
    )
    zebra, ape = "runs/x/zebra/last.ckpt", "runs/x/ape/last.ckpt"
    assert links == [
        ("zebra", ("a.yaml", "b.yaml"), {"model.width": 16}, ()),
        ("ape", ("a.yaml", "b.yaml"), {"model.checkpoint": zebra, "model.width": 8}, ("zebra",)),
        (
            "bee",
            ("b.yaml",),
            {"model.all": [{"file": ape}, {"file": zebra}], "model.weights": {"hard": 0.1}},
            ("ape", "zebra"),
        ),
        ("cat", ("a.yaml", "b.yaml"), {}, ()),
    ]


def test_another_folder_moves_every_checkpoint() -> None:
    read('{folder: runs/x, config: a.yaml, links: {one: {}, two: {model.checkpoint: "{one}"}}}')
    two = read_chain(Path("chain.yaml"), Path("elsewhere"))[1]
    assert two.checkpoint == Path("elsewhere/two/last.ckpt")
    assert two.options["model.checkpoint"] == "elsewhere/one/last.ckpt"


def test_braces_within_other_text_are_left_alone() -> None:
    ((_, _, options, teachers),) = read('{folder: f, config: a.yaml, links: {one: {x: "{epoch:02d}-{step}"}}}')
    assert options == {"x": "{epoch:02d}-{step}"}
    assert teachers == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must hold folder, config and links"),
        ("{folder: f, confg: a.yaml, links: {a: {}}}", "unknown entry 'confg'. Did you mean 'config'?"),
        ("{folder: f, config: a.yaml}", "has no links"),
        ("{folder: f, config: a.yaml, links: {}}", "has no links"),
        ("{config: a.yaml, links: {a: {}}}", "folder: runs/chain"),
        ("{folder: f, links: {a: {}}}", "link 'a' starts from no config"),
        ("{folder: f, config: {x: 1}, links: {a: {}}}", "config must be a file or a list of files"),
        ("{folder: f, config: [a.yaml, c.yaml], links: {a: {}}}", "there is no config c.yaml"),
        ("{folder: f, config: a.yaml, links: {a: {config: c.yaml}}}", "link 'a': there is no config c.yaml"),
        ("{folder: f, config: a.yaml, links: {../a: {}}}", "'../a' cannot name a link"),
        ("{folder: f, config: a.yaml, links: {1: {}}}", "1 cannot name a link"),
        ("{folder: f, config: a.yaml, links: {a: [x]}}", "link 'a' must hold options"),
        ("{folder: f, config: a.yaml, links: {a: {--x: 1}}}", "write it without dashes"),
        ("{folder: f, config: a.yaml, links: {a: {ckpt_path: x}}}", "the chain decides ckpt_path itself"),
        ("{folder: f, config: a.yaml, links: {a: {}, a: {}}}", "'links.a' is there twice (lines 1 and 1)"),
        (
            '{folder: f, config: a.yaml, links: {tutor: {}, b: {x: "{tutr}"}}}',
            "link 'b', x: {tutr} names no link. Did you mean 'tutor'? Known here: tutor.",
        ),
        ('{folder: f, config: a.yaml, links: {a: {x: "{b}"}}}', "Known here: nothing, as it is the first link."),
        ('{folder: f, config: a.yaml, links: {a: {x: "{b}"}, b: {}}}', "{b} must name an earlier link"),
        ('{folder: f, config: a.yaml, links: {a: {x: ["{a}"]}}}', "{a} must name an earlier link"),
        ("{folder: f, config: a.yaml, links: {a: {}, b: {x: {a}}}}", 'put it in quotes, "{a}"'),
    ],
)
def test_a_mistake_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(text)
    assert message in str(caught.value)


def test_a_missing_file_is_said() -> None:
    with pytest.raises(ValueError, match="there is no file nowhere.yaml"):
        read_chain(Path("nowhere.yaml"))


@pytest.mark.parametrize(
    ("config", "teachers"),
    [
        ("assistant.yaml", {"assistant": (), "student": ("assistant",)}),
        ("born_again.yaml", {"generation1": (), "generation2": ("generation1",), "generation3": ("generation2",)}),
    ],
)
def test_the_shipped_chains(config: str, teachers: dict[str, tuple[str, ...]]) -> None:
    assert {link.name: link.teachers for link in read_chain(SHIPPED / config)} == teachers
