"""What rating by a reward model costs, against the reference pass of a model of that size: JSON on stdout.

    python -m benchmarks.rating --model FOLDER --pairs FILE [--n 32] [--repeats 5]

The reward model is the model itself with a head of one label in place of its own. Both sides of the same pairs are
scored by the reference stage's actor, and rated by the rate stage's, which also makes token ids of the texts; each in
a process of its own, in turn, without Ray. Packed tokens are those of the reference for both: a prompt, chosen and
rejected. The goal is `over_reference` >= 0.9; as a head of one label is less work than log-probs, 1 is not the most.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from actors.environment import CPU
from benchmarks.measure import Result, alternate, median_ratio, reported, run_child
from benchmarks.pairs import TEXTS, Row, from_file, packed_tokens
from benchmarks.side_ours import TIMED, WARMUP

GOAL = 0.9


def make_reward_model(job: dict[str, Any]) -> Result:
    """Save the model's decoder with a head of one label, and its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1, dtype=torch.float32)
    model.save_pretrained(job["folder"])
    AutoTokenizer.from_pretrained(job["model"]).save_pretrained(job["folder"])
    return {}


def rate(job: dict[str, Any]) -> Result:
    """Time the rater over both answers of all pairs, of which the first step's worth is warm-up."""
    import numpy as np

    from actors.rater import ModelRater, RaterSpec
    from benchmarks.measure import forget_peak, peak_memory
    from pipeline.results import tables
    from pipeline.settings.onpolicy import Rater
    from pipeline.settings.resources import Resources

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part, pairs in ((WARMUP, job["pairs"][: job["batch"]]), (TIMED, job["pairs"][job["batch"] :])):
            (root / "candidates").mkdir(exist_ok=True)
            rows = [_candidate(pair, side) for pair in pairs for side in TEXTS[1:]]
            tables.write(rows, tables.CANDIDATES, root / "candidates" / part)
        model, resources = job["reward_model"], Resources()
        spec = RaterSpec(
            "rm", Rater(model=model), model, str(root / "candidates"), folder, resources, threads=job["threads"]
        )
        rater = ModelRater(spec, "rate")
        rater({"part": np.array([WARMUP])})
        forget_peak()
        started = time.perf_counter()
        rater({"part": np.array([TIMED])})
        seconds = time.perf_counter() - started
        scores = tables.read(root, tables.SCORES, ["score"], TIMED)["score"]
    return {"seconds": seconds, "peak_memory_mib": peak_memory(), "unrated": scores.null_count}


def _candidate(pair: Row, side: str) -> dict[str, Any]:
    ids = pair[f"{side}_ids"]
    return {
        **{"prompt_id": pair["pair_id"], "candidate_id": f"{pair['pair_id']} {side}", "answered_by": side, "sample": 0},
        **{"prompt": pair["prompt"], "meta": "{}", "response": pair[side], "response_ids": ids},
        **{"tokens": len(ids), "finish_reason": "data", "source": ""},
        **dict.fromkeys(("seed", "logp", "parent", "prefix_tokens", "split")),
    }


def job_of(model: Path, pairs: Path, n: int, batch: int, threads: int, folder: str) -> dict[str, Any]:
    """What both sides are told; the reward model is to be made in `folder`."""
    read = from_file(pairs, model, n + batch, TEXTS)
    job = {"model": str(model), "pairs": read, "batch": batch, "threads": threads}
    return job | {"phase": "reference", "kinds": False, "folder": folder, "reward_model": folder}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a directory as save_pretrained writes it")
    parser.add_argument(
        "--pairs", type=Path, required=True, metavar="FILE", help="preference pairs, as for data.source"
    )
    parser.add_argument("--n", type=int, default=32, help="pairs that are timed")
    parser.add_argument("--batch", type=int, default=4, help="pairs that warm up")
    parser.add_argument("--repeats", type=int, default=5, help="alternations")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with reported(), tempfile.TemporaryDirectory(prefix="rating-") as folder:
        job = job_of(options.model.resolve(), options.pairs, options.n, options.batch, options.threads, folder)
        run_child("benchmarks.rating", "make_reward_model", job)
        sides = {
            "reference": partial(run_child, "benchmarks.side_ours", "run", job, environment=CPU),
            "rating": partial(run_child, "benchmarks.rating", "rate", job, environment=CPU),
        }
        runs = alternate(sides, options.repeats)
    packed = packed_tokens(job["pairs"][options.batch :])
    seconds = {name: [each["seconds"] for each in results] for name, results in runs.items()}
    found: dict[str, Any] = {
        name: {
            "seconds": [round(value, 3) for value in seconds[name]],
            "packed_tokens_per_second": round(packed / statistics.median(seconds[name]), 1),
            "peak_memory_mib": round(statistics.median(each["peak_memory_mib"] for each in runs[name])),
        }
        for name in runs
    }
    ratio = round(median_ratio(seconds["reference"], seconds["rating"]), 3)
    found |= {"unrated": runs["rating"][-1]["unrated"], "over_reference": ratio, "goal": GOAL}
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    print(json.dumps({**shown, "packed_tokens": packed, **found}, indent=2))


if __name__ == "__main__":
    main()
