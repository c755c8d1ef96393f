"""Every shipped config: what the parser takes of it, and how long they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lit_distill.chain import read_chain
from lit_distill.chain.planning import settings_of
from lit_distill.cli.command import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in ROOT.glob("configs/*/*.yaml") if path.parent.name != "compare")  # those are plans
BELOW = {"methods": "methods/base", "recipes": "methods/base"}


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_is_parsed_and_kept_with_full_paths(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "links" in yaml.safe_load(path.read_text()):
        modules = {
            "lit_distill.LogitDistillation",
            "lit_distill.SupervisedModule",
        }  # the latter trains a chain's teacher
        assert all(modules & {str(value) for value in settings_of(link).values()} for link in read_chain(path))
        return
    overlay = path.stem in ("fast", "images") and path.parent.name == "cifar10"
    below = BELOW.get(path.parent.name) or ("cifar10/logit" if overlay else None)
    configs = [str(ROOT / f"configs/{below}.yaml")] if below else []
    with pytest.raises(SystemExit) as done:
        main(["fit", *(f"--config={config}" for config in [*configs, path]), "--print_config"])
    assert not done.value.code
    kept = [
        line.split("class_path:")[1].strip() for line in capsys.readouterr().out.splitlines() if "class_path:" in line
    ]
    assert len(kept) >= 5
    assert all("." in name for name in kept)


def test_shipped_configs_use_bare_names() -> None:
    for path in CONFIGS:
        named = [line for line in path.read_text().splitlines() if "lit_distill." in line and not line.startswith("#")]
        assert all("lit_distill.models.MLP" in line for line in named), path  # torchvision has an MLP, too
