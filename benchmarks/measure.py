"""What the benchmarks share: child processes, alternation, medians, memory, FLOPs and the matrix-product peak.

A child is a fresh process that calls one function with a dictionary and gives one back, both as JSON:

    python -m benchmarks.measure MODULE FUNCTION JOB.json RESULT.json

The top imports no torch, as a child may belong to an interpreter that has little else. Memory is read as Linux has it.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline.compute.layout import Tokens

ROOT = Path(__file__).parents[1]
Result = dict[str, Any]

# For a child whose memory is measured, not its speed: every tensor of a page or more goes back as soon as it is freed.
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0"}


def run_child(
    module: str,
    function: str,
    job: Mapping[str, Any],
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """What `module.function(job)` gives in a process of its own; `environment` is added to this one's.

    Raises UserError where the child did, and RuntimeError with what it last said where it failed otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "job.json", Path(folder) / "result.json"
        given.write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [python, "-m", "benchmarks.measure", module, function, str(given), str(made)],
            cwd=ROOT,
            env=os.environ | dict(environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{module}.{function} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        result: Result = json.loads(made.read_text(encoding="utf-8"))
    if "remedy" in result:
        raise UserError(result["problem"], result["remedy"])
    return result


def alternate(sides: Mapping[str, Callable[[], Result]], repeats: int) -> dict[str, list[Result]]:
    """Every side's results: A B A B ..., so that a machine that grows busy or hot slows all alike."""
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(repeats):
        for name, run in sides.items():
            results[name].append(run())
            print(f"{name} {number + 1}/{repeats}: {results[name][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    return results


def milliseconds(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median time of each call, made in turn; a first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {f"{name}_ms": round(statistics.median(values[1:]), 3) for name, values in times.items()}


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of each alternation."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def forget_peak() -> None:
    """Let `peak_memory` count from here; what getrusage tells keeps the peak of the process this one came from."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """The most this process has held since `forget_peak`, in MiB."""
    return _status("VmHWM")


def growth(call: Callable[[], object]) -> float:
    """By how much memory was above its level before, at most, while `call` ran: MiB; exact under EXACT_MEMORY."""
    before = _status("VmRSS")
    forget_peak()
    call()
    return peak_memory() - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def forward_flops(model: "PreTrainedModel", pairs: Iterable["Tokens"]) -> int:
    """FLOPs that the log-probs of `pairs` need, laid out [prompt | chosen | rejected]; a backward needs twice as many.

    Linear layers of the decoder on every packed token, the output head on completion tokens, attention on the positions
    each token sees. Norms, softmax and rotary embeddings are not counted, nor is anything computed a second time. For
    dense decoders whose attention sees the whole past.
    """
    from torch.nn import Linear

    decoder = sum(module.weight.numel() for module in model.get_decoder().modules() if isinstance(module, Linear))
    head = model.get_output_embeddings().weight.numel()
    known = list(pairs)
    linear = sum(2 * decoder * pair.packed + 2 * head * (len(pair.chosen) + len(pair.rejected)) for pair in known)
    return linear + attention_flops(model, known)


def attention_flops(model: "PreTrainedModel", pairs: Iterable["Tokens"]) -> int:
    """Those of attention's two products in a forward: a score and a weighted value for each token that is seen."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    seen_once = 4 * config.num_hidden_layers * config.num_attention_heads * width
    seen = 0
    for pair in pairs:
        prompt, *sides = map(len, pair)
        seen += _causal(prompt) + sum(side * prompt + _causal(side) for side in sides)
    return seen_once * seen


def _causal(length: int) -> int:
    return length * (length + 1) // 2


def linear_shapes(model: "PreTrainedModel") -> list[tuple[int, int]]:
    """(in, out) features of the model's linear layers, each once."""
    from torch.nn import Linear

    modules = (module for module in model.modules() if isinstance(module, Linear))
    return sorted({(module.in_features, module.out_features) for module in modules})


def matrix_peak(shapes: Iterable[tuple[int, int]], rows: int = 1024, repeats: int = 5) -> float:
    """The fastest float32 product of `rows` rows with a weight of one of `shapes`, in GFLOP/s.

    Each is tried as a plain torch.matmul and as the linear layer of pipeline/compute/cpu.py.
    """
    import torch

    from pipeline.compute.cpu import use_onednn

    best = 0.0
    with torch.inference_mode():
        for wide, out in shapes:
            layer, input_TI = torch.nn.Linear(wide, out, bias=False), torch.randn(rows, wide)
            weight_IO = layer.weight.t().contiguous()
            use_onednn(layer)
            calls = {"plain": lambda x=input_TI, w=weight_IO: x @ w, "onednn": lambda x=input_TI, f=layer: f(x)}
            times = milliseconds(calls, repeats)
            best = max(best, 2e-6 * rows * wide * out / min(times.values()))
    return best


@contextmanager
def reported() -> Iterator[None]:
    """A UserError ends the process with status 2 and its two lines, without a traceback."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    module, function, given, made = sys.argv[1:]
    job = json.loads(Path(given).read_text(encoding="utf-8"))
    try:
        result = getattr(importlib.import_module(module), function)(job)
    except UserError as error:
        result = {"problem": error.problem, "remedy": error.remedy}
    Path(made).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
