"""The page of a sweep: names stay text, points are the trials, what is chosen is ringed, tables hold the same."""

import csv
import dataclasses
import re

import plotly.graph_objects as go  # type: ignore[import-untyped]
import pytest

from pipeline.report.sweep import Estimate, Method, SweepData, Trial, render_sweep
from pipeline.report.sweep_tables import tables
from pipeline.statistics import Interval
from tests.pipeline.report.sample_report import HOSTILE
from tests.pipeline.report.sample_sweep import METHODS, sample_sweep
from tests.pipeline.report.test_page import Reader
from tests.pipeline.report.test_study import figures

RATE = "train.learning_rate"


def method(name: str, trial: int | None, **more: object) -> Method:
    blank = dict.fromkeys(("figure", "win_rate", "share_met", "accuracy", "beyond", "chosen_change", "rejected_change"))
    return Method(**{**blank, "name": name, "trial": trial, "settings": {}, **more})  # type: ignore[arg-type]


def by_hand() -> SweepData:
    trials = [
        Trial("a", 0, {RATE: 1e-5}, 0.6, "whole"),
        Trial("a", 1, {RATE: 1e-4}, 0.9, "whole"),
        Trial("a", 2, {RATE: 1e-3}, None, "failed", "diverged"),
        Trial("b", 0, {}, 0.7, "whole"),
    ]
    methods = [
        method("a", 1, settings={RATE: 1e-4}, beyond=Estimate(0.1, Interval(0.1, 0.02, 0.18), None)),
        method("b", 0),
    ]
    return SweepData("t", {}, {}, "accuracy", "random", "b", [0], 8, 0, {RATE: "log"}, methods, trials)


def test_points_rings_and_the_expected_best_by_hand() -> None:
    drawn = figures(reader := Reader(render_sweep(by_hand())))
    (points,) = drawn["fig-setting-0"]["data"]
    assert (points["x"], points["y"]) == ([1e-5, 1e-4], [0.6, 0.9]) and points["marker"]["line"]["width"] == [0, 2.5]
    assert drawn["fig-setting-0"]["layout"]["xaxis"]["type"] == "log"
    lines = {line["name"]: line["y"] for line in drawn["fig-expected"]["data"]}
    assert lines == {"a": [0.66667, 0.8, 0.9], "b": [0.7]}  # of 0.5, 0.6 and 0.9: the failed trial counts a half
    text = re.sub(r"\s+", " ", "".join(reader.text))
    assert "1 trial failed and could not be chosen" in text and "failed: diverged" in text
    assert "settings were chosen by" in text and "+10" in text and "+2 to +18" in text


def test_names_and_reasons_are_never_markup() -> None:
    reader = Reader(render_sweep(sample_sweep([*METHODS, *HOSTILE[1:]])))
    text = "".join(reader.text)
    assert all(text.count(hostile) >= 5 for hostile in HOSTILE)
    assert not {tag for tag, _ in reader.elements} & {"img", "iframe", "textarea", "object", "embed"}
    for spec in figures(reader).values():
        go.Figure(spec)  # raises on a property plotly does not know


@pytest.mark.parametrize(
    ("data", "sections"),
    [
        (sample_sweep(), ["result", "trials", "tuning", "cost", "all-trials", "configuration"]),
        (sample_sweep(trials=1, seeds=1), ["result", "trials", "cost", "all-trials", "configuration"]),
        (
            dataclasses.replace(sample_sweep(answers=False), scales={}),
            ["result", "tuning", "cost", "all-trials", "configuration"],
        ),
    ],
    ids=["all", "one trial", "nothing tuned"],
)
def test_missing_parts_are_left_out_and_named(data: SweepData, sections: list[str]) -> None:
    reader = Reader(render_sweep(data))
    assert reader.sections() == sections
    assert ("Not in this sweep" in "".join(reader.text)) == (len(sections) < 6)


def test_the_tables_hold_the_same() -> None:
    found = tables(sample_sweep([*HOSTILE[:1], "dpo", "x|y"]))
    methods = list(csv.DictReader(found["methods.csv"].splitlines()))
    trials = list(csv.DictReader(found["trials.csv"].splitlines()))
    assert [row["method"] for row in methods] == [HOSTILE[0], "dpo", "x|y"] and len(trials) == 18
    assert float(methods[1]["win_rate_questions_low"]) == pytest.approx(float(methods[1]["win_rate"]) - 0.04)
    assert [row["chosen"] for row in trials].count("True") == 3
    lines = found["methods.md"].splitlines()
    assert len(lines) == 5 and "x\\|y" in lines[4] and all(line.count("|") - line.count("\\|") == 7 for line in lines)
