"""TIS-DPO's token weights: by hand, in plain Python, and what holds for any of them."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.objectives.contrast import TRANSFORMS, token_weights

SPAN, CLIPS = (0.7, 1.3), {"rank": (0.0, 0.0), "clipped": (-1.5, 1.5), "published": (-0.5, 1.5)}
RATIOS = st.lists(st.floats(-8, 0).map(lambda x: round(x, 3)), min_size=1, max_size=12)


def weights(transform: str, ratios: list[float], chosen: bool = True, **given: Any) -> list[float]:
    """Of tokens with these log pi+ - log pi-."""
    at = {"span": SPAN, "clip": CLIPS[transform], **given}
    return token_weights(transform, ratios, [0.0] * len(ratios), at["span"], at["clip"], chosen).tolist()


def restated(transform: str, ratios: list[float], chosen: bool) -> list[float]:
    speaks = [r if chosen else -r for r in ratios]
    found = []
    for r, s in zip(ratios, speaks, strict=True):
        if transform == "published":
            found.append(math.exp((1 if chosen else -1) * min(1.5, max(-0.5, r))))
        elif transform == "clipped":
            found.append(0.7 + 0.6 * (min(1.5, max(-1.5, s)) + 1.5) / 3)
        else:
            rank = sum(other < s for other in speaks) + (sum(other == s for other in speaks) - 1) / 2
            found.append(0.7 + 0.6 * rank / (len(speaks) - 1) if len(speaks) > 1 else 1.0)
    return found


@pytest.mark.parametrize(
    ("transform", "chosen", "expected"),
    [
        ("rank", True, [0.7, 1.3, 1.0, 1.0]),  # ties share their mean rank
        ("rank", False, [1.3, 0.7, 1.0, 1.0]),
        ("clipped", True, [0.7, 1.3, 1.02, 1.02]),
        ("clipped", False, [1.3, 0.7, 0.98, 0.98]),
        ("published", True, [math.exp(-0.5), math.exp(1.5), math.exp(0.1), math.exp(0.1)]),
        ("published", False, [math.exp(0.5), math.exp(-1.5), math.exp(-0.1), math.exp(-0.1)]),
    ],
)
def test_by_hand(transform: str, chosen: bool, expected: list[float]) -> None:
    assert weights(transform, [-2.0, 3.0, 0.1, 0.1], chosen) == pytest.approx(expected)


@given(RATIOS, st.sampled_from([*TRANSFORMS]), st.booleans())
def test_equals_its_restatement(ratios: list[float], transform: str, chosen: bool) -> None:
    assert weights(transform, ratios, chosen) == pytest.approx(restated(transform, ratios, chosen), rel=1e-10)


@given(RATIOS, st.booleans())
def test_ranks_average_to_the_middle_and_know_order_alone(ratios: list[float], chosen: bool) -> None:
    found = weights("rank", ratios, chosen)
    assert sum(found) / len(found) == pytest.approx(1.0)
    assert weights("rank", [math.exp(r) - 5 for r in ratios], chosen) == pytest.approx(found)


@pytest.mark.parametrize(("transform", "clip"), [("rank", (0, 0)), ("clipped", (-1.5, 1.5)), ("published", (-1, 1))])
@given(ratios=RATIOS, other=RATIOS)
def test_models_and_labels_exchanged_are_the_same_weights(
    transform: str, clip: tuple[float, float], ratios: list[float], other: list[float]
) -> None:
    """For bounds that are the same on both sides, as the paper's are not."""
    count = min(len(ratios), len(other))
    one, two = ratios[:count], other[:count]
    as_chosen = token_weights(transform, one, two, SPAN, clip, chosen=True)
    np.testing.assert_allclose(as_chosen, token_weights(transform, two, one, SPAN, clip, chosen=False), rtol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_two_models_that_say_the_same_weigh_nothing(transform: str) -> None:
    assert weights(transform, [0.0] * 5) == weights(transform, [0.0] * 5, chosen=False) == [1.0] * 5
    assert weights(transform, [0.0]) == [1.0]
