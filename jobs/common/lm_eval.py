"""Both models handed to lm-evaluation-harness: its commands, run where it is installed; see jobs/export.py."""

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from jobs.common.saying import say, shown, tell
from pipeline.compute.limits import read_config
from pipeline.errors import UserError
from pipeline.evaluation import harness
from pipeline.evaluation.harness import Asked
from pipeline.line.steps import Plan
from pipeline.results.artifacts import Artifact
from pipeline.settings.config import Model


def hand_over(plan: Plan, tasks: Sequence[str], folder: Path, dry_run: bool) -> None:
    """Say the commands, a model each, and run them where the harness is. Raises UserError where it fails.

    Results that are there already, of these tasks and this model, are kept.
    """
    trained = plan.steps["train"].address.find()
    if trained is None:
        raise plan.steps["generate:trained"].lacks("model")
    tool = program()
    with ExitStack() as held:
        for model, asked in models(plan, held.enter_context(trained.held())).items():
            output = folder / model
            command = [*(tool or ["lm_eval"]), *harness.command(asked, tasks, output)]
            tell(shlex.join(command))
            if tool and not dry_run and not is_there(output, asked, tasks):
                run(command, model)
    if dry_run or not tool:
        if not tool:
            say("export: lm-evaluation-harness is not installed here (pip install lm-eval, elsewhere)")
        say(f"export: after both commands report.lm_eval={shown(folder)} shows what came of them")
        return
    for row in harness.compare(*(harness.read(harness.newest(folder / model)) for model in harness.MODELS)):
        error = "" if row.error is None else f" +- {row.error:.3g}"
        lost = ", lost" if row.worse else ""
        tell(
            f"{row.task} {row.metric}: {row.base.value:.4g} to {row.trained.value:.4g}, {row.change:+.3g}{error}{lost}"
        )
    say(f"export: report.lm_eval={shown(folder)} shows it in the report")


def models(plan: Plan, trained: Artifact) -> dict[str, Asked]:
    """Base and trained model as the harness is to open them."""
    config = plan.config
    merged = (trained.path / "model").is_dir() or any(name.startswith("model/") for name in trained.manifest["outputs"])
    trained.verify(opened=("model/*", "adapter/*"))
    base, start = plan.model_folder, plan.folder_of(plan.start)
    for folder in (base, start):
        if not (folder / "config.json").is_file():
            raise UserError(f"the base model is not at {folder}", "python -m jobs.prepare makes it from the .gguf file")
    gpus = int(config.resources.gpus_per_actor) or int(config.resources.gpus_per_actor > 0)
    dtype = "float32" if config.model.dtype == "float64" else config.model.dtype
    alike = asked_alike(config.model, base, trained.path / "model" if merged else None)
    both = partial(Asked, dtype=dtype, gpus=gpus, trust_remote_code=config.model.trust_remote_code, alike=alike)
    if merged:
        return {"base": both(base), "trained": both(trained.path / "model")}
    rank = config.train.lora.rank if config.train.lora else 0
    return {"base": both(base), "trained": both(start, adapter=trained.path / "adapter", rank=rank)}


def asked_alike(model: Model, base: Path, exported: Path | None) -> dict[str, Any]:
    """Arguments by which both are asked in the words that the training was in. Raises UserError where they cannot be.

    The harness renders by the template of a tokenizer's folder, of which the `exported` one has what
    model.chat_template gives; and through vLLM it puts a BOS token before what a model is asked whose path says gemma.
    """
    found: dict[str, Any] = {}
    if model.chat_template and exported is None:
        problem = f"lm-evaluation-harness would ask by the chat template in {base}, not by {model.chat_template}"
        remedy = "give model.source a folder with that template, or train with train.lora.merge=true"
        raise UserError(f"model.chat_template={model.chat_template}: {problem}", remedy)
    if model.chat_template:
        found["tokenizer"] = exported
    if "gemma" in str(read_config(base).get("model_type")):
        found["add_bos_token"] = True
    given = dict(model.template_arguments)
    if isinstance(given.get("enable_thinking"), bool):
        found["enable_thinking"] = given.pop("enable_thinking")
    if given:
        say(f"export: model.template_arguments are not passed on: {', '.join(given)}")
    return found


def program() -> list[str] | None:
    """How the harness is called here; None where it is not installed."""
    if importlib.util.find_spec("lm_eval"):
        return [sys.executable, "-m", "lm_eval"]
    found = shutil.which("lm_eval")
    return [found] if found else None


def is_there(output: Path, asked: Asked, tasks: Sequence[str]) -> bool:
    """Whether results of these tasks, and of this model, are there."""
    try:
        found = harness.read(harness.newest(output))
    except UserError:
        return False
    same = found.is_of(asked) and {*tasks} <= {task for task, _ in found.scores}
    if same:
        say(f"export: {shown(output)} is there already, and kept")
    return same


def run(command: Sequence[str], model: str) -> None:
    say(f"export: asking the {model} model")
    status = subprocess.run(command, check=False).returncode
    if status:
        problem = f"lm-evaluation-harness ended with status {status} for the {model} model; what it said stands above"
        raise UserError(problem, "mend that, and run the same command again: results that are there are kept")
