"""Cells as processes: how they end, and whose file each is run from."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import study
from jobs.common.cells import Ended, Processes
from pipeline.line.study import Cell, plan_study
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import Model

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


def test_two_studies_run_cells_of_one_name_from_files_of_their_own(
    tmp_path: Path, byte_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one ROOT, at once: a cell is read from its file some time after that is written."""
    folders = []

    def run_cells(cells: Any, until: str, folder: Path, *_: Any) -> list[Ended]:
        folders.append(folder)
        return [Ended(0) for _ in cells]

    monkeypatch.setattr(study, "run_cells", run_cells)
    monkeypatch.setattr(study, "outlive", lambda say: None)
    monkeypatch.setattr(study, "make", lambda grid, page: SimpleNamespace())
    for beta in (0.1, 0.2):
        methods = {"dpo": {"objective": {"name": "dpo", "beta": beta}}}
        (tmp_path / "study.yaml").write_text(
            f"model: {byte_model}\ndata: {{pairs: 4, dev_pairs: 2}}\nresources: {{root: {tmp_path / 'root'}}}\n"
            f"study: {{methods: {methods}, until: train}}\n"
        )
        with contextlib.suppress(SystemExit):
            study.main(["--config", str(tmp_path / "study.yaml")])
    _, page = plan_study(str(tmp_path / "study.yaml"), [])
    assert len(set(folders)) == 2 and folders[1] == tmp_path / "root" / "study" / "cells" / page.address.path.name
