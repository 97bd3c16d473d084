"""A study of plausible size and shape, with hostile method names planted, as a configuration could hold them."""

import math
import random
from collections.abc import Sequence

import pyarrow as pa

from pipeline.report.data import DRAWN
from pipeline.report.study import Cell, StudyData
from pipeline.results.tables import TRAINED_PAIRS
from pipeline.statistics import Interval, WinRate, wilson
from tests.pipeline.report.sample_report import HOSTILE

METHODS = ("dpo", "rdpo", "ipo", "gamma-dpo", "gamma-simpo", "mixdpo", HOSTILE[0])
_ADAPTIVE = ("gamma-dpo", "gamma-simpo", HOSTILE[0])


def sample_study(methods: Sequence[str] = METHODS, answers: bool = True, places: int = 400) -> StudyData:
    """Flips of 0, 20 and 40% and three seeds; one cell of the third method diverged."""
    draw = random.Random("study")
    grid = [(method, flips, seed) for method in methods for flips in (0.0, 0.2, 0.4) for seed in range(3)]
    cells = [_cell(draw, methods.index(method), method, flips, seed, answers) for method, flips, seed in grid]
    if len(methods) > 2:
        cells[20] = Cell(
            methods[2], 0.0, 2, wilson(math.nan, 96), math.inf, None, None, seconds=3.1, address="train/diverged"
        )
    rates: dict[tuple[str, float], list[float]] = {}
    for cell in cells:
        if cell.win_rate:
            rates.setdefault((cell.method, cell.flip_fraction), []).append(cell.win_rate.rate.value)
    means = {key: sum(values) / len(values) for key, values in rates.items()}
    return StudyData(
        title="Label noise: which margins hold?",
        config={"name": "study-noise", "flips": [0.0, 0.2, 0.4], "seeds": [0, 1, 2], "methods": list(methods)},
        provenance={"git commit": "3f1c2d9a", "torch": "2.13.0", "note": HOSTILE[1]},
        cells=cells,
        pooled={key: Interval(mean, mean - 0.04, min(1.0, mean + 0.035)) for key, mean in means.items()},
        held_out_pairs=[96],
        questions=160 if answers else None,
        pairs={method: _pulled(draw, index, method, places) for index, method in enumerate(methods)},
        adaptive=[method for method in methods if method in _ADAPTIVE],
        favours={"gamma-dpo": "easy", "gamma-simpo": "easy", "ipo": "hard"},
        seconds=5025.0,
    )


def _cell(draw: random.Random, index: int, method: str, flips: float, seed: int, answers: bool) -> Cell:
    good = 0.86 - flips * (0.55 - 0.06 * (index % 6)) + draw.gauss(0, 0.02)
    rate = Interval(good, good - 0.06, min(1.0, good + 0.05))
    won = WinRate(wins=round(150 * good), ties=10, losses=150 - round(150 * good), rate=rate)
    met = Interval(good - 0.2, good - 0.25, good - 0.15)
    return Cell(
        method,
        flips,
        seed,
        accuracy=wilson(min(1.0, good + 0.04), 96),
        gap=(1 + index % 5) * (good - 0.4) + draw.gauss(0, 0.05),
        chosen_change=draw.gauss(4, 6),
        rejected_change=draw.gauss(-12, 6),
        win_rate=won if answers else None,
        share_met=met if answers else None,
        seconds=draw.uniform(60, 200),
        address=f"artifacts/train/study-noise-{index:02d}{seed}9c51d07ab{round(10 * flips)}",
    )


def _pulled(draw: random.Random, index: int, method: str, places: int) -> pa.Table:
    def pair(place: int) -> tuple[float, float, float, bool]:
        flipped = draw.random() < 0.4
        gap = draw.gauss((-0.8 if flipped else 1.2) * place / places, 0.7)
        margin = 0.4 + 0.9 / (1 + math.exp(2 - 2 * gap)) if method in _ADAPTIVE else 0.4
        weight = (0.4 + 0.1 * (index % 7)) / (1 + math.exp((1 + index % 3) * gap - margin))
        return gap, margin, weight, flipped

    return pulled([pair(place) for place in range(places)])


def pulled(pairs: Sequence[tuple[float, float, float, bool]]) -> pa.Table:
    """Pairs of gap, margin, weight and whether the label was flipped, as they were trained one after the other."""
    named = [dict(zip(("gap", "margin", "weight", "flipped"), pair, strict=True)) for pair in pairs]
    rows = [{**pair, "pair_id": f"p{place}", "step": place, "position": place} for place, pair in enumerate(named)]
    return pa.Table.from_pylist(rows, pa.schema([TRAINED_PAIRS.field(name) for name in DRAWN]))
