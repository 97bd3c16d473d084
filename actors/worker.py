"""The train worker: what every Ray Train worker does. The loop itself is pipeline/training/loop.py."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from transformers import PreTrainedModel

from actors import metrics
from actors.tracking import Tracking
from actors.training import (
    EPOCH,
    EXPORTED,
    JOURNAL,
    NOTE,
    PHASE,
    PROGRESS,
    RAY,
    REFUSAL,
    STOP,
    TRACKED,
    WorkerSpec,
    known_checkpoints,
)
from pipeline.compute.autoencoders import Autoencoder
from pipeline.compute.features import open_autoencoder
from pipeline.compute.loading import EmptyModel, open_empty
from pipeline.compute.models import load_model
from pipeline.compute.selfcheck import chosen
from pipeline.errors import UserError, memory_for
from pipeline.objectives.objective import build
from pipeline.results.files import write_aside
from pipeline.training.checkpoints import load, save
from pipeline.training.epoch import Epoch
from pipeline.training.journal import Journal
from pipeline.training.loop import Trainer
from pipeline.training.saving import save_trained
from pipeline.training.together import Together

PROGRESS_SECONDS = 1.0  # between two times that it does, as the door looks
# What to do about a training that is too large for its workers.
LARGE = (
    "lower the first two, raise resources.train_workers, which share the model and its optimiser, set "
    "resources.checkpoint_activations=true, train adapters (train.lora.rank=16), or set resources.cpu_offload=true; "
    "what is finished is kept"
)


def run(work: WorkerSpec) -> None:
    """Train to the end of the schedule, or go on from the newest checkpoint; rank 0 writes the result.

    Ray Train begins anew after any error. What a UserError says would be no other then, so that it is left in REFUSAL
    for the door, and the next attempt ends at once.
    """
    refusal = Path(work.folder) / REFUSAL
    if refusal.exists():
        return
    resources = work.config.resources
    asked = resources.budgets("cuda" if torch.cuda.is_available() else "cpu")
    world = ray.train.get_context().get_world_size()
    budgets = f"resources.micro_batch_tokens={asked.micro_batch_tokens}, logits_chunk={asked.logits_chunk}"
    try:
        with memory_for(f"with {budgets} and train_workers={world} a train worker", LARGE):
            _train(work)
    except UserError as error:
        write_aside(refusal, json.dumps({"problem": error.problem, "remedy": error.remedy}))
        raise


def _train(work: WorkerSpec) -> None:
    torch.set_num_threads(work.threads)
    context, config = ray.train.get_context(), work.config
    rank, world = context.get_world_rank(), context.get_world_size()

    def at(phase: str) -> None:
        if rank == 0:
            write_aside(Path(work.folder) / PHASE, phase)

    at("loading the model")
    trainer = Trainer(
        base_model(work, world),
        build(config.objective.name, **config.objective.parameters),
        Epoch(Path(work.folder) / EPOCH, config.train.batch_size),
        config.train,
        config.resources,
        rank,
        world,
        Journal(Path(work.folder) / JOURNAL if rank == 0 else None),
        config.stream_weights,
        autoencoder(work),
    )
    if rank == 0:
        how = chosen(trainer.policy.model).words(trainer.policy.device.type, config.model.dtype)
        write_aside(Path(work.folder) / NOTE, "; ".join(filter(None, (how, trainer.policy.note))))
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            load(trainer, Path(folder))
    else:
        trainer.journal.go_on(0)
    at("at its steps")
    with _followed(work, trainer) as tell:
        if _steps(work, trainer, tell):
            at("waiting until its last checkpoint is whole and known")
            return
        at("looking at the held-out pairs, writing the trained model")
        try:
            export(trainer, work)
        except Exception:  # Ray Train should know of the last checkpoint before it hears of this, which is what is told
            with contextlib.suppress(Exception):
                ray.train.get_all_reported_checkpoints(ray.train.CheckpointConsistencyMode.COMMITTED, timeout_s=60)
            raise
        at("telling the trackers of the last steps")
    at(EXPORTED)


def _steps(work: WorkerSpec, trainer: Trainer, tell: Callable[[Mapping[str, Any]], None]) -> bool:
    """Train to the last step, with checkpoints; whether the door asked to end before. `tell` is given each row."""
    rank, resumed, world = trainer.rank, trainer.next_step, trainer.world
    known = {"steps": trainer.epoch.steps, "resumed": resumed, "began": time.time(), "workers": world}
    if rank == 0 and trainer.done:  # only the export is left, and that is said, too
        write_aside(Path(work.folder) / PROGRESS, json.dumps(known | trainer.record))
    newest, told = None, -math.inf  # the newest checkpoint of this attempt; when a step was last written down
    stopped = False
    while not trainer.done and not stopped:
        record = trainer.step()
        tell(record)
        due = trainer.next_step % work.config.resources.checkpoint_steps == 0
        stopped, due = _told(work, trainer.together, due, newest)
        if rank == 0 and (stopped or trainer.done or time.monotonic() - told >= PROGRESS_SECONDS):
            write_aside(Path(work.folder) / PROGRESS, json.dumps(known | record))
            told = time.monotonic()
        # After the last step, too: were the export to fail, the same command would go on from there.
        if stopped or due or trainer.done:
            newest = _checkpoint(trainer, work)
    return stopped


@contextlib.contextmanager
def _followed(work: WorkerSpec, trainer: Trainer) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What each step's row is given to: of the first worker it goes to Prometheus, and to the trackers."""
    names = work.config.resources.trackers if work.run and trainer.rank == 0 else ()
    begins = trainer.next_step

    def say(text: str) -> None:
        with contextlib.suppress(OSError), (Path(work.folder) / TRACKED).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    with contextlib.ExitStack() as stack:
        tells: list[Callable[[Mapping[str, Any]], None]] = [metrics.stepped] if trainer.rank == 0 else []
        if names and work.run:
            earlier = partial(trainer.journal.steps_before, begins)
            tells.append(stack.enter_context(Tracking(names, work.run, begins, earlier, say)))

        def tell(row: Mapping[str, Any]) -> None:
            for each in tells:
                each(row)

        yield tell


def autoencoder(work: WorkerSpec) -> tuple[Autoencoder, int] | None:
    """What features are read by, and of which layer, where the objective looks at any."""
    if work.autoencoder is None:
        return None
    return open_autoencoder(Path(work.autoencoder), work.config.features)


def base_model(work: WorkerSpec, world: int) -> PreTrainedModel | EmptyModel:
    """The model to train; without its weights where each worker will have a share of them."""
    settings, resources = work.config.model, work.config.resources
    folder, device = Path(work.model), "cuda" if torch.cuda.is_available() else "cpu"
    trusted = settings.trust_remote_code
    if resources.shards(settings.dtype, world):
        return open_empty(folder, settings.dtype, device, trust_remote_code=trusted)
    return load_model(folder, settings.dtype, device, trust_remote_code=trusted, resources=resources, to_train=True)


def _told(work: WorkerSpec, together: Together, due: bool, newest: str | None) -> tuple[bool, bool]:
    """Whether the door was asked to end, and whether a checkpoint that is `due` is to be written.

    Not while Ray Train does not know the one before, which it learns of at its next poll: they would pile up on the
    disk, and a kill would lose them all. The first worker looks, and all are told the same, or some would wait for
    others that left.
    """
    folder, stopped = Path(work.folder), False
    if together.rank == 0:
        stopped = (folder / STOP).exists()
        due = due and (newest is None or newest in known_checkpoints(folder))
    stopped, due = together.first_says(stopped, due)
    return stopped, due


def _checkpoint(trainer: Trainer, work: WorkerSpec) -> str:
    """Written straight to where Ray Train keeps checkpoints, and known to it once it is whole; returns its name."""
    name = f"step-{trainer.next_step}"
    folder = Path(work.folder) / RAY / name
    written = save(trainer, folder)

    def whole(checkpoint: ray.train.Checkpoint, _: str) -> ray.train.Checkpoint:
        written.result()
        return checkpoint

    ray.train.report(
        {"step": trainer.next_step},
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_dir_name=name,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=whole,
        delete_local_checkpoint_after_upload=False,  # it is the uploaded one
    )
    return name


def export(trainer: Trainer, work: WorkerSpec) -> None:
    """The trained model, what was logged as Parquet, and the held-out figures.

    The model is in Hugging Face format under model/; or its adapters alone, where they are not merged, in PEFT's under
    adapter/.
    """
    folder, held_out = Path(work.folder), trainer.held_out()
    start = work.config.model_of(work.config.train.start)  # which adapters name as their base
    saved = save_trained(trainer.policy, Path(work.model), start, folder)
    if saved is None:  # the first worker writes
        return
    library, what = ("transformers", "Trained") if saved == "model" else ("peft", "Low-rank adapters, trained")
    write_aside(folder / saved / "README.md", model_card(work, library, what))
    trainer.journal.export(folder)
    write_aside(folder / "held_out.json", json.dumps(held_out))


def model_card(work: WorkerSpec, library: str, what: str) -> str:
    """What the exported folder is, for whoever finds it without the rest."""
    config = work.config
    start = config.model_of(config.train.start).source
    objective = ", ".join(f"{key}={value}" for key, value in config.objective.model_dump().items())
    return (
        f"---\nlibrary_name: {library}\ntags: [preference-optimisation, widemargin]\n---\n"
        f"# {config.name}\n\n{what} with widemargin from `{start}` on `{config.data.source}`.\n\n"
        f"- objective: {objective}\n"
        f"- training: {config.train.model_dump_json()}\n"
        f"- schedule: {config.schedule.model_dump_json()}\n"
        f"- arguments of the chat template: {json.dumps(config.model.template_arguments)}\n\n"
        "Data, base model and figures: see manifest.json beside this folder.\n"
    )
