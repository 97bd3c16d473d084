"""Train from the cached reference with Ray Train workers: python -m jobs.train --config FILE [section.key=value ...]"""

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.keeping import CheckpointsKept, Keeping
from jobs.common.saying import Progress, doing, say
from jobs.common.stage import Outcome, Terminated, Work, main
from pipeline.errors import UserError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from actors.training import WorkerSpec
    from pipeline.training.epoch_files import More

POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
POLL_SECONDS = 0.2  # between two looks of Ray Train at its workers; at each it learns of one checkpoint. Its own: 2
GATHERED_ON_HOST = "cpu:gloo,cuda:nccl"  # with resources.cpu_offload, what lies on the host is summed there


def run(work: Work) -> Outcome:
    """The trained model under model/, or its unmerged adapters under adapter/; and what happened, as tables."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from actors.cluster import connected, idle_gpus, nodes_here
    from actors.training import (
        EPOCH,
        JOURNAL,
        NOTE,
        PHASE,
        PROGRESS,
        RAY,
        REFUSAL,
        SNAPSHOT,
        STOP,
        TRACKED,
        WorkerSpec,
        known_checkpoints,
    )
    from jobs.common.elastic import fit
    from jobs.common.models import autoencoder, start_model
    from jobs.common.tracked import run_of
    from jobs.common.waiting import claimed
    from pipeline.training.join import join
    from pipeline.training.saving import rehearse

    config, resources = work.config, work.config.resources
    base = start_model(work.plan)
    doing("looking for room on the disk")
    require_room(work, base)
    trial = work.folder / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    for note in rehearse(base, config.model, config.train.lora, trial):
        say(f"train: {note}")
    doing("joining pairs, reference and schedule")
    join(**joined(work), folder=work.folder / EPOCH, more=more(work))
    doing("starting or joining Ray")
    with connected():
        if config.train.lora and not config.train.lora.merge and not (work.folder / "ray").exists():
            require_served(work, base, trial)
        shutil.rmtree(trial)
        gpus = min(resources.gpus_per_actor, 1.0)  # a worker drives one GPU; FSDP2 shards over workers
        if idle := idle_gpus(gpus, nodes_here()):
            say(f"train: {idle}")
        asked = claimed("train", "resources.train_workers", resources.workers, gpus, resources)
        run = run_of(work.step, config) if resources.trackers else None
        spec = WorkerSpec(config, str(base), str(work.folder), threads=1, run=run, autoencoder=autoencoder(work))
        refusal = work.folder / REFUSAL
        refusal.unlink(missing_ok=True)
        clear_unknown(work.folder)
        os.environ.setdefault(POLL, str(POLL_SECONDS))
        with (
            watched(work.folder, resources.log_seconds),
            interruptible(),
            Keeping(work.step.address, "train") as keeping,
            CheckpointsKept(
                keeping, work.folder / RAY, work.folder / JOURNAL, SNAPSHOT, partial(known_checkpoints, work.folder)
            ),
            stoppable(work.folder / STOP) as stopped,
        ):
            fit(partial(trainer, spec, asked), work.folder, resources, asked, stopped)
        if refusal.exists():
            raise UserError(**json.loads(refusal.read_text(encoding="utf-8")))
    for name in (RAY, EPOCH, JOURNAL):  # of no use once the model and its tables are there
        shutil.rmtree(work.folder / name, ignore_errors=True)
    how = (work.folder / NOTE).read_text(encoding="utf-8")
    for name in (PROGRESS, PHASE, NOTE, TRACKED):
        (work.folder / name).unlink(missing_ok=True)
    names = ("steps.parquet", "trained_pairs.parquet", "reliability.parquet", "streams.parquet")
    rows = {name: pq.read_metadata(file).num_rows for name in names if (file := work.folder / name).exists()}
    steps = pq.read_table(work.folder / "steps.parquet")
    metrics = {
        "notes": [how],
        "steps": steps.num_rows,
        "loop_seconds": pc.sum(steps["seconds"]).as_py(),
        "held_out": json.loads((work.folder / "held_out.json").read_text(encoding="utf-8")),
    }
    return Outcome(rows, tokens=pc.sum(steps["tokens"]).as_py(), metrics=metrics)


def trainer(spec: "WorkerSpec", asked: dict[str, float], workers: int) -> "TorchTrainer":
    """Ray Train with so many workers, each of which asks the cluster for so much."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from actors.cluster import threads
    from actors.environment import environment
    from actors.training import RAY, train
    from jobs.common.elastic import STARTS, is_elastic

    resources, gpus = spec.config.resources, asked["num_gpus"]
    return TorchTrainer(
        train,
        train_loop_config={"work": replace(spec, threads=threads(workers * resources.study_cells))},
        torch_config=TorchConfig(
            backend=GATHERED_ON_HOST if gpus and resources.cpu_offload else None,
            timeout_s=math.ceil(resources.collective_timeout_seconds),
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": asked["num_cpus"], **({"GPU": gpus} if gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name=RAY,
            storage_path=str(Path(spec.folder).resolve()),
            failure_config=ray.train.FailureConfig(
                max_failures=resources.max_failures,
                controller_failure_limit=1 if is_elastic(resources) else STARTS,  # type: ignore[call-arg]
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            worker_runtime_env={"env_vars": environment(gpus)},
        ),
    )


def clear_unknown(folder: Path) -> None:
    """Remove the checkpoints that a killed run began and Ray Train never knew: nothing goes on from them."""
    from actors.training import RAY, known_checkpoints

    known = known_checkpoints(folder)
    for checkpoint in (folder / RAY).glob("step-*"):
        if checkpoint.name not in known:
            shutil.rmtree(checkpoint, ignore_errors=True)


def joined(work: Work) -> dict[str, Any]:
    """What the epoch is joined from: the folders by role and by stream, and what is in them."""
    from pipeline.training.epoch_files import Line

    def line(of: str = "") -> Line:
        return Line(**{role: work.inputs[role + of].path for role in Line._fields if role + of in work.inputs})

    made_of = {role: artifact.manifest["digest"] for role, artifact in work.inputs.items()}
    streams = {name: line(f":{name}") for name in work.config.streams}
    return {**line()._asdict(), "made_of": made_of, "streams": streams}


def more(work: Work) -> "More":
    """What the objective asks for beside these."""
    from pipeline.objectives.presets import resolve
    from pipeline.prepare.parts import CHANGED
    from pipeline.training.epoch_files import More

    preset, _ = resolve(work.config.objective.name, work.config.objective.parameters)
    roles = {"reference": "token_reference", "contrast": "contrast", "changed": "pairs"}
    values = {
        name: (work.inputs[roles[name]].path, f"{CHANGED if name == 'changed' else 'part'}-*.parquet")
        for name in preset.token_columns
    }
    return More(values, work.inputs["mismatched"].path if "mismatched" in work.inputs else None)


def require_room(work: Work, model: Path) -> None:
    """Raise UserError where the disk has no room for trained model, two checkpoints and epoch; adapters' are small.

    A checkpoint holds float32 weights and two moments of each; the one before stays until the next is whole.
    """
    from safetensors import safe_open

    from actors.training import EPOCH
    from pipeline.training.epoch_files import Line
    from pipeline.training.join import room, stands

    folder, lora, inputs = work.folder, work.config.train.lora, joined(work)
    weights = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            weights += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - it is no dictionary
    models, checkpoints = int(lora is None or lora.merge), 2 * int(lora is None)
    lines = [Line(*(inputs[name] for name in Line._fields)), *inputs["streams"].values()]
    stood, values = stands(folder / EPOCH, inputs["made_of"]), len(more(work).values)
    epoch = 0 if stood else sum(room(line, values) for line in lines)
    needed, free = 4 * weights * (models + 3 * checkpoints) + epoch, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} needs about {needed / 1e9:.1f} GB for two checkpoints, the trained model and the pairs as they "
            f"are read, and its disk has {free / 1e9:.1f} GB free",
            "free some room, or set resources.root to a larger disk",
        )


def require_served(work: Work, base: Path, adapter: Path) -> None:
    """Raise UserError where vLLM does not serve such adapters on this model: trained ones could not be asked.

    Only trying tells: it depends on the architecture, the layers and the device. Call inside `connected()`.
    """
    import ray

    from actors.cluster import claim, threads
    from actors.engine import environment, serve_once
    from jobs.generate import engine_spec
    from pipeline.training.saving import tokeniser_of

    resources, model = work.config.resources, work.config.model
    prompt = tokeniser_of(base, model).prompt([{"role": "user", "content": "x"}])
    room = len(prompt) + 8 if isinstance(prompt, list) else 8
    spec = engine_spec(base, model, room, resources, seed=0, adapter=adapter)
    variables = environment(resources.kv_cache_gib, threads(resources.generators))
    options: dict[str, Any] = claim("resources.generators", 1, resources.gpus_per_actor)
    # A process of its own, which ends with the call and gives its memory back.
    options |= {"runtime_env": {"env_vars": variables}, "max_calls": 1, "max_retries": 0}
    say("train: trying whether vLLM serves such adapters unmerged")
    served = ray.remote(**options)(serve_once).remote(spec)
    while not ray.wait([served], timeout=1.0)[0]:  # not for longer: inside Ray's calls Ctrl-C can be lost
        continue
    ray.get(served)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C as everywhere else: Ray Train's own handler would end the process with status 0, and stays behind."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def stoppable(file: Path) -> Iterator[threading.Event]:
    """SIGTERM asks the workers, by a file, to write a checkpoint after the step they are at, and to end.

    The event says that it did.
    """
    file.unlink(missing_ok=True)
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        file.touch()
        say("train: asked to end; after this step and a checkpoint")

    handler = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, handler)
    if asked.is_set():
        file.unlink(missing_ok=True)
        raise Terminated


class watched:
    """While Ray Train runs, says what the first worker last wrote of its steps, and notes what else it is at.

    How it runs the model is said once.
    """

    def __init__(self, folder: Path, every: float):
        from actors.training import NOTE, PHASE, PROGRESS, TRACKED

        self.file, self.phase, self.note, self.tracked = (folder / x for x in (PROGRESS, PHASE, NOTE, TRACKED))
        self.every, self.stop, self.lines = every, threading.Event(), 0  # of what there was to say of trackers
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        for file in (self.file, self.phase, self.note, self.tracked):
            file.unlink(missing_ok=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self._tell_tracked()

    def _tell_tracked(self) -> None:
        if self.tracked.exists():
            *lines, _ = self.tracked.read_text(encoding="utf-8").split("\n")  # the last is not whole, or empty
            for line in lines[self.lines :]:
                say(f"train: {line}")
            self.lines = len(lines)

    def _watch(self) -> None:
        progress, began, phase, told, workers = None, None, "", False, 0
        while not self.stop.wait(1.0):
            self._tell_tracked()
            if not told and self.note.exists():
                told = True
                say(f"train: {self.note.read_text(encoding='utf-8')}")
            if self.file.exists():
                record = json.loads(self.file.read_text(encoding="utf-8"))
                steps, resumed = record["steps"], record["resumed"]
                if progress is None or record["began"] != began:
                    if progress and record["workers"] == workers:
                        say("train: a worker died or failed, and all began anew")
                    elif progress:
                        say(f"train: goes on with {record['workers']} workers in place of {workers}")
                    workers = record["workers"]
                    progress, began = Progress("train", steps, "steps", self.every, done=resumed), record["began"]
                    progress.started -= max(0.0, time.time() - began)  # its first steps are done when they are seen
                    if resumed:
                        say(f"train: {resumed} of {steps} steps are in a checkpoint and kept")
                if record["step"] + 1 > progress.done:
                    progress.add(record["step"] + 1 - progress.done, f", loss {record['loss']:.4f}")
            if self.phase.exists() and (at := self.phase.read_text(encoding="utf-8")) != phase:
                phase = at
                doing(phase)


if __name__ == "__main__":
    main("train")
