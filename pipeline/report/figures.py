"""Figures of the benchmark and of the data: win rate, kinds of constraint, score margins."""

import html
from collections.abc import Sequence

from pipeline.report.data import Histogram
from pipeline.report.outcomes import KindScore
from pipeline.report.plotting import Figure, Spec, axis, number, spec
from pipeline.statistics import WinRate

_PATTERNS = {"preference": "", "sft": "/", "drop": "x"}  # told apart without colour too


def win_rate(comparison: WinRate) -> Figure:
    """The win rate with its interval, over the bar of wins, ties and losses it was counted from."""
    colours = {"wins": "var(--trained)", "ties": "var(--rule)", "losses": "var(--base)"}
    inks = {"wins": "var(--paper)", "ties": "var(--ink)", "losses": "var(--paper)"}
    total = max(1, comparison.wins + comparison.ties + comparison.losses)
    bars: list[Spec] = [
        {
            "type": "bar",
            "orientation": "h",
            "y": ["questions"],
            "x": [number(getattr(comparison, name) / total)],
            "text": [f"{getattr(comparison, name)} {name}"],
            "name": name,
            "marker": {"color": colours[name]},
            "textfont": {"color": inks[name]},
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textangle": 0,
            "width": 0.55,
            "hoverinfo": "text",
        }
        for name in colours
    ]
    rate = comparison.rate
    estimate = {
        "type": "scatter",
        "mode": "markers",
        "y": ["win rate"],
        "x": [number(rate.value)],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [number(rate.high - rate.value)],
            "arrayminus": [number(rate.value - rate.low)],
            "thickness": 2.5,
            "width": 7,
            "color": "var(--trained)",
        },
        "marker": {"color": "var(--trained)", "size": 12},
        "hovertemplate": "%{x:.1%}<extra></extra>",
    }
    even = {"type": "line", "xref": "x", "yref": "paper", "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1}
    drawn = spec(
        [*bars, estimate],
        135,
        axis(range=[0, 1], tickformat=".0%", dtick=0.25, zeroline=False),
        axis(showgrid=False, categoryorder="array", categoryarray=["questions", "win rate"]),
        barmode="stack",
        uniformtext={"minsize": 10, "mode": "hide"},
        margin={"l": 4, "r": 20, "t": 4, "b": 4},
        shapes=[{**even, "line": {"color": "var(--ink)", "dash": "dot", "width": 1.5}}],
    )
    caption = (
        "Dot and whiskers: win rate and 95% interval; beyond the dotted line the trained model wins more than it loses."
    )
    return Figure("fig-win-rate", "Win rate", caption, drawn)


def kinds(scores: Sequence[KindScore]) -> Figure:
    """Base to trained, a line for each kind of constraint, the largest gain on top."""
    ordered = sorted(scores, key=lambda score: (score.trained - score.base, score.kind))
    # plotly reads labels as its own small markup, so a kind's name is escaped here.
    names = [f"{html.escape(score.kind, quote=False)} ({score.constraints})" for score in ordered]
    base, trained = ([number(getattr(score, model)) for score in ordered] for model in ("base", "trained"))
    gaps = {
        "type": "scatter",
        "mode": "lines",
        "x": [x for pair in zip(base, trained, strict=True) for x in (*pair, None)],
        "y": [name for name in names for _ in range(3)],
        "line": {"color": "var(--muted)", "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    dots: list[Spec] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": model,
            "x": values,
            "y": names,
            "marker": {"color": f"var(--{model})", "size": 10, "symbol": symbol},
            "hovertemplate": "%{x:.1%}",
        }
        for model, values, symbol in (("base", base, "circle-open"), ("trained", trained, "circle"))
    ]
    for dot in dots:
        dot["marker"]["line"] = {"width": 2, "color": dot["marker"]["color"]}
    x = axis("share met", range=[-0.03, 1.03], tickformat=".0%", zeroline=False)
    drawn = spec([gaps, *dots], 90 + 24 * len(names), x, axis(type="category", tickfont={"size": 11}), showlegend=True)
    caption = "Open grey: base; filled: trained; in brackets how many constraints of the kind the questions hold."
    return Figure("fig-kinds", "Constraints met by kind", caption, drawn)


def score_margins(margins: Histogram) -> Figure:
    """Score margins, stacked by route."""
    width = margins.width
    data: list[Spec] = [
        {
            "type": "bar",
            "name": route,
            "x": [number((bin_ + 0.5) * width) for bin_ in found],
            "y": list(found.values()),
            "width": width,
            "marker": {
                "color": f"var(--{route})",
                "pattern": {"shape": _PATTERNS[route], "fgcolor": "var(--paper)", "fillmode": "overlay", "size": 6},
                "line": {"width": 0.5, "color": "var(--paper)"},
            },
            "hovertemplate": f"%{{y}} pairs within {width / 2:g} of %{{x}}",
        }
        for route, found in margins.counts.items()
        if found
    ]
    x = axis("score margin (chosen \N{MINUS SIGN} rejected)")
    drawn = spec(data, 280, x, axis("pairs"), barmode="stack", bargap=0, showlegend=True)
    caption = "Near-ties at zero, clear preferences to the right; colour and hatching say how each pair is trained."
    return Figure("fig-score-margins", "Score margins by route", caption, drawn)
