"""Versions, and the two ceilings that all else is held against: products of our own shapes, and copies."""

import sys
from functools import partial
from importlib import metadata
from typing import Any

from benchmarks.gpu.part import Part


def run(part: Part) -> None:
    import torch

    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    found: dict[str, Any] = {"python": sys.version.split()[0], **versions}
    if part.on_gpu:
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "gib": gib}
    part.note(**found)
    large = 512 if part.small else 8192
    layers = [(rows, 4096, 14336) for rows in (1024, 4096, 16384)]  # of the 8B shape, at packs of three sizes
    heads = [(16384, 2048, 8192), (1024, 4096, 128256)]
    for dtype, shapes in (
        (torch.bfloat16, [(large, large, large), *([] if part.small else layers + heads)]),
        (torch.float32, [(large, large, large)]),
    ):
        for rows, wide, out in shapes:
            x = torch.randn(rows, wide, dtype=dtype, device=part.device)
            weight = torch.randn(out, wide, dtype=dtype, device=part.device)
            took = part.seconds(partial(torch.nn.functional.linear, x, weight), repeats=7)
            tflops = 2e-12 * rows * wide * out / took
            part.note(product=[rows, wide, out], dtype=str(dtype).removeprefix("torch."), tflops=tflops)
    source = torch.randn(large * large * 4, device=part.device)
    target = torch.empty_like(source)
    part.note(copy_gb_s=8e-9 * source.numel() / part.seconds(lambda: target.copy_(source)))
