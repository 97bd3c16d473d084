"""The page of a study: a grid of methods, flip fractions and seeds, trained side by side.

    html = render_study(StudyData(title="label noise", ...))

A method has one look in every figure, in the legend and in the table: colour, marker symbol and dash, so that it is
told apart without colour too. What is not finite is a gap in a line and a dash in the table.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.looks import Look, looks_of, middles, trace, whiskers
from pipeline.report.page import assemble
from pipeline.report.plotting import EVEN, Figure, Spec, axis, number, numbers, spec
from pipeline.report.training_figures import MOST_POINTS, finite, sampled
from pipeline.statistics import Interval, WinRate


@dataclass(frozen=True)
class Cell:
    """One trained cell of the grid. Held-out figures are of the dev pairs after training; log-probs are in nats."""

    method: str
    flip_fraction: float
    seed: int
    accuracy: Interval  # share of held-out pairs with gap > 0, over them; a gap of 0 counts half
    gap: float  # mean over held-out pairs, in the method's own scale
    chosen_change: float | None  # of the mean log-prob sum since before training; null where unknown
    rejected_change: float | None
    win_rate: WinRate | None = None  # null where the study stops at train, as is the share
    share_met: Interval | None = None
    pairs: int = 0  # trained, each as often as it was
    seconds: float = 0.0
    address: str = ""


@dataclass(frozen=True)
class StudyData:
    """Everything the page of a study shows."""

    title: str
    config: Mapping[str, Any]
    provenance: Mapping[str, str]
    cells: Sequence[Cell]  # in the order of the configuration
    pooled: Mapping[tuple[str, float], Interval]  # win rate over seeds by method and flip fraction; may be empty
    held_out_pairs: Sequence[int]  # of the cells; every number once, the least first
    questions: int | None
    pairs: Mapping[str, pa.Table]  # by method, of one run: columns DRAWN of its preference pairs; may be empty
    adaptive: Sequence[str]  # methods whose margin is gamma's
    seconds: float
    favours: Mapping[str, str] = field(default_factory=dict)  # by method: easy or hard pairs, or neither
    own_pairs: bool = False  # whether methods have pairs of their own, to train and to hold out


_SHARE = {"tickformat": ".0%", "hoverformat": ".1%"}
_SECTIONS = {
    "compared": "What was compared",
    "win-rate": "Win rate",
    "held-out": "Held-out pairs",
    "margins": "Target margins",
    "weights": "Gradient weights",
    "cells": "All cells",
    "configuration": "Configuration",
}


def render_study(data: StudyData) -> str:
    """The whole page as HTML; the same data gives the same text. What the data lacks is left out and named."""
    looks = looks_of([*(cell.method for cell in data.cells), *data.pairs])
    drawn = {
        "win-rate": [_win_rates(data, looks)] if data.cells and data.pooled else [],
        "held-out": _held_out(data, looks) if data.cells else [],
        "margins": [figure for method in data.adaptive if (figure := _margins(data, method, looks))],
        "weights": [_weights(data.pairs, looks)] if any(_drawn(rows).num_rows for rows in data.pairs.values()) else [],
    }
    absent = [name for name, figures in drawn.items() if not figures] + ([] if data.cells else ["cells"])
    return assemble(
        "study.html.j2",
        data,
        _SECTIONS,
        absent,
        ("page.js", "study.js"),
        figures=drawn,
        looks=looks,
        flips=sorted({cell.flip_fraction for cell in data.cells}),
        seeds=sorted({cell.seed for cell in data.cells}),
        share=share,
        diverged=sum(number(cell.accuracy.value) is None or number(cell.gap) is None for cell in data.cells),
        unequal=len({cell.pairs for cell in data.cells}) > 1,
        groups=grouped(data),
        judged=any(cell.win_rate or cell.share_met for cell in data.cells),
    )


def grouped(data: StudyData) -> list[tuple[str, list[Cell]]]:
    """The cells by what their methods favour, in the order of the configuration; one group without a name where all do
    alike.
    """
    groups: dict[str, list[Cell]] = {}
    for name in ("easy", "hard", "neither"):
        if cells := [cell for cell in data.cells if data.favours.get(cell.method, "neither") == name]:
            groups[name] = cells
    return list(groups.items()) if len(groups) > 1 else [("", list(data.cells))]


def _win_rates(data: StudyData, looks: Mapping[str, Look]) -> Figure:
    def rate(cell: Cell) -> float | None:
        return cell.win_rate.rate.value if cell.win_rate else None

    caption = (
        "Line: seeds pooled; whiskers: their 95% interval; small marks: one seed each; dotted: as often won as lost. "
        "Methods stand side by side."
    )
    drawn = _against_flips(data, looks, rate, data.pooled, axis("win rate", **_SHARE), 380)
    drawn["layout"]["shapes"] = [EVEN]
    return Figure("fig-win-rate", "Win rate against flip fraction", caption, drawn)


def _held_out(data: StudyData, looks: Mapping[str, Look]) -> list[Figure]:
    def figure(name: str, value: Callable[[Cell], float], title: str, caption: str, y: Spec) -> Figure:
        seeds: dict[tuple[str, float], list[float]] = {}
        for cell in data.cells:
            seeds.setdefault((cell.method, cell.flip_fraction), []).append(value(cell))
        means = {key: sum(values) / len(values) for key, values in seeds.items()}
        drawn = _against_flips(data, looks, value, means, y, 340)
        return Figure(f"fig-{name}", f"{title} against flip fraction", caption, drawn)

    marks = "Line: mean over seeds, no interval; small marks: one seed each."
    scale = "In each method's own scale: heights do not compare between methods."
    return [
        figure("accuracy", lambda cell: cell.accuracy.value, "Held-out accuracy", marks, axis("accuracy", **_SHARE)),
        figure("gap", lambda cell: cell.gap, "Mean held-out gap", scale, axis("mean gap", hoverformat=".3~g")),
    ]


def _against_flips(
    data: StudyData,
    looks: Mapping[str, Look],
    value: Callable[[Cell], float | None],
    middle: Mapping[tuple[str, float], float | Interval],
    y: Spec,
    height: int,
) -> Spec:
    """A line a method through `middle`, with whiskers where that is an interval, and a small mark for every seed.

    Methods stand side by side at a flip fraction, so that none lies under another.
    """
    flips = sorted({cell.flip_fraction for cell in data.cells})
    room = min((after - before for before, after in itertools.pairwise(flips)), default=1.0)
    step = room * min(0.06, 0.6 / max(1, len(looks)))
    traces: list[Spec] = []
    for index, (method, look) in enumerate(looks.items()):
        aside = step * (index - (len(looks) - 1) / 2)
        cells = [cell for cell in data.cells if cell.method == method]
        found = [middle.get((method, flip)) for flip in flips]
        line = {
            **trace(method, look, "lines+markers", 9),
            "hovertemplate": "%{y} %{customdata}",
            "x": [number(flip + aside) for flip in flips],
            "y": middles(found),
            "customdata": [f"at {share(flip)} flips" for flip in flips],
            "line": {"color": look.colour, "dash": look.dash, "width": 2},
            **whiskers(found, look),
        }
        seeds = {
            **trace(method, look, "markers", 5, opacity=0.6),
            "hovertemplate": "%{y} %{customdata}",
            "x": [number(cell.flip_fraction + aside + step / 3) for cell in cells],
            "y": [number(value(cell)) for cell in cells],
            "customdata": [f"seed {cell.seed} at {share(cell.flip_fraction)} flips" for cell in cells],
        }
        traces += [line, seeds]
    x = axis("labels flipped in training", tickvals=flips, ticktext=[share(flip) for flip in flips], zeroline=False)
    x["range"] = [flips[0] - 0.4 * room, flips[-1] + 0.4 * room]
    return spec(traces, height, x, y)


def _margins(data: StudyData, method: str, looks: Mapping[str, Look]) -> Figure | None:
    """Target margin against gap for one method, its flipped pairs as crosses; None where it has no finite pair."""
    if method not in data.pairs or not (drawn := _drawn(data.pairs[method])).num_rows:
        return None
    shown = sampled(drawn, min(1000, MOST_POINTS // len(data.adaptive)))
    kept, flipped = (shown.filter(pc.equal(shown["flipped"], value)) for value in (False, True))
    traces = [
        _points(rows, "margin", trace(method, looks[method], *form))
        for rows, form in ((kept, ("markers", 6, 0.6)), (flipped, ("markers", 5, 0.7)))
    ]
    traces[1]["marker"] |= {"symbol": "x-thin", "line": {"width": 1, "color": "var(--ink)"}}
    every = f"{drawn.num_rows:,} pairs"
    some = f"{shown.num_rows:,} of {every}" if shown.num_rows < drawn.num_rows else every
    caption = f"{some}, {flipped.num_rows:,} of those shown with a flipped label (crosses)."
    figure = spec(traces, 260, axis("reward gap"), axis("target margin"))
    return Figure(f"fig-margin-{looks[method].group}", f"Target margin of {method}", caption, figure)


def _weights(pairs: Mapping[str, pa.Table], looks: Mapping[str, Look]) -> Figure:
    most = min(300, MOST_POINTS // len(pairs))
    traces = [
        _points(sampled(_drawn(rows), most), "weight", trace(method, looks[method], "markers", 7, 0.7))
        for method, rows in pairs.items()
    ]
    caption = f"Each mark is a pair, at most {most:,} a method, picked by digest of the pair and its place."
    drawn = spec(traces, 440, axis("reward gap, in each method's own scale"), axis("gradient weight"))
    return Figure("fig-weights", "Gradient weight against gap", caption, drawn)


def _drawn(rows: pa.Table) -> pa.Table:
    return finite(rows, "gap", "margin", "weight")


def _points(rows: pa.Table, column: str, style: Spec) -> Spec:
    found = {"x": numbers(rows["gap"]), "y": numbers(rows[column])}
    return {**style, **found, "hovertemplate": "gap %{x:.3~g}, %{y:.3~g}"}


def share(flip_fraction: float) -> str:
    """A flip fraction as it was configured, as a percentage."""
    return f"{100 * flip_fraction:g}%"
