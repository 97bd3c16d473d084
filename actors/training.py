"""What the door of training and its workers share: the files between them, and the function that Ray Train runs.

Torch is imported by the workers alone. Ray Train's controller, a process of its own, opens what is here before any
worker starts.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.trackers import Run
from pipeline.settings.config import RunConfig

STOP = "stop"  # the door writes it: end after this step
REFUSAL = "refusal.json"  # a worker writes it: the UserError that it raised
PROGRESS = "progress.json"  # the first worker writes it: its last step
PHASE = "phase.txt"  # and this: what it is at before and after its steps
EXPORTED = "ending"  # what stands there once the trained model is written
NOTE = "note.txt"  # and this: how the model is run
TRACKED = "tracked.txt"  # and this: a line whenever there is something to say of a tracker
EPOCH = "epoch"  # the door writes it: what the workers read, a step at a time
JOURNAL = "journal"  # the first worker writes it: the rows of its steps so far
RAY = "ray"  # where Ray Train keeps checkpoints, and its list of those it knows
SNAPSHOT = "checkpoint_manager_snapshot.json"  # that list


@dataclass(frozen=True)
class WorkerSpec:
    config: RunConfig
    model: str  # the folder of the model that training starts from
    folder: str  # where EPOCH is, and the trained model and its tables go
    directory: str  # the door's own
    threads: int
    run: Run | None = None  # for resources.trackers
    autoencoder: str | None = None  # the folder of the one that features are read by


def train(spec: dict[str, Any]) -> None:
    """Train to the end of the schedule, or go on from the newest checkpoint, as one of a group of workers."""
    from actors.worker import run

    # Ray Train has gone into a folder of its own, in which a tracker's relative path would mean nothing.
    with contextlib.suppress(OSError):
        os.chdir(spec["work"].directory)
    run(spec["work"])


def known_checkpoints(folder: Path) -> set[str]:
    """The names of the checkpoints that Ray Train knows and keeps, of a training that writes into `folder`."""
    try:
        listed = json.loads((folder / RAY / SNAPSHOT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {each["checkpoint_dir_name"] for each in listed["checkpoint_results"]}
