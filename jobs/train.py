"""Train from the cached reference with Ray Train workers: python -m jobs.train --config FILE [section.key=value ...]"""

import json
import math
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.epoch import joined, more, require_room
from jobs.common.keeping import CheckpointsKept, Keeping
from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main
from jobs.common.watching import interruptible, stoppable, watched
from pipeline.errors import UserError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from actors.training import WorkerSpec

POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
POLL_SECONDS = 0.2  # between two looks of Ray Train at its workers; at each it learns of one checkpoint. Its own: 2
GATHERED_ON_HOST = "cpu:gloo,cuda:nccl"  # with resources.cpu_offload, what lies on the host is summed there


def run(work: Work) -> Outcome:
    """The trained model under model/, or its unmerged adapters under adapter/; and what happened, as tables."""
    from actors.cluster import connected
    from actors.training import EPOCH, RAY
    from jobs.common.models import start_model
    from pipeline.training.join import join
    from pipeline.training.saving import rehearse

    config = work.config
    base = start_model(work.plan)
    doing("looking for room on the disk")
    require_room(work, base)
    trial = work.folder / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    for note in rehearse(base, config.model_of(config.train.start), config.train.lora, trial):
        say(f"train: {note}")
    doing("joining pairs, reference and schedule")
    join(**joined(work), folder=work.folder / EPOCH, more=more(work))
    doing("starting or joining Ray")
    with connected():
        if config.train.lora and not config.train.lora.merge and not (work.folder / RAY).exists():
            require_served(work, base, trial)
        shutil.rmtree(trial)
        by_workers(work, base)
    return outcome(work)


def by_workers(work: Work, base: Path) -> None:
    """Have Ray Train's workers train the model in the folder `base`. Call inside `connected()`."""
    from actors.cluster import idle_gpus, nodes_here
    from actors.training import JOURNAL, RAY, REFUSAL, SNAPSHOT, STOP, WorkerSpec, known_checkpoints
    from jobs.common.elastic import fit
    from jobs.common.models import autoencoder
    from jobs.common.tracked import run_of
    from jobs.common.waiting import claimed

    folder, resources = work.folder, work.config.resources
    gpus = min(resources.gpus_per_actor, 1.0)  # a worker drives one GPU; FSDP2 shards over workers
    if idle := idle_gpus(gpus, nodes_here()):
        say(f"train: {idle}")
    asked = claimed("train", "resources.train_workers", resources.workers, gpus, resources)
    run = run_of(work.step, work.config) if resources.trackers else None
    places = {"model": str(base), "folder": str(folder), "directory": os.getcwd()}
    spec = WorkerSpec(work.config, **places, threads=1, run=run, autoencoder=autoencoder(work))
    refusal = folder / REFUSAL
    refusal.unlink(missing_ok=True)
    clear_unknown(folder)
    os.environ.setdefault(POLL, str(POLL_SECONDS))
    with (
        watched(folder, resources.log_seconds),
        interruptible(),
        Keeping(work.step.address, "train") as keeping,
        CheckpointsKept(keeping, folder / RAY, folder / JOURNAL, SNAPSHOT, partial(known_checkpoints, folder)),
        stoppable(folder / STOP) as stopped,
    ):
        fit(partial(trainer, spec, asked), folder, resources, asked, stopped)
    if refusal.exists():
        raise UserError(**json.loads(refusal.read_text(encoding="utf-8")))


def outcome(work: Work) -> Outcome:
    """What the workers left; what is of no use beside the model and its tables stays until these are committed."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from actors.training import EPOCH, JOURNAL, NOTE, PHASE, PROGRESS, RAY, TRACKED

    folder = work.folder
    names = ("steps.parquet", "trained_pairs.parquet", "reliability.parquet", "streams.parquet")
    rows = {name: pq.read_metadata(file).num_rows for name in names if (file := folder / name).exists()}
    steps = pq.read_table(folder / "steps.parquet")
    metrics = {
        "notes": [(folder / NOTE).read_text(encoding="utf-8")],
        "steps": steps.num_rows,
        "loop_seconds": pc.sum(steps["seconds"]).as_py(),
        "held_out": json.loads((folder / "held_out.json").read_text(encoding="utf-8")),
    }
    scratch = (RAY, EPOCH, JOURNAL, PROGRESS, PHASE, NOTE, TRACKED)
    return Outcome(rows, tokens=pc.sum(steps["tokens"]).as_py(), metrics=metrics, scratch=scratch)


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


def require_served(work: Work, base: Path, adapter: Path) -> None:
    """Raise UserError where vLLM does not serve such adapters on this model: trained ones could not be asked.

    Only trying tells: it depends on the architecture, the layers and the device. Call inside `connected()`.
    """
    import ray

    from actors.cluster import claim, threads
    from actors.engine import environment, serve_once
    from jobs.common.models import engine_spec
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


if __name__ == "__main__":
    main("train")
