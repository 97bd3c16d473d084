"""What is exported for the benchmarks' own tools: nothing in place of another run's, and never nothing in silence."""

import json
from pathlib import Path

import pytest

from jobs.export import main
from pipeline.line.plan import make_plan
from pipeline.results import tables
from pipeline.settings.config import load


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """A configuration that asks one question of a benchmark."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "questions.jsonl").write_text('{"instruction": "Name a colour.", "dataset": "koala"}\n')
    benchmarks = json.dumps({"alpaca_eval": str(tmp_path / "questions.jsonl")})
    root = f"resources.root={tmp_path / 'root'}"
    return ["--config", "configs/smoke.yaml", f"model.source={model}", root, f"generate.benchmarks={benchmarks}"]


def answered(given: list[str], *more: str) -> None:
    """Commit answers of both models, of which `more` is a part."""
    plan = make_plan(load(given[1], [*given[2:], *more]))
    for step in plan.of("generate"):
        if step.address.find() is None:
            with step.address.writing() as folder:
                tables.write([row(f"{step.name} {more}")], tables.RESPONSES, folder / "part-00000.parquet")
                step.address.commit({"rows": 1}, {"part-00000.parquet": 1})


def row(response: str) -> dict[str, object]:
    prompt = json.dumps([{"role": "user", "content": "Name a colour."}])
    asked = {"question_id": "q", "benchmark": "alpaca_eval", "sample": 0, "turn": 1, "prompt": prompt, "meta": "{}"}
    return asked | {"response": response, "tokens": 1, "finish_reason": "stop", "seed": 0}


def files(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_two_runs_of_one_objective_are_kept_apart(given: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    for more in ("objective.beta=0.2", "objective.beta=0.3"):
        answered(given, more)
        main([*given, more, "--to", str(folder)])
    found = files(folder)
    assert len(found) == 3  # the base model's, which is the same, and two trained ones'
    assert all(f"0.{n}" in "".join(found.values()) for n in (2, 3))
    names = {json.loads(content)[0]["generator"] for content in found.values()}
    assert names == {path.split("/")[1] for path in found} and len(names) == 3


def test_a_file_with_other_content_is_refused_before_any_is_written(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exports"
    answered(given)
    main([*given, "--to", str(folder)])
    assert "answers alone; no model judged them" in capsys.readouterr().out
    first, second = sorted(folder.rglob("*.json"))
    whole = first.read_text()
    second.write_text("of another run")
    first.unlink()
    before = files(folder)
    with pytest.raises(SystemExit) as stop:
        main([*given, "--to", str(folder)])
    assert stop.value.code == 2 and f"{second} is there already" in capsys.readouterr().err
    assert files(folder) == before
    second.unlink()
    main([*given, "--to", str(folder)])
    assert first.read_text() == whole


def test_nothing_to_export_is_said(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*given[:-1], "--to", str(tmp_path / "exports")])
    assert stop.value.code == 2 and "nothing to export" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:  # asked for, and not answered yet
        main([*given, "--to", str(tmp_path / "exports")])
    assert stop.value.code == 2 and "needs the result of stage generate" in capsys.readouterr().err
    assert not (tmp_path / "exports").exists()
