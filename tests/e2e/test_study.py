"""A study through its door: cells share what they can, are kept, run alone, and one that fails is named."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, made, only, refused

pytestmark = pytest.mark.e2e


def study(folder: Path, **changes: Any) -> str:
    """A file with the smoke configuration and a study of two methods over it."""
    raw = yaml.safe_load((REPOSITORY / "configs" / "smoke.yaml").read_text())
    methods = {"plain": {"objective": {"name": "dpo"}}, "mixed": {"objective": {"name": "mixdpo"}}}
    grid = {"methods": methods, "flip_fractions": [0.5], "seeds": [0]} | changes
    (folder / "study.yaml").write_text(yaml.safe_dump({**raw, "study": grid}, sort_keys=False))
    return str(folder / "study.yaml")


def test_a_study_from_one_reference_to_its_page(line: Line, head: Head, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for stage in ("prepare", "reference", "generate"):
        shutil.copytree(line.root / stage, root / stage)
    file = study(tmp_path)
    settings = (line.settings[0], f"resources.root={root}")
    said = made("study", *settings, config=file, environment=head.environment)
    assert "study: 2 cells, 0 of them kept" in said
    assert re.search(r"^\[[\d:]+\] plain-flip0.5-seed0 \| train: done in", said, flags=re.MULTILINE)
    for stage, results in (("prepare", 1), ("reference", 1), ("train", 2), ("judge", 2), ("study", 1)):
        assert len(list((root / stage).glob("*/manifest.json"))) == results, stage
    page = only(root, "study")
    metrics = json.loads((page / "manifest.json").read_text())["metrics"]
    assert [(cell["method"], cell["flip_fraction"]) for cell in metrics["cells"]] == [("plain", 0.5), ("mixed", 0.5)]
    for cell in metrics["cells"]:
        for found in (cell["accuracy"], cell["win_rate"]["rate"]):
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert {pooled["method"]: pooled["value"] for pooled in metrics["pooled"]} == {
        cell["method"]: cell["win_rate"]["rate"]["value"] for cell in metrics["cells"]
    }  # one seed: the pooled rate is its own
    html = (page / "study.html").read_text(encoding="utf-8")
    assert "plain" in html and "mixed" in html and html.rstrip().endswith("</html>")

    again = made("study", *settings, config=file, environment=head.environment)
    assert "study: 2 cells, 2 of them kept" in again and "study: committed already, kept" in again
    alone = root / "study" / "cells" / page.name / "mixed-flip0.5-seed0.yaml"
    assert "0 results made" in made("run", "--until", "judge", config=str(alone))


def test_a_cell_that_fails_is_named_and_the_others_are_made(line: Line, head: Head, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for stage in ("prepare", "reference"):
        shutil.copytree(line.root / stage, root / stage)
    methods = {
        "good": {"objective": {"name": "dpo"}},
        "bad": {"objective": {"name": "dpo"}, "train": {"learning_rate": 1e30}},
    }
    file = study(tmp_path, methods=methods, until="train")
    settings = (line.settings[0], f"resources.root={root}", "resources.max_failures=0", "train.batch_size=4")
    told = refused("study", *settings, config=file, environment=head.environment)
    assert "1 of 2 cells failed (bad-flip0.5-seed0)" in told
    assert [path.parent.name.startswith("dpo-") for path in (root / "train").glob("*/manifest.json")] == [True]
