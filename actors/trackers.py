"""The trackers that may be told of a training: each opens the one run of a fingerprint, and goes on where that ends.

A tracker's library is imported when it is opened, and finds keys and addresses in the environment, as its own page
says. What these raise is whatever their libraries raise: tracking.py says it once.
"""

import importlib
import importlib.util
import netrc
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import UserError

PROJECT = "widemargin"  # unless the tracker's own variable names another


@dataclass(frozen=True)
class Run:
    """What a tracker is told of a training beside its steps."""

    fingerprint: str  # of the train result
    name: str  # as the result's folder is called
    config: Mapping[str, Any]  # its settings, without resources
    folder: Path  # for trackers that write files


class Tracker(ABC):
    """`first`: the first step that the run has not got; None where the tracker does not say.

    `where`: what to open to see the run.
    """

    first: int | None = 0
    where = ""

    @abstractmethod
    def __init__(self, run: Run): ...

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    @abstractmethod
    def attach(self, report: Path | None, summary: Mapping[str, float]) -> None:
        """Figures of the whole run, and its page where there is one."""

    @abstractmethod
    def close(self) -> None:
        """Return once all of it is where it belongs."""


class TensorBoard(Tracker):
    """Event files, written here and now: tensorboardX's own thread dies of a full disk without a word.

    What they say of a run cannot be asked of them, so all steps are written anew, and then the earlier files removed.
    """

    def __init__(self, run: Run):
        from tensorboardX.event_file_writer import EventsWriter

        folder = run.folder / "tensorboard" / run.name
        folder.mkdir(parents=True, exist_ok=True)
        earlier = list(folder.glob("events.out.tfevents.*"))
        self.writer = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
        self.where = f"tensorboard --logdir {folder.parent}"
        self._write(0, config=_lines(run.config))
        for file in earlier:
            file.unlink()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._write(step, figures)

    def attach(self, report: Path | None, summary: Mapping[str, float]) -> None:
        self._write(0, summary, **({"report": str(report)} if report else {}))

    def _write(self, step: int, scalars: Mapping[str, float] | None = None, **texts: str) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import text

        values = [Summary.Value(tag=name, simple_value=value) for name, value in (scalars or {}).items()]
        values += [value for name, words in texts.items() for value in text(name, words).value]
        self.writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB(Tracker):
    """A step that a run has cannot be sent to it again; offline it is not known what it has."""

    def __init__(self, run: Run):
        wandb: Any = importlib.import_module("wandb")

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.fingerprint,
            name=run.name,
            config=dict(run.config),
            resume="allow",
            dir=str(_made(run.folder)),
            settings=wandb.Settings(console="off", silent=True),
        )
        self.name, self.first = f"report-{run.fingerprint[:12]}", self.run.step
        self.where = f"wandb sync {Path(self.run.dir).parent}" if self.run.offline else self.run.url
        self.artifact, self.teardown = wandb.Artifact, wandb.teardown

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def attach(self, report: Path | None, summary: Mapping[str, float]) -> None:
        self.run.summary.update(dict(summary))
        if report:
            made = self.artifact(self.name, type="report")
            made.add_file(str(report))
            self.run.log_artifact(made)

    def close(self) -> None:
        self.run.finish()
        self.teardown()  # the process that writes: offline its file is not whole before that has ended


class MLflow(Tracker):
    """The server of MLFLOW_TRACKING_URI, or else a folder. A server numbers its runs: ours is found by a tag."""

    def __init__(self, run: Run):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else it refuses folders
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take minutes
        entities: Any = importlib.import_module("mlflow.entities")
        tracking: Any = importlib.import_module("mlflow.tracking")

        uri = os.environ.get("MLFLOW_TRACKING_URI") or _made(run.folder / "mlruns").as_uri()
        self.client, self.metric = tracking.MlflowClient(tracking_uri=uri), entities.Metric
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(project)
        there = experiment.experiment_id if experiment else self.client.create_experiment(project)
        found = self.client.search_runs([there], f"tags.fingerprint = '{run.fingerprint}'", max_results=1)
        if found:
            self.id = found[0].info.run_id
            self.first = 1 + max((each.step for each in self.client.get_metric_history(self.id, "loss")), default=-1)
        else:
            made = self.client.create_run(there, tags={"fingerprint": run.fingerprint}, run_name=run.name)
            self.id = made.info.run_id
            params = [entities.Param(key, value[:500]) for key, value in _flat(run.config).items()]
            for first in range(0, len(params), 100):  # no more at a time
                self.client.log_batch(self.id, params=params[first : first + 100])
        self.where = f"run {self.id} in {uri}"

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        # Its users know TRL's names as they are: only an evaluation's begin with something, eval_.
        named = {name.removeprefix("train/").replace("eval/", "eval_", 1): value for name, value in figures.items()}
        self.client.log_batch(self.id, metrics=[self.metric(name, value, now, step) for name, value in named.items()])

    def attach(self, report: Path | None, summary: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[self.metric(name, value, now, 0) for name, value in summary.items()])
        if report:
            self.client.log_artifact(self.id, str(report))

    def close(self) -> None:
        self.client.set_terminated(self.id)


class Trackio(Tracker):
    """Its folder on this machine, or the space or server that its own variables name."""

    def __init__(self, run: Run):
        trackio: Any = importlib.import_module("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        config = dict(run.config) | {"fingerprint": run.fingerprint}
        self.run = trackio.init(project=project, name=run.name, config=config, resume="allow", embed=False)
        self.first = self.run._next_step
        self.where = f"trackio show --project {project}"

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def attach(self, report: Path | None, summary: Mapping[str, float]) -> None:
        artifact: Any = importlib.import_module("trackio.artifact")
        self.run.log(dict(summary))
        if report:
            made = artifact.Artifact(name=f"report-{self.run.name}", type="report")
            made.add_file(str(report))
            self.run.log_artifact(made)

    def close(self) -> None:
        self.run.finish()


class SwanLab(Tracker):
    """It does not say what a run has: steps are sent from where a training goes on."""

    first = None

    def __init__(self, run: Run):
        swanlab: Any = importlib.import_module("swanlab")
        given = {"project": os.environ.get("SWANLAB_PROJECT", PROJECT), "name": run.name, "config": dict(run.config)}
        asked = {"id": run.fingerprint, "resume": "allow", "log_dir": str(_made(run.folder / "swanlog"))}
        self.run = swanlab.init(**given, **asked, settings=swanlab.Settings(interactive=False))
        self.where = f"project {given['project']}, {run.name}"

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def attach(self, report: Path | None, summary: Mapping[str, float]) -> None:
        self.run.log(dict(summary))

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "wandb": WandB,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "trackio": Trackio,
    "swanlab": SwanLab,
}
# What each imports, and what installs it: what only reads may be more, such as tensorboard itself.
PACKAGES = {
    "wandb": ("wandb", "wandb"),
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "trackio": ("trackio", "trackio"),
    "swanlab": ("swanlab", "swanlab"),
}

# The variables of its key, mode and address, the usual address, and where its own login leaves a key.
_KEYED = {
    "wandb": ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "https://api.wandb.ai", "~/.netrc"),
    "swanlab": ("SWANLAB_API_KEY", "SWANLAB_MODE", "SWANLAB_API_HOST", "https://api.swanlab.cn", "~/.swanlab/.netrc"),
}


def require_installed(name: str) -> None:
    """Raise UserError where a tracker's package is not here."""
    module, package = PACKAGES[name]
    if importlib.util.find_spec(module) is None:
        problem = f"resources.trackers={name}: the package {package} is not installed here"
        raise UserError(problem, f"pip install {package}, on every node, or leave {name} out")


def require_key(name: str) -> None:
    """Raise UserError where a tracker that asks for a key would find none in this process's environment."""
    if name not in _KEYED:
        return
    key, mode, address, usual, file = _KEYED[name]
    host = urlsplit(os.environ.get(address, usual)).hostname or ""
    if os.environ.get(mode, "online") == "online" and not os.environ.get(key) and not _logged_in(host, file):
        problem = f"resources.trackers={name}: there is no {key} in the environment"
        raise UserError(problem, f"export {key}=... before the command, or {mode}=offline, which writes files alone")


def _logged_in(host: str, file: str) -> bool:
    """Whether the tracker's own login left a key for this host."""
    try:
        return any(host in known or known in host for known in netrc.netrc(Path(file).expanduser()).hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings as `section.key`: value."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = str(value)
    return flat


def _lines(config: Mapping[str, Any]) -> str:
    return "".join(f"    {key}: {value}\n" for key, value in _flat(config).items())  # as TensorBoard shows a block
