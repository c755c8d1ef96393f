"""The plans that come with the package and its benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lit_distill.compare import read_plan
from lit_distill.compare.settings import chain_links, teacher_words, words_of

ROOT = Path(__file__).parents[2]
PLANS = sorted([*ROOT.glob("configs/compare/*.yaml"), *ROOT.glob("benchmarks/plans/*.yaml")])


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_shipped_plan_says_what_to_train(path: Path) -> None:
    plan = read_plan(path)
    assert all(teacher_words(plan, teacher) for teacher in plan.teachers.values() if teacher.train)
    for choice in plan.choices():
        if plan.method_of(choice).scale not in (None, 0.3):  # differs in a number only
            continue
        if plan.method_of(choice).kind == "chain":
            assert chain_links(plan, choice, Path("links"))
        elif choice.method.partition(",")[0] not in ("minilm", "multi_teacher"):  # networks of their own
            assert words_of(plan, choice)


def test_the_page_shows_the_shipped_plan() -> None:
    page = (ROOT / "docs/compare.md").read_text()
    shown = yaml.safe_load(re.findall(r"```yaml\n(title.*?)```", page, re.DOTALL)[0])
    assert shown == yaml.safe_load((ROOT / "configs/compare/digits.yaml").read_text())


def test_every_example_of_the_page_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs/compare.md").read_text()
    (tmp_path / "mine.yaml").write_text("model: {criteria: {hard: HardTarget}}")
    checkpoint = tmp_path / "file.pt"
    checkpoint.touch()
    plan = yaml.safe_load((ROOT / "configs/compare/digits.yaml").read_text())
    for block in re.findall(r"```yaml\n((?:teachers|methods):.*?)```", page, re.DOTALL):
        text = block.replace("teachers/resnet56-4bfd9763.th", str(checkpoint)).replace(
            "mine.yaml", str(tmp_path / "mine.yaml")
        )
        changed = tmp_path / "plan.yaml"
        changed.write_text(yaml.safe_dump(plan | yaml.safe_load(text)))
        assert read_plan(changed).choices()
