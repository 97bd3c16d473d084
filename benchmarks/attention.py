"""Attention over packs that hold each prompt once, against a batch of one sequence a side: JSON on stdout.

    python -m benchmarks.attention [--pairs 8] [--tokens 512] [--shares 0.1 0.3 0.5 0.7] [--repeats 20]

Random queries, keys and values, float32 on a CPU, forward and backward. `tokens` are the packed tokens of a pair and
`shares` what part of them is prompt; the rest are two completions of one length, so that the batch needs no padding.
Speed is taken in one process, memory in another that gives back all that is freed.

Shapes: P pairs, T packed tokens, B = 2P sequences of L tokens, H heads, K key and value heads, D head dimension.
"""

import argparse
import json
import os
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measure import EXACT_MEMORY, Result, growth, milliseconds, reported, run_child
from pipeline.compute.attention import packed_attention
from pipeline.compute.layout import Tokens, lay_out


class Comparison:
    """One pack of random pairs, and the same pairs as a batch of sequences."""

    def __init__(self, share: float, pairs: int, tokens: int, heads: int, key_heads: int, width: int):
        completion = round(tokens * (1 - share) / 2)
        prompt = tokens - 2 * completion
        self.layout = lay_out([Tokens([0] * prompt, [0] * completion, [0] * completion)] * pairs)
        chosen = torch.arange(prompt + completion)
        rejected = torch.cat((torch.arange(prompt), torch.arange(prompt + completion, tokens)))
        sides_2L = torch.stack((chosen, rejected))
        self.place_BL = torch.cat([pair * tokens + sides_2L for pair in range(pairs)])  # of each token in the pack
        generator = torch.Generator().manual_seed(0)
        self.packed = [
            torch.randn(1, n, pairs * tokens, width, generator=generator, requires_grad=True)
            for n in (heads, key_heads, key_heads)
        ]
        self.plain = [
            each.detach()[0, :, self.place_BL].transpose(0, 1).contiguous().requires_grad_() for each in self.packed
        ]
        self.pull_THD = torch.randn(pairs * tokens, heads, width, generator=generator)
        self.pull_BLHD = self.pull_THD[self.place_BL].clone()
        self.pull_BLHD[1::2, :prompt] = 0.0  # a prompt's outputs are in the pack once

    def pack(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Outputs [T, H, D], and gradients of queries, keys and values."""
        query, key, value = self.packed
        output, _ = packed_attention(torch.nn.Identity(), query, key, value, None, pack=self.layout)
        return output[0], torch.autograd.grad(output[0], self.packed, self.pull_THD)

    def batch(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Outputs [B, L, H, D], and gradients of queries, keys and values."""
        query, key, value = self.plain
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)
        return output, torch.autograd.grad(output, self.plain, self.pull_BLHD)

    def largest_difference(self) -> float:
        """Of outputs and gradients, relative to the largest of each."""
        (packed, packed_gradients), (plain, plain_gradients) = self.pack(), self.batch()
        pairs = [(packed.detach()[self.place_BL], plain.detach())]
        for ours, theirs in zip(packed_gradients, plain_gradients, strict=True):
            summed = torch.zeros_like(ours[0]).index_add(
                1, self.place_BL.flatten(), theirs.transpose(0, 1).flatten(1, 2)
            )
            pairs.append((ours[0], summed))
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def speed(job: dict[str, Any]) -> Result:
    torch.set_num_threads(job["threads"])
    comparison = Comparison(**job["pack"])
    times = milliseconds({"packed": comparison.pack, "plain": comparison.batch}, job["repeats"])
    ratio = round(times["plain_ms"] / times["packed_ms"], 2)
    return {**times, "times_as_fast": ratio, "largest_relative_difference": comparison.largest_difference()}


def memory(job: dict[str, Any]) -> Result:
    torch.set_num_threads(job["threads"])
    comparison = Comparison(**job["pack"])
    comparison.pack(), comparison.batch()  # what is set up once
    return {
        f"{name}_mib": round(growth(call), 1)
        for name, call in (("packed", comparison.pack), ("plain", comparison.batch))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--key-heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = vars(parser.parse_args())
    sizes = {name: options[name] for name in ("pairs", "tokens", "heads", "key_heads", "width")}
    rows = []
    with reported():
        for share in options["shares"]:
            job = options | {"pack": sizes | {"share": share}}
            fast = run_child("benchmarks.attention", "speed", job)
            small = run_child("benchmarks.attention", "memory", job, environment=EXACT_MEMORY)
            rows.append({"prompt_share": share, **fast, **small})
    print(json.dumps({**options, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
