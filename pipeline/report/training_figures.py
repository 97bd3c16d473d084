"""Figures of the training run: curves over the steps, and every trained pair against its reward gap."""

import hashlib
from collections.abc import Sequence

from pipeline.report.plotting import Figure, Row, Spec, axis, number, numbers, spec

MOST_POINTS = 5000  # an SVG with more points than this is slow to open and shows no more

_SOLID = {"color": "var(--trained)", "width": 2}
_SFT = {"color": "var(--sft)", "width": 2, "dash": "dash"}
# Small multiples: title, how to read it, and for each column of STEPS its name and line.
_PANELS: tuple[tuple[str, str, dict[str, tuple[str, Spec]]], ...] = (
    (
        "loss",
        "Solid: mean over the step's pairs, in nats; dashed: nats a token on the chosen side of SFT pairs.",
        {"loss": ("all pairs", _SOLID), "nll": ("SFT pairs", _SFT)},
    ),
    (
        "accuracy",
        "Share of preference pairs with a positive gap, where 0 counts half; 50% is chance.",
        {"accuracy": ("accuracy", _SOLID)},
    ),
    (
        "gap and margin",
        "Solid above dashed: the mean pair is past its target. Dotted, if any: pairs with a flipped label.",
        {
            "gap": ("reward gap", _SOLID),
            "margin": ("target margin", {"color": "var(--muted)", "width": 2, "dash": "dash"}),
            "gap_flipped": ("gap of flipped labels", {"color": "var(--base)", "width": 2, "dash": "dot"}),
        },
    ),
    ("held-out accuracy", "Of the dev pairs, as training goes.", {"held_out_accuracy": ("accuracy", _SOLID)}),
    (
        "held-out log-probs",
        "Mean sum in nats, chosen solid, rejected dashed. Both falling is likelihood displacement.",
        {
            "held_out_chosen_logps": ("chosen", _SOLID),
            "held_out_rejected_logps": ("rejected", {"color": "var(--base)", "width": 2, "dash": "dash"}),
        },
    ),
    (
        "who pulls",
        "Solid: share of preference pairs whose gradient weight is below 0.05; dashed: the flip rate at which robust "
        "DPO has the loss of these margins, where there is one.",
        {
            "weak_share": ("weight below 0.05", _SOLID),
            "noise_rate": ("effective noise rate", {"color": "var(--muted)", "width": 2, "dash": "dash"}),
        },
    ),
    (
        "pairs by route",
        "How many pairs of each step take which route.",
        {
            "preference_pairs": ("preference", {"color": "var(--preference)", "width": 2}),
            "sft_pairs": ("sft", _SFT),
        },
    ),
    ("learning rate", "Warm-up and decay, as configured.", {"learning_rate": ("learning rate", _SOLID)}),
    ("gradient norm", "Before clipping; look twice at a step that spikes.", {"grad_norm": ("gradient norm", _SOLID)}),
)


def sft_start(steps: Sequence[Row]) -> int | None:
    """The first step with an SFT pair; None where there is none."""
    return next((int(row["step"]) for row in steps if row.get("sft_pairs")), None)


def training_curves(steps: Sequence[Row]) -> list[Figure]:
    """Small multiples over the steps; a dotted line marks where SFT pairs come in. Empty panels are left out."""
    at = [row["step"] for row in steps]
    mode = "lines+markers" if len(steps) <= 50 else "lines"
    begins = sft_start(steps)
    mark = {"type": "line", "xref": "x", "yref": "paper", "x0": begins, "x1": begins, "y0": 0, "y1": 1}
    shapes = [] if begins is None else [{**mark, "line": {"color": "var(--sft)", "dash": "dot", "width": 1.5}}]
    figures = []
    for title, caption, lines in _PANELS:
        columns = {column: numbers(steps, column) for column in lines if any(r.get(column) is not None for r in steps)}
        if not columns:
            continue
        data: list[Spec] = [
            {
                "type": "scatter",
                "mode": "lines+markers" if column.startswith("held_out") else mode,
                "connectgaps": column.startswith("held_out"),  # which is not looked at in every step
                "marker": {"size": 4},
                "name": lines[column][0],
                "x": at,
                "y": values,
                "line": lines[column][1],
                "hovertemplate": "%{y:.3~g}",
            }
            for column, values in columns.items()
        ]
        y = axis(rangemode="tozero", exponentformat="e" if "learning_rate" in lines else "none")
        if "accuracy" in lines:
            y = axis(range=[0, 1.03], tickformat=".0%")
        drawn = spec(data, 220, axis("step"), y, showlegend=len(data) > 1, hovermode="x unified", shapes=shapes)
        figures.append(Figure(f"fig-{title.replace(' ', '-').lower()}", title, caption, drawn))
    return figures


def trained_pairs(rows: Sequence[Row]) -> list[Figure]:
    """Target margin and gradient weight against the reward gap; the colour is the step, a cross is a flipped label."""
    figures = []
    for column, title, caption in (
        ("margin", "target margin", "Right of the dashed line a pair's gap is past its own target margin"),
        ("weight", "gradient weight", "How hard a pair pulls on the model at its gap; at zero it no longer pulls"),
    ):
        complete = [row for row in rows if number(row.get("gap")) is not None and number(row.get(column)) is not None]
        if not complete:
            continue
        shown = sampled(complete)
        data = [
            _points(shown, column, flipped) for flipped in (False, True) if any(r["flipped"] == flipped for r in shown)
        ]
        drawn = spec(
            data,
            340,
            axis("reward gap"),
            axis(title),
            coloraxis={
                "colorscale": [[0, "var(--early)"], [1, "var(--late)"]],
                "colorbar": {"title": {"text": "step"}, "thickness": 10, "outlinewidth": 0, "len": 0.9},
            },
            shapes=[_diagonal(shown)] if column == "margin" else [],
        )
        crosses = "; a cross is a flipped label" if any(row["flipped"] for row in shown) else ""
        some = f"; {len(shown):,} of {len(complete):,} pairs, picked by digest" if len(shown) < len(complete) else ""
        figures.append(Figure(f"fig-{column}-gap", f"{title} against reward gap", f"{caption}{crosses}{some}.", drawn))
    return figures


def sampled(rows: Sequence[Row], most: int = MOST_POINTS) -> list[Row]:
    """At most `most` rows in their order: those whose digest of pair and step is smallest, the same in every run."""
    if len(rows) <= most:
        return list(rows)

    def digest(index: int) -> bytes:
        row = rows[index]
        return hashlib.sha256(f"{row['pair_id']} {row['step']} {row['position']}".encode()).digest()

    return [rows[index] for index in sorted(sorted(range(len(rows)), key=digest)[:most])]


def _points(rows: Sequence[Row], column: str, flipped: bool) -> Spec:
    kept = [row for row in rows if row["flipped"] == flipped]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(kept, "gap"),
        "y": numbers(kept, column),
        "marker": {
            "color": [row["step"] for row in kept],
            "coloraxis": "coloraxis",
            "symbol": "x" if flipped else "circle",
            "size": 8 if flipped else 6,
            "opacity": 0.8,
        },
        "hovertemplate": f"gap %{{x:.3~g}}, {column} %{{y:.3~g}}, step %{{marker.color}}<extra></extra>",
    }


def _diagonal(rows: Sequence[Row]) -> Spec:
    """Gap = target over the range of the targets, at least a tenth of the gaps': a constant target has a line too."""
    gaps, margins = ([float(row[column]) for row in rows] for column in ("gap", "margin"))
    low, high = min(margins), max(margins)
    beyond = max(0.0, (0.1 * (max(gaps) - min(gaps)) - (high - low)) / 2)
    low, high = low - beyond, high + beyond
    line = {"color": "var(--ink)", "dash": "dash", "width": 2}
    return {"type": "line", "x0": low, "y0": low, "x1": high, "y1": high, "line": line}
