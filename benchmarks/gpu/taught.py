"""A small Llama that has read Python's own library for some seconds.

Its log-probs are peaked as a real model's are, which random weights' are not: rounding shows as it will.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, PreTrainedModel

from benchmarks.gpu.inputs import chosen_model
from benchmarks.gpu.part import Part
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import token_logps

Cut = Callable[[int], list[int]]  # so many tokens of the text, from a place drawn anew each time


def taught(part: Part) -> tuple[PreTrainedModel, Cut]:
    """The model in float32 on the device, and more of what it has read."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))[:150]
    ids = [byte + 3 for byte in b"".join(file.read_bytes() for file in files)]
    draw = random.Random(0)

    def cut(count: int) -> list[int]:
        start = draw.randrange(len(ids) - count)
        return ids[start : start + count]

    model = chosen_model(_config(part), torch.float32, part.device)
    rows, length, rate, seconds = (2, 128, 3e-3, 3) if part.small else (8, 2048, 3e-4, 20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    torch.set_float32_matmul_precision("high")  # it need not be exact yet
    started, steps, loss = time.perf_counter(), 0, torch.zeros(())
    try:
        while steps < 2 or time.perf_counter() - started < seconds:
            pack = lay_out([Tokens([1], cut(length), []) for _ in range(rows)], model.device)
            loss = -token_logps(model, pack, 4096).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if steps == 1:  # what is compiled is, by now
                part.note(what="first step", seconds=time.perf_counter() - started)
                started = time.perf_counter()
    finally:
        torch.set_float32_matmul_precision("highest")
    part.note(what="taught", steps=steps, nats_a_byte=float(loss.detach()))
    return model, cut


def _config(part: Part) -> LlamaConfig:
    layers, wide = (2, 64) if part.small else (12, 1024)
    return LlamaConfig(
        vocab_size=259,
        hidden_size=wide,
        intermediate_size=4 * wide,
        num_hidden_layers=layers,
        num_attention_heads=wide // 64,
        num_key_value_heads=max(1, wide // 256),
        head_dim=64,
        max_position_embeddings=65536,
    )
