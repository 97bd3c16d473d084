"""How fast pairs are scored and trained, and how fast TRL does the same: JSON on stdout, progress on stderr.

    python -m benchmarks.throughput --model DIR --pairs FILE --n 32 --phase reference|train [--against trl] [--kinds]

float32 on a CPU. Each side runs in a process of its own, in alternation, with the same token ids in the same order, the
same batches, the same AdamW and nothing truncated. Loading and a first step are not timed; a ratio is the median
over alternations. The log-probs of the untrained model must agree; how far the losses of the steps are apart is told.

`model_gflop` counts what the timed pairs need in our layout: linear layers on packed tokens, the output head on
completion tokens, attention on what each token sees, and twice that for a backward. What the backward computes again of
the output head is not counted as useful. `share_of_peak` is that over time and over the fastest product of the model's
own sizes, measured in our process after its timed part. Peak memory is that of the process once the model is loaded.
With --kinds ours runs once more under torch.profiler, which tells in which kind of work the time goes and slows it by a
tenth.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from actors.environment import CPU
from benchmarks.measure import Result, alternate, median_ratio, reported, run_child
from benchmarks.pairs import IDS, Row, from_file, multi_turn, packed_tokens, prompt_share
from pipeline.errors import UserError

SETTINGS = {"learning_rate": 1e-6, "beta": 0.1, "adam_betas": (0.9, 0.999), "weight_decay": 0.0, "max_grad_norm": 1.0}
PARITY = 1e-4  # nats a token between the sides, in float32


def compare(job: dict[str, Any], against: str | None, peer_python: str, repeats: int) -> dict[str, Any]:
    """`repeats` alternations of ours and, if `against` it, the peer; `job` holds the pairs, of which one step's worth
    more than are timed, and how to run them.

    Raises UserError where the log-probs of the sides do not agree to PARITY.
    """
    sides: dict[str, Callable[[dict[str, Any]], Result]] = {
        "ours": partial(run_child, "benchmarks.side_ours", "run", environment=CPU)
    }
    if against:
        sides[against] = partial(run_child, f"benchmarks.side_{against}", "run", python=peer_python)
    jobs = {name: job | {"kinds": False} for name in sides}
    untrained: dict[str, Result] = {}
    if job["phase"] == "train":  # each side trains from its own reference, as its users would
        untrained = {name: run(jobs[name] | {"phase": "reference"}) for name, run in sides.items()}
        jobs = {name: jobs[name] | {"logps": untrained[name]["logps"]} for name in sides}
        check = agreement(job["pairs"], [side["logps"] for side in untrained.values()])
    runs = alternate({name: partial(run, jobs[name]) for name, run in sides.items()}, repeats)
    if job["phase"] == "reference":
        check = agreement(job["pairs"], [side[0]["logps"] for side in runs.values()])
    found = figures(job, runs) | check
    if job["kinds"]:
        kinds = sides["ours"](jobs["ours"] | {"kinds": True})["kinds"]
        found["ours"]["seconds_by_kind"] = {name: round(seconds, 2) for name, seconds in kinds.items()}
    return found


def agreement(pairs: Sequence[Row], logps: Sequence[Sequence[Sequence[float]]]) -> dict[str, float]:
    """How far two sides' log-prob sums are apart, in nats a token; nothing for one side alone."""
    if len(logps) < 2:
        return {}
    apart = [
        abs(a - b) / len(pair[name])
        for pair, *sums in zip(pairs, *logps, strict=True)
        for name, a, b in zip(IDS[1:], *sums, strict=True)
    ]
    if beyond := [value for value in apart if not value <= PARITY]:  # one that is no number is
        problem = f"the log-probs of the sides differ by {beyond[0]:.2g} nats a token; {PARITY:g} would be rounding"
        raise UserError(problem, "their speeds cannot be compared: find out which one computes something else")
    return {"largest_logp_difference_per_token": max(apart)}


def figures(job: dict[str, Any], runs: dict[str, list[Result]]) -> dict[str, Any]:
    """Medians of each side, and the ratios of ours to the peer."""
    timed, batch = job["pairs"][job["batch"] :], job["batch"]
    packed, ours = packed_tokens(timed), runs["ours"]
    seconds = {name: [result["seconds"] for result in results] for name, results in runs.items()}
    memory = {name: [result["peak_memory_mib"] for result in results] for name, results in runs.items()}
    computed = {"ours": packed} | {name: padded_tokens(timed, batch) for name in runs if name != "ours"}
    peaks = [result["matrix_peak_gflops"] for result in ours]
    found: dict[str, Any] = {
        "packed_tokens": packed,
        "prompt_share": round(prompt_share(timed), 3),
        "model_gflop": round(ours[0]["gflop"], 1),
        "matrix_peak_gflops": round(statistics.median(peaks), 1),
    }
    for name in runs:
        shares = [ours[0]["gflop"] / s / peak for s, peak in zip(seconds[name], peaks, strict=True)]
        middle = statistics.median(seconds[name])
        found[name] = {
            "seconds": round(middle, 3),
            "pairs_per_second": round(len(timed) / middle, 3),
            "packed_tokens_per_second": round(packed / middle, 1),
            "computed_tokens": computed[name],
            "peak_memory_mib": round(statistics.median(memory[name])),
            "share_of_peak": round(statistics.median(shares), 3),
            "runs_seconds": [round(value, 3) for value in seconds[name]],
        }
        if name != "ours":
            found["times_as_fast"] = round(median_ratio(seconds[name], seconds["ours"]), 3)
            found["memory_ratio"] = round(median_ratio(memory["ours"], memory[name]), 3)
            losses = zip(ours[0].get("losses", ()), runs[name][0].get("losses", ()), strict=True)
            found["largest_loss_difference"] = max((abs(a - b) for a, b in losses), default=None)
    return found


def padded_tokens(pairs: Sequence[Row], batch: int) -> int:
    """Tokens of one sequence a side, padded to the longest of each batch."""
    total = 0
    for start in range(0, len(pairs), batch):
        step = pairs[start : start + batch]
        longest = max(len(pair["prompt_ids"]) + len(pair[side]) for pair in step for side in IDS[1:])
        total += 2 * len(step) * longest
    return total


def installed(package: str, python: str) -> str:
    """The version of a package that an interpreter has. Raises UserError that says what to install."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--peer-python {python} cannot be run: {error}", "give the path of a Python") from error
    if done.returncode:
        remedy = "pip install --group benchmarks, or give --peer-python the Python of an environment that has it"
        raise UserError(f"{package} is not installed for {python}", remedy)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a directory as save_pretrained writes it")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path, metavar="FILE", help="preference pairs, as for data.source")
    source.add_argument("--multi-turn", action="store_true", help="made-up conversations with long prompts instead")
    parser.add_argument("--n", type=int, default=32, help="pairs that are timed")
    parser.add_argument("--phase", choices=("reference", "train"), required=True)
    parser.add_argument("--against", choices=("trl",))
    parser.add_argument("--repeats", type=int, default=5, help="alternations")
    parser.add_argument("--kinds", action="store_true", help="tell, too, where our time goes")
    parser.add_argument("--batch", type=int, default=4, help="pairs an optimiser step, and a batch of the peer's")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="the peer's interpreter")
    parser.add_argument("--peer-checkpointing", action="store_true", help="with the peer's activation checkpointing on")
    options = parser.parse_args()
    with reported():
        versions = {name: metadata.version(name) for name in ("torch", "transformers")}
        if options.against:
            versions[options.against] = installed(options.against, options.peer_python)
        count = options.n + options.batch
        model = options.model.resolve()
        pairs = multi_turn(model, count) if options.multi_turn else from_file(options.pairs, model, count)
        job = {name: getattr(options, name) for name in ("phase", "batch", "threads", "peer_checkpointing", "kinds")}
        job |= {"model": str(model), "pairs": pairs, "settings": SETTINGS}
        found = compare(job, options.against, options.peer_python, options.repeats)
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    print(json.dumps({**shown, **SETTINGS, "versions": versions, **found}, indent=2))


if __name__ == "__main__":
    main()
