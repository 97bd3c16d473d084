"""The door that scores verdicts made elsewhere: what it prints, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.score import main
from tests.e2e.doors import REPOSITORY

BATTLES = str(REPOSITORY / "tests" / "data" / "arena_battles.jsonl.gz")
RATINGS = str(REPOSITORY / "tests" / "data" / "rating_judgments.jsonl.gz")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main([*arguments, "--resamples", "50"])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "\n  remedy: " in told
    return told


def alpaca(path: Path, *models: tuple[str, list[float]]) -> str:
    rows = [
        {"instruction": f"q{i}", "generator_1": "base", "generator_2": model, "preference": liked}
        for model, preferences in models
        for i, liked in enumerate(preferences)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def test_the_command_line() -> None:
    """As a user types it."""
    command = [sys.executable, "-m", "jobs.score", "--benchmark", "arena_hard_v0.1", "--annotations", BATTLES]
    done = subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["scores"][0]["model"] == "claude-3-5-sonnet-20240620"
    assert found["scores"][0]["rate"]["value"] == pytest.approx(88.69485294117648, abs=1e-6)
    assert done.stderr == ""


def test_what_people_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = run(capsys, "--benchmark", "arena_hard_v0.1", "--annotations", BATTLES)
    assert "gpt-4o against claude-3-haiku-20240307, arena-hard-v0.1, 120 questions, 554 battles" in said
    assert "86.82 [" in said and "note: 120 of 500 questions" in said
    said = run(capsys, "--benchmark", "mt_bench", "--annotations", RATINGS)
    assert "gpt-4-0314, 25 ratings\n  overall            9.28 [" in said and "turn 1 9.28" in said
    said = run(capsys, "--benchmark", "alpaca_eval", "--annotations", alpaca(tmp_path / "a.json", ("m", [1.5, 2.0])))
    assert "m against base, 2 questions" in said and "75.00 [" in said and "(1 won, 1 drawn, 0 lost)" in said
    assert "2 questions are not AlpacaEval's: left out of length control" in said


def test_two_models_on_the_same_questions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Higher on four of five, lower on none: p = 2 / 2^4."""
    one = alpaca(tmp_path / "one.json", ("one", [1.9, 1.8, 1.7, 1.6, 1.5]))
    two = alpaca(tmp_path / "two.json", ("two", [1.5, 1.5, 1.5, 1.5, 1.5, 2.0]))
    asked = ("--benchmark", "alpaca_eval", "--annotations", one, "--against", two)
    (found,) = json.loads(run(capsys, *asked, "--json"))["comparisons"]
    assert (found["questions"], found["higher"], found["equal"], found["lower"]) == (5, 4, 1, 0)
    assert found["difference"]["value"] == pytest.approx(0.2) and found["p_value"] == pytest.approx(0.125)
    assert "one against two: +0.200 [" in run(capsys, *asked)
    same = alpaca(tmp_path / "same.json", ("one", [1.5, 1.5, 1.5, 1.5, 1.5, 2.0]))  # two runs that are called the same
    assert f"one ({one}) against one ({same}): +0.200 [" in run(capsys, *asked[:-1], same)


def test_two_judges_of_one_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Won/won, lost/lost, won/lost, drawn/drawn: 3 of 4 agree; by chance (2·1 + 1·2 + 1·1)/16 would."""
    one = alpaca(tmp_path / "one.json", ("m", [2.0, 1.0, 1.8, 1.5]))
    two = alpaca(tmp_path / "two.json", ("m", [1.9, 1.1, 1.2, 1.5]))
    asked = ("--benchmark", "alpaca_eval", "--annotations", one, "--second-judge", two)
    (found,) = json.loads(run(capsys, *asked, "--json"))["agreement"]
    chance = 5 / 16
    assert (found["questions"], found["agreed"]) == (4, 75)
    assert found["kappa"] == pytest.approx((0.75 - chance) / (1 - chance))
    assert "the judges agree on 75.0 % of 4" in run(capsys, *asked)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("alpaca_eval", "--annotations", "/nowhere.json"), "there is no file /nowhere.json"),
        (("alpaca_eval", "--annotations", BATTLES), "is no file of AlpacaEval annotations: no row has instruction"),
        (("mt_bench", "--annotations", str(REPOSITORY / "README.md")), "README.md"),
        (("arena_hard_v0.1", "--annotations", BATTLES, "--answers", BATTLES), "--answers is for the style control"),
        (("arena_hard_v0.1", "--annotations", BATTLES, "--resamples", "0"), "--resamples 0"),
        (("alpaca_eval", "--annotations", RATINGS, "--coefficients", RATINGS), "length-control coefficients"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], arguments: tuple[Any, ...], says: str) -> None:
    assert says in refused(capsys, "--benchmark", *arguments)


def test_models_without_a_question_in_common_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one, other = alpaca(tmp_path / "one.json", ("m", [1.5])), tmp_path / "other.json"
    other.write_text(json.dumps([{"instruction": "else", "generator_2": "n", "preference": 1.5}]))
    asked = ("--benchmark", "alpaca_eval", "--annotations", one)
    assert "no question in common" in refused(capsys, *asked, "--against", str(other))
    assert "judge no model in common" in refused(capsys, *asked, "--second-judge", str(other))
