"""Figures of the training run: curves over the steps, and every trained pair against its reward gap."""

import hashlib
import html
from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.plotting import Figure, Spec, axis, numbers, spec

# An SVG with more points than these is slow to open and shows no more.
MOST_POINTS = 5000  # of a cloud
MOST_STEPS = 2000  # of a curve
MOST_SOURCES = 8  # of labels, those with the most pairs
_DIGESTED = 1 << 16  # rows that are Python's own at a time

_LABELS = (("circle", 6), ("x", 8))  # of the label as it is, and flipped
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


def sft_start(steps: pa.Table) -> int | None:
    """The first step with an SFT pair; None where there is none."""
    if "sft_pairs" not in steps.column_names:
        return None
    first: int | None = pc.min(steps["step"].filter(pc.greater(steps["sft_pairs"], 0))).as_py()
    return first


def training_curves(steps: pa.Table) -> list[Figure]:
    """Small multiples over the steps; a dotted line marks where SFT pairs come in. Empty panels are left out."""
    mode = "lines+markers" if steps.num_rows <= 50 else "lines"
    begins = sft_start(steps)
    mark = {"type": "line", "xref": "x", "yref": "paper", "x0": begins, "x1": begins, "y0": 0, "y1": 1}
    shapes = [] if begins is None else [{**mark, "line": {"color": "var(--sft)", "dash": "dot", "width": 1.5}}]
    each = _steps_a_run(steps.num_rows)
    some = f" Of each {each:,} steps the lowest and the highest value are drawn." if each > 1 else ""
    figures = []
    for title, caption, lines in _PANELS:
        known = [name for name in lines if name in steps.column_names and steps[name].null_count < steps.num_rows]
        if not known:
            continue
        data = [_curve(steps, name, *lines[name], mode) for name in known]
        y = axis(rangemode="tozero", exponentformat="e" if "learning_rate" in lines else "none")
        if "accuracy" in lines:
            y = axis(range=[0, 1.03], tickformat=".0%")
        drawn = spec(data, 220, axis("step"), y, showlegend=len(data) > 1, hovermode="x unified", shapes=shapes)
        figures.append(Figure(f"fig-{title.replace(' ', '-').lower()}", title, caption + some, drawn))
    return figures


def flip_rates(rows: pa.Table, flipped: float) -> Figure:
    """What was estimated of each source of labels (tables.RELIABILITY), beside the share that the schedule flipped."""
    pairs: Counter[str] = Counter()
    for source, count in zip(rows["source"].to_pylist(), rows["pairs"].to_pylist(), strict=True):
        pairs[source] += count
    most = [source for source, _ in pairs.most_common(MOST_SOURCES)]
    data = [_of_one(rows, "source", source, "flip_rate", place) for place, source in enumerate(most)]
    true = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": flipped, "y1": flipped}
    drawn = spec(
        data,
        260,
        axis("step"),
        axis(rangemode="tozero", tickformat=".0%"),
        showlegend=len(data) > 1,
        hovermode="x unified",
        shapes=[{**true, "line": {"color": "var(--ink)", "dash": "dot", "width": 1.5}}],
    )
    some = f" The {MOST_SOURCES} sources of {len(pairs):,} with the most pairs." if len(pairs) > MOST_SOURCES else ""
    caption = (
        "Share of each source's labels that the objective takes to be wrong; the dotted line is the share that the "
        "schedule flipped, to which the data may add errors of their own."
    )
    return Figure("fig-flip-rate", "estimated flip rate", caption + some, drawn)


def streams(rows: pa.Table) -> list[Figure]:
    """Of each stream of pairs (tables.STREAMS) its gap; and its weight, where that is no constant."""
    names = list(dict.fromkeys(rows["stream"].to_pylist()))
    figures = [("gap", "mean gap by stream", "Mean gap of each stream's preference pairs, before the step's update.")]
    weights = [pc.count_distinct(rows.filter(pc.equal(rows["stream"], name))["weight"]).as_py() for name in names]
    if max(weights) > 1:
        told = "What each stream is of a step's loss: the pairs it has there, or its weight as given or estimated."
        figures.append(("weight", "weight by stream", told))
    return [
        Figure(
            f"fig-streams-{column}",
            title,
            caption,
            spec(
                [_of_one(rows, "stream", name, column, place) for place, name in enumerate(names)],
                260,
                axis("step"),
                axis(rangemode="tozero"),
                showlegend=True,
                hovermode="x unified",
            ),
        )
        for column, title, caption in figures
    ]


def dictionary(rows: pa.Table) -> Figure:
    """How the autoencoder that features are read by was trained (tables.DICTIONARY)."""
    names = {"explained": "explained of held-out states", "dead": "dead latents"}
    lines = ({"color": f"var(--{color})", "width": 2} for color in ("trained", "base"))
    drawn = spec(
        [_curve(rows, column, name, line, "lines") for (column, name), line in zip(names.items(), lines, strict=True)],
        260,
        axis("step"),
        axis(tickformat=".0%"),
        showlegend=True,
        hovermode="x unified",
    )
    caption = (
        "Share of the variance of held-out states that the sparse autoencoder's features explain, and share of its "
        "latents that no state of a whole pass has used."
    )
    return Figure("fig-dictionary", "features: the sparse autoencoder", caption, drawn)


def _of_one(rows: pa.Table, key: str, name: str, column: str, place: int) -> Spec:
    """The curve of one source, or of one stream."""
    # plotly reads names as its own small markup, so they are escaped here.
    shown = html.escape(name[:40], quote=False) or "all labels"
    dash = ("solid", "dash", "dot", "dashdot")[place % 4]
    line = {"color": "var(--trained)" if place < 4 else "var(--base)", "width": 2, "dash": dash}
    return _curve(rows.filter(pc.equal(rows[key], name)), column, shown, line, "lines")


def _curve(steps: pa.Table, column: str, name: str, line: Spec, mode: str) -> Spec:
    drawn = pa.array(thinned(steps[column].cast(pa.float64()).to_numpy()))
    held_out = column.startswith("held_out")  # which is not looked at in every step
    return {
        "type": "scatter",
        "mode": "lines+markers" if held_out else mode,
        "connectgaps": held_out,
        "marker": {"size": 4},
        "name": name,
        "x": steps["step"].take(drawn).to_pylist(),
        "y": numbers(steps[column].take(drawn)),
        "line": line,
        "hovertemplate": "%{y:.3~g}",
    }


def thinned(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Which places of a curve are drawn: all of a short one; of each run of a long one the lowest and the highest.

    So a spike is never left out. A run without any finite value is a gap.
    """
    each = _steps_a_run(len(values))
    if each == 1:
        return np.arange(len(values))
    runs = np.full((-(-len(values) // each), each), np.nan)
    runs.flat[: len(values)] = values
    finite, starts = np.isfinite(runs), each * np.arange(len(runs))
    lowest = np.where(finite, runs, np.inf).argmin(axis=1)
    highest = np.where(finite, runs, -np.inf).argmax(axis=1)
    return np.unique([starts + lowest, starts + highest])


def _steps_a_run(steps: int) -> int:
    return 1 if steps <= MOST_STEPS else -(-2 * steps // MOST_STEPS)


def trained_pairs(rows: pa.Table) -> list[Figure]:
    """Target margin and gradient weight against the reward gap; the colour is the step, a cross is a flipped label."""
    figures = []
    for column, title, caption in (
        ("margin", "target margin", "Right of the dashed line a pair's gap is past its own target margin"),
        ("weight", "gradient weight", "How hard a pair pulls on the model at its gap; at zero it no longer pulls"),
    ):
        complete = finite(rows, "gap", column)
        if not complete.num_rows:
            continue
        shown = sampled(complete)
        parts = [shown.filter(pc.equal(shown["flipped"], flipped)) for flipped in (False, True)]
        drawn = spec(
            [_points(part, column, *look) for part, look in zip(parts, _LABELS, strict=True) if part.num_rows],
            340,
            axis("reward gap"),
            axis(title),
            coloraxis={
                "colorscale": [[0, "var(--early)"], [1, "var(--late)"]],
                "colorbar": {"title": {"text": "step"}, "thickness": 10, "outlinewidth": 0, "len": 0.9},
            },
            shapes=[_diagonal(shown)] if column == "margin" else [],
        )
        crosses = "; a cross is a flipped label" if parts[1].num_rows else ""
        drawn_of = f"; {shown.num_rows:,} of {complete.num_rows:,} pairs, picked by digest"
        some = drawn_of if shown.num_rows < complete.num_rows else ""
        figures.append(Figure(f"fig-{column}-gap", f"{title} against reward gap", f"{caption}{crosses}{some}.", drawn))
    return figures


def finite(rows: pa.Table, *columns: str) -> pa.Table:
    """The rows that have a finite number in each of these columns; none where the table lacks one."""
    for name in columns:
        rows = (
            rows.filter(pc.is_finite(rows[name].cast(pa.float64()))) if name in rows.column_names else rows.slice(0, 0)
        )
    return rows


def sampled(rows: pa.Table, most: int = MOST_POINTS) -> pa.Table:
    """At most `most` rows in their order: those whose digest of pair and step is smallest, the same in every run."""
    if rows.num_rows <= most:
        return rows
    digests = np.concatenate([_digests(pa.Table.from_batches([batch])) for batch in rows.to_batches(_DIGESTED)])
    return rows.take(pa.array(np.sort(np.argsort(digests, kind="stable")[:most])))


def _digests(rows: pa.Table) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each row's."""
    parts = [rows[name].cast(pa.string()) for name in ("pair_id", "step", "position")]
    names = pc.binary_join_element_wise(*parts, " ").cast(pa.binary()).to_numpy()
    return np.frombuffer(b"".join([hashlib.sha256(name).digest() for name in names]), ">u8")[::4].astype(np.uint64)


def _points(rows: pa.Table, column: str, symbol: str, size: int) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(rows["gap"]),
        "y": numbers(rows[column]),
        "marker": {
            "color": rows["step"].to_pylist(),
            "coloraxis": "coloraxis",
            "symbol": symbol,
            "size": size,
            "opacity": 0.8,
        },
        "hovertemplate": f"gap %{{x:.3~g}}, {column} %{{y:.3~g}}, step %{{marker.color}}<extra></extra>",
    }


def _diagonal(rows: pa.Table) -> Spec:
    """Gap = target over the range of the targets, at least a tenth of the gaps': a constant target has a line too."""
    gaps, margins = rows["gap"].to_numpy(), rows["margin"].to_numpy()
    low, high = float(margins.min()), float(margins.max())
    beyond = max(0.0, (0.1 * float(gaps.max() - gaps.min()) - (high - low)) / 2)
    low, high = low - beyond, high + beyond
    line = {"color": "var(--ink)", "dash": "dash", "width": 2}
    return {"type": "line", "x0": low, "y0": low, "x1": high, "y1": high, "line": line}
