"""What the exact margins of gamma-PO cost, and how far the published update is from them: JSON on stdout.

    python -m benchmarks.margins [--n 2048] [--repeats 200] [--threads 1]

The two are timed in turn, so that a busy machine slows both. `exact_ms` is the scalar and all n margins, which is what
the update delivers; `scalar_ms` the scalar alone. The update runs in float32, as published. The gaps are N(2, 3) draws.
"""

import argparse
import json

import torch

from benchmarks.measure import milliseconds
from pipeline.objectives.gamma import margins_at, solve_scalar
from pipeline.objectives.published import mirror_descent

AUTHORS = ((4.0, 10.0), (0.375, 10.0), (5.0, 20.0), (3.0, 3.0))  # gamma0, tau: Llama-3, Mistral, Gemma 2, Qwen2.5
OURS = ((1.0, 1.0),)  # gamma-DPO, for which nothing was published
SMALL_TAU = tuple((4.0, tau) for tau in (2.0, 1.0, 0.5, 0.1, 0.01))


def compare(gaps_N: torch.Tensor, gamma0: float, tau: float, repeats: int) -> dict[str, float]:
    def exact() -> torch.Tensor:
        return margins_at(gaps_N, solve_scalar(gaps_N, gamma0, tau), gamma0, tau)

    def published() -> torch.Tensor:
        return mirror_descent(gaps_N, gamma0, tau)

    times = milliseconds(
        {"exact": exact, "scalar": lambda: solve_scalar(gaps_N, gamma0, tau), "published": published}, repeats
    )
    ratios = {f"{name}_ratio": round(times[f"{name}_ms"] / times["published_ms"], 2) for name in ("exact", "scalar")}
    difference = float(((published() - exact()).abs() / exact()).max())
    return {"gamma0": gamma0, "tau": tau, **times, **ratios, "max_relative_difference": float(f"{difference:.3g}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2048, help="gaps in the queue")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    gaps_N = 2 + 3 * torch.randn(arguments.n, generator=torch.Generator().manual_seed(0))
    groups = {"authors": AUTHORS, "gamma_dpo": OURS, "small_tau": SMALL_TAU}
    result = {name: [compare(gaps_N, *setting, arguments.repeats) for setting in rows] for name, rows in groups.items()}
    print(json.dumps({**vars(arguments), "torch": torch.__version__, **result}, indent=2))


if __name__ == "__main__":
    main()
