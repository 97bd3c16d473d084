"""How often a model's own log-probs rank a pair as its label does: the implicit reward as a check of the training.

Accuracy is taken by six measures: of the trained model the log-ratio to the base model, and its log-prob alone; of the
base model its log-prob; each as a sum over a completion's tokens, as the DPO family has it, and as a mean, as SimPO's.
Shapes: N pairs, M measures, C prompts, R resamples.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.statistics import Interval, alike, draws

Floats = npt.NDArray[np.float64]

# By name the reward of pipeline/objectives/rewards.py that is the same, where the objective trains that one.
MEASURES = {
    "log-ratio sum": "log-ratio",
    "log-ratio mean": "mean-log-ratio",
    "log-prob sum": "log-prob",
    "log-prob mean": "mean-log-prob",
    "base log-prob sum": None,
    "base log-prob mean": None,
}

# RewardBench (Lambert et al. 2024, arXiv 2403.13787): how many pairs each of its subsets counts for in its section, as
# its own leaderboard has them. math-prm has 447, and counts as much as the six of code.
SECTIONS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 250,
        "xstest-should-respond": 154,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        **dict.fromkeys([f"hep-{name}" for name in ("cpp", "go", "java", "js", "python", "rust")], 164),
    },
}
_AT_ONCE = 1 << 22  # numbers of a resample that are held at a time


class Resampled(NamedTuple):
    """Of some pairs, or of several such: means by measure, [M]; those of the resamples, [R, M]; and their prompts."""

    means: Floats
    resamples: Floats
    prompts: int


@dataclass(frozen=True)
class Group:
    """Pairs that are taken together, and by measure the share of them that is ranked as labelled; a tie counts half."""

    name: str
    pairs: int
    accuracy: Mapping[str, Interval]


@dataclass(frozen=True)
class Ranking:
    """All pairs together, by subset where there are several, and RewardBench's sections where these are its own."""

    all: Group
    subsets: Sequence[Group]
    sections: Sequence[Group]
    lacking: Sequence[str]  # of the sections, subsets that are not there


def points(trained: Mapping[str, Any], base: Mapping[str, Any]) -> Floats:
    """What each pair counts by each measure, [N, M]: 1, 1/2 of a tie, or 0.

    Both have the columns of tables.REFERENCE as arrays, in one order of pairs.
    """
    sides = ("chosen", "rejected")
    ours, theirs = ([np.asarray(each[f"{side}_logps"], np.float64) for side in sides] for each in (trained, base))
    tokens = [np.asarray(trained[f"{side}_tokens"], np.float64) for side in sides]
    ratio = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    gaps = []
    for chosen, rejected in (ratio, ours, theirs):
        gaps += [chosen - rejected, chosen / tokens[0] - rejected / tokens[1]]
    return (np.sign(np.stack(gaps, axis=1)) + 1) / 2


def rank(
    points_NM: Floats, subsets: Sequence[str], prompts: Sequence[Hashable], resamples: int = 1000, seed: int = 0
) -> Ranking:
    """Accuracies with 95 % intervals, in which prompts are resampled: pairs of one prompt are no independent trials.

    Raises ValueError where there is no pair.
    """
    if not len(points_NM):
        raise ValueError("no pairs: nothing is ranked")
    places: dict[str, list[int]] = {}
    for place, subset in enumerate(subsets):
        places.setdefault(subset, []).append(place)

    def found(index: Sequence[int], number: int) -> Resampled:
        return _resampled(points_NM[index], [prompts[place] for place in index], resamples, (seed, number))

    everyone = _group("all", len(points_NM), found(range(len(points_NM)), 0))
    if len(places) < 2:
        return Ranking(everyone, (), (), ())
    # By draws of their own: subsets as large as each other would otherwise go up and down together in their mean.
    each = {name: found(index, number) for number, (name, index) in enumerate(sorted(places.items()), start=1)}
    groups = [_group(name or "(none)", len(places[name]), one) for name, one in each.items()]
    sections, lacking = _sections({name: (len(places[name]), one) for name, one in each.items()})
    return Ranking(everyone, groups, sections, lacking)


def _sections(found: Mapping[str, tuple[int, Resampled]]) -> tuple[list[Group], list[str]]:
    """RewardBench's sections and their mean, where every subset is one of its own; and the subsets that lack."""
    weights = {name: count for own in SECTIONS.values() for name, count in own.items()}
    if not found.keys() <= weights.keys():
        return [], []
    made: dict[str, tuple[int, Resampled]] = {}
    for section, own in SECTIONS.items():
        here = {name: weight for name, weight in own.items() if name in found}
        if here:
            pairs = sum(found[name][0] for name in here)
            made[section] = pairs, _mean([found[name][1] for name in here], list(here.values()))
    groups = [_group(section, pairs, one) for section, (pairs, one) in made.items()]
    if len(made) == len(SECTIONS):
        whole = _mean([one for _, one in made.values()], [1] * len(made))
        groups.append(_group("RewardBench", sum(pairs for pairs, _ in made.values()), whole))
    return groups, sorted(weights.keys() - found.keys())


def _mean(each: Sequence[Resampled], weights: Sequence[float]) -> Resampled:
    """The weighted mean of several, which were resampled apart."""
    means = np.average([one.means for one in each], axis=0, weights=weights)
    resamples = np.average([one.resamples for one in each], axis=0, weights=weights)
    return Resampled(means, resamples, sum(one.prompts for one in each))


def _group(name: str, pairs: int, found: Resampled) -> Group:
    ends = np.quantile(found.resamples, [0.025, 0.975], axis=0)
    each = (Interval(*map(float, one)) for one in zip(found.means, *ends, strict=True))
    intervals = (alike(one.value, found.prompts, (0, 1)) if one.low == one.high else one for one in each)
    return Group(name, pairs, dict(zip(MEASURES, intervals, strict=True)))


def _resampled(points_NM: Floats, prompts: Sequence[Hashable], resamples: int, seed: tuple[int, ...]) -> Resampled:
    numbers: dict[Hashable, int] = {}
    place_N = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])
    sums_CM, sizes_C = np.zeros((len(numbers), points_NM.shape[1])), np.zeros(len(numbers))
    np.add.at(sums_CM, place_N, points_NM)
    np.add.at(sizes_C, place_N, 1)
    step, parts = max(1, _AT_ONCE // len(numbers)), []
    for number, start in enumerate(range(0, resamples, step)):
        counts_RC = draws(len(numbers), min(step, resamples - start), (*seed, number))
        parts.append(counts_RC @ sums_CM / (counts_RC @ sizes_C)[:, None])
    return Resampled(points_NM.mean(axis=0), np.concatenate(parts), len(numbers))


def remarks(figures: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the figures that jobs.rank keeps."""
    found = []
    if own := figures["own_measure"]:
        found.append(f"{figures['objective']} trains the {own}.")
    if dropped := figures["dropped"]:
        found.append(f"{sum(dropped.values()):,} rows of {figures['data']} are not ranked: {dropped}.")
    if count := figures["trained_on"]:
        found.append(f"{count:,} of the pairs of {figures['data']} stand in the training's own, too: they say little.")
    if figures["sections"] and figures["lacking"]:
        found.append(f"Subsets of RewardBench that are not there: {', '.join(figures['lacking'])}.")
    return found
