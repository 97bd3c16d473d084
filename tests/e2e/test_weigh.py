"""What some objectives ask of tokens, of other runs and of other pairs' answers, through the doors."""

import json
from pathlib import Path

import pytest

from pipeline.objectives.contrast import token_weights
from pipeline.results import tables
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import made, only
from tests.e2e.running import settings

pytestmark = pytest.mark.e2e


def test_token_weights_from_two_other_runs(line: Line, head: Head, tmp_path: Path) -> None:
    """One door makes both runs and the weights; they are found again, by the run that one of them is, too."""
    root, ray = tmp_path / "root", head.environment
    given = settings(line, root, "prepare", "reference")
    tis = (*given, "objective={name: tis-dpo}", "schedule.flip_fraction=0.25")
    said = made("weigh", *tis, environment=ray)
    results = (
        "weigh:base",
        "train:positive",
        "weigh:positive",
        "schedule:negative",
        "train:negative",
        "weigh:negative",
    )
    assert all(f"{name}: done" in said for name in (*results, "weigh"))
    assert "train: committed already, kept" in made("train", *given, "objective={name: dpo}", tis[-1], environment=ray)
    weights = only(root, "weigh", "rank-*")
    manifest = json.loads((weights / "manifest.json").read_text())
    assert manifest["metrics"]["weight"] == pytest.approx({"chosen": 1.0, "rejected": 1.0}, abs=1e-6)
    flips = tables.read(scheduled(root), tables.SCHEDULE, ["pair_id", "flipped"]).to_pylist()
    flipped = {row["pair_id"] for row in flips if row["flipped"]}
    folders = [only(root, "weigh", f"{label}-*") for label in ("positive", "negative", "rank")]
    for rows in zip(*(tables.read(folder, tables.TOKEN_VALUES).to_pylist() for folder in folders), strict=True):
        for side in ("chosen", "rejected"):
            one, other, found = (row[side] for row in rows)
            as_chosen = (side == "chosen") != (rows[0]["pair_id"] in flipped)
            restated = token_weights("rank", one, other, (0.7, 1.3), (0, 0), as_chosen)
            assert found == pytest.approx(restated, abs=1e-6)
    assert len(flipped) == 4
    assert "weigh: committed already, kept" in made("weigh", *tis)
    made("train", *tis, environment=ray)
    assert only(root, "train", "tis-dpo-*").joinpath("model").is_dir()


def scheduled(root: Path) -> Path:
    """The folder of the run's own schedule; the other's has every label exchanged."""
    found = [path.parent for path in (root / "schedule").glob("*/manifest.json")]
    (own,) = (at for at in found if "swap_labels" not in json.loads((at / "manifest.json").read_text())["identity"])
    return own


def test_answers_of_other_pairs(line: Line, head: Head, tmp_path: Path) -> None:
    """Of each position one, but for a step's only pair."""
    root = tmp_path / "root"
    given = (*settings(line, root, "prepare", "reference"), "objective={name: kto}", "train.batch_size=5")
    made("schedule", *given)
    said = made("weigh", *given, environment=head.environment)
    assert "weigh:mismatched: done" in said
    rows = tables.read(only(root, "weigh"), tables.REFERENCE).to_pylist()
    assert sorted(int(row["pair_id"]) for row in rows) == [*range(15)]  # of 16 pairs the last is alone in its step
    assert {row["rejected_tokens"] for row in rows} == {0}
