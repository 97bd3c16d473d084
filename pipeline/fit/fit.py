"""Whether a configuration fits on what there is, and the smallest change that makes it fit."""

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.compute.limits import require_buildable, require_configured, require_trainable
from pipeline.compute.models import find_path
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import questions
from pipeline.evaluation.benchmarks.sampling import sampling
from pipeline.fit.devices import GIB, Device
from pipeline.fit.lengths import BYTES_A_TOKEN, TURN_TOKENS, Work, prompts_of, together, work_of
from pipeline.fit.remedies import Remedy, search
from pipeline.fit.setup import setup_of, taken
from pipeline.fit.shape import Shape, shape_of
from pipeline.fit.source import Measure
from pipeline.fit.stages import ENGINES, Questions, StageNeed, stages
from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.results.files import DigestMemory, given_path
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import SAMPLED, Model

AT_ONCE = 2 * GIB  # of weights that no run has read yet, which a plan digests in a few seconds
BESIDE = 1.5 * GIB  # of a machine: Ray, its object store and the door
MOST_GPUS = 512


@dataclass(frozen=True)
class Fit:
    """What a configuration needs, what does not fit, and what would."""

    device: Device
    count: int
    shape: Shape
    work: Work
    stages: Sequence[StageNeed]
    taken: Mapping[str, Any]  # settings that it was judged by, and that the configuration leaves open
    overfull: Mapping[str, str]  # by stage, in words
    remedies: Sequence[Remedy]  # the smallest change first; none where nothing is known to help
    note: str | None  # what cannot be judged from here

    @property
    def disk(self) -> float:
        return sum(stage.disk for stage in self.stages)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


@dataclass(frozen=True)
class Known:
    """What is looked at once, whatever is changed in the settings."""

    shape: Shape
    judge: Shape | None
    work: Work
    asked: Questions
    sampled: tuple[Shape, Questions] | None = None  # who answers prompts to make pairs, and how much
    editor: Shape | None = None  # who edits pairs


def look(config: RunConfig, plan: Plan | None = None, seconds: float = 3.0, measure: Measure | None = None) -> Known:
    """Read sizes, lengths and questions. Without a `plan`, one is made where that takes seconds.

    Where no pairs are prepared, rows of the source are looked at for so many `seconds`, and their lengths estimated
    unless a `measure` is given.
    """
    path = _folder(config.model, "model")
    if path.is_dir():
        require_trainable(path, f"model.source={config.model.source}")
    beside = {"judge.local": config.judge.local, "bridge.local": config.bridge.local}
    others = {setting: (_folder(model, setting), model) for setting, model in beside.items() if model}
    if plan is None and _quick(config, [path, *(folder for folder, _ in others.values())]):
        plan = make_plan(config)
    shapes = {
        setting: shape_of(folder, f"{setting}.source={model.source}", model.trust_remote_code)
        for setting, (folder, model) in others.items()
    }
    lines = [(config, plan)]
    lines += [(config.of_stream(name), plan.streams[name] if plan else None) for name in config.streams]
    tokenizer = path / "tokenizer.json" if path.is_dir() else None
    return Known(
        shape_of(path, f"model.source={config.model.source}", config.model.trust_remote_code),
        shapes.get("judge.local"),
        together([work_of(line, made, tokenizer, seconds / len(lines), measure) for line, made in lines]),
        _asked(config),
        _sampled(config, path) if config.data.source == SAMPLED else None,
        shapes.get("bridge.local"),
    )


def _sampled(config: RunConfig, trained: Path) -> tuple[Shape, Questions]:
    """Who answers prompts to make pairs, and how much."""
    sample = config.sample
    model, setting = (config.model, "model") if sample.model is None else (sample.model, "sample.model")
    path = trained if sample.model is None else _folder(sample.model, setting)
    prompts = prompts_of(config, path / "tokenizer.json" if path.is_dir() else None)
    answers = prompts.total * sample.n * (1 + sample.branch.cuts * sample.branch.children)
    room = int(prompts.tokens_P.max()) + sample.max_new_tokens
    shape = shape_of(path, f"{setting}.source={model.source}", model.trust_remote_code)
    return shape, Questions(answers, room, sample.max_new_tokens)


def _folder(model: Model, setting: str) -> Path:
    """Where a model is; of one on the hub what says its shape is fetched, not its weights.

    Raises UserError where it is plainly no causal language model.
    """
    path = find_path(model, setting, only=["*.json", *(["*.py"] if model.trust_remote_code else [])])
    if path.is_dir():
        require_configured(path, f"{setting}.source={model.source}")
        require_buildable(path, f"{setting}.source={model.source}", model.trust_remote_code)
    return path


def _quick(config: RunConfig, models: Sequence[Path]) -> bool:
    """Whether a plan can be made, and in seconds: weights that no run under this root has read are not large."""
    if "://" in config.resources.root:
        return False
    memory = DigestMemory(given_path(config.resources.root, "resources.root").absolute())
    files = [file for path in models for file in (path.glob("*.safetensors") if path.is_dir() else [path])]
    there = all(path.is_file() or any(path.glob("*.safetensors")) for path in models)
    return there and sum(file.stat().st_size for file in files if not memory.knows(file)) <= AT_ONCE


def _asked(config: RunConfig) -> Questions:
    found = [(each, sampling(config.generate, name, each)) for name, each in questions.asked(config.generate)]
    rooms = [0]
    for question, sampled in found:
        text = "".join(str(message["content"]) for message in question.messages) + "".join(question.then)
        turns = 1 + len(question.then)
        said = len(text.encode(errors="replace")) / BYTES_A_TOKEN + TURN_TOKENS * (len(question.messages) + 2 * turns)
        rooms.append(round(said) + sampled.max_tokens * turns)
    answers = config.generate.samples * sum(1 + len(question.then) for question, _ in found)
    return Questions(answers, max(rooms), max((sampled.max_tokens for _, sampled in found), default=0))


def fit(config: RunConfig, known: Known, device: Device, count: int) -> Fit:
    """Judge a configuration on `count` devices, and where it does not fit look for what does."""
    found = needs(config, known, device, count)
    wrong = overfull(config, found, device, count)
    at = taken(config, setup_of(config, device, count))
    remedies = list(_remedies(config, known, device, count)) if wrong.keys() - {"disk"} else []
    notes = [f"not counted: {what}" for what in _not_counted(config)]
    notes += refused(config, known.work)
    if device.is_gpu and (short := short_of_disk(config, found)):
        notes.append(f"{short} on this machine: the one of the GPUs, if that is another, must have the room")
    return Fit(device, count, known.shape, known.work, found, at, wrong, remedies, "; ".join(notes) or None)


def refused(config: RunConfig, work: Work) -> list[str]:
    """What prepare would refuse: more rows that are no pairs than it may drop."""
    if work.lost <= config.data.max_dropped:
        return []
    told = f"{100 * work.lost:.0f} % of the rows looked at are no pairs, or too long: {dict(work.dropped)}"
    reason, examples = max(work.dropped, key=lambda each: work.dropped[each]), work.seen.examples if work.seen else {}
    such = f", such as {reason} in {examples[reason]}" if reason in examples else ""
    return [f"{told}{such}; prepare refuses more than {100 * config.data.max_dropped:.0f} % (data.max_dropped)"]


def _not_counted(config: RunConfig) -> Iterator[str]:
    if sampled := [name for name in config.streams if config.of_stream(name).data.source == SAMPLED]:
        yield f"the answers that are sampled for {', '.join(f'streams.{name}' for name in sampled)}"
    editors = {name: config.of_stream(name).bridge.local for name in config.streams}
    if other := [name for name, editor in editors.items() if editor not in (None, config.bridge.local)]:
        yield f"the edits of {', '.join(f'streams.{name}' for name in other)}"


def needs(config: RunConfig, known: Known, device: Device, count: int) -> list[StageNeed]:
    others = known.sampled, known.editor
    return stages(config, known.shape, known.judge, known.work, known.asked, device, count, *others)


def overfull(config: RunConfig, found: Sequence[StageNeed], device: Device, count: int) -> dict[str, str]:
    """By stage what does not fit, in words; `disk` for what does not fit there, where the device is this machine."""
    wrong = {}
    for stage in found:
        need, workers = stage.need, "a worker needs" if stage.workers == 1 else f"{stage.workers} workers need"
        if need.gpu:
            share = config.resources.gpu_memory_fraction if stage.stage in ENGINES else 1.0
            if need.gpu_bytes > (has := share * device.memory):
                of = "" if share == 1.0 else f" at resources.gpu_memory_fraction={share:g}"
                wrong[stage.stage] = f"a GPU must hold {gb(need.gpu_bytes)}, and {device.name} has {gb(has)}{of}"
            if stage.devices > count:
                wrong[stage.stage] = f"it takes {stage.devices} GPUs, and there are {count}"
        elif not device.is_gpu and (whole := stage.workers * need.host_bytes + BESIDE) > device.memory:
            wrong[stage.stage] = f"{workers} {gb(whole)} with Ray, and {device.name} has {gb(device.memory)}"
    if not device.is_gpu and (short := short_of_disk(config, found)):
        wrong["disk"] = short
    return wrong


def short_of_disk(config: RunConfig, found: Sequence[StageNeed]) -> str | None:
    """What is too little under resources.root, as this machine sees it; None where there is room, or none can tell."""
    if (free := free_disk(config)) is None or (needed := sum(stage.disk for stage in found)) <= free:
        return None
    return f"results and checkpoints take {gb(needed)}, and resources.root has {gb(free)} free"


def free_disk(config: RunConfig) -> float | None:
    """Bytes that are free under resources.root; None of an object store."""
    if "://" in config.resources.root:
        return None
    folder = given_path(config.resources.root, "resources.root").absolute()
    return float(shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.is_dir())).free)


def gb(size: float) -> str:
    if size < 5e4:
        return "<0.1 MB"
    return f"{size / 1e9:,.1f} GB" if size >= 5e7 else f"{size / 1e6:,.1f} MB"


def _remedies(config: RunConfig, known: Known, device: Device, count: int) -> Iterator[Remedy]:
    """What makes it fit here; and where that trains something else, or there is nothing, on how many GPUs it would."""

    def find(devices: int) -> Remedy | None:
        return search(config, partial(_wrong, known, device, devices), device, devices, known.work.all.longest)

    here = find(count)
    if here is not None:
        yield here
    if device.is_gpu and (here is None or here.trains_otherwise):
        more = (count * 2**power for power in range(1, 10) if count * 2**power <= MOST_GPUS)
        there = (each for each in map(find, more) if each is not None and not each.trains_otherwise)
        yield from itertools.islice(there, 1)


def _wrong(known: Known, device: Device, count: int, config: RunConfig) -> dict[str, str]:
    """By stage what does not fit in memory, or cannot be planned, such as a budget that holds not one pair."""
    try:
        told = overfull(config, needs(config, known, device, count), device, count)
    except UserError as error:
        told = {"train": error.problem}
    return {stage: why for stage, why in told.items() if stage != "disk"}
