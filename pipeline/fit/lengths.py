"""Tokens of the pairs: exact once prepare has run, estimated from rows of the source before.

Shapes: [P] pairs; three lengths each: prompt, chosen, rejected.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.fit.source import SAMPLE, Measure, Measured, Seen, look_at, measured, rows_of
from pipeline.line.steps import Plan
from pipeline.onpolicy.prompts import read_prompts
from pipeline.preferences.messages import Message
from pipeline.preferences.normalise import Preference
from pipeline.preferences.texts import texts_of
from pipeline.results import tables
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import EMBEDDED, SAMPLED
from pipeline.settings.streams import in_proportion
from pipeline.statistics import share_of
from pipeline.training.schedule import make_schedule

Counts = npt.NDArray[np.int64]

SCHEDULED = 1_000_000  # pairs up to which a schedule that is not there yet is worked out here
TURN_TOKENS = 12  # that a chat template writes around a message, more or less
BYTES_A_TOKEN = 4.0  # of text, where there is no tokenizer to try


@dataclass(frozen=True, eq=False)  # one is as good as its identity, by which what is found of it is remembered
class Lengths:
    """Pairs that a stage computes, in its order. Where `scale` is not 1 they stand for so many times as many."""

    prompt_P: Counts
    chosen_P: Counts
    rejected_P: Counts
    scale: float = 1.0

    @property
    def pairs(self) -> int:
        return round(self.scale * len(self.prompt_P))

    @property
    def packed_P(self) -> Counts:
        return self.prompt_P + self.chosen_P + self.rejected_P

    @property
    def tokens(self) -> int:
        """Packed ones, of all pairs."""
        return round(self.scale * int(self.packed_P.sum()))

    @property
    def scored(self) -> int:
        """Those of completions, which the output head runs on."""
        return round(self.scale * int(self.chosen_P.sum() + self.rejected_P.sum()))

    @property
    def seen(self) -> int:
        """Positions that tokens attend to, their own included."""
        sides = sum(side * self.prompt_P + _causal(side) for side in (self.chosen_P, self.rejected_P))
        return round(self.scale * int((_causal(self.prompt_P) + sides).sum()))

    @property
    def longest(self) -> int:
        return int(self.packed_P.max(initial=0))

    def take(self, rows: Any) -> "Lengths":
        return replace(
            self, **{f"{name}_P": getattr(self, f"{name}_P")[rows] for name in ("prompt", "chosen", "rejected")}
        )

    def without_rejected(self, rows: Counts) -> "Lengths":
        """The same where some pairs are routed to SFT and have a chosen side only."""
        rejected_P = self.rejected_P.copy()
        rejected_P[rows] = 0
        return replace(self, rejected_P=rejected_P)


def _causal(length: Counts) -> Counts:
    return length * (length + 1) // 2


@dataclass(frozen=True)
class Work:
    """What is computed: pairs that are scored, pairs as they are trained, held-out ones."""

    all: Lengths
    trained: Lengths
    held_out: Lengths
    exact: bool
    how: str  # the numbers were found
    seen: Seen | None = None  # rows that stand for them, of the first source, where it is not prepared yet
    dropped: Mapping[str, int] = field(default_factory=dict)  # of these, what is no pair or too long, by reason

    @property
    def lost(self) -> float:
        """The share of what was read that is dropped."""
        dropped = sum(self.dropped.values())
        return dropped / (len(self.all.prompt_P) + dropped) if dropped else 0.0


def work_of(
    config: RunConfig, plan: Plan | None, tokenizer: Path | None, seconds: float, measure: Measure | None = None
) -> Work:
    """The work of a configuration. `plan`, where there is one, finds what is made; `tokenizer` is a tokenizer.json.

    Where prepare has not run, rows are looked at for so many seconds, and counted for twice as many more; `measure`
    says of a pair how long it is, in place of an estimate.
    """
    prepared = plan.steps["prepare"].address.find() if plan else None
    if plan is None or prepared is None or not prepared.is_here():
        selected = plan.steps["pair"].address.find() if plan and plan.front else None
        if config.data.source == SAMPLED and (selected is None or not selected.is_here()):
            return _to_be_sampled(config, tokenizer)
        return _estimated(config, plan, measure or estimate(tokenizer), seconds)
    columns = ["pair_id", "split", "chosen_score", "rejected_score", "difficulty"]
    ids = ["prompt_ids", "chosen_ids", "rejected_ids"]
    parts = []
    for part in sorted(prepared.path.glob("part-*.parquet")):  # one at a time: ids are large, lengths are not
        table = tables.read(part.parent, tables.PAIRS, [*columns, *ids], part.name)
        lengths = [pc.list_value_length(table[name]).cast(pa.int64()) for name in ids]
        parts.append(pa.table([*(table[name] for name in columns), *lengths], names=[*columns, *ids]))
    table = pa.concat_tables(parts)
    every = Lengths(*(table[name].to_numpy() for name in ids))
    splits = table["split"].to_numpy(zero_copy_only=False)
    trained, exact, how = _trained(config, plan, table, every, np.flatnonzero(splits == "train"))
    return Work(every, trained, every.take(np.flatnonzero(splits == "dev")), exact, how)


def together(works: Sequence[Work]) -> Work:
    """The work of several streams as one: each stretch of what is trained holds every one of them in proportion."""
    if len(works) == 1:
        return works[0]
    every, trained, held_out = (
        _mixed([getattr(each, name) for each in works]) for name in ("all", "trained", "held_out")
    )
    exact = all(each.exact for each in works) and every.scale == trained.scale == 1
    how, first = "; ".join(dict.fromkeys(each.how for each in works)), works[0]
    return Work(every, trained, held_out, exact, how, first.seen, first.dropped)


def _mixed(parts: Sequence[Lengths]) -> Lengths:
    """Of more than SCHEDULED pairs so many stand for all."""
    scale = max(1.0, sum(each.pairs for each in parts) / SCHEDULED)
    own = [each.take(np.arange(round(each.pairs / scale)) % max(1, len(each.prompt_P))) for each in parts]
    columns = (
        np.concatenate([getattr(each, f"{name}_P") for each in own]) for name in ("prompt", "chosen", "rejected")
    )
    of = in_proportion([len(each.prompt_P) for each in own])
    return replace(Lengths(*columns), scale=scale).take(np.argsort(np.argsort(of, kind="stable")))


def _trained(
    config: RunConfig, plan: Plan, table: pa.Table, every: Lengths, train: Counts
) -> tuple[Lengths, bool, str]:
    """The trained pairs in the schedule's order: of the one that is made, or of one that is worked out here."""
    schedule = config.schedule
    if made := plan.steps["schedule"].address.find():
        scheduled = tables.read(made.path, tables.SCHEDULE, ["pair_id", "route", "flipped"])
    elif (schedule.difficulty in ("score-margin", "column") and len(train) <= SCHEDULED) or not schedule.ranks:
        known = ["pair_id", "chosen_score", "rejected_score", "difficulty"]
        scheduled = pa.concat_tables(make_schedule(table.take(train).select(known), schedule).tables())
    else:
        return _routed(config, every.take(train)), False, "pairs as prepared; which of them go to SFT is not known yet"
    kept = scheduled.filter(pc.not_equal(scheduled["route"], "drop"))
    lengths = every.take(pc.index_in(kept["pair_id"], value_set=table["pair_id"]).to_numpy())
    chosen_P = np.where(kept["flipped"].to_numpy(), lengths.rejected_P, lengths.chosen_P)
    lengths = Lengths(lengths.prompt_P, chosen_P, lengths.chosen_P + lengths.rejected_P - chosen_P)
    return lengths.without_rejected(np.flatnonzero(pc.equal(kept["route"], "sft").to_numpy())), True, "as prepared"


def _routed(config: RunConfig, train: Lengths) -> Lengths:
    """Train pairs of which some, nobody knows which, are dropped or go to SFT; once an epoch."""
    schedule, pairs = config.schedule, len(train.prompt_P)
    kept = np.arange(pairs - int(share_of(pairs, schedule.drop_percentile or 0) / 100))
    sft = min(len(kept), int(share_of(pairs, schedule.sft_percentile or 0) / 100))
    spread = np.flatnonzero(kept * sft % max(1, len(kept)) < sft)  # evenly
    return replace(train.take(kept).without_rejected(spread), scale=train.scale * schedule.epochs)


def _estimated(config: RunConfig, plan: Plan | None, measure: Measure, seconds: float) -> Work:
    """By pairs drawn from the source, as far as it is read in a few seconds."""
    seen, lengths = measured(look_at(config, plan, seconds), measure, config.data.source)
    lengths_P3 = np.array(lengths, dtype=np.int64).reshape(-1, 3)
    splits = np.array(seen.splits)
    short = lengths_P3 <= np.array([config.data.max_prompt_tokens, *2 * [config.data.max_completion_tokens]])
    fit = short.all(axis=1)
    if not fit.any():
        problem = f"data.source={config.data.source}: none of {len(seen.pairs)} pairs looked at is short enough"
        raise UserError(problem, "raise data.max_prompt_tokens and data.max_completion_tokens")
    prompt_P, chosen_P, rejected_P = lengths_P3[fit].T.copy()
    every = Lengths(prompt_P, chosen_P, rejected_P, seen.scale)
    train, dev = (every.take(np.flatnonzero(splits[fit] == split)) for split in ("train", "dev"))
    if config.data.source == EMBEDDED:
        train, dev = (each if len(each.prompt_P) else every for each in (train, dev))  # where few rows were looked at
        train = replace(train, scale=config.data.pairs / len(train.prompt_P))
        dev = replace(dev, scale=config.data.dev_pairs / len(dev.prompt_P))
    if config.data.limit and train.pairs > config.data.limit:
        share = config.data.limit / train.pairs
        every, train, dev = (replace(each, scale=each.scale * share) for each in (every, train, dev))
    long = int((~fit).sum())
    dropped = {**seen.left_out, **({"too-long": long} if long else {})}
    return Work(every, _routed(config, train), dev, False, seen.how, seen, dropped)


@dataclass(frozen=True)
class PromptLengths:
    """Prompts that are to be answered: tokens of the first [P], and how many there are in all, about."""

    tokens_P: Counts
    total: int


def prompts_of(config: RunConfig, tokenizer: Path | None) -> PromptLengths:
    """By the first rows of sample.prompts. Raises UserError where they hold none."""
    given, count = config.sample.prompts, _counter(tokenizer)
    asked = read_prompts(given, SAMPLE)
    found = [count(_said(each.messages)) + TURN_TOKENS * (len(each.messages) + 1) for each in asked.prompts.values()]
    limit = config.sample.max_prompt_tokens or config.data.max_prompt_tokens
    tokens_P = np.array([tokens for tokens in found if tokens <= limit], dtype=np.int64)
    if not len(tokens_P):
        problem = f"sample.prompts.source={given.source}: none of its first {len(found)} prompts is short enough"
        raise UserError(problem, "raise sample.max_prompt_tokens")
    rows = given.limit if given.source == EMBEDDED else rows_of(Path(given.source))
    total = round(max(rows or 0, asked.rows) * len(tokens_P) / asked.rows)
    return PromptLengths(tokens_P, min(total, given.limit or total))


def _to_be_sampled(config: RunConfig, tokenizer: Path | None) -> Work:
    """At most, of pairs that are not made yet: as many as pair allows, of answers as long as they may be."""
    prompts, data = prompts_of(config, tokenizer), config.data
    answer_P = np.full_like(prompts.tokens_P, min(config.sample.max_new_tokens, data.max_completion_tokens))
    pairs = prompts.total * config.pair.per_prompt
    every = Lengths(prompts.tokens_P, answer_P, answer_P, pairs / len(answer_P))
    dev = replace(every, scale=every.scale * data.dev_fraction)
    train = replace(every, scale=every.scale - dev.scale)
    if data.limit and train.pairs > data.limit:
        share = data.limit / train.pairs
        every, train, dev = (replace(each, scale=each.scale * share) for each in (every, train, dev))
    how = f"at most: pairs of {prompts.total:,} prompts, answers of up to {answer_P[0]:,} tokens"
    return Work(every, _routed(config, train), dev, False, how)


def estimate(tokenizer: Path | None) -> Measure:
    """Lengths by a tokenizer.json, or by bytes, and by what a template writes around a message, more or less."""
    count = _counter(tokenizer)

    def measure(pair: Preference) -> Measured:
        tools = "".join(json.dumps(each) for each in pair.tools)
        prompt = count(_said(pair.prompt) + tools) + TURN_TOKENS * (len(pair.prompt) + 1)
        chosen, rejected = (count(_said([side])) + 1 for side in (pair.chosen, pair.rejected))  # with the end's token
        return prompt, chosen, rejected

    return measure


def _counter(tokenizer: Path | None) -> Callable[[str], int]:
    """Counts the tokens of a text: by the model's own tokenizer.json where it opens, or by its bytes."""
    if tokenizer is not None and tokenizer.is_file():
        from tokenizers import Tokenizer

        try:
            own = Tokenizer.from_file(str(tokenizer))
            return lambda text: len(own.encode(text, add_special_tokens=False).ids)
        except Exception:  # it raises nothing narrower: prepare will say what is wrong with the file
            pass
    return lambda text: round(len(text.encode(errors="replace")) / BYTES_A_TOKEN)


def _said(messages: Iterable[Message]) -> str:
    return "\n".join(text for message in messages for _, text in texts_of(message))
