"""Linear layers by oneDNN against torch's own, forward and backward, in float32 on a CPU: JSON on stdout.

    python -m benchmarks.linear [--rows 816] [--repeats 20] [--threads 2]

The sizes are those of the demo model; `rows` are the tokens of a micro-batch. A backward gives the gradients of the
input and of the weight, which is two products. Both layers are called in turn, in a process with the memory settings
that the stages give theirs.
"""

import argparse
import json
import os
from functools import partial
from typing import Any

import torch

from benchmarks.measure import Result, milliseconds, reported, run_child
from pipeline.compute.cpu import use_onednn

SHAPES = ((576, 192), (576, 576), (576, 1536), (1536, 576), (576, 49152))  # in and out features


def run(job: dict[str, Any]) -> Result:
    """A row of figures for each of job["shapes"]."""
    torch.set_num_threads(job["threads"])
    return {"layers": [compare(wide, out, job["rows"], job["repeats"]) for wide, out in job["shapes"]]}


def compare(wide: int, out: int, rows: int, repeats: int) -> Result:
    generator = torch.Generator().manual_seed(0)
    input_TI = torch.randn(rows, wide, generator=generator, requires_grad=True)
    gradient_TO = torch.randn(rows, out, generator=generator)
    plain, onednn = (torch.nn.Linear(wide, out, bias=False) for _ in range(2))
    onednn.load_state_dict(plain.state_dict())
    use_onednn(onednn)
    layers = {"plain": plain, "onednn": onednn}
    outputs = {name: layer(input_TI) for name, layer in layers.items()}

    def backward(name: str) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(outputs[name], (input_TI, layers[name].weight), gradient_TO, retain_graph=True)

    pairs = zip((outputs["plain"], *backward("plain")), (outputs["onednn"], *backward("onednn")), strict=True)
    apart = max(float((a - b).detach().abs().max() / a.detach().abs().max()) for a, b in pairs)
    result: Result = {"in": wide, "out": out, "largest_relative_difference": apart}
    backwards = milliseconds({name: partial(backward, name) for name in layers}, repeats)
    with torch.inference_mode():
        forwards = milliseconds({name: partial(layer, input_TI) for name, layer in layers.items()}, repeats)
    for direction, products, times in (("forward", 1, forwards), ("backward", 2, backwards)):
        for name in layers:
            result[f"{direction}_{name}_gflops"] = round(2e-6 * products * rows * wide * out / times[f"{name}_ms"], 1)
        result[f"{direction}_times_as_fast"] = round(times["plain_ms"] / times["onednn_ms"], 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=816)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    job = vars(parser.parse_args())
    with reported():
        result = run_child("benchmarks.linear", "run", {**job, "shapes": SHAPES})
    print(json.dumps({**job, "torch": torch.__version__, **result}, indent=2))


if __name__ == "__main__":
    main()
