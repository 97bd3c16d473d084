"""What a source of pairs holds, by rows that are drawn from all of it: the beginning of a file is often of one kind."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.line.steps import Plan
from pipeline.onpolicy.selected import selected_pairs
from pipeline.preferences import verifiable
from pipeline.preferences.messages import Dropped
from pipeline.preferences.normalise import Normaliser, Preference, split_of
from pipeline.preferences.rows import Row, Rows, Unreadable
from pipeline.preferences.sources import open_source
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import EMBEDDED, SAMPLED, Data

SAMPLE = 1000  # rows of a source that are looked at, at most
LOTS = 32  # lots of rows that they are drawn from
ALIKE = 0.9  # of score margins, or difficulties, that are one number: they order nothing

Numbered = list[tuple[int, Row | Unreadable]]
Measured = tuple[int, int, int] | Dropped
Measure = Callable[[Preference], Measured]  # tokens of the prompt, the chosen and the rejected side


@dataclass(frozen=True)
class Seen:
    """The rows that were looked at: `looked` of `total`, which is a lower bound where not `counted`."""

    pairs: Sequence[Preference]
    splits: Sequence[str]  # of each pair
    looked: int
    total: int
    counted: bool
    left_out: Mapping[str, int] = field(default_factory=dict)  # rows that are no pair, by reason
    examples: Mapping[str, str] = field(default_factory=dict)  # of each reason
    shapes: Sequence[str] = ()
    unused: Sequence[str] = ()  # columns that nothing is read from

    @property
    def scale(self) -> float:
        """How many times as many pairs there are in all."""
        return self.total / self.looked

    @property
    def lost(self) -> float:
        """The share of what was read that is no pair."""
        lost = sum(self.left_out.values())
        return lost / (len(self.pairs) + lost)

    @property
    def how(self) -> str:
        return f"estimated from {self.looked:,} of {self.total:,}{'' if self.counted else ' or more'} rows"


def look_at(config: RunConfig, plan: Plan | None, seconds: float) -> Seen:
    """Read rows of a source, and say what they are. It is gone through for twice `seconds`, and drawn rows are read
    for as long as once. Raises UserError where it cannot be opened, or no pair is found.
    """
    data = config.data
    rows, expected = _opened(data, plan)
    normaliser = Normaliser(rows, data.columns, data.difficulty_column, data.pairing)
    drawn, read, ended = _drawn(rows, 2 * seconds)
    pairs: dict[str, tuple[int, Preference]] = {}  # by id: copies of a pair are one
    left_out, examples = Counter[str](), dict[str, str]()
    looked, until = 0, time.monotonic() + seconds
    for number, row in drawn:
        if pairs and time.monotonic() > until:  # a busy machine looks at one pair at least
            break
        looked += 1
        for each in normaliser.read(row):
            if isinstance(each, Dropped):
                left_out[each.reason] += 1
                examples.setdefault(each.reason, f"row {number}: {each.detail}")
            else:
                pairs.setdefault(each.pair_id, (number, each))
    if not pairs:
        problem = f"data.source={data.source}: no pair is found in {looked} rows: {dict(left_out)}"
        told = "; ".join(f"{reason}: {why}" for reason, why in examples.items())
        raise UserError(problem, f"mend the data, such as {told}")
    found = [pair for _, pair in sorted(pairs.values(), key=lambda one: one[0])]
    if not ended and expected is None:
        expected = rows_of(Path(data.source))
    return Seen(
        found,
        [split_of(pair, data.dev_fraction) for pair in found],
        looked,
        read if ended else max(expected or 0, read),
        ended or expected is not None,
        left_out,
        examples,
        sorted(normaliser.notes.shapes),
        normaliser.unused,
    )


def measured(seen: Seen, measure: Measure, source: str) -> tuple[Seen, list[tuple[int, int, int]]]:
    """The pairs that have a length, and their lengths. Raises UserError where none has."""
    left_out, examples = Counter(seen.left_out), dict(seen.examples)
    kept: list[tuple[Preference, str, tuple[int, int, int]]] = []
    for pair, split in zip(seen.pairs, seen.splits, strict=True):
        if isinstance(found := measure(pair), Dropped):
            left_out[found.reason] += 1
            examples.setdefault(found.reason, f"a pair: {found.detail}")
        else:
            kept.append((pair, split, found))
    if not kept:
        told = "; ".join(f"{reason} in {each}" for reason, each in examples.items())
        problem = f"data.source={source}: this model can use none of {len(seen.pairs)} pairs: {dict(left_out)}"
        remedy = "take another model, set model.template_arguments or model.chat_template, or mend the data, such as"
        raise UserError(problem, f"{remedy} {told}")
    pairs, splits, lengths = zip(*kept, strict=True)
    return replace(seen, pairs=pairs, splits=splits, left_out=left_out, examples=examples), list(lengths)


def order(pairs: Sequence[Preference]) -> tuple[str | None, str]:
    """What pairs can be ordered by, if anything, and why."""
    found = margins(pairs)
    difficulties = [pair.difficulty for pair in pairs if pair.difficulty is not None]
    why = "they carry no scores"
    if not pairs:
        return None, "there is none to look at yet"
    if 0 < len(found) < len(pairs):
        why = f"{len(pairs) - len(found):,} of {len(pairs):,} carry no scores"
    elif found and 2 * sum(margin < 0 for margin in found) > len(found):
        why = "most scores say the opposite of the labels"
    elif found and (alike := Counter(found).most_common(1)[0][1]) > ALIKE * len(found):
        why = f"{alike:,} of {len(found):,} score margins are alike"
    elif found:
        return "scores", "pairs carry scores"
    if len(difficulties) == len(pairs) and Counter(difficulties).most_common(1)[0][1] <= ALIKE * len(pairs):
        return "difficulty", "pairs carry a difficulty"
    return None, why


def margins(pairs: Sequence[Preference]) -> list[float]:
    """By how much the chosen side's score is larger, of the pairs that carry scores."""
    return [
        pair.chosen_score - pair.rejected_score
        for pair in pairs
        if pair.chosen_score is not None and pair.rejected_score is not None
    ]


def _opened(data: Data, plan: Plan | None) -> tuple[Rows, int | None]:
    """The rows, and how many there are where that is a setting."""
    if data.source == EMBEDDED:
        return _embedded(data), data.pairs + data.dev_pairs
    if data.source == SAMPLED:
        joined = [step.address.find() for step in plan.steps["prepare"].inputs.values()] if plan else []
        return selected_pairs([each.path for each in joined if each]).rows, None
    opened = open_source(
        data.source, split=data.split, subset=data.subset, revision=data.revision, columns=data.columns.values()
    )
    return opened.rows, None


def _drawn(rows: Rows, seconds: float) -> tuple[Numbered, int, bool]:
    """Rows drawn from those that are read in so many seconds, in no order; how many those are, and if that is all.

    Of lots, which are cheap to get, LOTS are drawn while they pass by (reservoir sampling), and parsed: the same ones
    whenever the source is read as far.
    """
    draw, kept, read, until = random.Random(0), list[Numbered](), 0, time.monotonic() + seconds
    ended = True
    for number, lot in enumerate(rows.held()):
        read += len(lot.numbers)
        if number < LOTS:
            kept.append(list(lot))
        elif (place := draw.randrange(number + 1)) < LOTS:
            kept[place] = list(lot)
        if time.monotonic() > until:
            ended = False
            break
    every = [row for lot in kept for row in lot]
    return draw.sample(every, min(SAMPLE, len(every))), read, ended


def _embedded(data: Data) -> Rows:
    parts = (("dev", data.dev_pairs), ("train", data.pairs))
    return Rows.of(
        lambda: enumerate(itertools.chain(*(verifiable.pairs(*part, data.seed, data.thoughts) for part in parts)))
    )


def rows_of(path: Path) -> int | None:
    """Rows of a file of Parquet or JSON Lines, or of a folder of such, without reading them; None of anything else."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in files if file.is_file()]
    if not files or any(file.suffix not in (".parquet", ".jsonl", ".ndjson") for file in files):
        return None
    try:
        return sum(pq.read_metadata(file).num_rows if file.suffix == ".parquet" else _lines(file) for file in files)
    except (OSError, pa.ArrowInvalid):
        return None


def _lines(file: Path) -> int:
    with open(file, "rb", buffering=0) as content:
        return sum(block.count(b"\n") for block in iter(lambda: content.read(1 << 22), b""))
