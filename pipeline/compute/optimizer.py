"""The optimiser of a training, by train.optimizer; and which package one of 8 bits takes.

Moments of 8 bits (Dettmers et al. 2021, arXiv 2110.02861) are 2 bytes a weight where AdamW's own are 8. torchao's lie
on the workers as FSDP2's weights do; bitsandbytes knows no sharded weights, so that it is for one worker in float32.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.settings.training import Train

if TYPE_CHECKING:
    import torch


def require_optimizer(settings: Train, sharded: bool) -> None:
    """Raise UserError where no package is installed that has the optimiser. Answers without torch."""
    if settings.optimizer == "adamw" or find_spec("torchao") or (find_spec("bitsandbytes") and not sharded):
        return
    needed = "torchao, which is the one that shards it" if sharded else "torchao or bitsandbytes"
    problem = f"train.optimizer={settings.optimizer} takes {needed}, and there is none here"
    raise UserError(problem, "pip install torchao, on every node, or set train.optimizer to adamw")


def make_optimizer(parameters: Sequence["torch.nn.Parameter"], settings: Train) -> "torch.optim.Optimizer":
    """Raises UserError where a package is missing."""
    import torch
    from torch.distributed.tensor import DTensor

    require_optimizer(settings, any(isinstance(parameter, DTensor) for parameter in parameters))
    options: dict[str, Any] = {"lr": 0.0, "betas": settings.adam_betas, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    made: torch.optim.Optimizer
    if find_spec("torchao"):
        from torchao.optim import AdamW8bit  # type: ignore[import-not-found]

        made = AdamW8bit(parameters, **options)
    else:
        import bitsandbytes  # type: ignore[import-not-found]

        made = bitsandbytes.optim.AdamW8bit(parameters, **options)
    return made


def set_learning_rate(optimizer: "torch.optim.Optimizer", rate: float) -> None:
    """The rate of the next step; torchao takes it in the tensor that it made of the first."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], float | int):
            group["lr"] = rate
        else:
            group["lr"].fill_(rate)
