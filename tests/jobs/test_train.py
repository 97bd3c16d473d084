"""Checkpoints that Ray Train knows and those it never came to know, without a training."""

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors import worker
from actors.training import EPOCH, JOURNAL, NOTE, PHASE, PROGRESS, RAY, TRACKED, WorkerSpec, known_checkpoints
from actors.worker import _told, model_card
from jobs.common.stage import Work
from jobs.train import clear_unknown, outcome
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import Model
from pipeline.training.together import Together


def known(folder: Path, *names: str) -> None:
    """Ray Train's list, as it writes it."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {}} for name in names]
    listed = {"checkpoint_results": results, "latest_checkpoint_result": results[-1]}
    (folder / RAY).mkdir(exist_ok=True)
    (folder / RAY / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))


def test_no_checkpoint_is_written_while_the_one_before_is_unknown(tmp_path: Path) -> None:
    work = WorkerSpec(RunConfig(model=Model(source="x")), "", str(tmp_path), "", 1)
    alone = Together(0, 1, timedelta(seconds=60))
    assert _told(work, alone, due=True, newest=None) == (False, True)
    assert _told(work, alone, due=True, newest="step-10") == (False, False)
    known(tmp_path, "step-10")
    assert _told(work, alone, due=True, newest="step-10") == (False, True)
    assert _told(work, alone, due=False, newest="step-10") == (False, False)
    (tmp_path / "stop").touch()
    assert _told(work, alone, due=False, newest="step-20") == (True, False)


def test_what_a_killed_run_left_unknown_is_removed(tmp_path: Path) -> None:
    clear_unknown(tmp_path)  # where nothing was begun
    known(tmp_path, "step-10")
    for name in ("step-10", "step-20", "step-30"):
        (tmp_path / RAY / name).mkdir()
        (tmp_path / RAY / name / "shard").touch()
    clear_unknown(tmp_path)
    assert known_checkpoints(tmp_path) == {"step-10"}
    assert [path.name for path in (tmp_path / RAY).glob("step-*")] == ["step-10"]


@pytest.mark.parametrize(("start", "named"), [(None, "base"), ({"source": "other", "revision": "r"}, "other")])
def test_adapters_are_saved_with_the_model_that_they_were_trained_on(
    start: Any, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever opens them by their adapter_config.json must put them on that."""
    seen: list[Model] = []
    monkeypatch.setattr(worker, "save_trained", lambda policy, base, model, folder: seen.append(model))
    raw = {"model": {"source": "base"}, "train": {"start": start, "lora": {"merge": False}}}
    trainer = SimpleNamespace(held_out=dict, policy=None)
    worker.export(cast(Any, trainer), WorkerSpec(RunConfig.model_validate(raw), "", str(tmp_path), "", 1))
    assert [each.source for each in seen] == [named]


def test_the_model_card_names_what_every_rendering_gets() -> None:
    """Whoever asks the exported model must give its template the same."""
    model = Model(source="x", template_arguments={"enable_thinking": False})
    card = model_card(WorkerSpec(RunConfig(model=model), "", "", "", 1), "transformers", "Trained")
    assert '- arguments of the chat template: {"enable_thinking": false}\n' in card


def test_checkpoints_stay_until_what_was_trained_is_committed(tmp_path: Path) -> None:
    """Until then a kill would cost the training: a large model takes minutes to digest."""
    between = (RAY, EPOCH, JOURNAL)
    for name in between:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in (PROGRESS, PHASE, TRACKED):
        (tmp_path / name).touch()
    (tmp_path / NOTE).write_text("packed")
    (tmp_path / "held_out.json").write_text("{}")
    pq.write_table(pa.table({"seconds": [1.0, 2.0], "tokens": [3, 4]}), tmp_path / "steps.parquet")
    made = outcome(Work(cast(Any, None), cast(Any, None), {}, tmp_path))
    assert all((tmp_path / name / "file").exists() for name in between)
    there = {path.name for path in tmp_path.iterdir()}
    assert there - set(made.scratch) == {"held_out.json", "steps.parquet"}
    assert (made.metrics["notes"], made.metrics["steps"], made.tokens) == (["packed"], 2, 7)
