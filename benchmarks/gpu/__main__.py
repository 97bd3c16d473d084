"""What one GPU says of the compute path, in under ten minutes: python -m benchmarks.gpu --out FOLDER

The most valuable parts run first, each in a process of its own with a deadline, and every figure is a line of
FOLDER/figures.jsonl as soon as it is known: a part that is slow, fails or spoils its CUDA context costs no other. What
they say on the way is in FOLDER/log.txt, and FOLDER/goals.md holds the figures against the goals. Needs neither ray nor
vllm nor a file of weights. With --device cpu --small it rehearses itself without a GPU.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.goals import read, table
from benchmarks.gpu.part import Part
from benchmarks.measure import ROOT

# By value: where it is, and its deadline in seconds.
PARTS = {
    "machine": ("machine.run", 40),
    "steps": ("steps.run", 120),
    "agree": ("agree.run", 130),
    "8b": ("utilisation.eight_billion", 130),
    "1b": ("utilisation.one_billion", 90),
    "padded": ("padded.run", 45),
    "pieces": ("pieces.run", 60),
    "objectives": ("objectives.run", 45),
}
LEAST = 15  # seconds that a part must have to be begun at all


def run_parts(names: list[str], out: Path, device: str, small: bool, seconds: float) -> None:
    """Each part until its deadline, all of them within `seconds`."""
    from actors.environment import CPU

    ends = time.perf_counter() + seconds
    for name in names:
        started = time.perf_counter()
        if ends - started < LEAST:
            print(f"== {name}: no time is left", flush=True)
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", "--one", name, "--out", str(out), "--device", device]
        with open(out / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"== {name}\n")
            log.flush()
            child = subprocess.Popen(command + ["--small"] * small, stderr=log, env=os.environ | CPU | ALSO, cwd=ROOT)
            try:
                left = ends - started  # a rehearsal takes what time there is
                status = f"status {child.wait(left if small else min(left, PARTS[name][1]))}"
            except subprocess.TimeoutExpired:
                child.kill()
                status = "cut at its deadline"
        print(f"== {name}: {status}, {time.perf_counter() - started:.0f} s", flush=True)


# As actors have it (actors/cluster.py), with one compiler's cache for all parts.
ALSO = {
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/widemargin-gpu-check",
    "TQDM_DISABLE": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, in another order")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=570.0, help="for all parts together")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    figures = out / "figures.jsonl"
    if given.one:
        module, function = PARTS[given.one][0].split(".")
        part = Part(given.one, figures, given.device, given.small)
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(part)
        return
    names = given.parts.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    run_parts(names, out, given.device, given.small, given.seconds)
    found = table(read(figures))
    (out / "goals.md").write_text(found + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
