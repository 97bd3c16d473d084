"""Accuracies of the implicit reward: six measures by hand, prompts resampled, RewardBench's sections."""

import numpy as np
import pytest

from pipeline.evaluation.ranking import MEASURES, SECTIONS, points, rank, remarks


def logps(chosen: list[float], rejected: list[float], tokens: tuple[list[int], list[int]]) -> dict[str, list[float]]:
    return {
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        "chosen_tokens": list(map(float, tokens[0])),
        "rejected_tokens": list(map(float, tokens[1])),
    }


def test_six_measures_by_hand() -> None:
    """Pair 0: the trained model's chosen side is likelier by 1 nat, and it is four times as long; the base model has
    them 3 nats apart. Pair 1: all alike."""
    tokens = ([8, 3], [2, 3])
    trained = logps([-4.0, -6.0], [-5.0, -6.0], tokens)
    base = logps([-6.0, -6.0], [-3.0, -6.0], tokens)
    found = points(trained, base)
    # ratios: +2 and -2, so sums 4, means 2/8 + 2/2; log-probs 1 and -4/8 + 5/2; base -3 and -6/8 + 3/2
    assert found.tolist() == [[1.0, 1.0, 1.0, 1.0, 0.0, 1.0], [0.5] * 6]
    assert list(MEASURES) == [
        *("log-ratio sum", "log-ratio mean", "log-prob sum", "log-prob mean"),
        *("base log-prob sum", "base log-prob mean"),
    ]


def test_the_length_decides_between_sums_and_means() -> None:
    tokens = ([10], [1])
    found = points(logps([-10.0], [-2.0], tokens), logps([-10.0], [-2.0], tokens))
    assert found.tolist() == [[0.5, 0.5, 0.0, 1.0, 0.0, 1.0]]


def test_intervals_resample_prompts_and_not_pairs() -> None:
    """Ten pairs of each of twenty prompts, alike within a prompt: the interval is that of twenty, and not of 200."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, 20)
    values = np.repeat(right, 10)[:, None] * np.ones((1, 6))
    clustered = rank(values, ["a"] * 200, np.repeat(np.arange(20), 10).tolist(), 2000).all.accuracy["log-prob sum"]
    alone = rank(values, ["a"] * 200, list(range(200)), 2000).all.accuracy["log-prob sum"]
    share = right.mean()
    assert clustered.value == alone.value == share
    expected = 2 * 1.96 * (share * (1 - share) / 20) ** 0.5
    assert clustered.high - clustered.low == pytest.approx(expected, rel=0.1)
    assert (clustered.high - clustered.low) / (alone.high - alone.low) == pytest.approx(10**0.5, rel=0.1)


def test_rewardbenchs_sections() -> None:
    """Sections weight their subsets by counts, math-prm as much as the six of code together; and count alike."""
    names = [name for own in SECTIONS.values() for name in own]
    right = {"math-prm": 0.0, "xstest-should-respond": 0.0}
    subsets = [name for name in names for _ in range(3)]
    values = np.array([[right.get(name, 1.0)] * 6 for name in subsets])
    found = rank(values, subsets, list(range(len(subsets))))
    sections = {group.name: group.accuracy["log-ratio sum"].value for group in found.sections}
    assert sections == pytest.approx(
        {
            "Chat": 1.0,
            "Chat Hard": 1.0,
            "Safety": 1 - 154 / (100 + 100 + 250 + 154 + 136),
            "Reasoning": 0.5,
            "RewardBench": (1 + 1 + (1 - 154 / 740) + 0.5) / 4,
        }
    )
    assert sum(SECTIONS["Reasoning"].values()) == 2 * 984 and len(names) == 23
    assert [group.pairs for group in found.subsets] == [3] * 23 and not found.lacking


def test_sections_are_for_rewardbench_alone() -> None:
    values = np.ones((4, 6))
    assert not rank(values, ["math-prm", "math-prm", "mine", "mine"], [0, 1, 2, 3]).sections
    some = rank(values, ["math-prm", "math-prm", "hep-go", "hep-go"], [0, 1, 2, 3])
    assert [group.name for group in some.sections] == ["Reasoning"] and "hep-cpp" in some.lacking
    assert not rank(values, [""] * 4, [0, 1, 2, 3]).subsets
    with pytest.raises(ValueError, match="no pairs"):
        rank(values[:0], [], [])


def test_subsets_as_large_as_each_other_are_resampled_apart() -> None:
    """Or a mean over them would vary as one of them does: here half as much, by their number, four."""
    rng = np.random.default_rng(1)
    subsets = [name for name in ("hep-cpp", "hep-go", "hep-java", "hep-js") for _ in range(100)]
    values = rng.integers(0, 2, 400)[:, None] * np.ones((1, 6))
    found = rank(values, subsets, list(range(400)), 2000)
    (section,) = (group.accuracy["log-prob sum"] for group in found.sections)
    width = np.mean([each.accuracy["log-prob sum"].high - each.accuracy["log-prob sum"].low for each in found.subsets])
    assert (section.high - section.low) / width == pytest.approx(0.5, rel=0.15)


def test_ranks_that_are_all_alike_are_not_known_for_certain() -> None:
    """Ten prompts of two pairs each, all ranked as labelled: Wilson's interval of ten trials."""
    each = rank(np.ones((20, 6)), ["math-prm"] * 20, [*range(10)] * 2).all.accuracy["log-ratio sum"]
    assert (each.low, each.value, each.high) == pytest.approx((0.7225, 1.0, 1.0), abs=1e-4)


def test_what_is_to_be_said() -> None:
    figures = {"own_measure": "log-ratio sum", "objective": "dpo", "dropped": {"seam": 2}, "data": "x"}
    said = remarks(figures | {"trained_on": 3, "sections": [1], "lacking": ["hep-go"]})
    assert len(said) == 4 and "2 rows of x" in said[1] and "3 of the pairs" in said[2] and "hep-go" in said[3]
    assert not remarks(
        figures | {"own_measure": None, "dropped": {}, "trained_on": 0, "sections": [], "lacking": ["a"]}
    )
