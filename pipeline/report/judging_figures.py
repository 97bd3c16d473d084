"""Figures of what a judge said: by category and by length of the prompt, and against the length of the answers."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation.breakdown import Group
from pipeline.evaluation.profile import shortened
from pipeline.report.outcomes import Judged, Match, Model
from pipeline.report.plotting import Figure, Spec, axis, number, spec
from pipeline.statistics import Interval

Series = Mapping[Model, Sequence[Group]]
MOST_GROUPS = 24  # more rows than this are a list, not a figure
_APART = {"base": 0.14, "trained": -0.14}  # two models of a row, in rows
_SYMBOLS = {"base": "circle-open", "trained": "circle"}
_EVEN = {"type": "line", "line": {"color": "var(--ink)", "dash": "dot", "width": 1.5}}


def of_benchmark(judged: Judged, name: str) -> list[Figure]:
    """The figures that there are rows for; `name` begins their elements' ids, and is to be unique in the page."""
    rated = judged.method == "ratings"
    what = "rating" if rated else "win rate"
    parts = judged.rated if rated else judged.matches
    by_category: Series = {part.model: part.categories for part in parts if part.categories}
    by_prompt: Series = {part.model: part.prompt_lengths for part in parts if part.prompt_lengths}
    who = "; ".join(f"{'filled' if model == 'trained' else 'open'}: {model}" for model in by_prompt)
    against = f"; against {' and '.join(judged.opponents)}" if judged.opponents else ""
    how = f"{who[:1].upper()}{who[1:]}{against}; whiskers: 95% interval; in brackets the questions: few tell little"
    figures = [
        by_group(f"fig-{name}-category", f"{what} by category", f"{how}.", _ordered(by_category), rated),
        by_group(
            f"fig-{name}-prompt",
            f"{what} by length of the question",
            f"In characters of the question, in quarters from short to long. {how}.",
            by_prompt,
            rated,
        ),
        against_length(f"fig-{name}-length", judged.matches),
    ]
    return [figure for figure in figures if figure]


def _ordered(series: Series) -> Series:
    """The categories with the most questions, those first that the first model does best in."""
    first = next(iter(series.values()), ())
    largest = sorted(first, key=lambda group: (-group.questions, group.name))[:MOST_GROUPS]
    names = [group.name for group in sorted(largest, key=lambda group: (-group.mean.value, group.name))]
    return {
        model: sorted((group for group in groups if group.name in names), key=lambda group: names.index(group.name))
        for model, groups in series.items()
    }


def by_group(name: str, title: str, caption: str, series: Series, rated: bool) -> Figure | None:
    """A row a group, the first on top, with a dot and whiskers a model; None below two groups.

    Values are shares of the points or, where `rated`, ratings of 1 to 10.
    """
    names = list(dict.fromkeys(group.name for groups in series.values() for group in groups))
    if len(names) < 2:
        return None
    counts = {group.name: group.questions for groups in series.values() for group in groups}
    data: list[Spec] = []
    for model, groups in series.items():
        aside = _APART[model] if len(series) > 1 else 0.0
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": model,
                "x": [number(group.mean.value) for group in groups],
                "y": [number(names.index(group.name) + aside) for group in groups],
                "error_x": _whiskers([group.mean for group in groups], model),
                "marker": {"color": f"var(--{model})", "size": 9, "symbol": _SYMBOLS[model]},
                "hovertemplate": "%{x:.3~g}" if rated else "%{x:.1%}",
            }
        )
    # plotly reads labels as its own small markup, so a name is escaped here.
    labels = [f"{html.escape(shortened(each, 28), quote=False)} ({counts[each]:,})" for each in names]
    x = axis(range=[0.8, 10.2]) if rated else axis(range=[-0.03, 1.03], tickformat=".0%", zeroline=False)
    y = axis(
        tickvals=list(range(len(names))),
        ticktext=labels,
        range=[len(names) - 0.5, -0.5],
        zeroline=False,
        showgrid=False,
        tickfont={"size": 11},
    )
    even = {**_EVEN, "xref": "x", "yref": "paper", "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1}
    height = 70 + 30 * len(names)
    drawn = spec(data, height, x, y, showlegend=len(series) > 1, shapes=[] if rated else [even])
    return Figure(name, title, caption, drawn)


def against_length(name: str, matches: Sequence[Match]) -> Figure | None:
    """What the questions got against how much longer the answer was: a faint mark each, and their means in parts."""
    shown = [match for match in matches if match.longer]
    if not shown:
        return None
    data: list[Spec] = []
    for match in shown:
        colour = f"var(--{match.model})"
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": match.model,
                "showlegend": False,
                "x": [each.characters for each in match.longer],
                "y": [number(each.value) for each in match.longer],
                "marker": {"color": colour, "size": 6, "opacity": 0.25, "symbol": _SYMBOLS[match.model]},
                "hovertemplate": "%{x:+,} characters, %{y:.0%}",
            }
        )
        means = [part.mean for part in match.length_curve]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": match.model,
                "x": [number(part.at) for part in match.length_curve],
                "y": [number(mean.value) for mean in means],
                "error_y": _whiskers(means, match.model),
                "line": {"color": colour, "width": 2},
                "marker": {"color": colour, "size": 9, "symbol": _SYMBOLS[match.model]},
                "customdata": [f"{part.questions:,} questions, {part.name} characters" for part in match.length_curve],
                "hovertemplate": "%{y:.1%} of %{customdata}",
            }
        )
    inside, beyond = _inner(np.asarray([each.characters for match in shown for each in match.longer]))
    x = axis("characters longer than the other answer")
    y = axis("share of the points", range=[-0.06, 1.06], tickformat=".0%", zeroline=False)
    even = {**_EVEN, "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5}
    drawn = spec(data, 320, {**x, "range": inside}, y, showlegend=len(shown) > 1, shapes=[even])
    others = " and ".join(dict.fromkeys(match.against for match in shown))
    caption = (
        f"Against {others}. Faint: a question each; line: means of parts of about as many questions, with 95% "
        "intervals. A line that rises: longer answers win."
    )
    if beyond:
        caption += f" Beyond its edges: {beyond:,} of {sum(len(match.longer) for match in shown):,} marks."
    return Figure(name, "win rate against length", caption, drawn)


def _whiskers(means: Sequence[Interval], model: Model) -> Spec:
    return {
        "type": "data",
        "symmetric": False,
        "array": [number(mean.high - mean.value) for mean in means],
        "arrayminus": [number(mean.value - mean.low) for mean in means],
        "thickness": 1.5,
        "width": 4,
        "color": f"var(--{model})",
    }


def _inner(lengths: np.ndarray) -> tuple[list[float], int]:
    """A range for an axis that a few very long answers do not stretch, and how many values lie beyond it."""
    low, high = np.quantile(lengths, [0.01, 0.99])
    room = max(1.0, 0.06 * (high - low))
    return [float(low - room), float(high + room)], int(((lengths < low - room) | (lengths > high + room)).sum())
