"""A train step under the profiler: how long the device is busy, what it does, how often the host waits for it.

Then attention, the output head and the layout alone.
"""

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.inputs import choose_as_trained, chosen_model, pairs_of, reference, shape, trainer_of
from benchmarks.gpu.part import Part
from pipeline.compute.attention import packed_attention
from pipeline.compute.fused_head import fuse, is_fused
from pipeline.compute.layout import Pack, lay_out
from pipeline.compute.logprobs import token_logps
from pipeline.training.loop import Trainer

KERNELS = 14  # the longest ones of a step


def run(part: Part) -> None:
    with part.trying(piece="step"), tempfile.TemporaryDirectory() as folder:
        _profiled(part, _trainer(part, Path(folder)))
    for tokens in (256,) if part.small else (8192, 16384, 32768):
        with part.trying(piece="attention", tokens=tokens):
            _attention(part, tokens)
    with part.trying(piece="head"):
        _head(part)


def _trainer(part: Part, folder: Path) -> Trainer:
    model = chosen_model(shape(part, "1b"), torch.bfloat16, part.device, to_train=False)
    tokens, mean, budget = (1024, 60, 1024) if part.small else (4 * 65536, 1000, 16384)
    pairs = pairs_of(tokens, mean, model.config.vocab_size, seed=9)
    sums = reference(model, pairs, budget)
    trainer = trainer_of(model, pairs, sums, folder / "tables", steps=4, resources={"micro_batch_tokens": budget})
    choose_as_trained(trainer)
    return trainer


def _profiled(part: Part, trainer: Trainer) -> None:
    """Step 1 counts waits, step 2 is profiled, step 3 is timed alone."""
    trainer.step()
    if part.on_gpu:
        torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.step()
    if part.on_gpu:
        torch.cuda.set_sync_debug_mode("default")
        part.note(piece="step", waits=sum("synchroniz" in str(each.message) for each in caught))
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if part.on_gpu else []
    with torch.profiler.profile(activities=activities) as profile:
        started = time.perf_counter()
        trainer.step()
        part.synchronise()
        wall = time.perf_counter() - started

    def spent(row: Any) -> float:
        return float(row.self_device_time_total if part.on_gpu else row.self_cpu_time_total)

    # On a GPU kernels alone: the rows of operators and of annotated ranges hold the same time once more.
    found = [
        row
        for row in profile.key_averages()
        if not part.on_gpu or (row.device_type is torch.autograd.DeviceType.CUDA and not row.is_user_annotation)
    ]
    rows = sorted(found, key=spent, reverse=True)
    busy = sum(map(spent, rows)) / 1e6
    alone = trainer.step()["seconds"]
    part.note(piece="profiled step", seconds=alone, profiled_seconds=wall, busy_seconds=busy, busy_share=busy / alone)
    for row in rows[:KERNELS]:
        part.note(piece="kernel", kernel=row.key[:90], milliseconds=spent(row) / 1e3, calls=row.count)


def _attention(part: Part, tokens: int) -> None:
    pack = lay_out(pairs_of(tokens, 60 if part.small else 1000, 500), torch.device(part.device))
    size, module = len(pack.ids_T), torch.nn.Identity()
    dtype = torch.bfloat16 if part.on_gpu else torch.float32
    query, key, value = (
        torch.randn(1, heads, size, 128, device=part.device, dtype=dtype, requires_grad=True) for heads in (32, 8, 8)
    )

    def forward() -> torch.Tensor:
        return packed_attention(module, query, key, value, None, pack=pack)[0]

    times = part.seconds(forward), part.seconds(lambda: forward().sum().backward())
    tflops = 4e-12 * 32 * 128 * _seen(pack) / times[0]
    part.note(piece="attention", tokens=size, forward_ms=1e3 * times[0], both_ms=1e3 * times[1], forward_tflops=tflops)


def _seen(pack: Pack) -> int:
    """Pairs of positions of which the one sees the other."""
    total = 0
    for _, prompt, *sides in pack.segments:
        total += prompt * (prompt + 1) // 2 + sum(side * prompt + side * (side + 1) // 2 for side in sides)
    return total


def _head(part: Part) -> None:
    """All of a pack's log-probs by a model without layers: the embeddings, the head and the layout are left."""
    model = chosen_model(shape(part, "1b", layers=1), torch.bfloat16, part.device)
    pairs = pairs_of(512 if part.small else 16384, 60 if part.small else 1000, model.config.vocab_size)
    part.note(piece="layout", milliseconds=1e3 * part.seconds(lambda: lay_out(pairs, model.device)))
    pack, fused = lay_out(pairs, model.device), is_fused(model)
    for kind in ("fused", "chunks") if fused else ("chunks",):
        fuse(model, kind == "fused")
        took = part.seconds(lambda: token_logps(model, pack, 1024).sum().backward())
        part.note(piece="head and one layer", kind=kind, milliseconds=1e3 * took, scored=len(pack.target_N))
