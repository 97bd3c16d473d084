"""What grows with the pairs, at sizes that take seconds: the doors themselves, on results as stages commit them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import ROOT, Result
from benchmarks.scale_line import measure
from jobs.common.stage import make
from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.settings.config import load

PAIRS = 100_000


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("scale")
    return folder, measure(PAIRS, folder, tokens=0)


@pytest.fixture
def plan(measured: tuple[Path, Result]) -> Plan:
    return make_plan(load(str(measured[0] / "scale.yaml")))


def test_a_hundred_thousand_pairs_take_seconds(measured: tuple[Path, Result]) -> None:
    folder, found = measured
    for what in ("schedule", "report", "status", "verify"):
        assert found[f"{what}_cpu_seconds"] < 15 and found[f"{what}_mib"] < 400
    assert found["report_page_mib"] < 6
    (page,) = (folder / "runs" / "report").glob("*/report.html")
    text = page.read_text(encoding="utf-8")
    assert "100,000 pairs scheduled" in " ".join(text.split()) and "20,000 of them with a flipped label" in text
    assert "5,000 of 90,000 pairs, picked by digest" in text  # a tenth went to SFT


def test_what_a_stage_does_not_open_it_does_not_verify(plan: Plan) -> None:
    """The report reads what was logged of the training, not the model; of the reference it reads the manifest alone."""
    report, inputs = plan.steps["report"], plan.steps["report"].inputs
    folders = {role: step.address.path for role, step in inputs.items()}
    for file in (folders["train"] / "model" / "config.json", folders["reference"] / "part-00000.parquet"):
        file.write_bytes(file.read_bytes()[:-1])
    make(plan, report, force=True)
    for file in (folders["train"] / "trained_pairs.parquet", folders["prepare"] / "part-00007.parquet"):
        whole = file.read_bytes()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(UserError, match=f"{file.name} has other bytes than were committed"):
            make(plan, report, force=True)
        file.write_bytes(whole)
    with pytest.raises(UserError, match=r"part-00000\.parquet has"):
        make(plan, plan.steps["schedule"], force=True)  # which reads the reference


def test_a_line_of_json_for_each_number_of_pairs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--schedule-pairs", "600", "--only", "line"]
    command += ["--scratch", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert line.pop("pairs") == 600 and line.keys() == {
        f"schedule_{what}" for what in ("seconds", "cpu_seconds", "mib")
    }
    assert not list(tmp_path.iterdir())
