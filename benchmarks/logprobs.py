"""The output head in chunks, at completion tokens, against whole logits at every position: JSON on stdout.

    python -m benchmarks.logprobs [--pairs 4] [--tokens 204] [--share 0.3] [--chunk 256] [--repeats 10]

A random model of the demo model's width and vocabulary and no layers, so that embedding and head are all there is;
float32 on a CPU. `tokens` are the packed tokens of a pair and `share` what part of them is prompt. `at_once` is the
head at completion tokens without chunks and without computing it again in the backward. Speed is taken in a process
with the memory settings that the stages give theirs, memory in one that gives all back.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import EXACT_MEMORY, Result, growth, milliseconds, reported, run_child
from pipeline.compute.attention import NAME
from pipeline.compute.cpu import use_onednn
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import token_logps


class Comparison:
    """A model that is little more than a head, and a pack of random pairs."""

    def __init__(self, hidden: int, vocabulary: int, pairs: int, tokens: int, share: float, chunk: int):
        config = LlamaConfig(
            hidden_size=hidden,
            vocab_size=vocabulary,
            num_hidden_layers=0,
            num_attention_heads=1,
            tie_word_embeddings=True,
            attn_implementation=NAME,  # type: ignore[call-arg]  # of every configuration
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = LlamaForCausalLM(config)
        use_onednn(self.model)
        completion = round(tokens * (1 - share) / 2)
        draw = torch.randint(vocabulary, (pairs, tokens), generator=torch.Generator().manual_seed(0)).tolist()
        cuts = tokens - 2 * completion, tokens - completion
        self.pack = lay_out([Tokens(ids[: cuts[0]], ids[cuts[0] : cuts[1]], ids[cuts[1] :]) for ids in draw])
        self.chunk = chunk
        self.ways: dict[str, Callable[[], torch.Tensor]] = {
            "chunked": self.chunked, "at_once": self.at_once, "whole": self.whole
        }  # fmt: skip

    def chunked(self) -> torch.Tensor:
        return token_logps(self.model, self.pack, self.chunk)

    def at_once(self) -> torch.Tensor:
        hidden_NC = self.model.model(self.pack.ids_T[None], use_cache=False).last_hidden_state[0, self.pack.source_N]
        return self._gathered(self.model.lm_head(hidden_NC).log_softmax(dim=1))

    def whole(self) -> torch.Tensor:
        logits_TV = self.model(self.pack.ids_T[None], use_cache=False).logits[0]
        return self._gathered(logits_TV.log_softmax(dim=1)[self.pack.source_N])

    def _gathered(self, logps_NV: torch.Tensor) -> torch.Tensor:
        return logps_NV.gather(1, self.pack.target_N[:, None])[:, 0]

    def trained(self, way: str) -> torch.Tensor:
        """Forward and backward: the gradient of the head, [V, C]."""
        (gradient,) = torch.autograd.grad(self.ways[way]().sum(), (self.model.lm_head.weight,))
        return gradient


def speed(job: dict[str, Any]) -> Result:
    """Medians in milliseconds, and how far chunks are from whole logits: nats, and a share of the largest gradient."""
    torch.set_num_threads(job["threads"])
    comparison = Comparison(**job["sizes"])
    with torch.no_grad():
        forward = milliseconds(comparison.ways, job["repeats"])
        logps = {name: way() for name, way in comparison.ways.items()}
    trained = milliseconds({name: partial(comparison.trained, name) for name in comparison.ways}, job["repeats"])
    ours, theirs = comparison.trained("chunked"), comparison.trained("whole")
    return {
        "forward": forward,
        "forward_and_backward": trained,
        "times_as_fast": round(trained["whole_ms"] / trained["chunked_ms"], 2),
        "largest_logp_difference": float((logps["chunked"] - logps["whole"]).abs().max()),
        "largest_gradient_difference": float((ours - theirs).abs().max() / theirs.abs().max()),
    }


def memory(job: dict[str, Any]) -> Result:
    """What forward and backward need beyond the model, in MiB; the gradient of the head is in it."""
    torch.set_num_threads(job["threads"])
    comparison = Comparison(**job["sizes"])
    comparison.trained("chunked")  # what is set up once
    return {f"{name}_mib": round(growth(partial(comparison.trained, name)), 1) for name in comparison.ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=204)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = vars(parser.parse_args())
    job = options | {"sizes": {name: value for name, value in options.items() if name not in ("repeats", "threads")}}
    with reported():
        fast = run_child("benchmarks.logprobs", "speed", job)
        small = run_child("benchmarks.logprobs", "memory", job, environment=EXACT_MEMORY)
    print(json.dumps({**options, "torch": torch.__version__, **fast, **small}, indent=2))


if __name__ == "__main__":
    main()
