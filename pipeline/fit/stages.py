"""What every stage of a configuration needs on given devices: memory of a worker, disk, tokens, time.

Times are orders of magnitude: arithmetic at a share of the peak that is usual, and the start of what runs it.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pipeline.compute.autoencoders import find, size
from pipeline.compute.packing import plan
from pipeline.fit.devices import Device
from pipeline.fit.lengths import Lengths, Work
from pipeline.fit.memory import LIBRARIES, MIB, Need, Pack, adapters, engine, scorer, train_worker
from pipeline.fit.setup import Setup, setup_of
from pipeline.fit.shape import Shape
from pipeline.objectives.presets import STEP, resolve
from pipeline.results.files import given_path
from pipeline.settings.config import RunConfig

USUAL = 0.4  # of the peak, in training and scoring alike
FLOAT32_ON_GPU = 12  # times as slow as bfloat16, without tensor cores
PREPARED = 1500  # pairs a second, by one process
BLOCKS = 150 * MIB  # that a process of prepare holds of rows, however many there are
VERDICT = 512  # tokens of a judge's words, where they have no limit of their own here
START = {
    "sample": 60.0,
    "reference": 20.0,
    "train": 30.0,
    "generate": 60.0,
    "judge": 60.0,
    "bridge": 60.0,
}  # seconds until an actor is at work
ENGINES = ("sample", "bridge", "generate", "judge")  # the stages of vLLM
ASKED = 150  # tokens of an editor's request beside the pair
FEATURES = 10_000.0  # bytes of a pair's features
A_PAIR = 1000.0  # bytes of a pair where prepare holds it beside its ids, and in the tables beside its texts
JOINED = 300.0  # bytes of a pair beside its ids, as training reads it
JOURNAL = 900.0 * 10_000  # bytes of rows that a train worker holds at most
LAID_OUT = 40.0  # bytes of a token in a pack
STEPS = 200  # of which micro-batches are laid out; longer schedules are judged by these


@dataclass(frozen=True)
class Questions:
    """What the engines are asked: answers, tokens of the longest conversation, and of an answer at most."""

    answers: int
    room: int
    answer_tokens: int


@dataclass(frozen=True)
class StageNeed:
    """One stage. `need` is of one worker; `tokens` and `seconds` of the whole."""

    stage: str
    workers: int
    need: Need
    tokens: int | None
    exact: bool
    seconds: float
    disk: float  # bytes that it leaves, or holds on its way
    devices: int  # GPUs that it takes, of all workers


def stages(
    config: RunConfig,
    shape: Shape,
    judge: Shape | None,
    work: Work,
    asked: Questions,
    device: Device,
    count: int,
    sampled: tuple[Shape, Questions] | None = None,
    editor: Shape | None = None,
) -> list[StageNeed]:
    """The needs of all stages that hold memory worth a word. Raises UserError where a budget holds not one pair.

    `sampled` says who answers prompts, and how much, where pairs are made of a model's own answers; `editor` is a model
    that edits pairs here.
    """
    setup = setup_of(config, device, count)
    found = [_engines(config, setup, "sample", *sampled)] if sampled else []
    if editor:
        most = config.bridge.max_tokens
        edits = Questions(work.all.pairs - work.held_out.pairs, work.all.longest + ASKED + most, most)
        found.append(_engines(config, setup, "bridge", editor, edits))
    prepare, reference, train = (each(config, setup, shape, work) for each in (_prepare, _reference, _train))
    features = _features(config, setup, shape, work, reference)
    found += [prepare, *features, reference, *_weigh(config, work, reference, train), train]
    found.append(_engines(config, setup, "generate", shape, asked))
    if judge and config.judge.local:
        words = config.judge.max_tokens or VERDICT
        heard = Questions(asked.answers, 2 * asked.room + words, words)  # both answers, in both orders
        found.append(_engines(config, setup, "judge", judge, heard))
    return found


def _prepare(config: RunConfig, setup: Setup, shape: Shape, work: Work) -> StageNeed:
    converted = 4.0 * shape.parameters if config.model.source.endswith(".gguf") else 0.0
    host = {"libraries": LIBRARIES, "data": BLOCKS, "conversion": 2 * converted}
    texts = 4 * work.all.tokens  # and ids, both compressed to about a half
    disk = converted + 2 * texts + A_PAIR * work.all.pairs / 4  # blocks stay until the parts are there
    workers = config.resources.prepare_workers or 1
    seconds = 5 + work.all.pairs / (workers * PREPARED) + converted / 50e6
    return StageNeed("prepare", workers, Need(host), work.all.tokens, work.exact, seconds, disk, 0)


def _reference(config: RunConfig, setup: Setup, shape: Shape, work: Work) -> StageNeed:
    lengths = work.all
    pack, _ = _fullest(lengths, config.data.shard_pairs, setup.score_tokens, 1, "resources.score_tokens")
    gpus = setup.scorers * (setup.gpus_per_actor if setup.device.is_gpu else 1)
    passes = 1 if config.train.start == config.reference.model else 2  # the other of the model that is trained
    passes += config.reads_features
    seconds = passes * (START["reference"] + forward_flops(shape, lengths) / _rate(setup, min(gpus, setup.count)))
    disk = (passes * 80.0 + config.reads_features * FEATURES) * lengths.pairs
    need = _with_encoder(config, shape, lengths, scorer(shape, setup, pack))
    return StageNeed("reference", setup.scorers, need, lengths.tokens, work.exact, seconds, disk, gpus)


def _train(config: RunConfig, setup: Setup, shape: Shape, work: Work) -> StageNeed:
    lengths, batch = work.trained, config.train.batch_size
    budget, setting = setup.micro_batch_tokens, "resources.micro_batch_tokens"
    pack, batches = _fullest(lengths, batch, budget, setup.workers, setting)
    steps = math.ceil(lengths.pairs / batch) or 1
    data = min(JOURNAL, 900.0 * lengths.pairs) + 2 * LAID_OUT * lengths.tokens / steps / setup.workers  # this and next
    need = _with_encoder(config, shape, lengths, train_worker(shape, setup, pack, batches, data))
    trained = adapters(shape, setup.lora) if setup.lora else shape.parameters
    whole = setup.lora is None or setup.lora.merge
    disk = 2.0 * (setup.master + setup.moments) * trained + (4.0 * shape.parameters if whole else 4.0 * trained)
    disk += 4.0 * work.all.tokens + JOINED * work.all.pairs
    forward, looked = forward_flops(shape, lengths), forward_flops(shape, work.held_out)
    again = math.ceil(shape.layers / setup.recompute) / shape.layers if setup.recompute else 0.0
    looks = 1 + (steps // config.train.held_out_steps if config.train.held_out_steps else 0)
    ahead = config.objective.parameters.get("queue") == STEP  # gaps of a step before its losses
    flops = forward * ((2 if setup.lora else 3) + again + ahead) + looks * looked
    seconds = START["train"] + flops / _rate(setup, min(setup.workers, setup.count))
    return StageNeed("train", setup.workers, need, lengths.tokens, work.exact, seconds, disk, setup.workers)


def _with_encoder(config: RunConfig, shape: Shape, lengths: Lengths, need: Need) -> Need:
    """With what features are read by, and some of a side's positions: as they come, positive, those kept, a slope."""
    if not config.reads_features:
        return need
    settings, side = config.features, int(max(lengths.chosen_P.max(initial=0), lengths.rejected_P.max(initial=0)))
    latents = settings.latents
    if settings.source is not None:
        _, latents = size(find(given_path(settings.source, "features.source")))
    return _more(need, {"features": 4.0 * latents * (shape.width + 4 * side)})


def _more(need: Need, parts: dict[str, float]) -> Need:
    """Where its model lies."""
    return replace(need, gpu=need.gpu | parts) if need.gpu else replace(need, host=need.host | parts)


def _features(config: RunConfig, setup: Setup, shape: Shape, work: Work, reference: StageNeed) -> list[StageNeed]:
    """The training of an autoencoder: a pass over some pairs for their states, which it holds, and steps on these."""
    settings = config.features
    if not config.reads_features or settings.source is not None:
        return []
    there = work.all.scored - work.held_out.scored
    states, weights = min(settings.states, there), 2.0 * shape.width * settings.latents
    seconds = START["reference"] + forward_flops(shape, work.all) * states / max(1, there) / _rate(setup, 1)
    seconds += 6 * weights * states * settings.passes / _rate(setup, 1)
    held = 4.0 * shape.width * states
    need = _more(reference.need, {"autoencoder": 16 * weights})
    need = replace(need, host=need.host | {"states": 2 * held})  # as they are found, and joined
    found = replace(reference, stage="features", workers=1, devices=min(1, reference.devices), need=need)
    return [replace(found, tokens=states * settings.passes, exact=False, seconds=seconds, disk=held + 16 * weights)]


def _weigh(config: RunConfig, work: Work, reference: StageNeed, train: StageNeed) -> list[StageNeed]:
    """What the objective asks of tokens or of other answers: passes like the reference's, and two more trainings."""
    preset, _ = resolve(config.objective.name, config.objective.parameters)
    runs = 2 if "contrast" in preset.token_columns else 0
    passes = runs + bool(preset.token_columns) + ("mismatched" in preset.needs) / 2  # which scores one side
    if not passes:
        return []
    largest = train if runs else reference
    tokens = round(passes * (reference.tokens or 0) + runs * (train.tokens or 0))
    seconds = passes * reference.seconds + runs * train.seconds
    disk = passes * (reference.disk + 4.0 * work.all.scored) + runs * train.disk
    return [replace(largest, stage="weigh", tokens=tokens, seconds=seconds, disk=disk)]


def _engines(config: RunConfig, setup: Setup, stage: str, shape: Shape, asked: Questions) -> StageNeed:
    """Engines that answer everything twice, as base and trained model or as a judge in both orders; sample's and
    bridge's once.
    """
    other = {"judge": config.judge.local, "sample": config.sample.model, "bridge": config.bridge.local}.get(stage)
    engines = setup.judges if stage in ("judge", "bridge") else setup.engines
    dtype, times = (other or config.model).dtype, 1 if stage in ("sample", "bridge") else 2
    compute = 2 if dtype == "bfloat16" else 4
    need = engine(shape, setup, asked.room, config.resources.kv_cache_gib, compute)
    spread = setup.gpus_per_actor if setup.device.is_gpu else 1
    tokens = times * asked.answers * asked.answer_tokens
    together = 256 if setup.device.is_gpu else 64
    step = compute * shape.parameters / (setup.device.bandwidth * spread)  # all weights are read for a token of each
    step += together * 2 * (shape.active + shape.vocabulary * shape.width) / (USUAL * setup.device.flops * spread)
    seconds = times * START[stage] + tokens / (engines * together) * step
    return StageNeed(stage, engines, need, tokens, False, seconds, 8.0 * tokens, engines * spread)


def forward_flops(shape: Shape, lengths: Lengths) -> float:
    """Of the log-probs of these pairs: the layers, the head on completions, and attention to what each token sees."""
    head = shape.vocabulary * shape.width
    seen = 4 * shape.layers * shape.query * lengths.seen
    return 2.0 * shape.active * lengths.tokens + 2.0 * head * lengths.scored + seen


def _rate(setup: Setup, devices: int) -> float:
    """FLOPs a second of so many GPUs, or of all cores."""
    device = setup.device
    if not device.is_gpu:
        return USUAL * device.flops
    return USUAL * device.flops * max(1, devices) / (FLOAT32_ON_GPU if setup.compute > 2 else 1)


@lru_cache(maxsize=64)  # a search for what fits asks for the same again and again
def _fullest(lengths: Lengths, size: int, budget: int, workers: int, setting: str) -> tuple[Pack, int]:
    """The fullest micro-batch of the first steps, or parts, of `size` pairs; and the most that a worker has in one.

    Raises UserError where a pair exceeds the budget.
    """
    pairs, packed_P = len(lengths.prompt_P), lengths.packed_P
    if lengths.longest > budget:
        plan([lengths.longest], budget, setting)
    fullest, most = Pack(0, 0, 0), 1
    for start in range(0, min(pairs, size * STEPS), size):
        plans = plan(packed_P[start : start + size].tolist(), budget, setting, workers)
        most = max(most, len(plans[0]))
        for index in (index for batches in plans for index in batches if index):
            rows = start + np.array(index)
            prompt_P, rejected_P = lengths.prompt_P[rows], lengths.rejected_P[rows]
            prompts, tokens = int(prompt_P.sum()), int(packed_P[rows].sum())
            if tokens > fullest.tokens:
                masked = int((rejected_P * (prompt_P + rejected_P)).sum())
                fullest = Pack(tokens, tokens - prompts, tokens + prompts, masked)
    return fullest, most
