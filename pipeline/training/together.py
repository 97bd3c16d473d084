"""What train workers tell each other of a step: small things, on the host, while a GPU is at its own.

They go through groups of their own (gloo), apart from the sums of gradients.
"""

from datetime import timedelta

import torch
import torch.distributed as dist


class Together:
    """The workers of a training. With world > 1, or inside Ray Train, torch.distributed is up; all must call alike."""

    def __init__(self, rank: int, world: int, patience: timedelta):
        """`patience` is how long one waits for the others: groups do not take it over from the first."""
        self.rank, self.world = rank, world
        self.group = dist.new_group(backend="gloo", timeout=patience) if world > 1 else None
        # Checkpoints are written by a thread. In a group that it shared with the steps, workers might make their calls
        # in different orders, and wait for each other for ever.
        self.checkpoints = dist.new_group(backend="gloo", timeout=patience) if dist.is_initialized() else None

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Of all workers, in place. Where each has zeros but for its own rows, they are gathered bit by bit."""
        if self.world > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def first_says(self, *flags: bool) -> list[bool]:
        """On every worker the flags of the first."""
        told = torch.tensor(flags)
        if self.world > 1:
            dist.broadcast(told, src=0, group=self.group)
        said: list[bool] = told.tolist()
        return said
