"""What one GPU says of the compute path, in under ten minutes: python -m benchmarks.gpu --out FOLDER

What is timed runs first, a part after the other; what is compared runs then, all at once. Each is a process of its own
with a deadline, and every figure is a line of FOLDER/figures.jsonl as soon as it is known: a part that is slow, fails
or spoils its CUDA context costs no other. What they say on the way is in FOLDER/log.txt, and FOLDER/goals.md holds the
figures against the goals. Needs neither ray nor vllm nor a file of weights. With --device cpu --small it rehearses
itself without a GPU.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.goals import read, table
from benchmarks.gpu.part import Part
from benchmarks.measure import ROOT


class Kind(NamedTuple):
    where: str
    deadline: int  # seconds
    processes: int = 1
    beside: bool = False  # it is timed by none, and spends its time compiling: such parts run beside each other


PARTS = {
    "machine": Kind("machine.run", 40),
    "8b": Kind("utilisation.eight_billion", 130),
    "1b": Kind("utilisation.one_billion", 80),
    "padded": Kind("padded.run", 50),
    "pieces": Kind("pieces.run", 60),
    "steps": Kind("steps.run", 190, beside=True),
    "agree": Kind("agree.run", 190, processes=3, beside=True),
    "options": Kind("options.run", 190, beside=True),
    "objectives": Kind("objectives.run", 190, beside=True),
}
LEAST = 15  # seconds that a part must have to be begun at all


def run_parts(names: list[str], out: Path, device: str, small: bool, seconds: float) -> None:
    """What is timed one part after the other, then the rest at once; each until its deadline, all within `seconds`."""
    ends = time.perf_counter() + seconds
    rounds = [[name] for name in names if not PARTS[name].beside]
    rounds += [rest] if (rest := [name for name in names if PARTS[name].beside]) else []
    for together in rounds:
        started = time.perf_counter()
        if ends - started < LEAST:
            print(f"== {', '.join(together)}: no time is left", flush=True)
            continue
        shares = [(name, share) for name in together for share in range(PARTS[name].processes)]
        children = [(name, begun(name, share, out, device, small)) for name, share in shares]
        for name, child in children:
            until = ends if small else min(ends, started + PARTS[name].deadline)  # a rehearsal takes what there is
            try:
                status = f"status {child.wait(max(0.0, until - time.perf_counter()))}"
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                status = "cut at its deadline"
            print(f"== {name}: {status}, {time.perf_counter() - started:.0f} s", flush=True)


def begun(name: str, share: int, out: Path, device: str, small: bool) -> "subprocess.Popen[bytes]":
    """A process of a part."""
    from actors.environment import CPU

    command = [sys.executable, "-m", "benchmarks.gpu", "--one", name, "--share", str(share), "--out", str(out)]
    command += ["--device", device] + ["--small"] * small
    with open(out / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"== {name}\n")
        log.flush()
        return subprocess.Popen(command, stderr=log, env=os.environ | CPU | ALSO, cwd=ROOT)


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
    parser.add_argument("--share", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    figures = out / "figures.jsonl"
    if given.one:
        module, function = PARTS[given.one].where.split(".")
        part = Part(given.one, figures, given.device, given.small, given.share, PARTS[given.one].processes)
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
