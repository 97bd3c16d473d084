"""A finished run handed on: other pairs ranked and shown in the report, a card for the hub, and the rest removed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Head, Line
from tests.e2e.doors import made, only

pytestmark = pytest.mark.e2e

PAIRS = (("alpacaeval-easy", "Blue.", "A banana."), ("alpacaeval-easy", "Red.", "A tree."), ("math-prm", "5", "6"))


def test_what_comes_after_a_run(line: Line, head: Head, tmp_path: Path) -> None:
    root, file = tmp_path / "root", tmp_path / "pairs.jsonl"
    shutil.copytree(line.root, root)
    rows = [
        {"prompt": f"Say {number}.", "chosen": chosen, "rejected": rejected, "subset": subset}
        for number, (subset, chosen, rejected) in enumerate(PAIRS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (line.settings[0], f"resources.root={root}")

    said = made("rank", *given, "--data", str(file), environment=head.environment)
    figures = json.loads((only(root, "rank") / "ranking.json").read_text())
    assert {group["name"]: group["pairs"] for group in figures["subsets"]} == {"alpacaeval-easy": 2, "math-prm": 1}
    assert "gamma-dpo trains the log-ratio sum." in said and figures["trained_on"] == 0
    train = json.loads((only(root, "train") / "manifest.json").read_text())
    held_out = train["metrics"]["held_out"]
    ours = figures["held_out"]["accuracy"]["log-ratio sum"]["value"]  # of the exported model, and as it was in training
    assert (ours, figures["held_out"]["pairs"]) == (held_out["after"]["accuracy"], held_out["pairs"])

    before = {*root.glob("report/*/report.html")}
    ranked = f"report.ranked={only(root, 'rank') / 'ranking.json'}"
    made("report", *given, ranked)
    (page,) = {*root.glob("report/*/report.html")} - before
    assert f"{file.name}</h3>" in page.read_text(encoding="utf-8")
    told = made("publish", *given, "--to", "me/mine", "--dry-run")
    assert "model.safetensors" in told and "win rate over the base model, by rules" in told
    assert str(tmp_path) not in told.partition("README.md:\n")[2]

    left = made("prune", *given, "--yes")  # with the page that shows the ranking, which this configuration does not
    assert "prune: 1 result, " in left and not page.exists()
    assert {path.parent.parent.name for path in root.glob("*/*/manifest.json")} == {
        *("prepare", "reference", "schedule", "train", "generate", "judge", "report", "rank"),
    }
    assert "11 results, " in made("list", *given)
