"""What will fail of a rater, by its settings and its folder, before anything is sampled."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.compute.limits import read_config, require_buildable
from pipeline.errors import UserError
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.onpolicy import Prompts, Rater


def require_pinned(rater: Rater) -> None:
    """Raise UserError for code that may be other code tomorrow, before any of it is fetched."""
    pinned = re.fullmatch(r"[0-9a-f]{40}", rater.revision or "")
    if rater.model and rater.trust_remote_code and not pinned and not os.path.exists(rater.model):
        problem = f"the rater {rater.model} runs code of its own, of revision {rater.revision or 'that is the newest'}"
        raise UserError(problem, "pin the one that you have read: revision: COMMIT, all 40 digits, beside the rater")


def require_rules(prompts: Prompts) -> None:
    """Raise UserError where rules know nothing of the prompts."""
    if prompts.source != EMBEDDED:
        problem = f"rate.raters=rules: no rule knows what the prompts of sample.prompts.source={prompts.source} ask for"
        remedy = (
            "give a reward model, such as rate.raters=[{model: FOLDER}]; pair.rule=delta takes none: rate.raters=[]"
        )
        raise UserError(problem, remedy)


def require_reward(rater: Rater, model: Path) -> None:
    """Raise UserError for a model that gives an answer no one score, or that cannot be opened."""
    if model.is_file():
        problem = f"the rater {rater.model} is a .gguf file, which keeps no head that gives a score"
        raise UserError(problem, "give a reward model's folder in Hugging Face format")
    if rater.kind == "armo":
        return  # by code of its own, which is not run here
    config = read_config(model)
    named = config.get("id2label")
    labels = len(named) if isinstance(named, Mapping) else int(config.get("num_labels") or 2)  # as transformers counts
    if labels != 1:
        raise UserError(
            f"the rater {rater.model} has {labels} labels by its config.json, and a reward is one number",
            "give a model with one label (num_labels=1), such as are trained on preference pairs; or kind: armo, where "
            "its own code gives a `.score`",
        )
    require_buildable(model, f"the rater {rater.model}", rater.trust_remote_code)
