"""What trackers are sent, read back by their own readers; and trackers that fail, hang or have no room."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.trackers import TRACKERS, Run, require_installed, require_key
from actors.tracking import WAITING, Tracking
from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.training.figures import by_step, figures

Curves = dict[str, list[tuple[int, float]]]


def row(step: int) -> dict[str, Any]:
    """A row of tables.STEPS of 100 tokens, which looked at the held-out pairs every other step."""
    made: dict[str, Any] = {field.name: None if field.nullable else 0 for field in tables.STEPS}
    measured = {"loss": 1 / (step + 1), "gap": 0.25 * step, "accuracy": 0.75, "chosen_reward": 0.5}
    looked = {"held_out_accuracy": 0.875} if step % 2 else {}
    return made | {"step": step, "tokens": 100, "seconds": 0.5, "preference_pairs": 8} | measured | looked


def rows(count: int) -> list[dict[str, Any]]:
    return [row(step) for step in range(count)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("a" * 64, "smoke-aaaaaaaaaaaa", {"train": {"learning_rate": 2e-5, "lora": None}}, tmp_path / "tracking")


def test_figures_stand_under_trl_s_names_and_ours() -> None:
    (_, first), (_, second) = by_step(rows(2))
    assert first == figures(row(0), 100) and second["train/num_tokens"] == 200
    assert second["train/rewards/margins"] == second["widemargin/gap"] == 0.25
    assert second["train/rewards/accuracies"] == 0.75 and second["train/rewards/chosen"] == 0.5
    assert second["eval/rewards/accuracies"] == 0.875 and "eval/rewards/accuracies" not in first
    assert second["widemargin/seconds"] == 0.5 and "train/rewards/rejected" not in second  # null
    assert "train/loss" not in figures(row(0) | {"loss": float("nan")}, 0)


# --- What each tracker keeps, by its own reader: curves, the learning rate among its settings, and whether the page ---


def tensorboard(run: Run) -> tuple[Curves, bool, bool]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run.folder / "tensorboard" / run.name), {"tensors": 0, "scalars": 0})
    read.Reload()
    curves = {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    (settings,) = read.Tensors("config/text_summary")
    page = "report/text_summary" in read.Tags()["tensors"]
    return curves, b"train.learning_rate: 2e-05" in settings.tensor_proto.string_val[0], page


def mlflow(run: Run) -> tuple[Curves, bool, bool]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run.folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("widemargin")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags["fingerprint"] == run.fingerprint and found.info.run_name == run.name
    name = found.info.run_id
    curves = {
        key if key.startswith(("eval_", "widemargin/")) else f"train/{key}": sorted(
            (each.step, each.value) for each in client.get_metric_history(name, key)
        )
        for key in found.data.metrics
    }
    page = "report.html" in [each.path for each in client.list_artifacts(name)]
    return curves, found.data.params["train.learning_rate"] == "2e-05", page


def trackio(run: Run) -> tuple[Curves, bool, bool]:
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("widemargin", run.name)
    curves: Curves = {}
    for log in logs:
        for key, value in log.items():
            if isinstance(value, int | float) and key != "step":
                curves.setdefault(key, []).append((log["step"], value))
    settings = SQLiteStorage.get_run_config("widemargin", run.name)
    page = any("report" in str(each) for each in SQLiteStorage.list_artifacts("widemargin"))
    return curves, settings["train"]["learning_rate"] == 2e-5, page


def wandb(run: Run) -> tuple[Curves, bool, bool]:
    """The newest of its offline folders, each of which has the whole run: offline it is not known what was sent."""
    from wandb.proto.wandb_internal_pb2 import Record

    (*_, folder) = sorted((run.folder / "wandb").glob("offline-run-*"))
    curves: Curves = {}
    kept, page = False, False
    for entry in entries(next(folder.glob("*.wandb"))):
        record = Record.FromString(entry)
        assert not record.run.run_id or record.run.run_id == run.fingerprint
        settings = {each.key: json.loads(each.value_json) for each in record.run.config.update}
        kept |= settings.get("train", {}).get("learning_rate") == 2e-5
        page |= "report" in record.artifact.name
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            if not key.startswith("_"):
                curves.setdefault(key, []).append((record.history.step.num, json.loads(item.value_json)))
    return curves, kept, page


def entries(file: Path) -> Iterator[bytes]:
    """A LevelDB log, as W&B's files are: blocks of 32 KiB, of pieces with a checksum, a length and a kind each."""
    content, at, entry = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := -at % (1 << 15)) < 7 and left:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        entry += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield entry
            entry = b""


READERS: dict[str, Callable[[Run], tuple[Curves, bool, bool]]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "trackio": trackio,
    "wandb": wandb,
}


@pytest.fixture
def at_home(trackers: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Trackers that write files alone; trackio finds its folder once, when it is imported."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    if "TRACKIO_DIR" not in os.environ:
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))


@pytest.mark.parametrize("name", READERS)
def test_a_training_that_goes_on_goes_on_in_its_curve(name: str, run: Run, tmp_path: Path, at_home: None) -> None:
    """Five steps, a kill, and on from the checkpoint after the third: each step once, and at the end the page."""
    said: list[str] = []
    with Tracking([name], run, 0, list, said.append, seconds=300) as tell:
        for each in rows(5):
            tell(each)
    with Tracking([name], run, 3, lambda: rows(3), said.append, seconds=300) as tell:
        for each in rows(8)[3:]:
            tell(each)
    (tmp_path / "report.html").write_text("<p>the page")
    tracker = TRACKERS[name](run)
    assert tracker.first == (8 if name in ("mlflow", "trackio") else 0)  # files of the others are written anew
    if tracker.first == 0:
        for step, sent in by_step(rows(8)):
            tracker.log(step, sent)
    tracker.attach(tmp_path / "report.html", {"result/judge/rate": 0.75})
    tracker.close()
    curves, settings, page = READERS[name](run)
    assert curves["train/loss"] == [(step, pytest.approx(1 / (step + 1))) for step in range(8)]
    assert curves["train/num_tokens"] == [(step, 100.0 * (step + 1)) for step in range(8)]
    looked = curves["eval_rewards/accuracies" if name == "mlflow" else "eval/rewards/accuracies"]
    assert looked == [(step, 0.875) for step in (1, 3, 5, 7)]
    assert settings and page
    assert [line.partition(":")[0] for line in said] == [name, name], said


def given_up(said: list[str], name: str) -> str:
    """The one thing that is said of it."""
    (told,) = [line for line in said if line.startswith(f"{name} is told no more (")]
    assert f"python -m jobs.track --to {name} sends what is missing" in told
    return told


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_an_unreachable_tracker_is_said_once(
    run: Run, at_home: None, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.close()
    said: list[str] = []
    with Tracking(["mlflow"], run, 0, list, said.append, seconds=300) as tell:
        first, *others = rows(3 * WAITING)
        tell(first)
        deadline = time.monotonic() + 120
        while not said and time.monotonic() < deadline:  # else more would wait than it takes to find out why
            time.sleep(0.01)
        for each in others:
            tell(each)
    assert "127.0.0.1" in given_up(said, "mlflow") and len(said) == 1


def test_a_tracker_that_hangs_takes_no_time_of_a_step(
    run: Run, at_home: None, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes the connection and never answers; another tracker beside it gets its whole curve."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setattr("actors.tracking.WAITING", 50)
    said: list[str] = []
    tracking = Tracking(["mlflow", "tensorboard"], run, 0, list, said.append, seconds=5)
    behind = tracking.senders[1].rows
    took = 0.0
    with tracking as tell:
        for each in rows(60):
            while behind.full():
                time.sleep(0.01)
            began = time.thread_time()
            tell(each)
            took += time.thread_time() - began
        deadline = time.monotonic() + 300
        while not behind.empty() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "50 steps wait for it" in given_up(said, "mlflow")
    assert took < 0.1 and len(tensorboard(run)[0]["train/loss"]) == 60
    assert not any(each.name == "tracking-tensorboard" for each in threading.enumerate())


def test_a_tracker_that_hangs_at_the_end_is_left(
    run: Run, at_home: None, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
    said: list[str] = []
    began = time.monotonic()
    with Tracking(["mlflow"], run, 0, list, said.append, seconds=0.5) as tell:
        tell(row(0))
    assert "or hangs" in given_up(said, "mlflow") and time.monotonic() - began < 30


def test_a_tracker_without_room(small_disk: Path, run: Run) -> None:
    said: list[str] = []
    full = Run(run.fingerprint, run.name, run.config, small_disk)
    (small_disk / "results").write_bytes(bytes(4 * 1024 * 1024 - 32 * 1024))
    with Tracking(["tensorboard"], full, 0, list, said.append, seconds=300) as tell:
        for each in rows(400):
            tell(each)
    assert "No space left on device" in given_up(said, "tensorboard")


def test_what_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the package swanlab is not installed here"):
        require_installed("swanlab")
    require_installed("tensorboard")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="there is no WANDB_API_KEY in the environment"):
        require_key("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_key("wandb")
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password planted\n")
    require_key("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(UserError):
        require_key("wandb")
