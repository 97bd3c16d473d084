"""What jobs.fit predicts of a worker's memory on a CPU, against the peaks of real processes of three sizes."""

import pytest

from benchmarks.fit import SIZES, STAGES, compare


@pytest.mark.parametrize("name", SIZES)
def test_predicted_within_a_fifth_of_what_is_held(name: str) -> None:
    found = compare(name, threads=2)
    assert found.keys() == set(STAGES)
    for stage, (predicted, measured) in found.items():
        assert 0.8 <= predicted / measured <= 1.2, (name, stage, predicted, measured)
