"""Figures of a model's own answers: their scores, the best of some, and what the pairs made of them differ in."""

import html
import math

from pipeline.onpolicy.describing import Described, Lengths, Rewards
from pipeline.report.plotting import Figure, Spec, axis, number, spec

_SIDES = {
    "chosen": {"color": "var(--preference)", "width": 2, "shape": "hvh"},
    "rejected": {"color": "var(--drop)", "width": 2, "shape": "hvh", "dash": "dash"},
}


def of_answers(found: Described) -> list[Figure]:
    """Those that there is something to draw of; a rater's have its place in their elements' ids."""
    drawn = []
    for place, (rater, one) in enumerate(found.rewards.items()):
        drawn.append(scores(f"fig-scores-{place}", rater, one))
        if len(one.best_of) > 1:
            drawn.append(best_of(f"fig-best-{place}", rater, one))
    if found.lengths and found.lengths.points:
        drawn.append(against_length(found.lengths, found.pairs))
    if any(found.prefixes.keys() - {0}):
        drawn.append(prefixes(found))
    return drawn


def scores(name: str, rater: str, one: Rewards) -> Figure:
    """Bars: all answers; lines: the two sides of the pairs. In shares, as there are more answers than pairs."""
    bins = [place for side in one.counts.values() for place in side]
    x = range(min(bins), max(bins) + 1)
    middles = [number((place + 0.5) * one.width) for place in x]
    data: list[Spec] = []
    for side, counts in one.counts.items():
        if not (total := sum(counts.values())):
            continue
        shares = [number(counts.get(place, 0) / total) for place in x]
        hover = {"hovertemplate": f"%{{y:.1%}} within {one.width / 2:g} of %{{x}}"}
        if side in _SIDES:
            line = {"type": "scatter", "mode": "lines+markers", "line": _SIDES[side], "marker": {"size": 5}}
            data.append({**line, "name": side, "x": middles, "y": shares, **hover})
        else:
            bar = {"type": "bar", "width": one.width, "marker": {"color": "var(--rule)"}}
            data.append({**bar, "name": "all answers", "x": middles, "y": shares, **hover})
    y = axis("share of the answers", rangemode="tozero", tickformat=".0%")
    drawn = spec(data, 300, axis("score"), y, bargap=0, showlegend=True)
    caption = (
        "Bars: all answers; solid: chosen, dashed: rejected. Where the lines part little, the pairs say little; "
        f"{one.scored:,} different answers have {one.distinct:,} different scores."
    )
    return Figure(name, f"scores by {rater}", caption, drawn)


def best_of(name: str, rater: str, one: Rewards) -> Figure:
    """What choosing among k answers is worth, against what it costs in distance from the model."""
    k = range(1, len(one.best_of) + 1)
    line: Spec = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": html.escape(rater, quote=False),
        "x": list(k),
        "y": [number(value) for value in one.best_of],
        "customdata": [number(away(each)) for each in k],
        "line": {"color": "var(--trained)", "width": 2},
        "marker": {"size": 7},
        "hovertemplate": "best of %{x}: %{y:.3~g}; at most %{customdata:.2f} nats away<extra></extra>",
    }
    x = axis("answers to choose from", dtick=max(1, len(one.best_of) // 8))
    drawn = spec([line], 300, x, axis("mean of the best score"))
    n = len(one.best_of)
    caption = (
        f"Over {one.prompts:,} prompts, each with {n} answers of its own. Who always gives the best of {n} is at most "
        f"{away(n):.2f} nats away from the model."
    )
    return Figure(name, f"best of k by {rater}", caption, drawn)


def away(k: int) -> float:
    """The most that the best of k answers diverges from the model, in nats (KL)."""
    return math.log(k) - (k - 1) / k


def against_length(lengths: Lengths, pairs: int) -> Figure:
    x, y = zip(*lengths.points, strict=True)
    points: Spec = {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": [number(value) for value in y],
        "marker": {"color": "var(--preference)", "size": 7, "opacity": 0.4},
        "hovertemplate": "%{x:+,} tokens, margin %{y:.3~g}<extra></extra>",
    }
    even = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1}
    shapes = [{**even, "line": {"color": "var(--ink)", "dash": "dot", "width": 1.5}}]
    ends = axis("tokens that the chosen answer is longer"), axis("margin", rangemode="tozero")
    some = f"; {len(x):,} of {pairs:,} pairs, by their digests" if len(x) < pairs else ""
    caption = f"A mark is a pair{some}. Right of the dotted line the longer answer is the chosen one."
    return Figure(
        "fig-margin-length", "margin against difference in length", caption, spec([points], 320, *ends, shapes=shapes)
    )


def prefixes(found: Described) -> Figure:
    bars: Spec = {
        "type": "bar",
        "x": [number((place + 0.5) * found.prefix_width) for place in found.prefixes],
        "y": list(found.prefixes.values()),
        "width": found.prefix_width,
        "marker": {"color": "var(--preference)", "line": {"width": 0.5, "color": "var(--paper)"}},
        "hovertemplate": f"%{{y}} pairs within {found.prefix_width / 2:g} of %{{x}} tokens<extra></extra>",
    }
    caption = (
        "Tokens that both answers of a pair begin with. In a difference of summed log-probs they cancel, in one of "
        "means they do not."
    )
    drawn = spec([bars], 320, axis("shared tokens"), axis("pairs"), bargap=0)
    return Figure("fig-prefixes", "shared beginnings", caption, drawn)
