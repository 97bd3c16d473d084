"""How long verdicts take to score, against a limit of one second: JSON on stdout.

    python -m benchmarks.scoring --annotations FILE [--resamples 1000] [--times 5]

FILE holds AlpacaEval annotations. Measured are reading them, every figure, and with `resamples` its intervals, for
which length control is fitted again in each resample; medians of `times`.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from benchmarks.measure import reported
from pipeline.evaluation.benchmarks.alpaca_eval import score_file
from pipeline.evaluation.benchmarks.length_control import read_coefficients

LIMIT = 1.0  # seconds


def seconds(path: Path, resamples: int, times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        score_file(path, read_coefficients(), resamples)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with reported():
        bare, whole = (seconds(options.annotations, n, options.times) for n in (1, options.resamples))
    print(json.dumps({"figures": bare, "with_intervals": whole, "of_limit": whole / LIMIT}, indent=2))


if __name__ == "__main__":
    main()
