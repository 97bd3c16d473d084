"""What every figure of the report shares: its record, its frame, and how numbers get into it.

Figures are plotly specifications, plain dicts that plotly.js draws in the page. Colours are written as CSS variables of
page.css, `var(--trained)`, which page.js resolves when it draws: one palette for text and figures, light, dark and
print. A model keeps its colour in every figure.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Spec = dict[str, Any]

# A line of win rates: as often won as lost.
EVEN: Spec = {
    **{"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5},
    "line": {"color": "var(--ink)", "dash": "dot", "width": 1.5},
}


@dataclass(frozen=True)
class Figure:
    """One figure: `name` is its element's id, `caption` one line on how to read it, `spec` plotly's data and layout."""

    name: str
    title: str
    caption: str
    spec: Spec


def number(value: float | None) -> float | None:
    """Five significant digits; what is not finite becomes a gap, so that a run that diverged still has a report."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def numbers(column: pa.ChunkedArray) -> list[float | None]:
    """A column of a table, missing values as None."""
    return [number(value) for value in column.to_pylist()]


def axis(title: str = "", **settings: Any) -> Spec:
    """An axis that keeps to its range."""
    # fixedrange: a finger that scrolls the page must not zoom a figure.
    lines = {"gridcolor": "var(--rule)", "zerolinecolor": "var(--rule)"}
    ticks = {"exponentformat": "none", "separatethousands": True}
    return {
        "automargin": True,
        "fixedrange": True,
        **lines,
        **ticks,
        "title": {"text": title, "standoff": 8},
        **settings,
    }


def spec(data: list[Spec], height: int, x: Spec, y: Spec, **settings: Any) -> Spec:
    """A figure of `height` pixels on a transparent ground; `settings` go over the common layout."""
    layout = {
        "height": height,
        "margin": {"l": 4, "r": 12, "t": 28 if settings.get("showlegend") else 8, "b": 4},
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "var(--ink)"},
        "hoverlabel": {"bgcolor": "var(--panel)", "bordercolor": "var(--rule)", "font": {"color": "var(--ink)"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "dragmode": False,
        "xaxis": x,
        "yaxis": y,
    }
    return {"data": data, "layout": {**layout, **settings}}
