"""A finished training sent to a tracker by the door, and what is refused before a run begins."""

from pathlib import Path

import pytest

from jobs.common.check import check
from jobs.track import main
from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.results import tables
from pipeline.settings.config import load
from tests.actors.test_tracking import rows


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"weights")
    return ["--config", "configs/smoke.yaml", f"model.source={model}", f"resources.root={tmp_path / 'root'}"]


def test_a_finished_run_is_sent(
    given: list[str], trackers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(SystemExit) as stop:
        main([*given, "--to", "tensorboard"])
    assert stop.value.code == 2 and "nothing is trained yet" in capsys.readouterr().err
    step = make_plan(load(given[1], given[2:])).steps["train"]
    held_out = {"pairs": 4, "before": {"accuracy": 0.5}, "after": {"accuracy": 0.75}}
    with step.address.writing() as folder:
        tables.write(rows(6), tables.STEPS, folder / "steps.parquet")
        step.address.commit({"rows": 6, "metrics": {"held_out": held_out}}, {"steps.parquet": 6})
    for _ in range(2):  # again: the same curve, once
        main([*given, "--to", "tensorboard"])
        assert "tensorboard was sent 6 steps" in capsys.readouterr().out
    read = EventAccumulator(str(tmp_path / "root" / "tracking" / "tensorboard" / step.address.path.name))
    read.Reload()
    assert [each.step for each in read.Scalars("train/loss")] == list(range(6))
    assert read.Scalars("result/train/after/accuracy")[0].value == 0.75


def test_a_tracker_that_does_not_take_a_run_is_said_in_words(
    given: list[str], trackers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = make_plan(load(given[1], given[2:])).steps["train"]
    with step.address.writing() as folder:
        tables.write(rows(2), tables.STEPS, folder / "steps.parquet")
        step.address.commit({"rows": 2, "metrics": {"held_out": {}}}, {"steps.parquet": 2})
    (tmp_path / "root" / "tracking").write_text("no folder")
    with pytest.raises(SystemExit) as stop:
        main([*given, "--to", "tensorboard"])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and "tensorboard does not take the run (NotADirectoryError" in told
    assert "Traceback" not in told


def test_a_tracker_that_cannot_be_told_is_refused_before_any_work(
    given: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_ADDRESS", "SWANLAB_API_KEY", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def checked(trackers: str) -> None:
        plan = make_plan(load(given[1], [*given[2:], f"resources.trackers={trackers}"]))
        check(plan, plan.of("train"))

    with pytest.raises(UserError, match=r"resources\.trackers=swanlab: the package swanlab is not installed here"):
        checked("swanlab")
    with pytest.raises(UserError, match=r"resources\.trackers.*(wandb|tensorboard)"):
        checked("tensorbored")
