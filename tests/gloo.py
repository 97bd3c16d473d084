"""Several real workers on this machine, joined by gloo: `run(4, function, ...)` calls it in four processes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def run(world: int, function: Callable[..., Any], *given: Any) -> list[Any]:
    """`function(rank, world, *given)` of every worker, in order of rank; what it returns must be picklable by torch."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, (world, folder, function, given), nprocs=world)
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(world)]


def _work(rank: int, world: int, folder: str, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(rank, world, *given), Path(folder) / str(rank))
    dist.barrier()
    dist.destroy_process_group()
