"""A model's folder, for the doors that open one: verified, and converted where it is a .gguf file. Engines on it."""

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common.provenance import provenance
from jobs.common.saying import doing, say
from jobs.common.stage import Work
from pipeline.compute.limits import require_language_model
from pipeline.errors import UserError
from pipeline.line.steps import VERSIONS, Plan
from pipeline.results.files import given_path
from pipeline.settings.inputs import Model
from pipeline.settings.resources import Resources

if TYPE_CHECKING:
    from actors.engine import EngineSpec
    from pipeline.compute.models import ModelSource
    from pipeline.settings.inputs import Weights


def autoencoder(work: Work) -> str | None:
    """The folder of the autoencoder that features are read by, if they are: a given one, or the one trained here."""
    if not work.config.reads_features:
        return None
    trained = work.inputs.get("autoencoder")
    return str(trained.path if trained else given_path(str(work.config.features.source), "features.source"))


def base_model(plan: Plan) -> Path:
    """The base model's folder."""
    return opened(plan, plan.model, plan.config.model, "model")


def start_model(plan: Plan) -> Path:
    """The folder of the model that training starts from, the base model or one of its tokens."""
    return _of_its_tokens(plan, plan.start, plan.config.train.start, "train.start")


def reference_model(plan: Plan) -> Path:
    """The folder of the reference, the base model or one of its tokens."""
    return _of_its_tokens(plan, plan.reference, plan.config.reference.model, "reference.model")


def _of_its_tokens(plan: Plan, source: "ModelSource", given: "Weights | None", setting: str) -> Path:
    """Raises UserError where pairs of the base model's tokens would be others to this one."""
    from pipeline.compute.kinship import require_same_tokens

    if given is None:
        return base_model(plan)
    base = plan.model_folder if plan.model_folder.is_dir() else base_model(plan)
    folder = opened(plan, source, plan.config.model_of(given), setting)
    require_same_tokens(base, folder, plan.config.model, f"{setting}.source={given.source}")
    return folder


def opened(
    plan: Plan,
    source: "ModelSource",
    model: Model,
    setting: str,
    require: Callable[[Path, str], None] = require_language_model,
) -> Path:
    """A model's folder, verified; a .gguf file is converted once, into an artifact of its own.

    `require` raises UserError where a folder is not what is wanted.
    """
    from pipeline.compute.models import locate
    from pipeline.results.files import DigestMemory

    doing(f"reading {source.path} in full")
    found = locate(
        model, DigestMemory(plan.steps["prepare"].address.root), verify=True, setting=setting, require=require
    )
    if found.digest != source.digest:
        raise UserError(
            f"{source.path} changed since this run was planned",
            "run the same command again: it plans with what is there",
        )
    return converted(plan, source) if source.is_gguf else source.path


def converted(plan: Plan, source: "ModelSource") -> Path:
    """The folder that a .gguf file is converted into, which is done here where it is not yet."""
    from pipeline.compute.cpu import give_back_memory
    from pipeline.compute.models import convert_gguf

    address = plan.converted(source)
    if artifact := address.find():
        return artifact.verify().path
    say(f"model: converting {source.path.name}")
    doing(f"converting {source.path.name}")
    started = time.perf_counter()
    with address.writing() as folder:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars of two libraries
            convert_gguf(source, folder)
        give_back_memory()
        facts = {"name": "model", "version": VERSIONS["model"], "identity": {"model": source.weights}, "inputs": {}}
        seconds = round(time.perf_counter() - started, 3)
        artifact = address.commit({**facts, "provenance": provenance(), "seconds": seconds}, {})
    say(f"model: done in {seconds:.1f} s")
    return artifact.path


def engine_spec(
    folder: Path, model: Model, room: int, resources: Resources, seed: int, adapter: Path | None = None
) -> "EngineSpec":
    """An engine for conversations of up to `room` tokens, with the model in `folder` that `model` describes.

    `adapter` is a folder in PEFT's format, whose adapters are put on that model.
    """
    from actors.engine import EngineSpec

    return EngineSpec(
        model=str(folder),
        dtype="float32" if model.dtype == "float64" else model.dtype,
        rendering=model.rendering,
        max_model_len=room,
        gpus=resources.gpus_per_actor,
        gpu_memory_fraction=resources.gpu_memory_fraction,
        seed=seed,
        adapter=str(adapter) if adapter else None,
    )
