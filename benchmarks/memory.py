"""Memory of the reference stage by the number of pairs: JSON on stdout.

    python -m benchmarks.memory [--pairs 1000 10000 100000 1000000]

The stage runs through its door, over made-up pairs of a few tokens and a tiny model of random weights, as it is the
bookkeeping that could grow. `peak_mib` is the largest sum of what the door and all of Ray's processes hold (PSS: pages
that several share are counted once), looked at once a second.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import ROOT, Result, reported
from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.results import tables
from pipeline.settings.config import RunConfig

PART = 1000  # pairs
VOCABULARY = 256


def measured(pairs: int, root: Path) -> Result:
    """The stage over `pairs` pairs below a fresh `root`."""
    file = write_inputs(pairs, root)
    started = time.perf_counter()
    door = subprocess.Popen(
        [sys.executable, "-m", "jobs.reference", "--config", str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = 0.0
    while door.poll() is None:
        peak = max(peak, held(psutil.Process(door.pid)))
        time.sleep(1.0)
    said = door.communicate()[0]
    if door.returncode:
        raise UserError(f"jobs.reference ended with {door.returncode}: {said[-2000:]}", "see what it says")
    return {"pairs": pairs, "peak_mib": round(peak), "seconds": round(time.perf_counter() - started, 1)}


def held(process: psutil.Process) -> float:
    """PSS of a process and all below it, in MiB; of those that are still there."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (psutil.NoSuchProcess, OSError):
        pass
    return total / 1024


def write_inputs(pairs: int, root: Path) -> Path:
    """A tiny model, a committed pairs artifact, and the configuration that names them."""
    source, model, file = root / "pairs.jsonl", root / "model", root / "memory.yaml"
    source.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    write_model(model)
    settings: dict[str, Any] = {
        "model": {"source": str(model)},
        "data": {"source": str(source)},
        "resources": {"root": str(root / "runs")},
    }
    file.write_text(json.dumps(settings), encoding="utf-8")
    address = make_plan(RunConfig.model_validate(settings)).steps["prepare"].address
    with address.writing() as folder:
        counts = {}
        for number, part in enumerate(tables.parts(made_up(pairs), PART)):
            name = f"part-{number:05d}.parquet"
            counts[name] = tables.write(part, tables.PAIRS, folder / name)
        address.commit({"rows": pairs}, counts)
    return file


def write_model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(folder)


def made_up(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    absent = dict.fromkeys(("chosen_score", "rejected_score", "label_confidence", "difficulty"))
    texts = {"prompt": "", "chosen": "", "rejected": "", "source": "", "split": "train"}
    for number in range(count):
        ids = {name: draw.choices(range(VOCABULARY), k=4) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
        yield {"pair_id": f"{number:016x}", **texts, **ids, **absent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    rows = []
    with reported():
        for count in options.pairs:
            with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as root:
                rows.append(measured(count, Path(root)))
                print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps({"pairs_a_part": PART, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
