"""What pairing costs by the number of candidates, against a goal of 60 s for 10^6: JSON on stdout, a line a number.

    python -m benchmarks.pairing [--candidates 100000 1000000] [--n 5] [--tokens 128] [--raters 1] [--rule best-worst]

Candidates are made up, `n` answers a prompt of about so many tokens, with scores by each rater in files of another
order. Each number is paired in a process of its own. `mib` is by how much the process grew at most, which is to be the
same whatever the number; `describe_seconds` and `describe_mib` are of the figures that the report shows of them.
"""

import argparse
import hashlib
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measure import EXACT_MEMORY, Result, growth, reported, run_child
from pipeline.onpolicy.candidates import candidate_id
from pipeline.onpolicy.choosing_blocks import PAIRS, pair_all
from pipeline.onpolicy.describing import OF_CANDIDATES, OF_PAIRS, describe
from pipeline.results import tables
from pipeline.settings.onpolicy import Pair, Rate

GOAL = 60.0  # seconds, of 10^6
PART = 4096  # prompts, as a shard of answers has some
_WORDS = "the a of and to in that is was for on are as with they at be this have from or one had by word but not what "


def write_candidates(folder: Path, candidates: int, n: int, tokens: int, raters: int) -> None:
    """Parts of tables.CANDIDATES and, a folder a rater, of tables.SCORES."""
    draw, text = np.random.default_rng(0), _WORDS * (tokens // 16 + 2)
    for number, start in enumerate(range(0, candidates, n * PART)):
        rows: list[dict[str, Any]] = []
        for place in range(start, min(candidates, start + n * PART)):
            prompt = hashlib.sha256(str(place // n).encode()).hexdigest()[:32]
            ids = draw.integers(1, 50_000, draw.integers(tokens // 2, 3 * tokens // 2)).tolist()
            rows.append(_row(prompt, ids, text[: 4 * len(ids)], place % n))
        name = f"part-{number:05d}.parquet"
        tables.write(rows, tables.CANDIDATES, folder / "candidates" / name)
        random.Random(number).shuffle(rows)
        for rater in range(raters):
            scores = [_score(row, f"rater {rater}", draw.normal()) for row in rows]
            tables.write(scores, tables.SCORES, folder / str(rater) / name)


def _row(prompt: str, ids: list[int], text: str, sample: int) -> dict[str, Any]:
    asked = json.dumps([{"content": f"What is {prompt}? {text[:200]}", "role": "user"}])
    return {
        **{"prompt_id": prompt, "candidate_id": candidate_id(prompt, ids), "answered_by": "model", "sample": sample},
        **{"prompt": asked, "meta": "{}", "response": text, "response_ids": ids, "tokens": len(ids)},
        **{"finish_reason": "stop", "seed": sample, "logp": -1.5 * len(ids), "source": "made up"},
        **dict.fromkeys(("parent", "prefix_tokens", "split")),
    }


def _score(row: dict[str, Any], rater: str, value: float) -> dict[str, Any]:
    ids = {name: row[name] for name in ("prompt_id", "candidate_id")}
    return {**ids, "rater": rater, "score": value, "detail": "{}", "rated_tokens": row["tokens"]}


def measure(job: dict[str, Any]) -> Result:
    """Pair what is in the folder, as the stage does; and describe it, as the report does."""
    folder = Path(job["folder"])
    parts = {file.name: sorted(file.glob("part-*.parquet")) for file in folder.iterdir()}
    candidates = parts.pop("candidates")
    made = folder / "made"
    ledger: dict[str, Any] = {}

    def pair() -> None:
        counts = pair_all(candidates, list(parts.values()), Rate(), Pair(rule=job["rule"]), made)
        ledger.update(prompts=counts.prompts, paired=counts.paired, pairs=counts.pairs)
        ledger.update(unpaired=dict(counts.reasons), beyond_cap=counts.beyond_cap)

    def shown() -> None:
        scores = {name: tables.read(folder / name, tables.SCORES, ["candidate_id", "score"]) for name in parts}
        selected = tables.read(made, tables.SELECTED, OF_PAIRS, PAIRS)
        describe(tables.read(folder / "candidates", tables.CANDIDATES, OF_CANDIDATES), scores, selected, ledger)

    pa.set_memory_pool(pa.system_memory_pool())  # which gives back what is freed
    paired, described = _costs(pair), _costs(shown)
    return {**paired, **{f"describe_{name}": value for name, value in described.items()}, "pairs": ledger["pairs"]}


def _costs(call: Callable[[], None]) -> Result:
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    mib = growth(call)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(cpu, 1), "mib": round(mib)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--n", type=int, default=5, help="answers a prompt")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer, about")
    parser.add_argument("--raters", type=int, default=1)
    parser.add_argument("--rule", default="best-worst", help="pair.rule")
    parser.add_argument("--scratch", type=Path, help="a folder with room, in place of the system's own")
    options = parser.parse_args()
    with reported():
        for candidates in options.candidates:
            with tempfile.TemporaryDirectory(prefix="pairing-", dir=options.scratch) as folder:
                for name in ("candidates", *map(str, range(options.raters))):
                    (Path(folder) / name).mkdir()
                write_candidates(Path(folder), candidates, options.n, options.tokens, options.raters)
                job = {"folder": folder, "rule": options.rule}
                found = run_child("benchmarks.pairing", "measure", job, environment=EXACT_MEMORY)
            of_goal = found["seconds"] / GOAL * 1e6 / candidates
            print(json.dumps({"candidates": candidates, **found, "of_goal": round(of_goal, 3)}), flush=True)


if __name__ == "__main__":
    main()
