"""What Optuna proposes: a function of seed, number and what is known; and what its file keeps over a kill."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.line.proposals import Record, Trial, best, propose
from pipeline.settings.sweep import Range

RANGES = {
    "train.learning_rate": Range(log=(1e-6, 1e-3)),
    "objective.tau": Range(uniform=(0, 8)),
    "train.lora": Range(choice=(None, {"rank": 8}, {"rank": 4})),
}


def trial(number: int, settings: Mapping[str, Any], figure: float | None, **more: Any) -> Trial:
    return Trial("dpo", number, settings, figure, **more)


def known(count: int) -> list[Trial]:
    """Trials that were proposed at random, the nearer to tau 3 the better."""
    settings = [propose(RANGES, "random", 0, number) for number in range(count)]
    return [trial(number, each, -abs(each["objective.tau"] - 3)) for number, each in enumerate(settings)]


def test_a_random_proposal_depends_on_seed_and_number_alone() -> None:
    first = [propose(RANGES, "random", 0, number) for number in range(40)]
    assert first == [propose(RANGES, "random", 0, number, known(number % 5)) for number in range(40)]
    assert first[0] != propose(RANGES, "random", 1, 0)
    other = propose({**dict(list(RANGES.items())[:1]), "objective.beta": Range(log=(0.1, 1))}, "random", 0, 0)
    assert other["train.learning_rate"] == first[0]["train.learning_rate"]  # what methods share is alike
    rates = sorted(each["train.learning_rate"] for each in first)
    assert 1e-6 <= rates[0] < 1e-5 and 1e-4 < rates[-1] <= 1e-3 and 1e-5 < rates[20] < 3e-4  # evenly in its logarithm
    assert {str(each["train.lora"]) for each in first} == {"None", "{'rank': 8}", "{'rank': 4}"}
    assert all(float(f"{rate:.4g}") == rate for rate in rates)


def test_tpe_learns_from_the_trials_it_is_told_of_and_from_nothing_else() -> None:
    before = known(12)
    found = [propose(RANGES, "tpe", 0, number, before) for number in range(12, 28)]
    assert found == [propose(RANGES, "tpe", 0, number, before) for number in range(12, 28)]
    near = sum(abs(each["objective.tau"] - 3) < 2 for each in found)
    assert near > sum(abs(each.settings["objective.tau"] - 3) < 2 for each in known(28)[12:])  # than at random
    failed = [trial(number, each.settings, None, reason="x") for number, each in enumerate(before)]
    assert propose(RANGES, "tpe", 0, 12, failed) == propose(RANGES, "random", 0, 12)
    pruned = [trial(each.number, each.settings, each.figure, short=(0.1,), pruned=True) for each in before]
    assert propose(RANGES, "tpe", 0, 12, pruned) != propose(RANGES, "random", 0, 12)  # it learns from these, too


def test_the_ends_of_a_range_stand_for_rounding() -> None:
    narrow = {"objective.beta": Range(uniform=(0.123456, 0.123457))}
    assert 0.123456 <= propose(narrow, "random", 0, 0)["objective.beta"] <= 0.123457


def test_what_is_chosen_came_to_its_end_and_of_equals_is_the_first() -> None:
    trials = [trial(0, {}, 0.7), trial(1, {}, 0.9, short=(0.9,), pruned=True), trial(2, {}, None), trial(3, {}, 0.7)]
    assert best(trials) == trials[0] and best(trials[1:3]) is None


@pytest.mark.parametrize(
    "left",
    [
        b"{}\n",
        b"not a line of Optuna's\n",
        b'{"op_code": 99, "worker_id": "x"}\n',
        b'{"op_code": 0, "worker_id": "x", "study_name": "dpo", "directions": [1], "more": {}}\nhalf\n',
        b"\xff\xfe\n",
    ],
)
def test_a_journal_that_is_none_is_refused(tmp_path: Path, left: bytes) -> None:
    """Of another version, or of an editor. Nothing but which trials failed is lost with it."""
    (tmp_path / "optuna.log").write_bytes(left)
    with pytest.raises(UserError, match=r"no journal that this Optuna reads .*\n.*move it away"):
        Record(tmp_path / "optuna.log")
    assert (tmp_path / "optuna.log").read_bytes() == left


def test_trials_that_others_wrote_into_the_file_are_theirs(tmp_path: Path) -> None:
    import optuna

    record = Record(tmp_path / "optuna.log")
    record.study("dpo").add_trial(optuna.trial.create_trial(value=0.9))
    assert record.failure("dpo", 0, {}, {}) == ""
    record.add(trial(0, {}, None, reason="x"), {})
    assert Record(tmp_path / "optuna.log").failure("dpo", 0, {}, {}) == "x"


def test_the_file_outlives_a_kill_and_optuna_reads_it(tmp_path: Path) -> None:
    import optuna

    file, settings = tmp_path / "below" / "optuna.log", known(2)
    record = Record(file)
    record.add(settings[0], RANGES)
    record.add(trial(1, settings[1].settings, None, reason="loss is not finite"), RANGES)
    with open(file, "ab") as journal:
        journal.write(b'{"op_code":4,"worker')  # killed while it wrote
    file.with_name("optuna.log.lock").symlink_to(file)
    record = Record(file)
    assert record.failure("dpo", 1, settings[1].settings, RANGES) == "loss is not finite"
    assert record.failure("dpo", 1, settings[0].settings, RANGES) == ""  # of other settings
    assert record.failure("dpo", 0, settings[0].settings, RANGES) == record.failure("ipo", 1, {}, {}) == ""
    size = file.stat().st_size
    record.add(settings[0], RANGES)  # stands there
    assert file.stat().st_size == size
    record.add(settings[1], RANGES)  # tried again, with better luck
    assert record.failure("dpo", 1, settings[1].settings, RANGES) == ""
    read = optuna.load_study(study_name="dpo", storage=Record(file).storage)
    assert read.best_value == max(each.figure or 0 for each in settings) or read.best_value < 0
    assert [each.state.name for each in read.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "has no range"),
        ({"log": (1, 2), "choice": [1]}, "has log and choice"),
        ({"log": (0, 1)}, "which has no logarithm"),
        ({"uniform": (2, 1)}, "not in order"),
        ({"uniform": (1, 1)}, "not in order"),
        ({"choice": []}, "names nothing"),
        ({"choice": [1, 2, 1]}, "a value twice"),
        ({"choice": [1, True, "1", 1.0]}, "a value twice"),
        ({"choice": [{1}]}, "no number, text, list or section"),
    ],
)
def test_what_is_no_range(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"sweep.ranges.x.*{says}"):
        Range(**given).check("sweep.ranges.x")


def test_the_axis_of_a_range() -> None:
    scales = {each.scale: each for each in (Range(log=(1, 2)), Range(uniform=(1, 2)), Range(choice=(1, "step")))}
    assert list(scales) == ["log", "linear", "category"]
    assert Range(choice=(30, 10)).scale == "linear" and Range(choice=(True, False)).scale == "category"


def test_samples_stand_for_a_range() -> None:
    low, inner, high = Range(log=(2, 16)).samples()
    assert (low, high) == (2, 16) and math.modf(inner)[0]
