"""Checkpoints of a training run, sharded: each worker writes its own part, and any number of workers reads them.

Weights and optimiser state go through torch.distributed.checkpoint; what is small and the same everywhere is one file.
"""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from pipeline.training.loop import Trainer

_POSITION = "position.pt"  # where training stood, and what was logged
_LOGS = ("next_step", "steps_log", "pairs_log")


def save(trainer: Trainer, folder: Path) -> Future[Any]:
    """Begin to write all that a resumed run needs into `folder`; every worker must call this.

    It is whole when the future is done. On a GPU what is written is first copied to the CPU. On a CPU that would double
    the memory, so it is read where it stands, while the next step computes its gradients; its update waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.rank == 0:
        known = {"objective": trainer.state.state_dict(), "rng": torch.get_rng_state()}
        torch.save(known | {name: getattr(trainer, name) for name in _LOGS}, folder / _POSITION)
    on_cpu = trainer.policy.device.type == "cpu"
    future = checkpoint.async_save(
        _large(trainer),
        checkpoint_id=folder,
        process_group=trainer.checkpoint_group,
        async_stager=_AsItIs() if on_cpu else None,
    )
    assert isinstance(future, Future)
    trainer.unwritten = future if on_cpu else None
    return future


def load(trainer: Trainer, folder: Path) -> None:
    """Go on from what `save` wrote, as if the run had not stopped."""
    known = torch.load(folder / _POSITION, weights_only=True)
    trainer.state.load_state_dict(known["objective"])
    torch.set_rng_state(known["rng"])
    for name in _LOGS:
        setattr(trainer, name, known[name])
    large = _large(trainer)
    checkpoint.load(large, checkpoint_id=folder)
    set_state_dict(
        trainer.policy,
        trainer.optimizer,
        model_state_dict=large["model"],
        optim_state_dict=large["optimizer"],
        options=StateDictOptions(strict=not trainer.policy.lora),  # frozen weights are not in it
    )


def _large(trainer: Trainer) -> dict[str, Any]:
    """Weights that are trained and their optimiser state, by name, each as it lies on the workers."""
    options = StateDictOptions(ignore_frozen_params=True)
    weights, moments = get_state_dict(trainer.policy, trainer.optimizer, options=options)
    return {"model": weights, "optimizer": moments}


class _AsItIs(AsyncStager):
    """Writes from where a tensor stands, without the copy that an asynchronous checkpoint otherwise begins with."""

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        return state_dict

    def synchronize_staging(self) -> None:
        """Nothing is copied, so nothing is waited for."""
        return None

    def close(self) -> None:
        """Nothing is held."""
