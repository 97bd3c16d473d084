"""The page over rounds: lines are the numbers, what is missing is left out, names stay text."""

import dataclasses
import re
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from pipeline.report.rounds import Reward, Round, RoundsData, render_rounds
from pipeline.statistics import Interval, WinRate, wilson
from tests.pipeline.report.sample_report import HOSTILE
from tests.pipeline.report.sample_rounds import RULES, sample_rounds
from tests.pipeline.report.test_page import Reader
from tests.pipeline.report.test_study import figures


def one(number: int, **changes: Any) -> Round:
    plain = Round(number, "the base model", 10, 40, 50.0, 0.1, 9, 0, 0.9, 55.0, 45.0, 0.5, {}, wilson(0.75, 8))
    return dataclasses.replace(plain, **changes)


def page(*rounds: Round, **rules: Any) -> Reader:
    return Reader(render_rounds(RoundsData("t", {}, {}, RULES | rules, rounds)))


def text(reader: Reader) -> str:
    return re.sub(r"\s+", " ", "".join(reader.text))


def test_names_are_never_markup_and_every_figure_is_valid_plotly() -> None:
    reader = Reader(render_rounds(sample_rounds()))
    assert all(hostile in "".join(reader.text) for hostile in (HOSTILE[0], HOSTILE[2]))
    assert not {tag for tag, _ in reader.elements} & {"img", "iframe", "textarea", "object", "embed"}
    drawn = figures(reader)
    assert list(drawn) == ["fig-win-rate", "fig-reward-0", "fig-reward-1", "fig-length", "fig-shares"]
    for each in drawn.values():
        go.Figure(each)  # raises on a property plotly does not know
    assert not any("<" in line["name"] for each in drawn.values() for line in each["data"])
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert render_rounds(sample_rounds()) == render_rounds(sample_rounds())


def test_lines_and_whiskers_by_hand() -> None:
    won = WinRate(6, 0, 4, Interval(0.6, 0.5, 0.75))
    rounds = [
        one(1, rewards={"rm": Reward(0.5, 0.75, 0.25)}, win_rate=won, answer_tokens=30.0),
        one(2, rewards={"rm": Reward(0.625, None, 0.5)}, tokens=100.0, longer=None, judged={"arena": won.rate}),
    ]
    drawn = figures(page(*rounds))
    by_rules, by_judge = drawn["fig-win-rate"]["data"]
    assert (by_rules["x"], by_rules["y"], by_judge["y"]) == ([1, 2], [0.6, None], [None, 0.6])
    assert (by_rules["error_y"]["array"], by_rules["error_y"]["arrayminus"]) == ([0.15, None], [0.1, None])
    assert {line["name"]: line["y"] for line in drawn["fig-reward-0"]["data"]} == {
        "all answers": [0.5, 0.625],
        "chosen": [0.75, None],
        "rejected": [0.25, 0.5],
    }
    assert [line["y"] for line in drawn["fig-length"]["data"]] == [[50, 100], [55, 55], [45, 45], [30, None]]
    assert [line["y"] for line in drawn["fig-shares"]["data"]] == [[0.5, None], [0.1, 0.1], [0.9, 0.9]]


def test_what_is_missing_is_left_out_and_named() -> None:
    reader = Reader(render_rounds(sample_rounds(answers=False)))
    assert reader.sections() == ["rounds", "reward", "length", "every", "configuration"]
    assert "Not in these rounds: win rate." in text(reader)
    bare = page(one(1))
    assert bare.sections() == ["rounds", "length", "every", "configuration"]
    assert "1 round, each" in text(bare)


def test_what_should_be_looked_at_twice() -> None:
    calm = one(1, longer=0.65, cut=0.2, paired=0.7)
    assert "Look twice" not in text(page(calm))
    warned = text(page(calm, one(2, longer=0.7, cut=0.25, paired=0.6, tokens=80.0)))
    assert "Round 2: in 70.0% of the pairs the longer answer wins." in warned
    assert "Round 2: 25.0% of the answers were cut." in warned
    assert "Round 2: 40.0% of the prompts have no pair." in warned
    assert "100.0% 20.7% to 100.0%" in text(page(one(1, accuracy=wilson(1.0, 1))))  # of one held-out pair
    assert "Answers grew from 50 to 80 tokens" in warned and "Round 1:" not in warned


def test_what_was_done_is_said() -> None:
    said = text(page(one(1), one(2), start="base", reference="previous", prompts="same", mix="last-two"))
    assert "A round trains the base model anew; its gaps are measured against the model of the round before." in said
    assert "All rounds ask the same prompts. The pairs of the round before are trained on, too." in said
    said = text(page(one(1), mix="latest"))
    assert "Every round asks other prompts" in said and "are trained on, too" not in said
