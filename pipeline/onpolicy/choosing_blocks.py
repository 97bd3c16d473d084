"""Candidates and their scores, however many and in any order, as a table of pairs.

They go through files on disk, each of a range of prompts, so that no more than one such file is in memory. Nothing is
joined by position: an answer finds its scores by its id, a pair its prompt.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.onpolicy.choosing import Paired, choose, confidence
from pipeline.onpolicy.choosing_rules import Answer
from pipeline.results import tables
from pipeline.settings.onpolicy import Pair, Rate

TOGETHER, BYTES = 1 << 15, 1 << 27  # candidates that are looked at at a time, about; and what they may take
FILES = 256  # at most
PAIRS, NONE = "part-00000.parquet", "unpaired.parquet"

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
_IDS = ["prompt_id", "candidate_id", "answered_by", "sample", "tokens", "finish_reason", "parent", "prefix_tokens"]
_TEXTS = ["prompt", "response", "response_ids", "source", "split"]


@dataclass
class Counts:
    """What became of all prompts. `paired` and the `reasons` of the others add up to `prompts`."""

    prompts: int = 0
    candidates: int = 0
    different: int = 0  # of each prompt's candidates, added up
    cut: int = 0
    unrated: int = 0  # by at least one rater
    paired: int = 0
    pairs: int = 0
    beyond_cap: int = 0  # pairs that the rule makes, and pair.per_prompt does not allow
    reasons: Counter[str] = field(default_factory=Counter)
    bins: Counter[str] = field(default_factory=Counter)


def pair_all(
    candidates: Sequence[Path], scores: Sequence[Sequence[Path]], rate: Rate, pair: Pair, folder: Path
) -> Counts:
    """Write PAIRS (tables.SELECTED) and NONE (tables.UNPAIRED) into `folder`, both in the order of prompt ids.

    `candidates` are parts of tables.CANDIDATES, `scores` those of tables.SCORES of each rater.
    """
    counts, between = Counts(), folder / "between"
    between.mkdir(parents=True, exist_ok=True)
    without: list[Path] = []

    def groups() -> Iterator[pa.Table]:
        for number, (answers, rated) in enumerate(_by_prompt(candidates, scores, between)):
            chosen, reasons = _chosen(answers, rated, rate, pair, counts)
            without.append(between / f"unpaired-{number:03d}.parquet")
            tables.write(reasons, tables.UNPAIRED, without[-1])
            yield _selected(answers, chosen, pair)

    tables.write_tables(groups(), tables.SELECTED, folder / PAIRS)
    tables.gather(without, tables.UNPAIRED, folder / NONE)
    for file in between.iterdir():
        file.unlink()
    between.rmdir()
    return counts


Rated = Sequence[dict[str, float | None]]  # by rater, the score of a candidate's id


def _by_prompt(
    candidates: Sequence[Path], scores: Sequence[Sequence[Path]], between: Path
) -> Iterator[tuple[pa.Table, Rated]]:
    """Candidates of some prompts, all of each, in the order of ids; and their scores."""
    columns = [*_IDS, *_TEXTS]
    count = _files(candidates, columns)
    of_answers = _scattered(candidates, columns, count, between, "answers")
    of_scores = [
        _scattered(parts, ["prompt_id", "candidate_id", "score"], count, between, f"scores-{rater}")
        for rater, parts in enumerate(scores)
    ]
    order = [(name, "ascending") for name in ("prompt_id", "candidate_id", "answered_by", "sample")]
    for number in range(count):
        answers = _taken(of_answers[number]).sort_by(order)
        rated = [_taken(files[number]).to_pydict() for files in of_scores]
        yield answers, [dict(zip(each["candidate_id"], each["score"], strict=True)) for each in rated]


def _files(parts: Sequence[Path], columns: Sequence[str]) -> int:
    """How many ranges of prompts the candidates are cut into."""
    rows = size = 0
    for path in parts:
        known = pq.read_metadata(path)
        rows += known.num_rows
        for group, column in itertools.product(range(known.num_row_groups), range(known.num_columns)):
            there = known.row_group(group).column(column)
            size += there.total_uncompressed_size if there.path_in_schema.split(".")[0] in columns else 0
    return min(FILES, 1 + max(rows // TOGETHER, size // BYTES))


def _scattered(parts: Sequence[Path], columns: list[str], count: int, between: Path, name: str) -> list[Path]:
    """The rows of all parts in `count` files, by the first digits of their prompt's id."""
    paths = [between / f"{name}-{number:03d}.arrow" for number in range(count)]
    with contextlib.ExitStack() as opened:
        writers: dict[int, Any] = {}
        for path in parts:
            for batch in pq.ParquetFile(path).iter_batches(columns=columns, use_threads=False):
                prompts = batch.column("prompt_id").dictionary_encode()
                of_prompt = [int(each[:8], 16) * count >> 32 for each in prompts.dictionary.to_pylist()]
                goes_to = np.array(of_prompt, np.int64)[prompts.indices.to_numpy()]
                table = pa.Table.from_batches([batch]).select(columns).take(np.argsort(goes_to, kind="stable"))
                numbers, starts, rows = np.unique(np.sort(goes_to), return_index=True, return_counts=True)
                for number, start, many in zip(numbers.tolist(), starts.tolist(), rows.tolist(), strict=True):
                    if number not in writers:
                        file = pa.ipc.new_file(str(paths[number]), table.schema, options=_LZ4)
                        writers[number] = opened.enter_context(file)
                    writers[number].write_table(table.slice(start, many))
        for number in set(range(count)) - writers.keys():
            schema = pa.schema([_field(name) for name in columns])
            opened.enter_context(pa.ipc.new_file(str(paths[number]), schema, options=_LZ4))
    return paths


def _field(name: str) -> pa.Field:
    return (tables.CANDIDATES if name in tables.CANDIDATES.names else tables.SCORES).field(name)


def _taken(path: Path) -> pa.Table:
    """The content of a file, which goes."""
    with pa.OSFile(str(path)) as content:
        table = pa.ipc.open_file(content).read_all()
    path.unlink()
    return table


@dataclass
class Places:
    """Pairs of some prompts, and the rows of the two answers among their candidates."""

    pairs: list[Paired] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)


def _chosen(
    answers: pa.Table, rated: Rated, rate: Rate, pair: Pair, counts: Counts
) -> tuple[Places, list[dict[str, str]]]:
    """The pairs of some prompts, and a row of tables.UNPAIRED for each without one."""
    places, without = Places(), list[dict[str, str]]()
    columns = answers.select(_IDS).to_pydict()
    rows = zip(itertools.count(), *(columns[name] for name in _IDS), strict=False)
    for prompt_id, each in itertools.groupby(rows, key=lambda row: row[1]):
        found, at = list[Answer](), dict[str, int]()
        for row, _, candidate, who, _, tokens, finish, parent, prefix in each:
            scores = tuple(of_rater.get(candidate) for of_rater in rated)
            family = None if parent is None else f"{parent} {prefix}"  # an answer may be cut at several places
            found.append(Answer(candidate, scores, tokens, finish == "length", who, family))
            at[candidate] = row
        outcome = choose(prompt_id, found, rate, pair)
        cut, unrated = sum(one.cut for one in found), sum(None in one.scores for one in found)
        counts.prompts += 1
        counts.candidates += len(found)
        counts.different += len(at)
        counts.cut += cut
        counts.unrated += unrated
        counts.beyond_cap += outcome.beyond_cap
        counts.pairs += len(outcome.pairs)
        counts.bins.update(one.bin for one in outcome.pairs if one.bin)
        if outcome.reason is None:
            counts.paired += 1
        else:
            counts.reasons[outcome.reason] += 1
            detail = f"{len(found)} answers, {len(at)} different; {cut} cut, {unrated} unrated"
            without.append({"prompt_id": prompt_id, "reason": outcome.reason, "detail": detail})
        for one in outcome.pairs:
            places.pairs.append(one)
            places.chosen.append(at[one.choice.chosen.candidate_id])
            places.rejected.append(at[one.choice.rejected.candidate_id])
    return places, without


def _selected(answers: pa.Table, found: Places, settings: Pair) -> pa.Table:
    """Rows of tables.SELECTED."""
    chosen, rejected = (answers.take(pa.array(rows, pa.int64())) for rows in (found.chosen, found.rejected))
    choices = [each.choice for each in found.pairs]
    margins = [each.margin for each in choices]
    columns = {
        "prompt_id": chosen["prompt_id"],
        "chosen_id": chosen["candidate_id"],
        "rejected_id": rejected["candidate_id"],
        "prompt": chosen["prompt"],
        "chosen": chosen["response"],
        "rejected": rejected["response"],
        "chosen_score": [each.chosen.score for each in choices],
        "rejected_score": [each.rejected.score for each in choices],
        "margin": margins,
        "label_confidence": [confidence(margin, settings.confidence_temperature) for margin in margins],
        "rule": [settings.rule] * len(choices),
        "bin": [each.bin for each in found.pairs],
        "chosen_tokens": chosen["tokens"],
        "rejected_tokens": rejected["tokens"],
        "shared_prefix_tokens": list(map(_shared, _lists(chosen), _lists(rejected))),
        "source": chosen["source"],
        "split": chosen["split"],
    }
    kinds = ((field.type, columns[field.name]) for field in tables.SELECTED)
    arrays = [pa.array(each, kind) if isinstance(each, list) else each for kind, each in kinds]
    return pa.Table.from_arrays(arrays, schema=tables.SELECTED)


def _lists(answers: pa.Table) -> Iterator[npt.NDArray[np.int32]]:
    """The token ids of each answer."""
    found = answers["response_ids"].combine_chunks()
    values, ends = found.values.to_numpy(), found.offsets.to_numpy()
    return (values[start:end] for start, end in itertools.pairwise(ends))


def _shared(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> int:
    """How many ids two lists begin with alike."""
    size = min(len(one), len(other))
    differ = one[:size] != other[:size]
    return int(differ.argmax()) if differ.any() else size
