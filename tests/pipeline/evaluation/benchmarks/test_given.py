"""Verdicts as files hold them: given twice, of several baselines and judges, by ids of all kinds, with thoughts."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import alpaca_eval, arena_hard, mt_bench
from pipeline.evaluation.benchmarks.annotations import ALL, Wanted, identifier
from pipeline.evaluation.benchmarks.length_control import read_coefficients

CASES = Path(__file__).parents[5] / "shared" / "cases" / "verdicts"


def case(name: str) -> Path:
    if not CASES.exists():
        pytest.skip("takes the shared cases")
    return CASES / name


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def liked(question: str, preference: Any, **more: Any) -> dict[str, Any]:
    """A row of AlpacaEval's."""
    return {"instruction": question, "generator_1": "b", "generator_2": "m", "preference": preference, **more}


def played(question: Any, first: Any, second: Any, judgment: Any = "", **more: Any) -> dict[str, Any]:
    """A row of Arena-Hard's, with its two labels."""
    games = [{"score": label, "judgment": judgment} for label in (first, second)]
    return {
        "uid": question,
        "category": "hard_prompt",
        "judge": "j",
        "model": "m",
        "baseline": "o",
        "games": games,
    } | more


def rated(question: Any, score: Any, **more: Any) -> dict[str, Any]:
    """A row of FastChat's."""
    return {"question_id": question, "turn": 1, "model": "m", "judge": ["j", "single-v1"], "score": score, **more}


def alpaca(path: Path, wanted: Wanted = ALL) -> dict[tuple[str, str | None], tuple[float, int, str]]:
    scores = alpaca_eval.score_file(path, read_coefficients(), resamples=10, wanted=wanted)
    return {(one.baseline, one.judge): (one.win_rate.value, one.n_total, " ".join(one.notes)) for one in scores}


def arena(path: Path, version: Any = "v2.0", wanted: Wanted = ALL) -> dict[Any, tuple[float, int, str]]:
    scores = arena_hard.score_file(path, version, resamples=10, wanted=wanted)
    return {(one.baseline, one.judge): (one.rate.value, one.questions, " ".join(one.notes)) for one in scores}


def ratings(path: Path, wanted: Wanted = ALL) -> dict[str | None, tuple[float, int, str]]:
    scores = mt_bench.score_file(path, resamples=10, wanted=wanted)
    return {one.judge: (one.overall.value, one.ratings, " ".join(one.notes)) for one in scores}


def test_the_cases_as_they_were_found() -> None:
    (duplicated,) = arena(case("arena_duplicates.jsonl")).values()
    assert duplicated[:2] == (50, 2) and "2 rows that repeat a verdict are left out" in duplicated[2]
    by_baseline = {name: one[:2] for (name, _), one in arena(case("arena_two_baselines.jsonl")).items()}
    assert by_baseline == {"o3-mini": (0, 1), "gpt-4.1": (100, 1)}
    by_baseline = {name: one[:2] for (name, _), one in alpaca(case("alpaca_two_baselines.jsonl")).items()}
    assert by_baseline == {"text_davinci_003": (100, 4), "gpt4_1106_preview": (0, 4)}
    assert ratings(case("mt_thinking_judge.jsonl"))["gpt-4"][0] == 9


def test_verdicts_given_twice_count_once(tmp_path: Path) -> None:
    """The first that holds a verdict stands; one that says otherwise is told from one that repeats."""
    path = write(
        tmp_path / "a.jsonl", *[liked("q", None), liked("q", 2.0), liked("q", "2.0"), liked("q", 1), liked("r", 1)]
    )
    (found,) = alpaca(path).values()
    assert found[:2] == (50, 2)
    assert "1 rows that repeat a verdict are left out 1 rows that contradict the first verdict" in found[2]

    rows = [played("q", None, "A>B"), played("q", "B>A", "A>B"), played("q", "B>A", "A>B"), played("q", "A>B", "B>A")]
    (found,) = arena(write(tmp_path / "b.jsonl", *rows, played("r", "A>B", "B>A"))).values()
    assert found[:2] == (50, 2)
    assert "1 rows that repeat a verdict are left out 1 rows that contradict the first verdict" in found[2]

    rows = [rated(81, -1), rated(81, 8), rated(81.0, 8), rated("81", 3), rated(82, 2)]
    (found,) = ratings(write(tmp_path / "c.jsonl", *rows)).values()
    assert found[:2] == (5, 2)
    assert "1 rows that repeat a verdict are left out 1 rows that contradict the first verdict" in found[2]


def battle(question: Any, winner: str) -> dict[str, Any]:
    return {"question_id": question, "model_a": "o", "model_b": "m", "winner": winner}


@pytest.mark.parametrize(
    ("winners", "possible"),
    [
        (["model_a"], True),
        (["model_b", "model_b"], True),
        (["model_b"] * 3 + ["tie"], True),
        (["model_b"] * 6, True),
        (["model_a"] * 3 + ["model_b"] * 3, True),
        (["model_b", "tie"] * 2, False),
        (["tie", "tie (bothbad)", "tie"], False),
        (["model_b"] * 8, False),
        (["model_a", "model_b", "tie"], False),
    ],
)
def test_battles_that_no_two_games_can_have_are_refused(tmp_path: Path, winners: list[str], possible: bool) -> None:
    """A strong verdict stands there three times, so that which of them repeat cannot be told."""
    path = write(tmp_path / "b.jsonl", *[battle(7.0, winner) for winner in winners])
    if possible:
        assert arena(path, "v0.1")["o", None][1] == 1
    else:
        with pytest.raises(UserError, match=r"question 7 of m has battles .* that two games cannot have"):
            arena(path, "v0.1")


def test_a_score_for_every_baseline_and_judge_or_for_those_that_are_named(tmp_path: Path) -> None:
    rows = [
        liked("q", 2, annotator="one"),
        liked("q", 1, annotator="two"),
        liked("q", 1.5, generator_1="c", annotator="two"),
    ]
    path = write(tmp_path / "a.jsonl", *rows)
    found = {key: one[:2] for key, one in alpaca(path).items()}
    assert found == {("b", "one"): (100, 1), ("b", "two"): (0, 1), ("c", "two"): (50, 1)}
    assert list(alpaca(path, Wanted(judges=("two",), baselines=("c",)))) == [("c", "two")]

    games = [played("q", "B>A", "A>B"), played("q", "A>B", "B>A", judge="k"), played("q", "A=B", "A=B", baseline="p")]
    path = write(tmp_path / "b.jsonl", *games)
    found = {key: one[:2] for key, one in arena(path).items()}
    assert found == {("o", "j"): (100, 1), ("o", "k"): (0, 1), ("p", "j"): (50, 1)}
    assert list(arena(path, wanted=Wanted(baselines=("p",)))) == [("p", "j")]

    path = write(
        tmp_path / "c.jsonl", rated(81, 8), rated(81, 2, judge=["k", "single-v1"]), rated(111, 4, judge=["j", "math"])
    )
    assert {name: one[:2] for name, one in ratings(path).items()} == {"j": (6, 2), "k": (2, 1)}
    assert list(ratings(path, Wanted(judges=("k",)))) == ["k"]
    with pytest.raises(UserError, match=r"--judge nobody: .*c\.jsonl has no verdict of it") as refused:
        ratings(path, Wanted(judges=("nobody",)))
    assert refused.value.remedy == "--judge can be j, k"


def test_points_of_one_model_are_of_one_baseline_and_one_judge(tmp_path: Path) -> None:
    """Else a comparison would be of a mean that is nobody's. Arena-Hard v2.0 has a baseline a category."""
    path = write(tmp_path / "a.jsonl", liked("q", 2), liked("r", 1, generator_1="c"))
    with pytest.raises(UserError, match=r"m has verdicts of 2 baselines \(b, c\)") as refused:
        alpaca_eval.points(path)
    assert "--baseline" in refused.value.remedy
    assert alpaca_eval.points(path, Wanted(baselines=("c",))) == {"m": {"r": 0}}
    games = [played("q", "B>A", "A>B"), played("r", "A>B", "B>A", baseline="p", category="creative_writing")]
    assert arena_hard.points(write(tmp_path / "b.jsonl", *games), "v2.0") == {"m": {"q": 1, "r": 0}}
    path = write(tmp_path / "b.jsonl", *games, played("s", "A>B", "B>A", judge="k"))
    with pytest.raises(UserError, match=r"m has verdicts of 2 judges \(j, k\)"):
        arena_hard.points(path, "v2.0")
    with pytest.raises(UserError, match=r"m has verdicts of 2 judges \(j, k\)"):
        mt_bench.points(write(tmp_path / "c.jsonl", rated(81, 8), rated(82, 2, judge="k")))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((81, "81"), (81.0, "81"), ("81", "81"), ("81.0", "81"), ("q-1.0", "q-1.0"), ("0.5", "0.5"), (-1, "-1")),
        *((81.5, None), (None, None), (float("nan"), None), (True, None), ("", None), (" ", None), ([81], None)),
    ],
)
def test_ids(value: Any, name: str | None) -> None:
    assert identifier(value) == name


@pytest.mark.parametrize("bad", [None, 81.5, True, [1], ""])
def test_rows_without_an_id_are_counted_and_the_first_is_told(tmp_path: Path, bad: Any) -> None:
    (found,) = arena(write(tmp_path / "a.jsonl", played("q", "B>A", "A>B"), played(bad, "A>B", "B>A"))).values()
    assert found[:2] == (100, 1) and "1 rows whose question has no id (row 2: uid" in found[2]
    (found,) = ratings(write(tmp_path / "b.jsonl", rated(81, 8), rated(bad, 1), rated(bad, 1))).values()
    assert found[:2] == (8, 1) and "2 rows whose question has no id (row 2: question_id" in found[2]
    with pytest.raises(UserError, match="whose question has no id"):
        ratings(write(tmp_path / "c.jsonl", rated(bad, 1)))


THOUGHT = "<think>At first [[A>>B]] or [[2]].</think>\n"


def test_stored_verdicts_of_a_judge_that_thinks_are_read_again(tmp_path: Path) -> None:
    """Arena-Hard v0.1's own code finds labels that contradict each other, v2.0's a label where the judge was cut."""
    again = played("q", None, "A>>B", f"{THOUGHT}[[B>A]]", category="arena-hard-v0.1")
    (found,) = arena(write(tmp_path / "a.jsonl", again), "v0.1").values()
    assert (
        found[:2] == (50, 1) and "1 stored labels that were read out of the judge's thoughts are left out" in found[2]
    )
    cut = played("r", "A>>B", "A>>B", {"answer": "<think>[[A>>B]]"})
    (found,) = arena(write(tmp_path / "b.jsonl", played("q", "B>A", "A>B", {"answer": "[[A=B]]"}), cut)).values()
    assert found[:2] == (100, 1)  # a stored label stands where the judge did not think
    assert "1 questions with a game that has no verdict are left out" in found[2]

    rows = [rated(81, 2, judgment=f"{THOUGHT}Rating: [[9]]"), rated(82, 2, judgment="<think>[[2]]")]
    rows.append(rated(83, -1, judgment=f"{THOUGHT}Rating: [[100]]"))  # as we export what is beyond 1 to 10
    (found,) = ratings(write(tmp_path / "c.jsonl", *rows)).values()
    assert found[:2] == (9, 1)
    assert (
        "2 verdicts could not be read" in found[2]
        and "1 stored scores were read out of the judge's thoughts" in found[2]
    )

    rows = [liked("q", 1.0, raw_completion="<think>m</think>M"), liked("r", 1.9, raw_completion={"text": "<think>"})]
    (found,) = alpaca(write(tmp_path / "d.jsonl", *rows)).values()
    switched = alpaca_eval.is_switched("q")
    assert found[:2] == (0 if switched else 100, 1)
    assert "1 rows whose judge came to no verdict after its thoughts are left out" in found[2]


def test_labels_that_were_never_read_are_read(tmp_path: Path) -> None:
    row = {"uid": "q", "model": "m", "games": [{"judgment": f"{THOUGHT}[[B>A]]"}, {"judgment": {"answer": "[[A>>B]]"}}]}
    (found,) = arena(write(tmp_path / "a.jsonl", row)).values()
    assert found[:2] == (100, 1)


def test_a_judgment_cut_within_thoughts_that_the_prompt_opened(tmp_path: Path) -> None:
    """Nothing in it shows that it is thought; the same judge's others do."""
    rows = [rated(n, 2, judgment="hm, [[2]]?</think>[[9]]") for n in (81, 82, 83)]
    cut = rated(84, 2, judgment="hm, [[2]]?")
    (found,) = ratings(write(tmp_path / "a.jsonl", *rows, cut)).values()
    assert found[:2] == (9, 3) and "1 verdicts could not be read" in found[2]
    other = ratings(write(tmp_path / "b.jsonl", *rows, cut | {"judge": "plain"}))
    assert {name: one[:2] for name, one in other.items()} == {"j": (9, 3), "plain": (2, 1)}

    for version, category in (("v0.1", "arena-hard-v0.1"), ("v2.0", "hard_prompt")):
        games = [played(n, "A>B", "A>B", "hm, [[A>B]]?</think>[[A=B]]", category=category) for n in "qrs"]
        cut = played("t", "A>B", "B>A", "hm, [[A>B]]?", category=category)
        (found,) = arena(write(tmp_path / "c.jsonl", *games, cut), version).values()
        assert found[:2] == (50, 3)
