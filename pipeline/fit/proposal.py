"""A configuration for a model and data that were looked at: objective, lengths, batch, precision, resources.

All of it is a first guess by rules that are written down here, each with its reason, which becomes the comment beside
the setting.
"""

import copy
import math
from collections import Counter
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
from pipeline.fit.source import Measure, Measured, Seen, margins, order
from pipeline.objectives.presets import PRESETS
from pipeline.preferences.messages import Dropped, plain, short
from pipeline.preferences.normalise import Preference
from pipeline.settings.config import RunConfig, validate
from pipeline.settings.file import override
from pipeline.settings.inputs import EMBEDDED, SAMPLED, Data
from pipeline.settings.shorthand import expand

WHOLE = 1 << 20  # tokens: no limit, while lengths are looked at
TOKENIZER = ["*.json", "*.jinja", "*.txt", "*.model"]  # of a model on the hub what renders a conversation
KEPT = 0.995  # of prompts, and of completions, that the limits let through
STEPS = 100  # that a training has at least, where there are pairs enough for batches of 4
ROUND = 64  # tokens
NAMED = 10  # columns that are not read, at most
ESTIMATED = 1.25  # times as long as an estimate, where there is no tokenizer to ask
# Learning rates of full fine-tuning by the parameters of a model, and what adapters take of them.
RATES = ((3e9, 5e-7), (5e8, 1e-6), (0.0, 1e-5))
OF_ADAPTERS = 10


@dataclass
class Proposal:
    """Settings as a file has them, by dotted name the reason for one, and what is to be said beside."""

    raw: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    known: Known = field(init=False)  # what was looked at, for this configuration

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

    Of the model its configuration, tokenizer and template are opened, of the data some rows. Raises UserError where
    these cannot be read, none could be trained, or nothing is known that would make it fit.
    """
    made = Proposal(copy.deepcopy(expand(dict(given))))
    _require_pairs(made.raw["data"])
    made.set("model.dtype", *_dtype(device))
    wide = {"max_prompt_tokens": WHOLE, "max_completion_tokens": WHOLE, "max_dropped": 1.0}
    first = validate(made.raw | {"data": made.raw["data"] | wide, "objective": {"name": "dpo"}, "schedule": {}})
    looked = look(first, measure=(measure := _measure(first)))
    _read(made, looked.work.seen)
    _objective(made, looked.work.seen)
    _lengths(made, looked, exact=measure is not None)
    _held_out(made, looked.work)
    made.known = look(made.config, measure=measure)
    _training(made)
    _resources(made, device, count)
    return made


def _measure(config: RunConfig) -> Measure | None:
    """How long the model's own tokenizer and template make a pair, and which the template refuses; None where they are
    not here, or cannot be used, which is said with all else that is in the way."""
    from pipeline.preferences.tokenise import TokenisedPair, open_tokeniser

    folder = find_path(config.model, "model", only=[*TOKENIZER, *(["*.py"] if config.model.trust_remote_code else [])])
    try:
        tokeniser = open_tokeniser(folder, WHOLE, WHOLE, **config.model.rendering)
    except UserError:
        return None

    known: dict[str, Measured] = {}  # they are looked at twice

    def measure(pair: Preference) -> Measured:
        if pair.pair_id not in known:
            known[pair.pair_id] = lengths(tokeniser.pair(pair))
        return known[pair.pair_id]

    def lengths(made: TokenisedPair | Dropped) -> Measured:
        if isinstance(made, Dropped):
            return made
        return len(made.prompt_ids), len(made.chosen_ids), len(made.rejected_ids)

    return measure


def _dtype(device: Device) -> tuple[str, str]:
    if device.is_gpu:
        return "bfloat16", "float32 is many times slower on a GPU; the trained weights are float32 all the same"
    return "float32", "a CPU has nothing faster"


def _require_pairs(data: Mapping[str, Any]) -> None:
    """Raise UserError for a source that is no pairs yet."""
    if data["source"] == SAMPLED:
        problem = f"data.source={SAMPLED} is pairs of answers that are yet to be given: there is nothing to look at"
        remedy = "begin with configs/quickstart-onpolicy.yaml and model.source=MODEL; docs/onpolicy.md has the settings"
        raise UserError(problem, remedy)


def _read(made: Proposal, seen: Seen | None) -> None:
    """Say how the rows are read, so that columns that were meant otherwise show."""
    if seen is None or made.raw["data"]["source"] == EMBEDDED:
        return
    names = [name if name.isprintable() else ascii(name) for name in seen.unused]  # a file of YAML holds no other
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    unused = f"; not read: {', '.join(names[:NAMED])}{more}" if names else ""
    made.reasons["data.source"] = f"rows are {', '.join(seen.shapes)}{unused}"
    first = seen.pairs[0]
    said = {"asked": first.prompt[-1], "chosen": first.chosen, "rejected": first.rejected}
    made.remarks.append("as read: " + ", ".join(f"{side} {short.repr(plain(each))}" for side, each in said.items()))


def _objective(made: Proposal, seen: Seen | None) -> None:
    """MixDPO where pairs can be ordered, gamma-DPO where they cannot; both as the presets have them."""
    pairs = seen.pairs if seen else []
    by, reason = order(pairs)
    if by is None:
        made.set("objective.name", "gamma-dpo", f"pairs cannot be ordered: {reason}")
    else:
        made.set("objective.name", "mixdpo", f"{reason}: easy to hard, the hardest to SFT")
        if made.raw["objective"]["name"] == "mixdpo":
            made.set("objective.preference", "gamma-dpo", "a target margin for each pair")
        if by == "difficulty":
            made.set("schedule.difficulty", "column", "the data's own")
    against = sum(margin < 0 for margin in margins(pairs))
    if 2 * against > len(pairs):
        what = f"the scores of {against:,} of {len(pairs):,} pairs say the opposite of the labels"
        made.remarks.append(f"{what}: are chosen and rejected exchanged, or is a smaller score the better one?")
    if any(pair.label_confidence is not None for pair in pairs):
        rows = [name for name, row in PRESETS.items() if "label_confidence" in row.needs]
        made.remarks.append(f"the pairs carry label_confidence, which {', '.join(rows)} train on")


def _lengths(made: Proposal, looked: Known, exact: bool) -> None:
    """Limits that let nearly all through, and no more than the model takes; estimated lengths get more room."""
    every, most = looked.work.all, _positions(made)
    lengths = {"prompt": every.prompt_P, "completion": np.concatenate([every.chosen_P, every.rejected_P])}
    room, about = (1.0, "") if exact else (ESTIMATED, "about ")
    wanted = {name: round(room * np.quantile(each, KEPT, method="higher")) for name, each in lengths.items()}
    limits = _within(wanted, most)
    for name, each in lengths.items():
        longest = f"the longest of those looked at has {about}{int(each.max()):,} tokens"
        cut = f"; the model takes {most:,} in all" if limits[name] < _up(wanted[name]) else ""
        made.set(f"data.max_{name}_tokens", limits[name], longest + cut)
    _left_out(made, looked, most)


def _positions(made: Proposal) -> int | None:
    model = validate(made.raw | {"objective": {"name": "dpo"}, "schedule": {}}).model
    folder = find_path(model, "model", only=["*.json"])
    return positions(read_config(folder)) if folder.is_dir() else None


def _within(wanted: Mapping[str, int], most: int | None) -> dict[str, int]:
    """What is wanted and a little more. Of a model that has no room for that: both the same share of what it has, and
    of one that takes fewer together, the shorter half of them at most and the longer the rest.
    """
    roomy = {name: _up(tokens) for name, tokens in wanted.items()}
    if most is None or sum(roomy.values()) <= most:
        return roomy
    if (spare := most - sum(wanted.values())) >= 0:
        return {name: tokens + spare // 2 for name, tokens in wanted.items()}
    less, more = sorted(wanted, key=lambda name: wanted[name])
    limit = min(wanted[less], most // 2)
    return {less: limit, more: most - limit}


def _left_out(made: Proposal, looked: Known, most: int | None) -> None:
    """Let prepare drop what is too long for the model, which it would refuse; what else is no pair is to be mended."""
    every, seen, data = looked.work.all, looked.work.seen, made.raw["data"]
    fit = every.prompt_P <= data["max_prompt_tokens"]
    fit &= np.maximum(every.chosen_P, every.rejected_P) <= data["max_completion_tokens"]
    if not fit.any():
        takes = f"; model.source={made.raw['model']['source']} takes {most:,} tokens in all" if most else ""
        problem = f"data.source={data['source']}: none of {len(fit):,} pairs looked at fits into the limits{takes}"
        raise UserError(problem, "take a model of more positions or shorter pairs, or raise the limits that are given")
    long, broken = 1 - float(fit.mean()), seen.lost if seen else 0.0
    allowed = data.get("max_dropped", Data.model_fields["max_dropped"].default)
    if broken <= allowed and (lost := broken + (1 - broken) * long) > allowed:
        share = math.ceil(100 * lost + 1) / 100
        made.set("data.max_dropped", min(1.0, share), f"{100 * long:.0f} % of the pairs are longer than the limits")


def _up(tokens: int) -> int:
    return ROUND * max(1, math.ceil(tokens / ROUND))


def _held_out(made: Proposal, work: Work) -> None:
    """A dev split, where the rows do not say who is in one. Raises UserError where nothing would be trained."""
    data, drawn = made.raw["data"], work.seen and any(pair.split is None for pair in work.seen.pairs)
    if not work.trained.pairs:
        found = Counter(work.seen.splits if work.seen else ())
        problem = f"data.source={data['source']}: no pair is in split train, which alone is trained on: {dict(found)}"
        raise UserError(problem, "data.columns={split: null} leaves the column unread")
    if data["source"] == EMBEDDED or work.held_out.pairs:
        return
    if drawn:
        made.set("data.dev_fraction", 0.05 if work.trained.pairs >= 400 else 0.1, "no row says that it is held out")
    else:
        made.remarks.append("every row names its split, and none dev: no held-out pairs are looked at in training")


def _training(made: Proposal) -> None:
    """A batch that leaves steps enough, and a learning rate by the size of the model. Raises UserError where the
    held-out prompts are all there are.
    """
    looked, pairs = made.known, made.known.work.trained.pairs
    if not pairs:
        problem = f"data.source={made.raw['data']['source']}: of so few prompts, which are held out whole, none is left"
        raise UserError(problem, "data.dev_fraction=0 holds none out")
    batch = next((size for size in (128, 64, 32, 16, 8) if pairs >= STEPS * size), 4)
    made.set("train.batch_size", batch, _steps(math.ceil(pairs / batch), pairs))
    rate = next(rate for size, rate in RATES if looked.shape.parameters >= size)
    lora = made.raw["train"].get("lora") not in (None, False)
    size = looked.shape.parameters
    written = f"{size / 1e9:.3g}B" if size >= 1e9 else f"{size / 1e6:.3g}M"
    what = f"{'adapters of ' if lora else ''}{written} parameters"
    reason = f"a first guess for {what}: try a third and three times as much"
    made.set("train.learning_rate", rate * (OF_ADAPTERS if lora else 1), reason)


def _steps(steps: int, pairs: int) -> str:
    return f"{steps:,} step{'s' * (steps != 1)} of {pairs:,} pairs"


def _resources(made: Proposal, device: Device, count: int) -> None:
    """What is there, and the smallest change that makes it fit. Raises UserError where nothing is known to."""
    longest = made.raw["data"]["max_prompt_tokens"] + 2 * made.raw["data"]["max_completion_tokens"]
    for name, budget in made.config.resources.budgets("cuda" if device.is_gpu else "cpu")._asdict().items():
        if name != "logits_chunk" and budget < longest:
            made.set(f"resources.{name}", longest, "a pair may be as long")
    found = fit(made.config, made.known, device, count)
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
