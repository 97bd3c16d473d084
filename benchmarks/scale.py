"""What grows with the number of pairs, a line of JSON for each number on stdout:

    python -m benchmarks.scale --pairs 10000 1000000 [--schedule-pairs 10000000] [--tokens 1000] [--only line]

Pairs are made up. `training` is a train worker's data (scale_training.py), `prepare` its stage (scale_prepare.py),
`line` the schedule, the report, status and verification (scale_line.py). Each is measured in processes of its own; what
they read lies below --scratch, some 8 GB for 10^6 pairs of 1,000 tokens, and is removed when it is measured.
"""

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import Result, reported
from benchmarks.scale_line import measure, measure_schedule

Measure = Callable[[int, Path], Result]
PARTS = ("training", "prepare", "line")


def measured(pairs: int, measures: Sequence[Measure], scratch: Path | None) -> Result:
    """All `measures` at one number of pairs, each below an empty folder."""
    found: Result = {"pairs": pairs}
    for each in measures:
        with tempfile.TemporaryDirectory(prefix="scale-", dir=scratch, ignore_cleanup_errors=True) as folder:
            found |= each(pairs, Path(folder))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="*", default=[])
    parser.add_argument("--schedule-pairs", type=int, nargs="*", default=[], help="of these the schedule alone")
    parser.add_argument("--tokens", type=int, default=1000, help="a pair has, of `line`")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--scratch", type=Path, help="a folder with room, in place of the system's own")
    options = parser.parse_args()
    if not options.pairs + options.schedule_pairs:
        parser.error("give --pairs or --schedule-pairs")
    with reported():
        for pairs in options.pairs:
            measures = [_measure(part, options.tokens) for part in options.only]
            print(json.dumps(measured(pairs, measures, options.scratch)), flush=True)
        for pairs in options.schedule_pairs:
            print(json.dumps(measured(pairs, [measure_schedule], options.scratch)), flush=True)


def _measure(part: str, tokens: int) -> Measure:
    """Imported where it is asked for: training's needs torch, and prepare's Ray."""
    if part == "line":
        return partial(measure, tokens=tokens)
    found: Measure = importlib.import_module(f"benchmarks.scale_{part}").measure
    return found


if __name__ == "__main__":
    main()
