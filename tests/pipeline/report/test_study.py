"""The page of a study: what a configuration wrote stays text, methods stay apart, lines and marks are the numbers."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
import pytest

import pipeline.report.looks
from pipeline.report.looks import COLOURS, looks_of
from pipeline.report.study import Cell, StudyData, grouped, render_study
from pipeline.statistics import Interval, WinRate, wilson
from tests.pipeline.report.sample_report import HOSTILE
from tests.pipeline.report.sample_study import METHODS, pulled, sample_study
from tests.pipeline.report.test_page import Reader

EMPTY = StudyData("t", {}, {}, [], {}, [0], None, {}, [], 0.0)


def figures(reader: Reader) -> dict[str, Any]:
    """The specification of every figure by its element's id."""
    ids = [attrs["id"] or "" for tag, attrs in reader.elements if tag == "div" and attrs.get("class") == "plot"]
    return dict(zip(ids, (json.loads(text) for kind, text in reader.scripts if kind), strict=True))


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(render_study(sample_study(methods=[*METHODS, *HOSTILE[1:]])))


def test_names_of_a_configuration_are_never_markup(reader: Reader) -> None:
    text = "".join(reader.text)
    assert all(text.count(hostile) >= 10 for hostile in HOSTILE)  # the legend and nine cells
    assert not {tag for tag, _ in reader.elements} & {"img", "iframe", "textarea", "object", "embed"}
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
    assert len([script for kind, script in reader.scripts if kind is None]) == 3
    policy = next(attrs["content"] or "" for tag, attrs in reader.elements if tag == "meta" and "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'") and len(re.findall(r"'sha256-[\w+/=]{44}'", policy)) == 3
    # Once more inside the figures, since plotly reads names as its own small markup.
    names = [trace["name"] for spec in figures(reader).values() for trace in spec["data"]]
    assert names and not any("<" in name for name in names)


def test_cells_stand_by_what_their_methods_favour(reader: Reader) -> None:
    data = sample_study()
    groups = grouped(data)
    assert [(name, sorted({cell.method for cell in cells})) for name, cells in groups] == [
        ("easy", ["gamma-dpo", "gamma-simpo"]),
        ("hard", ["ipo"]),
        ("neither", sorted({"dpo", "rdpo", "mixdpo", HOSTILE[0]})),
    ]
    assert sorted(cell.address for _, cells in groups for cell in cells) == sorted(cell.address for cell in data.cells)
    text = "".join(reader.text)
    assert text.index("Favour easy pairs") < text.index("Favour hard pairs") < text.index("Favour neither")
    alike = dataclasses.replace(data, favours={})
    assert grouped(alike) == [("", list(data.cells))] and "Favour" not in "".join(Reader(render_study(alike)).text)


def test_every_figure_is_valid_plotly_and_has_its_own_id(reader: Reader) -> None:
    drawn = figures(reader)
    assert list(drawn) == [
        "fig-win-rate",
        "fig-accuracy",
        "fig-gap",
        *(f"fig-margin-{i}" for i in (3, 4, 6)),
        "fig-weights",
    ]
    for spec in drawn.values():
        go.Figure(spec)  # raises on a property plotly does not know
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert render_study(sample_study()) == render_study(sample_study())


def test_methods_stay_apart_with_colour_and_without() -> None:
    looks = list(looks_of(str(index) for index in range(144)).values())
    assert len({look.colour for look in looks[:12]}) == len({look.symbol for look in looks[:12]}) == 12
    assert len({(look.symbol, look.dash) for look in looks[:40]}) == 40
    assert len({(look.colour, look.symbol) for look in looks}) == 144
    css = (Path(pipeline.report.looks.__file__).parent / "page.css").read_text()
    assert all(css.count(f"--method-{index}:") == 2 for index in range(COLOURS))  # light and print, dark


def test_lines_whiskers_and_marks_by_hand() -> None:
    def cell(method: str, flips: float, seed: int, accuracy: float, rate: float | None) -> Cell:
        won = None if rate is None else WinRate(1, 0, 0, Interval(rate, rate, rate))
        return Cell(method, flips, seed, wilson(accuracy, 2), 10 * accuracy, None, -2.5, won)

    cells = [
        cell("a", 0.0, 0, 0.75, 0.5), cell("a", 0.0, 1, 0.25, 0.7), cell("a", 0.4, 0, 1.0, 0.4),
        cell("b", 0.4, 0, math.nan, None), cell("b", 0.0, 0, 0.5, 0.9),
    ]  # fmt: skip
    pooled = {
        ("a", 0.0): Interval(0.6, 0.5, 0.75),
        ("a", 0.4): Interval(0.4, 0.3, 0.5),
        ("b", 0.0): Interval(0.9, 0.8, 1),
    }
    drawn = figures(reader := Reader(render_study(dataclasses.replace(EMPTY, cells=cells, pooled=pooled, questions=9))))
    line, seeds, other, _ = drawn["fig-win-rate"]["data"]
    assert line["y"] == [0.6, 0.4] and seeds["y"] == [0.5, 0.7, 0.4] and other["y"] == [0.9, None]
    assert (line["error_y"]["array"], line["error_y"]["arrayminus"]) == ([0.15, 0.1], [0.1, 0.1])
    # Side by side around the flip fraction: 6% of the room between two fractions apart.
    assert line["x"] == [-0.012, 0.388] and other["x"] == [0.012, 0.412]
    means = [trace["y"] for trace in drawn["fig-accuracy"]["data"]]
    assert means == [[0.5, 1.0], [0.75, 0.25, 1.0], [0.5, None], [None, 0.5]]
    assert drawn["fig-gap"]["data"][0]["y"] == [5.0, 10.0]
    assert not any("error_y" in trace for trace in drawn["fig-accuracy"]["data"])
    text = "".join(reader.text)
    assert "5 of 8 trained cells" in text and "1 cell ended without finite" in re.sub(r"\s+", " ", text)
    assert "\N{MINUS SIGN}2.5" in text


def test_margins_are_the_adaptive_methods_with_flips_as_crosses() -> None:
    pairs = pulled([(0.1, 0.4, 0.5, False), (-1.0, 0.2, 0.9, True), (math.inf, 0.1, 0.0, False)])
    data = dataclasses.replace(EMPTY, pairs={"dpo": pairs, "gamma": pairs}, adaptive=["gamma"])
    drawn = figures(Reader(render_study(data)))
    assert list(drawn) == ["fig-margin-1", "fig-weights"]
    kept, flipped = drawn["fig-margin-1"]["data"]
    assert (kept["x"], kept["y"]) == ([0.1], [0.4]) and (flipped["x"], flipped["y"]) == ([-1.0], [0.2])
    assert flipped["marker"]["symbol"] == "x-thin"
    assert [(trace["x"], trace["y"]) for trace in drawn["fig-weights"]["data"]] == [([0.1, -1.0], [0.5, 0.9])] * 2


@pytest.mark.parametrize(
    ("data", "sections"),
    [
        (EMPTY, ["compared", "configuration"]),
        (sample_study(answers=False), ["compared", "held-out", "margins", "weights", "cells", "configuration"]),
        (sample_study(places=0), ["compared", "win-rate", "held-out", "cells", "configuration"]),
        (sample_study(methods=["dpo"]), ["compared", "win-rate", "held-out", "weights", "cells", "configuration"]),
    ],
    ids=["empty", "no answers", "no pairs", "nothing adaptive"],
)
def test_missing_parts_are_left_out_and_named(data: StudyData, sections: list[str]) -> None:
    reader = Reader(render_study(data))
    assert reader.sections() == sections
    absent = "".join(text for text in reader.text if "Not in this study" in text)
    assert all(
        (name in absent) == (key not in sections)
        for key, name in {"win-rate": "win rate", "margins": "margins"}.items()
    )
    assert ("no answers were generated" in "".join(reader.text)) == (data.questions is None)
    assert all(attrs["href"] in {f"#{name}" for name in sections} for tag, attrs in reader.elements if tag == "a")


def test_methods_with_pairs_of_their_own_say_so_and_how_many() -> None:
    found = (("a", 48, wilson(1.0, 1)), ("b", 31, wilson(0.5, 11)))
    cells = [Cell(method, 0.0, 0, accuracy, 1.0, None, None, pairs=pairs) for method, pairs, accuracy in found]
    data = dataclasses.replace(EMPTY, cells=cells, own_pairs=True, held_out_pairs=[1, 11])
    reader = Reader(render_study(data))
    text = " ".join("".join(reader.text).split())
    assert "31" in reader.text and "48" in reader.text
    assert "come from 1 to 11 pairs" in text and "100.0% 20.7% to 100.0%" in text  # all of one pair tell little
    assert "of different pairs" in text and "They do not train on equal numbers of pairs" in text
    assert "one shared reference" not in text
    equal = [dataclasses.replace(cell, pairs=31) for cell in cells]
    assert "on equal numbers" not in "".join(Reader(render_study(dataclasses.replace(data, cells=equal))).text)
    assert "one shared reference" in "".join(Reader(render_study(EMPTY)).text)


def test_forty_methods_share_the_points_that_a_figure_can_hold() -> None:
    methods = [f"gamma-{index}" for index in range(40)]
    data = dataclasses.replace(sample_study(methods), adaptive=methods)
    drawn = figures(Reader(render_study(data)))
    counts = [len(trace["x"]) for trace in drawn["fig-weights"]["data"]]
    assert counts == [125] * 40  # 5,000 in all
    panels = [spec for name, spec in drawn.items() if name.startswith("fig-margin")]
    assert sum(len(trace["x"]) for spec in panels for trace in spec["data"]) == 5000
