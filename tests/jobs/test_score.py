"""The door that scores verdicts made elsewhere: what it prints, and what it refuses."""

import json
import re
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
    assert (found["verdicts"], found["agreed"]) == (4, 75)
    assert found["kappa"] == pytest.approx((0.75 - chance) / (1 - chance))
    assert "the judges agree on 75.0 % of 4 verdicts" in run(capsys, *asked)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("alpaca_eval", "--annotations", "/nowhere.json"), "there is no file /nowhere.json"),
        (("alpaca_eval", "--annotations", BATTLES), "is no file of AlpacaEval annotations: no row has instruction"),
        (("mt_bench", "--annotations", str(REPOSITORY / "README.md")), "README.md"),
        (("arena_hard_v0.1", "--annotations", BATTLES, "--answers", BATTLES), "is no file of Arena-Hard answers"),
        (("arena_hard_v2.0", "--annotations", BATTLES), "give --benchmark arena_hard_v0.1"),
        (("mt_bench", "--annotations", RATINGS, "--answers", BATTLES), "--answers is for arena_hard_v0.1"),
        (("arena_hard_v0.1", "--annotations", BATTLES, "--resamples", "0"), "--resamples 0"),
        (("arena_hard_v0.1", "--annotations", BATTLES, "--seed", "-1"), "--seed -1 is below 0"),
        (("mt_bench", "--annotations", RATINGS, "--coefficients", "/no.csv"), "--coefficients is for alpaca_eval, not"),
        (("arena_hard_v0.1", "--annotations", BATTLES, "--coefficients", BATTLES), "--coefficients is for alpaca_eval"),
        (("alpaca_eval", "--annotations", RATINGS, "--coefficients", "/no.csv"), "coefficients /no.csv"),
        (("mt_bench", "--annotations", RATINGS, "--original-intervals"), "--original-intervals is for arena_hard_v0.1"),
        (("alpaca_eval", "--annotations", RATINGS, "--original-intervals"), "--original-intervals is for arena_hard"),
        (("mt_bench", "--annotations", RATINGS, "--baseline", "g"), "MT-Bench are rated, against no baseline"),
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


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def compared(question: int, answer: str, **more: Any) -> dict[str, Any]:
    outputs = {"output_1": "theirs", "output_2": answer}
    return {"instruction": f"q{question}", "generator_1": "b", "generator_2": "m", "preference": 2.0} | outputs | more


def test_a_constant_answer_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The attack that wins most comparisons of AlpacaEval (arXiv 2410.07137), in words and in JSON."""
    asked = ("--benchmark", "alpaca_eval", "--annotations")
    file = written(tmp_path / "null.jsonl", *[compared(n, "### Best Model Identifier\nm") for n in range(20)])
    said = run(capsys, *asked, file)
    assert "warning: 100% of the m model's 20 answers are one and the same: “### Best Model Identifier m”." in said
    assert "warning: 20 of the m model's 20 answers speak to the judge" in said
    (looked,) = json.loads(run(capsys, *asked, file, "--json"))["answers"]
    assert (looked["model"], looked["commonest_share"], looked["to_the_judge"], len(looked["warnings"])) == (
        "m",
        1,
        20,
        3,
    )

    file = written(tmp_path / "empty.jsonl", *[compared(n, "" if n < 2 else f"answer {n}") for n in range(30)])
    assert "warning: 2 of the m model's 30 answers are empty." in run(capsys, *asked, file)
    file = written(tmp_path / "plain.jsonl", *[compared(n, f"answer {n}") for n in range(6)])
    assert "warning" not in run(capsys, *asked, file)
    (looked,) = json.loads(run(capsys, *asked, file, "--json"))["answers"]
    assert looked["warnings"] == [] and looked["answers"] == 6


@pytest.mark.parametrize("liked", [1.5, 2.0])
def test_a_model_that_was_judged_against_itself_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, liked: float
) -> None:
    """By its name, or by its answers: the score, 50 % or 100 %, is of nothing."""
    asked = ("--benchmark", "alpaca_eval", "--annotations")
    named = [compared(n, f"answer {n}", generator_1="m", preference=liked) for n in range(4)]
    said = run(capsys, *asked, written(tmp_path / "named.jsonl", *named))
    assert said.count("warning") == 1 and "warning: m is compared with itself: both sides have its name." in said
    alike = [compared(n, f"answer {n}", output_1=f"answer {n}", preference=liked) for n in range(3)]
    other = compared(3, "answer 3")
    told = "3 of 4 verdicts on m against b are on two answers that are one and the same."
    file = written(tmp_path / "alike.jsonl", *alike, other)
    said = run(capsys, *asked, file)
    assert said.count("warning") == 1 and f"warning: {told}" in said
    assert json.loads(run(capsys, *asked, file, "--json"))["warnings"] == [told]
    assert "warning" not in run(capsys, *asked, written(tmp_path / "some.jsonl", alike[0], other))
    unnamed = written(tmp_path / "mt.jsonl", {"question_id": 81, "score": 7})  # ratings compare nobody
    assert "warning" not in run(capsys, "--benchmark", "mt_bench", "--annotations", unnamed)


def test_a_model_that_met_itself_on_arena_hard_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("--benchmark", "arena_hard_v2.0", "--annotations")
    said = run(capsys, *asked, written(tmp_path / "named.jsonl", played(1, baseline="m")))
    assert "warning: m is compared with itself" in said
    file = written(tmp_path / "j.jsonl", played(1), played(2))
    assert "warning" not in run(capsys, *asked, file)
    rows = [answered(model, n, f"answer {n}") for n in (1, 2) for model in "mo"]
    said = run(capsys, *asked, file, "--answers", written(tmp_path / "a.jsonl", *rows))
    assert "warning: 2 of 2 verdicts on m against o are on two answers that are one and the same." in said
    games = [{"score": "A=B", "judgment": {"answer": ""}}] * 2  # as we write what no judge was asked about
    said = run(capsys, *asked, written(tmp_path / "own.jsonl", played(1, games=games)))
    assert "warning: 1 of 1 verdicts on m against o" in said


def answered(model: str, question: int, text: str, tokens: int | None = 3) -> dict[str, Any]:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"answer": text}}]
    return {"uid": f"q{question}", "model": model, "messages": messages} | (
        {"metadata": {"token_len": tokens}} if tokens else {}
    )


def played(question: int, **more: Any) -> dict[str, Any]:
    games = [{"score": "B>A"}, {"score": "A>B"}]
    return {"uid": f"q{question}", "category": "hard_prompt", "model": "m", "baseline": "o", "games": games} | more


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def test_answers_beside_arena_hards_judgments_are_looked_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, version: str
) -> None:
    """v0.1 has no style control, so that its answers need no counts of tokens."""
    category = "hard_prompt" if version == "v2.0" else "arena-hard-v0.1"
    judgments = written(tmp_path / "j.jsonl", *[played(n, category=category) for n in range(5)])
    tokens = 3 if version == "v2.0" else None
    rows = [
        answered(model, n, "Dear judge!" if model == "m" else f"answer {n}", tokens) for n in range(5) for model in "mo"
    ]
    asked = ("--benchmark", f"arena_hard_{version}", "--annotations", judgments)
    assert "warning" not in run(capsys, *asked)
    said = run(capsys, *asked, "--answers", written(tmp_path / "a.jsonl", *rows))
    assert "warning: 100% of the m model's 5 answers are one and the same: “Dear judge!”." in said
    assert "warning: 5 of the m model's 5 answers speak to the judge" in said and "the o model" not in said
    assert ("style-controlled" in said) == (version == "v2.0")


def test_several_baselines_and_judges(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A score each, or those that are named; what compares takes one of each, and names the options."""
    rows = [played(1, judge="one"), played(1, judge="two"), played(1, judge="two", baseline="p")]
    asked = ("--benchmark", "arena_hard_v2.0", "--annotations", written(tmp_path / "j.jsonl", *rows))
    said = run(capsys, *asked)
    for first in (
        "m against o, hard_prompt, 1 questions, 2 battles, judged by one",
        "2 battles, judged by two",
        "against p",
    ):
        assert first in said
    said = run(capsys, *asked, "--judge", "two", "--baseline", "p")
    assert said.startswith("m against p, hard_prompt, 1 questions, 2 battles\n") and said.count("score") == 1
    assert "--baseline can be o, p" in refused(capsys, *asked, "--baseline", "q")
    told = refused(capsys, *asked, "--against", asked[-1])
    assert "m has verdicts of 2 baselines (o, p)" in told and "name one by --baseline" in told
    told = refused(capsys, *asked, "--against", asked[-1], "--baseline", "o")
    assert "m has verdicts of 2 judges (one, two)" in told and "name one by --judge" in told


@pytest.mark.parametrize("values", [[0, 1], [0.0, 1.0, 0.5], [0.93, 1.0], [0.2, 0.9]])
def test_preferences_from_0_to_1_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, values: list[float]
) -> None:
    """What is a win on that scale is a loss on AlpacaEval's, in whose early files a draw is 0."""
    asked = ("--benchmark", "alpaca_eval", "--annotations")
    file = written(tmp_path / "a.jsonl", *[compared(n, "a", preference=each) for n, each in enumerate(values)])
    told = refused(capsys, *asked, file)
    assert "a scale from 0 to 1" in told and "add 1 to each" in told
    early = written(tmp_path / "b.jsonl", *[compared(n, "a", preference=each) for n, each in enumerate((0, 1, 2))])
    assert "50.00 [" in run(capsys, *asked, early)
    lost = written(tmp_path / "c.jsonl", *[compared(n, "a", preference=1) for n in range(3)])
    assert "  win rate           0.00 [" in run(capsys, *asked, lost)


def test_turns_that_are_counted_from_0_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The second of two would stand as the first, and the first be left out."""
    for first, refuses in ((0, True), (1, False)):
        rows = [{"question_id": 81, "turn": first + turn, "model": "m", "score": 5 + turn} for turn in (0, 1)]
        asked = ("--benchmark", "mt_bench", "--annotations", written(tmp_path / "m.jsonl", *rows))
        if refuses:
            assert "1 rows are of turn 0, and none of turn 2" in refused(capsys, *asked)
        else:
            assert "turn 1 5.00, turn 2 6.00" in run(capsys, *asked)


@pytest.mark.parametrize(
    ("benchmark", "row", "says"),
    [
        (
            "alpaca_eval",
            {"instruction": "q", "generator_1": "b", "generator_2": "m", "preference": 1.5},
            "of AlpacaEval",
        ),
        ("arena_hard_v2.0", played(1), "without style control"),
        ("mt_bench", {"question_id": 81, "model": "m", "score": 7}, "not comparable"),
    ],
)
def test_what_is_to_be_said_of_every_score_is_said_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, benchmark: str, row: dict[str, Any], says: str
) -> None:
    rows = [row | {"judge": judge, "annotator": judge} for judge in ("one", "two", "three")]
    unclear = {key: None for key in ("preference", "games", "score") if key in row}  # of one judge alone
    file = written(tmp_path / "j.jsonl", *rows, rows[0] | unclear)
    said = run(capsys, "--benchmark", benchmark, "--annotations", file)
    assert said.count("judged by ") == 3 and said.count(says) == 1
    of_all = said.partition("of all 3\n")[2]
    assert says in of_all and said.count("note: ") == len(set(re.findall("note: .*", said)))
    alone = run(capsys, "--benchmark", benchmark, "--annotations", file, "--judge", "two")
    assert says in alone and "of all" not in alone
    scores = json.loads(run(capsys, "--benchmark", benchmark, "--annotations", file, "--json"))["scores"]
    assert all(says in str(score["notes"]) for score in scores)  # a record stands alone


def test_two_judges_in_one_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of the second file the judge that --judge does not name."""
    rows = [
        {"question_id": n, "turn": 1, "model": "m", "judge": [judge, "single-v1"], "score": score}
        for judge, scores in (("one", (7, 8)), ("two", (7, 3)))
        for n, score in enumerate(scores, 81)
    ]
    file = written(tmp_path / "j.jsonl", *rows)
    asked = ("--benchmark", "mt_bench", "--annotations", file, "--second-judge", file)
    assert "the judges agree on 50.0 % of 2 verdicts" in run(capsys, *asked, "--judge", "one")
    assert "m has verdicts of 2 judges (one, two)" in refused(capsys, *asked)


def test_turns_of_a_conversation_are_one_question_where_models_are_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Four conversations of two turns, all won: p is 2 / 2^4, not 2 / 2^8."""
    turns = [(n, turn) for n in range(81, 85) for turn in (1, 2)]
    files = []
    for name, score in (("m", 8), ("n", 5)):
        rated = [{"question_id": n, "turn": turn, "model": name, "score": score} for n, turn in turns]
        files.append(written(tmp_path / f"{name}.jsonl", *rated))
    asked = ("--benchmark", "mt_bench", "--annotations", files[0], "--against", files[1], "--json")
    (compared_,) = json.loads(run(capsys, *asked))["comparisons"]
    assert (compared_["questions"], compared_["difference"]["value"], compared_["higher"]) == (4, 3, 4)
    assert compared_["p_value"] == pytest.approx(0.125)


def test_models_that_met_other_baselines_are_compared_with_a_note(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [
        written(tmp_path / f"{name}.jsonl", played(1, model=name, baseline=baseline, judge="j"))
        for name, baseline in (("m", "o"), ("n", "o"), ("x", "p"))
    ]
    asked = ("--benchmark", "arena_hard_v2.0", "--annotations", files[0], "--against")
    assert "have not the same" not in run(capsys, *asked, files[1])
    assert "note: the models compared have not the same baseline (o and p)" in run(capsys, *asked, files[2])
    assert len(json.loads(run(capsys, *asked, files[2], "--json"))["notes"]) == 1


def test_two_judges_are_of_one_comparison(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Agreement on verdicts against different baselines is of nothing, and a judge agrees with itself."""
    asked = ("--benchmark", "alpaca_eval", "--annotations")
    differing: dict[str, dict[str, Any]] = {
        "first": {"annotator": "j"},
        "copy": {"annotator": "j"},
        "again": {"annotator": "j", "preference": 1.9},
        "other": {"annotator": "k", "generator_1": "c"},
        "unnamed": {"annotator": "k", "generator_1": None},
    }
    files = {
        name: written(tmp_path / f"{name}.jsonl", *[compared(n, f"a{n}", **more) for n in range(3)])
        for name, more in differing.items()
    }
    first = (*asked, files["first"], "--second-judge")
    told = refused(capsys, *first, files["other"])
    assert f"m is compared with c there, and with b in {files['first']}" in told and "by --baseline" in told
    for same in ("first", "copy"):
        assert "every judge agrees with itself" in refused(capsys, *first, files[same])
    assert "note: both files are judged by j: an agreement with itself" in run(capsys, *first, files["again"])
    said = run(capsys, *first, files["unnamed"])  # it may be the same one
    assert "the judges agree on 100.0 % of 3 verdicts" in said and "judged by" not in said


def test_two_judges_of_categories_with_baselines_of_their_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One is compared by question: another baseline in one category alone is refused, too."""
    rows = [
        [played(1, judge=judge), played(2, judge=judge, category="creative_writing", baseline=baseline)]
        for judge, baseline in (("j", "p"), ("k", "p"), ("k", "o"))
    ]
    files = [written(tmp_path / f"{n}.jsonl", *own) for n, own in enumerate(rows)]
    asked = ("--benchmark", "arena_hard_v2.0", "--annotations", files[0], "--second-judge")
    assert "the judges agree on 100.0 % of 2 verdicts" in run(capsys, *asked, files[1])
    assert "m is compared with o there, and with p in" in refused(capsys, *asked, files[2])


UNREADABLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alpaca_eval": (compared(1, "a"), compared(1, "a", preference=None)),
    "arena_hard_v0.1": (
        played(1, category="arena-hard-v0.1"),
        played(1, category="arena-hard-v0.1", games=[{"score": None}] * 2),
    ),
    "arena_hard_v2.0": (played(1), played(1, games=[{"score": None}] * 2)),
    "mt_bench": ({"question_id": 81, "model": "m", "score": 3}, {"question_id": 81, "model": "m", "score": -1}),
}


@pytest.mark.parametrize("option", ["--second-judge", "--against"])
@pytest.mark.parametrize("benchmark", UNREADABLE)
def test_another_file_without_a_verdict_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, benchmark: str, option: str
) -> None:
    """Not questions that it would not have in common."""
    good, bad = UNREADABLE[benchmark]
    second = written(tmp_path / "second.jsonl", bad)
    asked = ("--benchmark", benchmark, "--annotations", written(tmp_path / "first.jsonl", good))
    told = refused(capsys, *asked, option, second)
    assert second in told and "can be used" in told and "in common" not in told


def test_two_of_one_name_and_a_judge_that_says_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one, other = (alpaca(tmp_path / f"{name}.json", ("mixdpo", [1.2, 2.0])) for name in ("one", "other"))
    said = run(capsys, "--benchmark", "alpaca_eval", "--annotations", one, "--against", other)
    assert f"mixdpo ({one}) against mixdpo ({other})" in said
    silent = alpaca(tmp_path / "silent.json", ("mixdpo", [7.0, 7.0]))
    told = refused(capsys, "--benchmark", "alpaca_eval", "--annotations", one, "--second-judge", silent)
    assert f"{silent}: no verdict on mixdpo can be used" in told
