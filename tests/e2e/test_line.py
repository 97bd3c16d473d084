"""The whole line through its doors with the tiny model: what it leaves, what it keeps, what it says."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.results.files import MANIFEST, file_digest
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, made, only, refused
from tests.e2e.running import settings

pytestmark = pytest.mark.e2e

RESULTS = ["prepare", "reference", "schedule", "generate:base", "train", "generate:trained", "judge", "report"]


def manifests(root: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and manifest of each result; a configuration of one run has each once."""
    found = [(path.parent, json.loads(path.read_text())) for path in root.glob(f"*/*/{MANIFEST}")]
    assert len({manifest["name"] for _, manifest in found}) == len(found)
    return {manifest["name"]: (folder, manifest) for folder, manifest in found}


def stamps(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.glob("*/*/*") if path.is_file()}


def test_every_result_has_a_whole_manifest(line: Line) -> None:
    found = manifests(line.root)
    assert sorted(found) == sorted(RESULTS)
    for name, (folder, manifest) in found.items():
        assert manifest["stage"] == name.partition(":")[0]
        assert re.fullmatch(r"[0-9a-f]{64}", manifest["fingerprint"])
        assert folder.name.endswith(manifest["fingerprint"][:12])
        assert manifest["resources"]["root"] == str(line.root)
        assert manifest["provenance"]["argv"][1:3] == ["--config", "configs/smoke.yaml"]
        assert manifest["seconds"] >= 0
        for needed in manifest["inputs"].values():
            assert found[needed["stage"]][1]["fingerprint"] == needed["fingerprint"]
        on_disk = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - {MANIFEST}
        assert on_disk == set(manifest["outputs"])
        for file, entry in manifest["outputs"].items():
            assert (entry["bytes"], entry["sha256"]) == ((folder / file).stat().st_size, file_digest(folder / file))
    assert found["prepare"][1]["ledger"] == {"rows": 20, "read": 20, "kept": 20, "dropped": {}, "beyond_limit": 0}
    assert [found[name][1]["rows"] for name in ("prepare", "reference", "schedule")] == [20, 20, 16]
    assert found["train"][1]["metrics"]["steps"] == 2
    assert found["judge"][1]["metrics"]["comparison"]["wins"] >= 0
    page = (found["report"][0] / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>") and "gamma-dpo" in page


def test_the_terminal_shows_our_own_lines_only(line: Line) -> None:
    assert [said for said in line.said.splitlines() if not re.match(r"\[\d\d:\d\d:\d\d\] \S", said)] == []
    assert "train: 2/2 steps" in line.said
    assert re.search(r"smoke: 8 results made, 0 kept, [\d.]+ s$", line.said)
    assert re.match(r"\[[\d:]+\] run: planning configs/smoke.yaml model.source=", line.said)
    model, report = only(line.root, "train") / "model", only(line.root, "report") / "report.html"
    assert f"trained model: {model}\n" in line.said and f"report: {report}\n" in line.said
    assert model.is_dir() and report.is_file()


def test_an_input_that_is_missing_is_told_at_once(line: Line, tmp_path: Path) -> None:
    """Before Ray is started, and by a dry run, too; what is kept needs no inputs."""
    given = settings(line, tmp_path, "prepare")
    for more in ((), ("--dry-run",)):
        told = refused("run", *given, "--from", "train", *more)
        assert "stage train needs the result of stage reference, which is not at" in told
    said = made("run", *settings(line, tmp_path / "other", "report"), "--from", "report", "--dry-run")
    assert said.startswith("keep  report")


def test_no_locks_and_no_parts_pile_up(line: Line) -> None:
    left = [path for path in line.root.rglob("*") if path.suffix in (".lock", ".partial", ".old")]
    assert left == []


def test_a_second_run_makes_nothing(line: Line) -> None:
    before = stamps(line.root)
    said = made("run", *line.settings)
    assert "smoke: 0 results made, 8 kept" in said
    assert stamps(line.root) == before


def test_dry_run_and_status_agree_with_what_is_there(line: Line) -> None:
    rows = [row.split() for row in made("run", *line.settings, "--dry-run").splitlines()]
    assert [row[:2] for row in rows] == [["keep", name] for name in RESULTS]
    *status, end = [row.split() for row in made("status", *line.settings).splitlines()[1:]]
    assert [row[:2] for row in status] == [[name, "committed"] for name in RESULTS]
    assert [row[-1] for row in status] == [row[-1] for row in rows]
    assert [row[2] for row in status[:3]] == ["20", "20", "16"]
    assert end == ["a", "turn", "ends", "with", "<|im_end|>", "(token", "2),", "in", "training", "and", "in", "answers"]


def test_another_objective_keeps_what_does_not_depend_on_it(line: Line) -> None:
    rows = made("run", *line.settings, "objective.beta=0.5", "--dry-run").splitlines()
    kept = [row.split()[1] for row in rows if row.startswith("keep")]
    assert kept == ["prepare", "reference", "schedule", "generate:base"]


def test_resources_change_no_identity(line: Line) -> None:
    rows = made("run", *line.settings, "--dry-run", "resources.scorers=2", "resources.score_tokens=512").splitlines()
    assert {row.split()[0] for row in rows} == {"keep"}


def test_status_tells_partial_stale_and_missing_apart(line: Line, tmp_path: Path) -> None:
    shutil.copytree(line.root / "prepare", tmp_path / "prepare")
    settings = (line.settings[0], f"resources.root={tmp_path}")
    reference = only(line.root, "reference").name
    (tmp_path / "reference" / f"{reference}.partial").mkdir(parents=True)
    rows = {row.split()[0]: row.split()[1] for row in made("status", *settings).splitlines()[1:]}
    assert (rows["prepare"], rows["reference"], rows["train"]) == ("committed", "partial", "missing")
    rows = {row.split()[0]: row.split()[1] for row in made("status", *settings, "data.seed=1").splitlines()[1:]}
    assert rows["prepare"] == "stale"
    other = tmp_path / "verifiable.jsonl"  # another data set of the same name, of which nothing was ever made
    other.write_text('{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "A banana."}\n')
    given = (*settings, f"data.source={other}", "objective=dpo")
    told = made("status", *given).splitlines()[1:]
    assert {row.split()[1] for row in told[:8]} == {"missing"}
    assert [row.partition(" rm -r ")[2] for row in told[8:]] == [f"{tmp_path}/reference/{reference}.partial"]


def test_a_missing_input_names_the_command_that_makes_it(line: Line, tmp_path: Path) -> None:
    told = refused("schedule", line.settings[0], f"resources.root={tmp_path}")
    assert "python -m jobs.prepare" in told
    assert "python -m jobs.prepare" in refused(
        "run", "--from", "schedule", "--until", "schedule", line.settings[0], f"resources.root={tmp_path}"
    )


def test_until_and_force(line: Line, tmp_path: Path, head: Head) -> None:
    """--force makes one stage again; what came from it has the same identity and stays."""
    settings = (line.settings[0], f"resources.root={tmp_path}")
    for stage in ("prepare", "reference", "schedule"):
        shutil.copytree(line.root / stage, tmp_path / stage)
    before = stamps(tmp_path)
    said = made("run", *settings, "--until", "schedule", "--force", "reference", environment=head.environment)
    assert "smoke: 1 results made, 2 kept" in said
    changed = {path for path, stamp in stamps(tmp_path).items() if before[path] != stamp}
    assert changed and all(Path(path).parts[-3] == "reference" for path in changed)
    again, first = manifests(tmp_path)["reference"][1], manifests(line.root)["reference"][1]
    assert again["outputs"] == first["outputs"]


def test_another_preset_trains_from_the_one_reference(line: Line, tmp_path: Path, head: Head) -> None:
    for stage in ("prepare", "reference"):
        shutil.copytree(line.root / stage, tmp_path / stage)
    config = tmp_path / "smoke.yaml"
    text = (REPOSITORY / "configs" / "smoke.yaml").read_text()
    config.write_text(re.sub(r"objective:\n(  .*\n)+", "objective:\n  name: mixdpo\n", text))
    settings = (line.settings[0], f"resources.root={tmp_path}")
    made("run", *settings, "--from", "schedule", "--until", "train", environment=head.environment, config=str(config))
    folder, manifest = manifests(tmp_path)["train"]
    assert manifest["identity"]["objective"]["parameters"]
    assert manifest["metrics"]["steps"] == 2
    base = file_digest(Path(line.settings[0].partition("=")[2]) / "model.safetensors")
    assert file_digest(folder / "model" / "model.safetensors") != base
