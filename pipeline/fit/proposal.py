"""A configuration for a model and data that were looked at: objective, lengths, batch, precision, resources.

All of it is a first guess by rules that are written down here, each with its reason, which becomes the comment beside
the setting.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.compute.limits import positions, read_config
from pipeline.compute.models import find_path
from pipeline.errors import UserError
from pipeline.fit.devices import Device
from pipeline.fit.fit import Known, fit, look
from pipeline.fit.lengths import Work
from pipeline.preferences.normalise import Normaliser, Preference
from pipeline.preferences.sources import open_source
from pipeline.settings.config import RunConfig, validate
from pipeline.settings.file import override
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.shorthand import expand

WHOLE = 1 << 20  # tokens: no limit, while lengths are looked at
KEPT = 0.995  # of prompts, and of completions, that the limits let through
STEPS = 100  # that a training has at least, where there are pairs enough for batches of 4
ROUND = 64  # tokens
# Learning rates of full fine-tuning by the parameters of a model, and what adapters take of them.
RATES = ((3e9, 5e-7), (5e8, 1e-6), (0.0, 1e-5))
OF_ADAPTERS = 10


@dataclass
class Proposal:
    """Settings as a file has them, by dotted name the reason for one, and what is to be said beside."""

    raw: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, reason: str = "") -> None:
        """Propose a setting; what the user gave stays."""
        section, _, name = key.partition(".")
        settings = self.raw.setdefault(section, {})
        if name not in settings:
            settings[name] = value
            self.reasons[key] = reason

    @property
    def config(self) -> RunConfig:
        return validate(self.raw)


def propose(given: Mapping[str, Any], device: Device, count: int) -> Proposal:
    """Settings for what was `given`: at least model.source and data.source.

    Of the model only its configuration is opened, of the data the first rows. Raises UserError where these cannot be
    read, or nothing is known that would make it fit.
    """
    made = Proposal(copy.deepcopy(expand(dict(given))))
    made.set("model.dtype", *_dtype(device))
    pair = _first_pair(made)
    wide = {"max_prompt_tokens": WHOLE, "max_completion_tokens": WHOLE, "max_dropped": 1.0}
    looked = look(validate(made.raw | {"data": made.raw["data"] | wide, "objective": {"name": "dpo"}, "schedule": {}}))
    _objective(made, pair)
    _lengths(made, looked)
    _held_out(made, looked.work)
    _training(made, looked)
    _resources(made, device, count)
    return made


def _dtype(device: Device) -> tuple[str, str]:
    if device.is_gpu:
        return "bfloat16", "float32 is many times slower on a GPU; the trained weights are float32 all the same"
    return "float32", "a CPU has nothing faster"


def _first_pair(made: Proposal) -> Preference | None:
    """A first pair, to see what it carries; None of pairs that are made."""
    data = validate(made.raw | {"objective": {"name": "dpo"}}).data
    if data.source == EMBEDDED:
        return None
    rows = open_source(
        data.source, split=data.split, subset=data.subset, revision=data.revision, columns=data.columns.values()
    ).rows
    return Normaliser(rows, data.columns, data.difficulty_column, data.pairing).first


def _objective(made: Proposal, pair: Preference | None) -> None:
    """MixDPO where pairs can be ordered, gamma-DPO where they cannot; both as the presets have them."""
    embedded = pair is None and made.raw["data"]["source"] == EMBEDDED
    scored = pair is not None and None not in (pair.chosen_score, pair.rejected_score)
    difficult = pair is not None and pair.difficulty is not None
    if embedded or scored or difficult:
        by = "scores" if embedded or scored else "a difficulty"
        made.set("objective.name", "mixdpo", f"pairs carry {by}: easy to hard, the hardest to SFT")
        if made.raw["objective"]["name"] == "mixdpo":
            made.set("objective.preference", "gamma-dpo", "a target margin for each pair")
        if not (embedded or scored):
            made.set("schedule.difficulty", "column", "the data's own")
    else:
        made.set("objective.name", "gamma-dpo", "pairs carry no scores, by which they could be ordered")
    if pair is not None and pair.label_confidence is not None:
        made.remarks.append("the pairs carry label_confidence, which gdpo, cdpo-soft and mmpo train on")


def _lengths(made: Proposal, looked: Known) -> None:
    """Limits that let nearly all through, and no more than the model takes."""
    every = looked.work.all
    model = validate(made.raw | {"objective": {"name": "dpo"}, "schedule": {}}).model
    folder = find_path(model, "model", only=["*.json"])
    most = positions(read_config(folder)) if folder.is_dir() else None
    sides = np.concatenate([every.chosen_P, every.rejected_P])
    for name, lengths in (("prompt", every.prompt_P), ("completion", sides)):
        wanted = _up(float(np.quantile(lengths, KEPT, method="higher")))
        limit = min(wanted, most // 2) if most else wanted
        longest = f"the longest of those looked at has {int(lengths.max()):,} tokens"
        short = f"; the model takes {most:,} in all" if limit < wanted else ""
        made.set(f"data.max_{name}_tokens", limit, longest + short)
    data = made.raw["data"]
    fit = every.prompt_P <= data["max_prompt_tokens"]
    fit &= np.maximum(every.chosen_P, every.rejected_P) <= data["max_completion_tokens"]
    if (lost := 1 - float(fit.mean())) > 0.05:
        share = math.ceil(100 * lost + 1) / 100
        made.set(
            "data.max_dropped", min(1.0, share), f"{100 * lost:.0f} % of the pairs are longer than the model takes"
        )


def _up(tokens: float) -> int:
    return ROUND * max(1, math.ceil(tokens / ROUND))


def _held_out(made: Proposal, work: Work) -> None:
    if made.raw["data"]["source"] != EMBEDDED and not work.held_out.pairs:
        made.set("data.dev_fraction", 0.05 if work.trained.pairs >= 400 else 0.1, "no row says that it is held out")


def _training(made: Proposal, looked: Known) -> None:
    """A batch that leaves steps enough, and a learning rate by the size of the model."""
    pairs = round(looked.work.trained.pairs * (1 - made.raw["data"].get("dev_fraction", 0.0)))
    batch = next((size for size in (128, 64, 32, 16, 8) if pairs >= STEPS * size), 4)
    made.set("train.batch_size", batch, f"{math.ceil(pairs / batch):,} steps of {pairs:,} pairs")
    rate = next(rate for size, rate in RATES if looked.shape.parameters >= size)
    lora = made.raw["train"].get("lora") not in (None, False)
    size = looked.shape.parameters
    written = f"{size / 1e9:.3g}B" if size >= 1e9 else f"{size / 1e6:.3g}M"
    what = f"{'adapters of ' if lora else ''}{written} parameters"
    reason = f"a first guess for {what}: try a third and three times as much"
    made.set("train.learning_rate", rate * (OF_ADAPTERS if lora else 1), reason)


def _resources(made: Proposal, device: Device, count: int) -> None:
    """What is there, and the smallest change that makes it fit. Raises UserError where nothing is known to."""
    longest = made.raw["data"]["max_prompt_tokens"] + 2 * made.raw["data"]["max_completion_tokens"]
    for name, budget in made.config.resources.budgets("cuda" if device.is_gpu else "cpu")._asdict().items():
        if name != "logits_chunk" and budget < longest:
            made.set(f"resources.{name}", longest, "a pair may be as long")
    found = fit(made.config, look(made.config), device, count)
    for key, value in found.taken.items():
        made.set(key, value, f"{count} x {device.name}")
    if not found.overfull.keys() - {"disk"}:
        return
    here = next((remedy for remedy in found.remedies if remedy.count == count), None)
    told = "; ".join(f"{stage}: {why}" for stage, why in found.overfull.items() if stage != "disk")
    if here is None:
        elsewhere = [f"; it fits on {remedy.count} x {device.name}" for remedy in found.remedies[:1]]
        problem = f"model.source={made.raw['model']['source']} does not fit here ({told}){''.join(elsewhere)}"
        raise UserError(problem, "take a smaller model, or --gpu and --gpus of what there is elsewhere")
    override(made.raw, here.overrides)
    made.raw = expand(made.raw)
    for each in here.overrides:
        made.reasons[each.partition("=")[0]] = "without it: " + told
