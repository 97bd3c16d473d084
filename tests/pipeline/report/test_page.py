"""The page: what a model wrote stays text, what is missing is left out, figures hold the numbers they were given."""

import dataclasses
import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.data import Histogram, Objective, ReportData
from pipeline.report.figures import kinds, score_margins, win_rate
from pipeline.report.outcomes import Answer, KindScore, Rule, Sample
from pipeline.report.page import duration, number, percent, render
from pipeline.report.scheduled import described, histogram
from pipeline.report.training_figures import (
    dictionary,
    flip_rates,
    sampled,
    streams,
    thinned,
    trained_pairs,
    training_curves,
)
from pipeline.results import tables
from pipeline.statistics import Interval, WinRate
from tests.pipeline.report.sample_report import HOSTILE, sample_report, scores

EMPTY = ReportData("t", "c", {}, {}, Objective("dpo", {}))


class Reader(HTMLParser):
    """Collects what a browser would make of the page: elements with attributes, text, and scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attrs = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and data.strip():
            self.scripts.append((attrs.get("type"), data))
        else:
            self.text.append(data)

    def sections(self) -> list[str]:
        return [attrs["id"] or "" for tag, attrs in self.elements if tag == "section"]


@pytest.fixture(scope="module")
def page() -> str:
    return render(sample_report())


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def test_model_output_is_never_markup(reader: Reader) -> None:
    text = "".join(reader.text)
    for hostile in HOSTILE:
        assert hostile in text
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"img", "iframe", "textarea", "object", "embed"}
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
    assert {attrs["href"] for tag, attrs in reader.elements if tag == "a"} == {f"#{name}" for name in reader.sections()}


def test_only_the_three_scripts_of_the_page_can_run(reader: Reader) -> None:
    assert len([script for kind, script in reader.scripts if kind is None]) == 3
    policy = next(attrs["content"] for tag, attrs in reader.elements if tag == "meta" and "http-equiv" in attrs)
    assert policy and policy.startswith("default-src 'none'")
    directive = re.search(r"script-src ([^;]*)", policy)
    assert directive and len(re.findall(r"'sha256-[\w+/=]{44}'", directive[1])) == 3 and "unsafe" not in directive[1]


def test_a_kind_that_closes_the_script_element_stays_inside_its_figure() -> None:
    name = "</script><script>window.pwned = 1</script>"
    benchmark = dataclasses.replace(sample_report().benchmark, kinds=[KindScore(name, 1, 0.0, 1.0)])  # type: ignore[type-var]
    reader = Reader(render(dataclasses.replace(EMPTY, benchmark=benchmark)))
    specs = [json.loads(script) for kind, script in reader.scripts if kind == "application/json"]
    assert len([script for kind, script in reader.scripts if kind is None]) == 3
    # Escaped once more inside the figure, since plotly reads labels as its own small markup.
    assert any("&lt;/script&gt;" in label for spec in specs for trace in spec["data"] for label in trace["y"])


def test_every_figure_is_valid_plotly_and_has_its_own_id(reader: Reader) -> None:
    specs = [json.loads(script) for kind, script in reader.scripts if kind == "application/json"]
    assert len(specs) == 22
    for spec in specs:
        go.Figure(spec)  # raises on a property plotly does not know
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_page_is_small_and_the_same_every_time(page: str) -> None:
    assert len(page.encode()) < 6_000_000
    assert render(sample_report()) == page


def test_missing_parts_are_left_out_and_named() -> None:
    reader = Reader(render(EMPTY))
    assert reader.sections() == ["configuration"]
    absent = next(text for text in reader.text if "Not in this run" in text)
    assert "result" in absent and "training" in absent and "configuration" not in absent


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(ReportData) if f.default is not dataclasses.MISSING]
)
def test_any_one_part_may_be_missing(field: str) -> None:
    full = sample_report()
    without = dataclasses.replace(full, **{field: getattr(EMPTY, field)})
    gone = set(Reader(render(full)).sections()) - set(Reader(render(without)).sections())
    only = {"stages": {"stages"}, "steps": {"training"}, "trained_pairs": {"margins"}, "held_out": {"held-out"}}
    only |= {"asked": {"asked"}, "sampled": {"sampled"}, "ranked": {"ranked"}, "elsewhere": {"elsewhere"}}
    assert gone == only.get(field, {"benchmark": {"result", "kinds"}, "samples": {"samples"}}.get(field, set()))


def test_what_came_of_the_training_elsewhere(page: str) -> None:
    whole = " ".join(page.split())
    assert "71.2%" in whole and "log-ratio sum *" in whole and "2,985" in whole
    assert "word_perplexity, lower is better" in whole
    assert whole.count("<strong>lost</strong>") == 1  # 0.07 of 0.018, and nothing where no error is known
    without = render(dataclasses.replace(sample_report(), ranked=(), elsewhere=None))
    absent = [text for text in Reader(without).text if "Not in this run" in text]
    assert absent == [text for text in Reader(page).text if "Not in this run" in text]  # what is made on request


def test_one_model_alone_is_shown_without_a_comparison() -> None:
    full = sample_report()
    assert full.benchmark is not None
    alone = dataclasses.replace(
        full.benchmark, models={"base": full.benchmark.models["base"]}, comparison=None, kinds=(), judged=None
    )
    samples = [Sample(sample.question, {"base": sample.answers["base"]}) for sample in full.samples]
    reader = Reader(render(dataclasses.replace(full, benchmark=alone, asked=(), samples=samples)))
    text = "".join(reader.text)
    assert "No comparison" in text and "base model" in text and "trained model" not in text
    assert {attrs["data-outcome"] for tag, attrs in reader.elements if tag == "article"} == {"undecided"}


def test_data_turns_into_json() -> None:
    def columns(table: pa.Table) -> dict[str, Any]:
        return table.to_pydict()

    found = json.loads(json.dumps(dataclasses.asdict(sample_report()), default=columns))
    assert found["benchmark"]["comparison"]["wins"] == 124
    assert found["steps"]["step"] == list(range(32)) and len(found["trained_pairs"]["gap"]) == 256


def test_a_diverged_run_still_has_a_report() -> None:
    steps = [
        {"step": 0, "loss": 1.0, "gap": 0.5, "margin": 0.2},
        {"step": 1, "loss": math.nan, "gap": math.inf, "margin": 0.2},
    ]
    pairs = [
        {"step": step, "position": step, "pair_id": "p", "flipped": False, "gap": gap, "margin": 0.1, "weight": 0.5}
        for step, gap in enumerate((0.3, math.nan))
    ]
    tables = {"steps": pa.Table.from_pylist(steps), "trained_pairs": pa.Table.from_pylist(pairs)}
    loss = training_curves(tables["steps"])[0]
    assert loss.spec["data"][0]["y"] == [1.0, None]
    assert trained_pairs(tables["trained_pairs"])[0].spec["data"][0]["x"] == [0.3]
    reader = Reader(render(dataclasses.replace(EMPTY, **tables)))
    assert "NaN" not in "".join(script for kind, script in reader.scripts if kind)


def test_answers_that_utf8_cannot_hold_do_not_break_the_page() -> None:
    render(dataclasses.replace(EMPTY, notes=["half a pair: \ud83d"])).encode("utf-8")


@pytest.mark.parametrize(
    ("base", "trained", "outcome"),
    [([True, False], [True, True], "better"), ([True, False], [False, True], "same"), ([True], [False], "worse")],
)
def test_outcome_compares_the_shares_of_rules_met(base: list[bool], trained: list[bool], outcome: str) -> None:
    answers = {
        model: Answer("", "stop", [Rule("w", met) for met in rules])
        for model, rules in (("base", base), ("trained", trained))
    }
    assert Sample("q", answers).outcome == outcome  # type: ignore[arg-type]


def test_sft_begins_where_the_first_sft_pair_is() -> None:
    rows = [{"step": step, "loss": 1.0, "sft_pairs": int(step in (7, 9))} for step in range(12)]
    steps = pa.Table.from_pylist(rows)
    assert {shape["x0"] for figure in training_curves(steps) for shape in figure.spec["layout"]["shapes"]} == {7}
    assert all(not figure.spec["layout"]["shapes"] for figure in training_curves(steps[:7]))


def test_win_rate_bar_and_whiskers() -> None:
    *bars, dot = win_rate(WinRate(wins=5, ties=2, losses=3, rate=Interval(0.6, 0.5, 0.75))).spec["data"]
    assert [(bar["x"], bar["text"]) for bar in bars] == [
        ([0.5], ["5 wins"]),
        ([0.2], ["2 ties"]),
        ([0.3], ["3 losses"]),
    ]
    assert (dot["x"], dot["error_x"]["array"], dot["error_x"]["arrayminus"]) == ([0.6], [0.15], [0.1])


def test_kinds_are_ordered_by_gain() -> None:
    _, base, trained = kinds(
        [KindScore("a", 3, 0.1, 0.9), KindScore("b", 4, 0.5, 0.4), KindScore("c", 5, 0.2, 0.3)]
    ).spec["data"]
    assert base["y"] == ["b (4)", "c (5)", "a (3)"]
    assert (base["x"], trained["x"]) == ([0.5, 0.2, 0.1], [0.4, 0.3, 0.9])


def counted(pairs: Sequence[tuple[float | None, str]]) -> Histogram | None:
    values, routes = zip(*pairs, strict=True)
    return histogram(pa.chunked_array([pa.array(values, pa.float64())]), pa.chunked_array([pa.array(routes)]))


def test_histogram_by_hand() -> None:
    pairs: list[tuple[float | None, str]] = [(margin, "preference") for margin in (0.0, 0.1, 0.3, 1.0)]
    found = counted([*pairs, (0.3, "sft"), (None, "drop"), (math.inf, "drop")])
    assert found is not None
    preference, sft = score_margins(found).spec["data"]
    # 30 bins at most over [0, 1]: the width is 0.05, and 0.3 lies in [0.3, 0.35) although 0.3 / 0.05 rounds below 6
    assert preference["width"] == 0.05
    assert preference["x"] == [0.025, 0.125, 0.325, 1.025] and preference["y"] == [1, 1, 1, 1]
    assert (sft["x"], sft["y"]) == ([0.325], [1])
    assert counted([(None, "drop"), (math.nan, "drop")]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_histogram_counts_every_pair_once(margins: list[float]) -> None:
    found = counted([(margin, "preference") for margin in margins])
    assert found is not None
    (bars,) = score_margins(found).spec["data"]
    assert sum(bars["y"]) == len(margins)
    assert len(bars["x"]) <= 32


def test_the_schedule_in_figures() -> None:
    rows = [("a", "sft", True), ("b", "preference", False), ("a", "sft", True), ("c", "drop", False)]
    schedule = pa.Table.from_pylist([dict(zip(("pair_id", "route", "flipped"), row, strict=True)) for row in rows])
    pairs = scores([{"pair_id": "c", "margin": None}, {"pair_id": "b", "margin": 2.0}, {"pair_id": "a", "margin": 1.0}])
    found = described([(schedule, pairs)])
    assert (found.pairs, found.flipped, found.unscored) == (4, 2, 1)
    assert found.margins and found.margins.counts == {"preference": {40: 1}, "sft": {20: 2}, "drop": {}}
    assert found.margins.width == 0.05
    with pytest.raises(KeyError, match="a"):
        described([(schedule, pairs.slice(0, 2))])


def many_pairs(count: int) -> pa.Table:
    draw = np.random.default_rng(0)
    return pa.table(
        {
            "step": np.arange(count) // 8,
            "position": np.arange(count),
            "pair_id": [f"p{index}" for index in range(count)],
            "flipped": draw.random(count) < 0.1,
            "gap": draw.normal(size=count),
            "margin": np.full(count, 0.5),
            "weight": draw.random(count),
        }
    )


def places(rows: pa.Table) -> list[int]:
    found: list[int] = rows["position"].to_pylist()
    return found


def test_a_sample_is_keyed_by_content_in_order_and_said() -> None:
    rows = many_pairs(6000)
    kept = sampled(rows, 100)
    assert places(kept) == sorted(places(kept)) and kept.num_rows == 100
    assert set(places(kept)) == set(places(sampled(rows.take(np.arange(6000)[::-1]), 100)))
    # Of a part of the pairs those that are in it are picked again, and of more pairs no others of these.
    assert set(places(kept)) & set(range(3000)) <= set(places(sampled(rows.slice(0, 3000), 100)))
    assert sampled(rows, 6000) is rows
    by_digest = sorted(
        range(6000), key=lambda index: hashlib.sha256(f"p{index} {index // 8} {index}".encode()).digest()
    )
    assert places(kept) == sorted(by_digest[:100])
    for figure in trained_pairs(rows):
        assert sum(len(trace["x"]) for trace in figure.spec["data"]) == 5000 and "5,000 of 6,000" in figure.caption


def test_a_long_curve_keeps_every_peak_and_says_so() -> None:
    values = np.zeros(70_001)
    values[[3, 40_000, 69_999]] = 9.0, -7.0, math.nan
    held_out: list[float | None] = [None] * 70_001
    held_out[500::501] = [0.5] * len(held_out[500::501])
    steps = pa.table({"step": np.arange(70_001), "loss": values, "held_out_accuracy": pa.array(held_out, pa.float64())})
    loss, looked = training_curves(steps)
    (curve,) = loss.spec["data"]
    drawn = dict(zip(curve["x"], curve["y"], strict=True))
    assert drawn[3] == 9.0 and drawn[40_000] == -7.0 and len(drawn) <= 2000 and list(drawn) == sorted(drawn)
    assert "Of each 71 steps the lowest and the highest value are drawn." in loss.caption
    (looked_at,) = looked.spec["data"]
    assert set(looked_at["y"]) == {0.5, None} and looked_at["y"].count(0.5) == len(held_out[500::501])
    (short,) = training_curves(steps.select(["step", "loss"]).slice(0, 2000))
    assert short.spec["data"][0]["x"] == list(range(2000)) and "drawn" not in short.caption


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2001, 3000))
def test_runs_of_a_curve_are_drawn_by_their_extremes(seed: int, steps: int) -> None:
    values = np.random.default_rng(seed).choice([0.0, 1.0, -2.5, math.nan, math.inf], steps)
    found = thinned(values)
    assert (np.diff(found) > 0).all() and len(found) <= 2000
    for start in range(0, steps, 3):
        run = values[start : start + 3]
        drawn = values[found[(found >= start) & (found < start + 3)]]
        if (finite := run[np.isfinite(run)]).size:
            assert set(drawn) == {finite.min(), finite.max()}
        else:
            np.testing.assert_array_equal(drawn, run[:1])  # drawn as a gap


def test_a_page_does_not_grow_with_its_pairs() -> None:
    def page(pairs: int) -> int:
        trained = many_pairs(pairs)
        steps = pa.table({"step": np.arange(pairs // 8), "loss": np.random.default_rng(1).random(pairs // 8)})
        routes = pa.array(["preference", "sft"]).take(pa.array(np.arange(pairs) % 2))
        schedule = trained.select(["pair_id", "flipped"]).append_column("route", routes)
        paired = trained.select(["pair_id", "gap"]).rename_columns(["pair_id", "chosen_score"])
        paired = paired.append_column("rejected_score", paired["chosen_score"])
        data = {"steps": steps, "trained_pairs": trained, "scheduled": described([(schedule, paired)])}
        return len(render(dataclasses.replace(EMPTY, **data)))

    assert page(100_000) < 1.01 * page(20_000)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (-2.5, "\N{MINUS SIGN}2.5"),
        (1234.6, "1,235"),
        (17034, "17,034"),
        (3e-5, "3e-05"),
        (0, "0"),
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_percent_and_duration() -> None:
    assert percent(0.8634) == "86.3%"
    times = [0.04, 59.94, 59.96, 192, 3599.6, 3840]
    assert [duration(t) for t in times] == ["0.0 s", "59.9 s", "1 min 00 s", "3 min 12 s", "1 h 00 min", "1 h 04 min"]


def test_importing_the_report_loads_no_torch() -> None:
    code = (
        "import sys, pipeline.report.page; sys.exit(bool({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_estimated_flip_rates_beside_what_was_flipped() -> None:
    """A line a source, those with the most pairs; what the schedule flipped is a share of all it holds."""
    rows = [
        {"step": step, "source": source, "pairs": 12 - place, "flip_rate": 0.1 + place / 100 + step / 10}
        for step in range(2)
        for place, source in enumerate((HOSTILE[0], "", *map(str, range(8))))
    ]
    table = pa.Table.from_pylist(rows, schema=tables.RELIABILITY)
    figure = flip_rates(table, 0.2)
    go.Figure(figure.spec)
    drawn = figure.spec["data"]
    assert [line["name"] for line in drawn][1:3] == ["all labels", "0"] and len(drawn) == 8
    assert drawn[0]["name"].startswith("&lt;script&gt;") and drawn[1]["y"] == [0.11, 0.21]
    assert "8 sources of 10" in figure.caption and figure.spec["layout"]["shapes"][0]["y0"] == 0.2
    full = sample_report()
    shown = Reader(render(dataclasses.replace(full, reliability=table)))
    specs = (json.loads(script) for kind, script in shown.scripts if kind == "application/json")
    own = next(spec for spec in specs if spec["data"][0].get("name") == drawn[0]["name"])
    assert full.scheduled
    assert own["layout"]["shapes"][0]["y0"] == pytest.approx(full.scheduled.flipped / full.scheduled.pairs)


def test_streams_and_an_autoencoder_are_drawn() -> None:
    """A gap a stream; their weights only where they move; what is explained and what is dead."""
    rows: list[dict[str, Any]] = [
        {"step": step, "stream": name, "pairs": 3, "weight": 0.5, "loss": 0.7, "gap": step + place, "accuracy": 0.5}
        for step in range(3)
        for place, name in enumerate(("data", HOSTILE[0]))
    ]
    table = pa.Table.from_pylist(rows, schema=tables.STREAMS)
    (gaps,) = streams(table)
    assert [line["y"] for line in gaps.spec["data"]] == [[0, 1, 2], [1, 2, 3]]
    assert gaps.spec["data"][1]["name"].startswith("&lt;script&gt;")
    moving = pa.Table.from_pylist([row | {"weight": row["step"] / 4} for row in rows], schema=tables.STREAMS)
    assert [line["y"] for line in streams(moving)[1].spec["data"]] == [[0, 0.25, 0.5]] * 2
    known = [{"step": k, "states": 9 * k, "loss": 0.5, "explained": k / 10, "dead": 1 - k / 10} for k in range(4)]
    trained = pa.Table.from_pylist(known, schema=tables.DICTIONARY)
    figure = dictionary(trained)
    assert [line["y"] for line in figure.spec["data"]] == [[0, 0.1, 0.2, 0.3], [1, 0.9, 0.8, 0.7]]
    for each in (gaps, figure):
        go.Figure(each.spec)
    shown = Reader(render(dataclasses.replace(sample_report(), streams=moving, dictionary=trained)))
    told = "".join(shown.text)
    assert all(title in told for title in ("mean gap by stream", "weight by stream", "the sparse autoencoder"))


def test_sampled_answers_in_words() -> None:
    own = sample_report().sampled
    assert own
    text = " ".join("".join(Reader(render(dataclasses.replace(EMPTY, sampled=own))).text).split())
    assert "840 answers to 120 prompts, 840 of them different; 240 go on from a beginning of another." in text
    assert f"{own.cut} ({percent(own.cut / 840)}) of those that were sampled were cut at their limit." in text
    assert f"{own.pairs} pairs of {own.paired} prompts; 3 more are beyond what a prompt may have." in text
    assert own.lengths and f"In {percent(own.lengths.longer)} of the pairs the longer answer is the chosen one" in text
    ((one, other, tau),) = own.agreement
    assert f"{one} and {other} agree on the order of a prompt's answers with a Kendall's τ of {number(tau)}." in text
    equal = dataclasses.replace(own, agreement=[("a", "b", None)], lengths=None, rewards={}, groups={})
    text = " ".join("".join(Reader(render(dataclasses.replace(EMPTY, sampled=equal))).text).split())
    assert "a and b cannot be compared: one of them finds no answer to a prompt better than another." in text
    assert "the longer answer is" not in text


def test_how_models_were_run_stands_under_the_stages() -> None:
    note = "bfloat16 on cuda; attention packed, by FlexAttention; head in chunks; <not a fused head>"
    run = dataclasses.replace(sample_report().stages[1], notes=[note])
    reader = Reader(render(dataclasses.replace(EMPTY, stages=[run])))
    assert f"reference: {note}" in "".join(reader.text)
