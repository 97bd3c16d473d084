"""Candidates, their scores and the pairs made of them in the figures of a page, and what speaks against them.

Everything is counted in columns: a million answers are some seconds. What is drawn of single pairs is bounded.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.onpolicy.choosing import OWN
from pipeline.statistics import bin_width, binned

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

OF_CANDIDATES = ("prompt_id", "candidate_id", "answered_by", "tokens", "finish_reason", "logp", "parent")
OF_PAIRS = ("chosen_id", "rejected_id", "margin", "chosen_tokens", "rejected_tokens", "shared_prefix_tokens")
MOST_POINTS = 5000  # pairs that are drawn one by one
_TOGETHER = 1 << 20  # pairs of answers that two raters are compared on at a time

# From where on a page warns.
CUT, UNPAIRED, LONGER, ROUNDED = 0.2, 0.3, 0.65, 0.1  # shares; the third of pairs, the fourth of one rater's
FEW = 50  # different scores


@dataclass(frozen=True)
class Group:
    """Some of the answers, in means; None where none of them has such a number."""

    answers: int
    tokens: float | None
    logp: float | None  # of an answer, under the model that sampled it: a sum in nats
    logp_a_token: float | None
    scores: Mapping[str, float | None]  # by rater


@dataclass(frozen=True)
class Rewards:
    """One rater's scores. Bin b, of `width`, begins at b * width."""

    scored: int  # different answers
    distinct: int  # different scores
    width: float
    counts: Mapping[str, Mapping[int, int]]  # of all answers, and of the pairs' two sides, by the names of GROUPS
    best_of: Sequence[float]  # mean over prompts of the best score among k answers, from k = 1
    prompts: int  # of `best_of`: those whose own answers are all there and scored
    rounded: float | None  # share of pairs whose scores bfloat16 cannot tell apart; None of a rater in other numbers


@dataclass(frozen=True)
class Lengths:
    """The pairs by how many tokens longer the chosen answer is."""

    longer: float  # share of pairs whose chosen answer is the longer one; equal lengths count half
    correlation: float | None  # with the margin
    points: Sequence[tuple[int, float]]  # tokens longer and margin, of at most MOST_POINTS pairs that have one


@dataclass(frozen=True)
class Described:
    """What became of all answers to all prompts."""

    prompts: int
    answers: int
    distinct: int  # of each prompt's answers, added up
    cut: int
    sampled: int  # of the answers; the others are the data's own
    branches: int
    pairs: int
    paired: int  # prompts
    unpaired: Mapping[str, int]  # the other prompts by reason
    beyond_cap: int  # pairs that pair.per_prompt does not allow
    groups: Mapping[str, Group]  # by the names of GROUPS, those that hold any
    rewards: Mapping[str, Rewards]  # by rater, those that scored any
    agreement: Sequence[tuple[str, str, float | None]]  # two raters and their tau-b within prompts
    lengths: Lengths | None  # None without a pair
    prefix_width: float
    prefixes: Mapping[int, int]  # pairs by tokens that both answers begin with, in bins

    @property
    def without_pair(self) -> int:
        return sum(self.unpaired.values())


GROUPS = ("all", "chosen", "rejected", "cut")


def describe(
    candidates: pa.Table,
    scores: Mapping[str, pa.Table],
    selected: pa.Table,
    ledger: Mapping[str, Any],
    coarse: Collection[str] = (),
) -> Described:
    """Of columns OF_CANDIDATES, of candidate_id and score by rater, of OF_PAIRS, and of the ledger of stage pair.

    `coarse` are raters that compute in bfloat16. Raises KeyError for a pair of answers that are not among `candidates`.
    """
    ids = candidates["candidate_id"]
    places = {"all": np.arange(len(ids)), **{side: _places(selected[f"{side}_id"], ids) for side in GROUPS[1:3]}}
    places["cut"] = np.flatnonzero(pc.equal(candidates["finish_reason"], "length"))
    rated = {rater: _scores(table, ids) for rater, table in scores.items()}
    groups = {name: _group(candidates, rated, rows) for name, rows in places.items() if len(rows)}
    sampled = np.asarray(pc.not_equal(candidates["finish_reason"], "data"))
    own = sampled & np.asarray(pc.equal(candidates["answered_by"], OWN)) & np.asarray(pc.is_null(candidates["parent"]))
    prompts = _codes(candidates["prompt_id"])
    once = _first(_codes(ids))
    shared = _numbers(selected["shared_prefix_tokens"])
    width = max(1.0, bin_width(0.0, float(shared.max(initial=0))))
    return Described(
        prompts=ledger["prompts"],
        answers=len(ids),
        distinct=len(once),
        cut=len(places["cut"]),
        sampled=int(sampled.sum()),
        branches=len(ids) - candidates["parent"].null_count,
        pairs=selected.num_rows,
        paired=ledger["paired"],
        unpaired=ledger["unpaired"],
        beyond_cap=ledger["beyond_cap"],
        groups=groups,
        rewards={
            rater: _rewards(values, places, once, _families(prompts[own], values[own]), rater in coarse)
            for rater, values in rated.items()
            if np.isfinite(values).any()
        },
        agreement=[
            (one, other, _tau(_families(prompts[once], rated[one][once], rated[other][once])))
            for one, other in itertools.combinations(rated, 2)
        ],
        lengths=_lengths(selected) if selected.num_rows else None,
        prefix_width=width,
        prefixes=binned(shared, width),
    )


def warnings(found: Described) -> list[str]:
    """What a reader of the figures must know, a sentence each."""
    told = []
    if found.cut > CUT * found.sampled:
        told.append(f"{found.cut:,} of {found.sampled:,} sampled answers were cut at sample.max_new_tokens.")
    if (none := found.without_pair) > UNPAIRED * found.prompts:
        most = max(found.unpaired, key=lambda reason: found.unpaired[reason])
        told.append(f"{none:,} of {found.prompts:,} prompts have no pair, most of them as {most}.")
    if found.lengths and found.lengths.longer > LONGER:
        told.append(
            f"In {found.lengths.longer:.0%} of the pairs the longer answer is the chosen one: length may be the reward."
        )
    for rater, one in found.rewards.items():
        if one.distinct < FEW and 2 * one.distinct < one.scored:
            told.append(
                f"{one.scored:,} scores by {rater} have {one.distinct} different values: many answers are equal."
            )
        if one.rounded is not None and one.rounded > ROUNDED:
            told.append(f"Of {one.rounded:.0%} of the pairs bfloat16 cannot tell apart the two scores by {rater}.")
    return told


def _places(wanted: pa.ChunkedArray, ids: pa.ChunkedArray) -> Places:
    found = pc.index_in(wanted, value_set=ids)
    if found.null_count:
        raise KeyError(wanted.filter(pc.is_null(found))[0].as_py())
    return np.asarray(found, np.int64)


def _scores(table: pa.Table, ids: pa.ChunkedArray) -> Floats:
    """A rater's scores in the order of `ids`; NaN where it gave none."""
    return _numbers(table["score"].take(pc.index_in(ids, value_set=table["candidate_id"])))


def _numbers(column: pa.ChunkedArray) -> Floats:
    """NaN for null."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), math.nan), np.float64)


def _codes(column: pa.ChunkedArray) -> Places:
    """A number for each different value."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices, np.int64)


def _first(codes: Places) -> Places:
    """Where each different value stands first, in order."""
    return np.sort(np.unique(codes, return_index=True)[1])


def _mean(values: Floats) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


def _group(candidates: pa.Table, rated: Mapping[str, Floats], rows: Places) -> Group:
    some = candidates.select(["tokens", "logp"]).take(rows)
    tokens, logps = _numbers(some["tokens"]), _numbers(some["logp"])
    there = np.isfinite(logps)
    a_token = float(logps[there].sum() / tokens[there].sum()) if there.any() else None
    scores = {rater: _mean(values[rows]) for rater, values in rated.items()}
    return Group(len(rows), _mean(tokens), _mean(logps), a_token, scores)


def _rewards(
    values: Floats, places: Mapping[str, Places], once: Places, families: Iterator[Sequence[Floats]], coarse: bool
) -> Rewards:
    finite = values[np.isfinite(values)]
    width = bin_width(float(finite.min()), float(finite.max()))
    sides = {name: values[rows] for name, rows in places.items() if name != "cut"}
    different = values[once][np.isfinite(values[once])]
    best, prompts = _best_of(families)
    return Rewards(
        scored=len(different),
        distinct=len(np.unique(different)),
        width=width,
        counts={name: binned(side[np.isfinite(side)], width) for name, side in sides.items()},
        best_of=best,
        prompts=prompts,
        rounded=_rounded(sides["chosen"], sides["rejected"]) if coarse else None,
    )


def _families(prompts: Places, *columns: Floats) -> Iterator[Sequence[Floats]]:
    """The columns by prompt, [prompts, answers] each, for every number of answers that a prompt has; the most first."""
    order = np.argsort(prompts, kind="stable")
    _, starts, counts = np.unique(prompts[order], return_index=True, return_counts=True)
    for many in np.unique(counts)[::-1]:
        rows = order[starts[counts == many][:, None] + np.arange(many)]
        yield [column[rows] for column in columns]


def _best_of(families: Iterator[Sequence[Floats]]) -> tuple[list[float], int]:
    """Expected best of k answers that are drawn without putting back, of the prompts with the most answers.

    The answer that i others are worse than is the best of a draw of k with a probability of C(i, k-1) / C(n, k).
    """
    (scores_PN,) = next(families, [np.empty((0, 0))])
    scores_PN = np.sort(scores_PN[np.isfinite(scores_PN).all(axis=1)], axis=1)
    prompts, n = scores_PN.shape
    if not prompts:
        return [], 0
    chance_KN = np.array([[math.comb(i, k - 1) / math.comb(n, k) for i in range(n)] for k in range(1, n + 1)])
    return (chance_KN @ scores_PN.mean(axis=0)).tolist(), prompts


def _tau(families: Iterator[Sequence[Floats]]) -> float | None:
    """Kendall's tau-b over all pairs of answers to one prompt; None where one rater finds all of them equal."""
    agreed = ours = theirs = 0
    for one_PN, other_PN in families:
        first, second = np.triu_indices(one_PN.shape[1], 1)
        for part in range(0, len(one_PN), max(1, _TOGETHER // max(1, len(first)))):
            rows = slice(part, part + max(1, _TOGETHER // max(1, len(first))))
            one, other = (np.sign(each[rows][:, first] - each[rows][:, second]) for each in (one_PN, other_PN))
            known = np.isfinite(one) & np.isfinite(other)
            one, other = one[known], other[known]
            agreed, ours, theirs = agreed + (one * other).sum(), ours + (one != 0).sum(), theirs + (other != 0).sum()
    return float(agreed / math.sqrt(ours * theirs)) if ours and theirs else None


def longer_wins(selected: pa.Table) -> float | None:
    """Share of pairs whose chosen answer is the longer one, equal lengths counted half; None without a pair."""
    longer_P = _numbers(pc.subtract(selected["chosen_tokens"], selected["rejected_tokens"]))
    return float(((longer_P > 0) + (longer_P == 0) / 2).mean()) if len(longer_P) else None


def _lengths(selected: pa.Table) -> Lengths:
    longer_P = _numbers(pc.subtract(selected["chosen_tokens"], selected["rejected_tokens"]))
    margins_P = _numbers(selected["margin"])
    scored = np.isfinite(margins_P)
    x, y = longer_P[scored], margins_P[scored]
    related = len(x) > 1 and x.std() > 0 and y.std() > 0
    # Ids are digests: those that come first in their order are any, and the same in every run.
    names = pc.binary_join_element_wise(selected["chosen_id"], selected["rejected_id"], " ").filter(pa.array(scored))
    drawn = np.asarray(pc.sort_indices(names))[:MOST_POINTS]
    return Lengths(
        longer=longer_wins(selected) or 0.0,
        correlation=float(np.corrcoef(x, y)[0, 1]) if related else None,
        points=[(int(tokens), float(margin)) for tokens, margin in zip(x[drawn], y[drawn], strict=True)],
    )


def _rounded(chosen: Floats, rejected: Floats) -> float | None:
    """Share of pairs whose two scores are no further apart than bfloat16's neighbours, of 8 bits, at their size."""
    size = np.maximum(np.abs(chosen), np.abs(rejected))
    spacing = np.exp2(np.floor(np.log2(np.maximum(size, np.finfo(np.float32).tiny))) - 7)
    known = np.isfinite(size)
    return float((np.abs(chosen - rejected) < spacing)[known].mean()) if known.any() else None
