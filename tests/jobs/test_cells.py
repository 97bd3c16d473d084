"""Cells as processes: how they end, and whose file each is run from."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import study
from jobs.common.cells import Ended, Processes
from pipeline.line.study import Cell, plan_study
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import Model
from tests.committed import commit

# As a training does: told to end, it writes a checkpoint first.
CHILD = """
import signal, sys, time
from pathlib import Path
def end(*_):
    time.sleep(0.5)
    print("asked to end", flush=True)
    Path(sys.argv[1]).write_text("checkpoint")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("begun", flush=True)
time.sleep(60)
"""


def test_a_cell_that_is_ended_has_the_time_to_keep_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, said, started = tmp_path / "kept", list[str](), list[Sequence[str]]()
    processes = Processes({})

    def started_as(command: Sequence[str]) -> Any:
        started.append(command)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, "-c", CHILD, str(kept)], **pipes)

    monkeypatch.setattr(processes, "_started", started_as)
    monkeypatch.setattr("jobs.common.cells.say", said.append)
    cell = Cell("dpo", 0.0, 0, RunConfig(model=Model(source="x")))
    found: list[Ended] = []
    thread = threading.Thread(target=lambda: found.append(processes.run(cell, "train", tmp_path)))
    thread.start()
    while not said:
        time.sleep(0.01)
    processes.end()
    assert kept.read_text() == "checkpoint"
    thread.join()
    assert found == [Ended(143)] and said == ["dpo-flip0-seed0 | begun", "dpo-flip0-seed0 | asked to end"]
    assert processes.run(cell, "train", tmp_path).status and len(started) == 1  # what was to follow does not begin


@pytest.fixture
def given(tmp_path: Path, byte_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The arguments of a study of one method."""
    monkeypatch.setattr(study, "outlive", lambda say: None)

    def write(beta: float, **data: Any) -> list[str]:
        raw = {"model": str(byte_model), "data": {"pairs": 4, "dev_pairs": 2} | data}
        raw["resources"] = {"root": str(tmp_path / "root")}
        raw["study"] = {"methods": {"dpo": {"objective": {"name": "dpo", "beta": beta}}}, "until": "train"}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
        return ["--config", str(tmp_path / "study.yaml")]

    return write


def test_two_studies_run_cells_of_one_name_from_files_of_their_own(
    tmp_path: Path, given: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one ROOT, at once: a cell is read from its file some time after that is written."""
    folders = []

    def run_cells(cells: Any, until: str, folder: Path, *_: Any) -> list[Ended]:
        folders.append(folder)
        return [Ended(0) for _ in cells]

    monkeypatch.setattr(study, "run_cells", run_cells)
    monkeypatch.setattr(study, "make", lambda grid, page: None)
    for beta in (0.1, 0.2):
        study.main(given(beta))
    _, page = plan_study(str(tmp_path / "study.yaml"), [])
    assert len(set(folders)) == 2 and folders[1] == tmp_path / "root" / "study" / "cells" / page.address.path.name


def test_cells_that_were_run_alone_need_held_out_pairs_too(
    given: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = given(0.1, dev_pairs=0)
    grid, _ = plan_study(arguments[1], [])
    for _, plan in grid.cells:
        for step in plan.until("train"):
            commit(plan, step, metrics={"splits": {"train": 4}, "held_out": {}})
    with pytest.raises(SystemExit) as stop:
        study.main(arguments)
    assert stop.value.code == 2 and "the data have no held-out pairs" in capsys.readouterr().err
