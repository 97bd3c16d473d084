"""What a judge said, from the judge stage's rows and manifest to the page: numbers by hand, words as text."""

import dataclasses
import json
from typing import Any

import pytest

from jobs.common.judged_answers import doubts
from pipeline.evaluation.breakdown import Group, Longer
from pipeline.report.data import ReportData
from pipeline.report.judging import Asked as Questions
from pipeline.report.judging import category, judged, verdicts
from pipeline.report.judging_figures import MOST_GROUPS, against_length, by_group, of_benchmark
from pipeline.report.outcomes import Answer, Asked, Judged, Looks, Match, OwnFigure, Rule, Sample, Verdict
from pipeline.report.page import dollars, render
from pipeline.report.samples import laid_out
from pipeline.statistics import Interval
from tests.pipeline.report.sample_judging import BASELINE, about, response
from tests.pipeline.report.sample_report import BASE, HOSTILE, TRAINED, sample_report
from tests.pipeline.report.test_page import EMPTY, Reader

Row = dict[str, Any]
SUMMARY = {"rate": {"value": 62.5, "low": 50.0, "high": 75.0}, "questions": 2, "games": 6, "read": 3, "alike": 2}
SUMMARY |= {"unparsable": 1, "missing": 0, "first_shown": 40.0}

NONE = "\N{EN DASH}"


def game(question: str, points: float | None, *, model: str = "trained", against: str = "base", **more: Any) -> Row:
    outcome = "read" if points is not None else "unparsable"
    told = {"model_first": True, "outcome": outcome, "times": int(points is not None), "judgment": "words"}
    named = {"benchmark": "mine", "question_id": question, "model": model, "against": against}
    return {**named, "points": points, **told, **more}


def answers(**texts: str) -> list[Row]:
    """Rows of RESPONSES of three questions, whose lengths are 1, 2 and 3, of two categories."""
    places = {"a": (1, "x"), "b": (2, "y"), "c": (3, "x")}
    return [
        response("mine", name, "?" * places[name][0], text, {"category": places[name][1]})
        for name, text in texts.items()
    ]


def read(page: str) -> str:
    return " ".join(" ".join(Reader(page).text).split())


def alone(benchmark: Asked) -> ReportData:
    return dataclasses.replace(EMPTY, asked=[benchmark])


def test_a_match_by_hand() -> None:
    theirs, ours = answers(a="1234", b="12", c=""), answers(a="1", b="12", c="123456")
    games = [
        *(game("a", 1.0, times=3), game("a", 0.0, model_first=False)),
        *(game("b", 0.5, outcome="alike"), game("b", 0.5, outcome="alike", model_first=False)),
        *(game("c", 1.0), game("c", None, model_first=False)),
        game("a", 0.0, model="base", against="other"),  # of another match
    ]
    own = {"label": "own", "value": 48.2, "low": 40.0, "high": 55.0, "unit": "%"}
    match = {"model": "trained", "against": "base", "summary": SUMMARY, "figures": [own], "notes": ["n"]}
    figures = about("games", matches=[match], notes=["n", "m"])
    found = judged(figures, Questions.of({"base": theirs, "trained": ours}), games, [], 200, 0)
    (one,) = found.matches
    assert one.rate == Interval(0.625, 0.5, 0.75) and one.first_shown == 0.4
    assert (one.questions, one.games, one.alike, one.unparsable, one.missing) == (2, 6, 2, 1, 0)
    # a: 3 of 4 points; b: half; c has a game without a verdict and is in no breakdown.
    assert [(group.name, group.mean.value) for group in one.categories] == [("x", 0.75), ("y", 0.5)]
    assert [(group.name, group.mean.value) for group in one.prompt_lengths] == [("1", 0.75), ("2", 0.5)]
    assert one.longer == [Longer(-3, 0.75), Longer(0, 0.5)]
    assert [(part.at, part.mean.value) for part in one.length_curve] == [(-1.5, 0.625)]
    assert one.figures == [OwnFigure("own", 48.2, 40.0, 55.0, "%")]
    assert found.remarks == ["n", "m"] and found.labels == ["own"] and found.opponents == ["base"]


def test_a_baseline_is_what_its_matches_are_measured_against() -> None:
    rows = {"base": answers(a="12", b="12"), "trained": answers(a="123", b="1")}
    baselines = [{"benchmark": "mine", "question_id": name, "name": "gpt", "response": "12345"} for name in "ab"]
    games = [game(name, 0.25, model=model, against="gpt") for name in "ab" for model in ("trained", "base")]
    matches: list[Row] = [
        {"model": model, "against": "gpt", "summary": SUMMARY, "figures": [], "notes": []}
        for model in ("trained", "base")
    ]
    paired = {"questions": 2, "difference": {"value": 0.0, "low": -0.1, "high": 0.1}, "higher": 0, "equal": 2}
    figures = about("preference", matches=matches, paired={**paired, "lower": 0, "p_value": 1.0})
    found = judged(figures, Questions.of(rows, baselines), games, [], 200, 0)  # type: ignore[arg-type]
    assert [[each.characters for each in match.longer] for match in found.matches] == [[-2, -4], [-3, -3]]
    assert found.baselines["gpt"].characters == 5 and found.paired and found.paired.difference.high == 0.1
    looks = {"base": Looks(1.0, 0, BASE), "trained": Looks(1.0, 0, TRAINED)}
    told = read(render(alone(Asked("mine", 2, "", looks, found))))  # type: ignore[arg-type]
    assert "win rate of 62.5% (95% interval 50.0% to 75.0%) against gpt , on 2 questions." in told
    assert "better than the base model's on 0, as well on 2 and worse on 0 of 2" in told
    assert "(95% interval \N{MINUS SIGN}10 to +10) ; sign test p = 1." in told
    # Distinct, tokens and cut answers unknown, characters, markdown.
    assert f"gpt , the opponent 50.0% {NONE} {NONE} 5 0" in told


def test_a_baseline_of_several_is_one_opponent() -> None:
    """Arena-Hard v2.0 has one for each category."""
    rows = {"base": answers(a="12", b="12"), "trained": answers(a="123", b="1")}
    baselines = [
        {"benchmark": "mine", "question_id": key, "name": name, "response": "12345"} for key, name in ("a3", "b4")
    ]
    games = [game("a", 1.0, against="3"), game("b", 0.5, against="4")]
    matches: list[Row] = [{"model": "trained", "against": "3, 4", "summary": SUMMARY, "figures": [], "notes": []}]
    found = judged(about("games", matches=matches), Questions.of(rows, baselines), games, [], 200, 0)  # type: ignore[arg-type]
    (one,) = found.matches
    assert one.longer == [Longer(-2, 1.0), Longer(-4, 0.5)] and len(one.categories) == 2


def test_ratings_by_hand() -> None:
    rows = {model: [response("m", "q", "?", "x", {"category": "math"}, turn) for turn in (1, 2)] for model in ("base",)}
    rated = [
        {"benchmark": "m", "question_id": "q", "turn": turn, "model": "base", "category": "math", "rating": value}
        for turn, value in ((1, 3.0), (2, 8.0))
    ]
    none = {"question_id": "q", "turn": 1, "model": "trained", "category": "math", "rating": None}
    models: dict[str, Row] = {
        "base": {"overall": {"value": 5.5, "low": 5.5, "high": 5.5}, "turns": {"1": 3.0, "2": 8.0}, "ratings": 2},
        "trained": {"overall": None, "turns": {}, "ratings": 0},
    }
    models = {model: {**one, "categories": {}, "unparsable": 0, "missing": 4} for model, one in models.items()}
    figures = about("ratings", ratings={"models": models, "difference": None})
    found = judged(figures, Questions.of({**rows, "trained": []}), [], [*rated, none], 200, 0)  # type: ignore[dict-item]
    base, trained = found.rated
    assert [(group.name, group.questions, group.mean.value) for group in base.categories] == [("math", 1, 5.5)]
    assert (trained.overall, trained.categories, trained.missing) == (None, [], 4)
    assert found.columns == 4 and found.ratings_of("base") == base


def test_the_judge_is_named_with_its_words_its_tokens_and_its_price(reader: Reader) -> None:
    told = " ".join(" ".join(reader.text).split())
    assert "The judge gives the trained model a win rate of 71.3% (95% interval 66.4% to 75.9%) against base" in told
    assert "on 151 questions, each shown in both orders." in told
    # Questions, verdicts asked, alike, unparsable, missing, points of the answer shown first.
    assert "trained against base 151 320 0 11 2 56.1%" in told
    assert (
        "Judge: <i>judge</i> . Wording: widemargin's own . It read 180,018 tokens and wrote 3,404, for $4.20." in told
    )
    assert told.count(", for $") == 1  # where no price is given, none is told
    assert "length-controlled win rate" in told and "The coefficients are reconstructed" in told
    assert "sign test p = 0.00213" in told
    assert [dollars(amount) for amount in (0.0, 0.004, 0.349, 1234.5)] == [
        "$0.00",
        "less than $0.01",
        "$0.35",
        "$1,234.50",
    ]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(render(sample_report()))


def test_a_judge_that_said_nothing_is_no_figure() -> None:
    benchmark = sample_report().benchmark
    assert benchmark is not None and benchmark.judged is not None
    (match,) = benchmark.judged.matches
    silent = dataclasses.replace(match, rate=None, questions=0, first_shown=None)
    said = dataclasses.replace(benchmark.judged, matches=[silent])
    told = read(render(dataclasses.replace(EMPTY, benchmark=dataclasses.replace(benchmark, judged=said))))
    assert "On the trained model against base the judge gave no verdict that could be read." in told
    assert f"trained against base 0 320 0 11 2 {NONE}" in told and of_benchmark(said, "0") == []


def test_names_categories_and_judgments_are_never_markup(reader: Reader) -> None:
    text = "".join(reader.text)
    assert text.count(BASELINE) >= 2 * 40  # of every card's answers and verdicts
    judgments = [place for place, (tag, attrs) in enumerate(reader.elements) if attrs.get("class") == "judgments"]
    assert len(judgments) == len(sample_report().samples)
    assert not {tag for tag, _ in reader.elements} & {"i", "img", "iframe", "textarea"}
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
    # Once more inside the figures, since plotly reads labels as its own small markup.
    labels = [
        label
        for kind, script in reader.scripts
        if kind
        for label in json.loads(script)["layout"]["yaxis"].get("ticktext", [])
    ]
    assert any("&lt;script&gt;" in label for label in labels) and not any("<" in label for label in labels)


def test_figures_by_group_hold_their_numbers() -> None:
    ours = [Group("y", 3, Interval(0.5, 0.25, 1.0)), Group("x<", 2, Interval(0.75, 0.5, 0.8))]
    theirs = [Group("x<", 2, Interval(0.1, 0.0, 0.2))]
    figure = by_group("n", "t", "c", {"trained": ours, "base": theirs}, rated=False)
    assert figure is not None
    trained, base = figure.spec["data"]
    assert (trained["x"], trained["y"], base["y"]) == ([0.5, 0.75], [-0.14, 0.86], [1.14])
    assert (trained["error_x"]["array"], trained["error_x"]["arrayminus"]) == ([0.5, 0.05], [0.25, 0.25])
    layout = figure.spec["layout"]
    assert layout["yaxis"]["ticktext"] == ["y (3)", "x&lt; (2)"] and layout["shapes"][0]["x0"] == 0.5
    assert by_group("n", "t", "c", {"trained": ours[:1]}, rated=False) is None  # one category is no breakdown


def test_categories_are_the_largest_and_begin_with_the_best() -> None:
    groups = [Group(f"c{n:02}", 100 - n, Interval(n / 100, 0.0, 1.0)) for n in range(30)]
    match = Match("trained", "base", None, 0, 0, 0, 0, 0, None, categories=groups)
    said = Judged("judge", "wording", "games", 0, 0, matches=[match])
    (figure,) = of_benchmark(said, "0")
    (dots,) = figure.spec["data"]
    assert dots["x"] == [n / 100 for n in reversed(range(MOST_GROUPS))] and figure.name == "fig-0-category"


def test_length_against_points() -> None:
    longer = [Longer(characters, 1.0) for characters in range(100)] + [Longer(90_000, 0.0)]
    curve = [Group("0 to 99", 100, Interval(0.7, 0.6, 0.75), at=49.5)]
    match = Match("trained", "<gpt>", None, 0, 0, 0, 0, 0, None, longer=longer, length_curve=curve)
    figure = against_length("n", [match])
    assert figure is not None
    marks, line = figure.spec["data"]
    assert marks["x"][:2] == [0, 1] and (line["x"], line["y"]) == ([49.5], [0.7])
    assert (line["error_y"]["array"], line["error_y"]["arrayminus"]) == ([0.05], [0.1])
    # One answer of 90,000 characters does not press all others into one column.
    assert figure.spec["layout"]["xaxis"]["range"][1] < 200 and figure.caption.endswith(
        " Beyond its edges: 1 of 101 marks."
    )
    assert "Against <gpt>." in figure.caption and against_length("n", []) is None


@pytest.mark.parametrize(
    ("meta", "name"),
    [
        ({"dataset": "koala", "category": "c"}, "koala"),
        ({"category": "hard_prompt", "subcategory": "math"}, "math"),
        ({"category": "writing"}, "writing"),
        ({}, ""),
    ],
)
def test_the_category_is_what_the_owner_calls_it(meta: Row, name: str) -> None:
    assert category(response("b", "q", "?", "", meta)) == name


def test_verdicts_by_question_and_turn() -> None:
    games = [
        game("a", 0.0, model="base", against="gpt", times=1),
        game("a", 1.0, against="gpt", times=3, judgment="A wins"),
        game("a", 0.0, against="gpt", model_first=False),
        game("b", None, outcome="missing", judgment="status 503"),
        game("c", 0.5, outcome="alike", judgment=""),
    ]
    rating = {"benchmark": "m", "question_id": "q", "turn": 2, "model": "base", "outcome": "unparsable"}
    found = verdicts(games, [{**rating, "rating": None, "judgment": "[[11]]"}])
    ours, theirs = found["mine", "a", 1]
    assert (ours.model, ours.value, ours.outcome) == ("trained", 0.75, "won")
    assert [(saying.game, saying.words) for saying in ours.sayings] == [
        ("shown first", "A wins"),
        ("shown second", "words"),
    ]
    assert (theirs.model, theirs.value, theirs.outcome) == ("base", 0.0, "lost")
    (lost,), (tied,), (unrated,) = found["mine", "b", 1], found["mine", "c", 1], found["m", "q", 2]
    assert (lost.outcome, lost.sayings[0].words) == ("undecided", "No reply: status 503")
    assert tied.outcome == "tied" and "one and the same" in tied.sayings[0].words
    assert (unrated.outcome, unrated.sayings[0].words) == ("undecided", "No verdict could be read: [[11]]")


def test_cards_hold_both_answers_the_baselines_and_the_verdict_of_their_turn() -> None:
    rows = [response("m", "q", f"turn {turn}?", "base", {"category": "math"}, turn) for turn in (1, 2)]
    ours = [{**row, "response": "ours", "finish_reason": "length"} for row in rows]
    rated = {"benchmark": "m", "question_id": "q", "outcome": "read", "judgment": ""}
    ratings = [
        {**rated, "turn": turn, "model": model, "rating": value}
        for turn, model, value in ((1, "base", 3.0), (1, "trained", 3.0), (2, "base", 4.0), (2, "trained", 5.0))
    ]
    other = [{"benchmark": "m", "question_id": "q", "name": "gpt", "response": "theirs"}]
    first, second = laid_out({"m": list(zip(rows, ours, strict=True))}, {}, [], ratings, other)
    assert (first.question, first.turn, first.outcome) == ("turn 1?", 1, "same")
    assert (second.question, second.turn, second.outcome, second.category) == ("turn 2?", 2, "better", "math")
    assert second.answers["trained"] == Answer("ours", "length", [])
    assert first.baselines == {"gpt": "theirs"} and second.baselines == {}  # no baseline has answered two turns


RULES = {"base": Answer("", "stop", [Rule("w", False)]), "trained": Answer("", "stop", [Rule("w", True)])}
PLAIN = {"base": Answer("", "stop"), "trained": Answer("", "stop")}


@pytest.mark.parametrize(
    ("texts", "said", "outcome"),
    [
        (RULES, [("trained", "base", 0.0)], "better"),  # rules before a judge
        (PLAIN, [("trained", "base", 0.25)], "worse"),
        (PLAIN, [("trained", "base", 0.5)], "same"),
        (PLAIN, [("trained", "base", None)], "undecided"),
        (PLAIN, [("trained", "gpt", 0.3), ("base", "gpt", 0.1)], "better"),
        (PLAIN, [("trained", "gpt", 0.3), ("base", "gpt", None)], "undecided"),
        (PLAIN, [("trained", None, 4.0), ("base", None, 7.0)], "worse"),
        (PLAIN, [], "undecided"),
    ],
)
def test_the_outcome_is_the_trained_answers_seen_from_the_base_answer(texts: Any, said: Any, outcome: str) -> None:
    assert Sample("q", texts, verdicts=[Verdict(*each) for each in said]).outcome == outcome


def test_doubts_name_their_match_where_there_are_several() -> None:
    def match(model: str, **figures: Any) -> Row:
        return {"model": model, "against": "gpt", "summary": {**SUMMARY, **figures}}

    ours, theirs = match("trained", first_shown=39.0), match("base", first_shown=None, unparsable=0)
    rated = {"models": {"base": {"unparsable": 0, "missing": 0}, "trained": {"unparsable": 2, "missing": 1}}}
    alone = "The judge gave 39% of the points to the answer that it saw first."
    assert doubts({"matches": [ours], "ratings": None}) == [
        "1 of the judge's 6 verdicts are missing or could not be read.",
        alone,
    ]
    assert doubts({"matches": [theirs], "ratings": rated}) == [
        "3 of the trained model's ratings are missing or could not be read."
    ]
    assert doubts({"matches": [ours, theirs], "ratings": None})[1] == f"{alone[:-1]} (trained against gpt)."
    assert doubts({"matches": [match("trained", unparsable=0)], "ratings": None}) == []  # 40% is within ten points
    met = match("trained", unparsable=0, alike=6)
    same = "6 of 6 verdicts on trained against gpt are on two answers that are one and the same."
    assert doubts({"matches": [met], "ratings": None}) == [same]
    assert doubts({"matches": [{**met, "against": "base"}], "ratings": None}) == []  # told with or without a judge


def test_filters_offer_what_there_is() -> None:
    plain = Sample("q", PLAIN, "one", verdicts=[Verdict("trained", "base", 1.0)])  # type: ignore[arg-type]
    page = render(dataclasses.replace(EMPTY, samples=[plain], not_shown=3))
    reader = Reader(page)
    values = [attrs.get("value") for tag, attrs in reader.elements if tag == "option"]
    assert values == ["", "trained-won"]  # and no choice between benchmarks, where there is one
    buttons = [attrs["data-filter"] for tag, attrs in reader.elements if tag == "button"]
    assert buttons == ["all", "better", "same", "worse"]
    assert "3 more answers are not on this page" in "".join(reader.text)
    everything = Reader(render(sample_report()))
    offered = [attrs.get("value") for tag, attrs in everything.elements if tag == "option"]
    assert offered[0] == "" and {"trained-won", "base-lost", "trained-undecided"} <= set(offered)


def test_hostile_judgments_in_every_place(reader: Reader) -> None:
    """The sample has each as the judge's word on a question decided by rules, on both preferences, and on a turn."""
    text = "".join(reader.text)
    assert all(text.count(hostile) >= 4 for hostile in HOSTILE)
