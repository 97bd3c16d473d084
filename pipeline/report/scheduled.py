"""The schedule in figures: how many pairs, and their score margins by route, counted in columns."""

from collections.abc import Sequence
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.data import Histogram, Route, Scheduled
from pipeline.statistics import bin_width, binned

ROUTES: tuple[Route, ...] = get_args(Route)


def described(lines: Sequence[tuple[pa.Table, pa.Table]]) -> Scheduled:
    """Of rows of tables.SCHEDULE and tables.PAIRS, of each stream's line.

    Raises KeyError where a scheduled pair is not among the pairs of its line.
    """
    margins = [_margins(*line) for line in lines]
    schedule = pa.concat_tables([schedule for schedule, _ in lines])
    known = pa.chunked_array([chunk for each in margins for chunk in each.chunks], pa.float64())
    flipped = pc.sum(schedule["flipped"]).as_py() or 0
    return Scheduled(schedule.num_rows, flipped, known.null_count, histogram(known, schedule["route"]))


def _margins(schedule: pa.Table, pairs: pa.Table) -> pa.ChunkedArray:
    """The score margin of each position; null where it is unknown."""
    places = pc.index_in(schedule["pair_id"], value_set=pairs["pair_id"])
    if places.null_count:
        raise KeyError(schedule["pair_id"].filter(pc.is_null(places))[0].as_py())
    return pc.subtract(pairs["chosen_score"], pairs["rejected_score"]).take(places)


def histogram(margins: pa.ChunkedArray, routes: pa.ChunkedArray) -> Histogram | None:
    """Those that are finite, by route; None without any."""
    finite = pc.fill_null(pc.is_finite(margins), False)
    values, routes = margins.filter(finite).to_numpy(), routes.filter(finite)
    if not len(values):
        return None
    width = bin_width(float(values.min()), float(values.max()))
    counts = {route: binned(values[pc.equal(routes, route).to_numpy()], width) for route in ROUTES}
    return Histogram(width, counts)
