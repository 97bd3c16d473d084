"""How much of the device's arithmetic a train step and a reference pass use, at the shapes of 1B and 8B models.

Whole optimiser steps of the trainer, in bfloat16 over float32 weights: reading, packs, objective, clipping and update
with them. FLOPs are counted in two ways: `useful`, what the log-probs of these pairs need and their gradients; and
`model`, by the usual 6ND and attention, N without the input embeddings. What is computed a second time counts in
neither.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.gpu.inputs import choose_as_trained, chosen_model, pairs_of, reference, shape, trainer_of
from benchmarks.gpu.part import Part
from benchmarks.measure import attention_flops, forward_flops
from pipeline.compute.layout import Tokens
from pipeline.compute.selfcheck import chosen

STEP_TOKENS = 65536  # packed tokens an optimiser step
MEAN = 1000  # packed tokens a pair


def one_billion(part: Part) -> None:
    for budget in (1024,) if part.small else (16384, 4096, 32768):
        for again in (False, True) if budget <= 16384 else (True,):
            train(part, "1b", budget=budget, again=again)
    scored(part, "1b")


def eight_billion(part: Part) -> None:
    """The reference pass and adapters by all layers, which one GPU holds; all weights by two depths.

    What a layer more costs is a layer's share: 32 of them and the rest are the whole model's step.
    """
    scored(part, "8b")
    for layers in (2, 6):
        for again in (False, True):
            train(part, "8b", layers=layers, budget=16384, again=again)
    train(part, "8b", budget=8192, again=True, lora=True)


def scored(part: Part, name: str) -> None:
    """A reference pass over packs of 16,384 tokens."""
    with part.trying(shape=name, what="reference pass"):
        started = time.perf_counter()
        model = chosen_model(shape(part, name), torch.bfloat16, part.device, to_train=False)
        chosen_in = time.perf_counter() - started
        pairs = _pairs(part, model, 2 * STEP_TOKENS)
        took = part.seconds(lambda: reference(model, pairs, 16384), repeats=2, warm=1)
        tokens, flops = sum(pair.packed for pair in pairs), forward_flops(model, pairs)
        figures: dict[str, float | None] = {
            "tokens": tokens,
            "seconds": took,
            "tokens_a_second": tokens / took,
            "useful_tflops": flops / took / 1e12,
        }
        figures |= {"chosen_in": chosen_in, "peak_gib": part.peak_gib()}
        part.note(shape=name, what="reference pass", **figures, how=str(chosen(model)))


def train(part: Part, name: str, *, budget: int, again: bool, layers: int | None = None, lora: bool = False) -> None:
    """Three optimiser steps after a first; `again`: activations are computed a second time."""
    asked: dict[str, Any] = {"shape": name, "layers": layers or shape(part, name).num_hidden_layers}
    asked |= {"budget": budget, "checkpointed": again, "lora": lora}
    with part.trying(**asked), tempfile.TemporaryDirectory() as folder:
        model = chosen_model(shape(part, name, layers), torch.bfloat16, part.device, to_train=False)
        steps, pairs = 4, _pairs(part, model, 4 * STEP_TOKENS)
        if part.small:
            budget = max(budget, *(pair.packed for pair in pairs))
        sums = reference(model, pairs, budget)
        useful, whole = _flops(model, pairs, lora)
        part.free()
        trainer = trainer_of(
            model,
            pairs,
            sums,
            Path(folder) / "tables",
            steps=steps,
            train={"lora": {"rank": 16} if lora else None, "learning_rate": 1e-6},
            resources={"micro_batch_tokens": budget, "checkpoint_activations": again},
        )
        started = time.perf_counter()
        choose_as_trained(trainer)
        chosen_in = time.perf_counter() - started
        while not trainer.done:
            trainer.step()
        first, *rest = trainer.journal.steps
        tokens = sum(record["tokens"] for record in rest)
        seconds = tokens * statistics.median(record["seconds"] / record["tokens"] for record in rest)
        share = tokens / sum(pair.packed for pair in pairs)
        part.note(
            **asked,
            tokens=tokens // (steps - 1),
            seconds=seconds / (steps - 1),
            tokens_a_second=tokens / seconds,
            useful_tflops=share * useful / seconds / 1e12,
            model_tflops=share * whole / seconds / 1e12,
            model_tflop_a_step=share * whole / (steps - 1) / 1e12,
            peak_gib=part.peak_gib(),
            chosen_in=chosen_in,
            first_step=first["seconds"],
            how=str(chosen(model)),
        )


def _pairs(part: Part, model: PreTrainedModel, tokens: int) -> list[Tokens]:
    size, mean = (1024, 60) if part.small else (tokens, MEAN)
    return pairs_of(size, mean, model.config.vocab_size)


def _flops(model: PreTrainedModel, pairs: Sequence[Tokens], lora: bool) -> tuple[float, float]:
    """Of a forward and backward: useful ones, and by 6ND and attention; with adapters no gradients of the weights."""
    embeddings: Any = model.get_input_embeddings()
    weights = sum(parameter.numel() for parameter in model.parameters())
    if not model.config.tie_word_embeddings:  # where they are tied, they are the head's
        weights -= embeddings.weight.numel()
    tokens = sum(pair.packed for pair in pairs)
    linear = (4 if lora else 6) * weights * tokens
    return (2 if lora else 3) * forward_flops(model, pairs), linear + 3 * attention_flops(model, pairs)
