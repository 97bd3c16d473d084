"""How the methods of a study are told apart, with colour and without: one look a method, in every figure and legend."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.report.plotting import Spec, number
from pipeline.statistics import Interval

COLOURS = 12  # --method-0 to --method-11 of page.css
# Plotly's symbols, each with the outline that the legend draws. None is a cross: that is a flipped label.
_SYMBOLS = {
    "circle": "M6 0A6 6 0 1 1-6 0A6 6 0 1 1 6 0Z",
    "square": "M-5-5H5V5H-5Z",
    "diamond": "M0-7L7 0L0 7L-7 0Z",
    "triangle-up": "M0-6L6 5H-6Z",
    "triangle-down": "M0 6L6-5H-6Z",
    "hourglass": "M-5-6H5L-5 6H5Z",
}
_DASHES = ("1,0", "7,4", "2,3", "10,3,2,3", "14,4")  # the first is a solid line


@dataclass(frozen=True)
class Look:
    """How a method is drawn: `group` ties its traces to its button, `dash` and `path` are SVG's."""

    group: str
    colour: str
    symbol: str
    dash: str
    path: str

    @property
    def filled(self) -> bool:
        return not self.symbol.endswith("-open")


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    """A look for each different method, in order. Twelve differ in colour and in symbol, 144 in the two together."""
    symbols = [(name + state, path) for state in ("", "-open") for name, path in _SYMBOLS.items()]
    looks = {}
    for index, method in enumerate(dict.fromkeys(methods)):
        # A second round of colours meets each symbol one place further on.
        symbol, path = symbols[(index + index // COLOURS) % len(symbols)]
        colour = f"var(--method-{index % COLOURS})"
        looks[method] = Look(str(index), colour, symbol, _DASHES[index % len(_DASHES)], path)
    return looks


def whiskers(values: Sequence[float | Interval | None], look: Look) -> Spec:
    """The intervals among the values of a line, as plotly's error bars; nothing where there are none."""
    if not any(isinstance(each, Interval) for each in values):
        return {}
    ends = [(e.high - e.value, e.value - e.low) if isinstance(e, Interval) else (None, None) for e in values]
    above, below = ([number(end) for end in side] for side in zip(*ends, strict=True))
    drawn = {"array": above, "arrayminus": below, "thickness": 1.5, "width": 4, "color": look.colour}
    return {"error_y": {"type": "data", "symmetric": False, **drawn}}


def middles(values: Sequence[float | Interval | None]) -> list[float | None]:
    return [number(each.value if isinstance(each, Interval) else each) for each in values]


def trace(method: str, look: Look, mode: str, size: int, opacity: float = 1.0) -> Spec:
    """What all traces of a method share; plotly reads a name as its own small markup, so it is escaped here."""
    return {
        "type": "scatter",
        "mode": mode,
        "name": html.escape(method, quote=False),
        "legendgroup": look.group,
        "marker": {"color": look.colour, "symbol": look.symbol, "size": size, "opacity": opacity},
    }
