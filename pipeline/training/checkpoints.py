"""Checkpoints of a training run, sharded: each worker writes its own part, and any number of workers reads them.

Weights and optimiser state go through torch.distributed.checkpoint; what is small and the same everywhere is one file.
"""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.staging import AsyncStager, DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from pipeline.errors import UserError
from pipeline.training.loop import Trainer

_POSITION = "position.pt"  # where training stood; the rows of what came before are the journal's
_KEPT = ("next_step", "record")
# On a GPU: into pinned memory that is kept from one checkpoint to the next, by a thread and a stream of their own.
_PINNED = StagingOptions(
    use_pinned_memory=True, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=True
)


def save(trainer: Trainer, folder: Path) -> Future[Any]:
    """Begin to write all that a resumed run needs into `folder`; every worker must call this.

    It is whole when the future is done; the one before is waited for here, as the calls of two among the workers would
    mix. On a GPU what is written is copied to the CPU, while the next step computes its gradients, and written from
    there. On a CPU that would double the memory, so that it is written from where it stands. Either way the next update
    waits until the weights are read.
    """
    if trainer.unwritten:
        trainer.unwritten.result()
    folder.mkdir(parents=True, exist_ok=True)
    trainer.journal.write()  # first: a checkpoint covers the rows of the steps before it
    if trainer.rank == 0:
        known = {"objective": trainer.state.state_dict()}
        torch.save(known | {name: getattr(trainer, name) for name in _KEPT}, folder / _POSITION)
    if trainer.stager is None:
        # What torchao keeps 8 bits in cannot be staged (seen on an H200): the next update waits until it is written.
        staged = any(parameter.is_cuda for parameter in trainer.parameters) and trainer.settings.optimizer == "adamw"
        trainer.stager = _pinned() if staged else _AsItIs()
    if torch.cuda.is_available():  # the stager's stream does not wait for the update, which may not have ended
        torch.cuda.synchronize()
    begun = checkpoint.async_save(
        _large(trainer),
        # It would copy ahead in a stream of the first GPU, whichever is ours, also what lies on the host.
        storage_writer=checkpoint.FileSystemWriter(folder, per_thread_copy_ahead=0),
        process_group=trainer.together.checkpoints,
        async_stager=trainer.stager,
    )
    if isinstance(begun, AsyncSaveResponse):
        trainer.unread, trainer.unwritten = begun.staging_completion, begun.upload_completion
        return begun.upload_completion
    trainer.unread = trainer.unwritten = begun
    return begun


def load(trainer: Trainer, folder: Path) -> None:
    """Go on from what `save` wrote, as if the run had not stopped."""
    known = torch.load(folder / _POSITION, weights_only=True)
    if not known.keys() >= {*_KEPT}:
        problem = f"the checkpoint in {folder} is of another version of widemargin"
        raise UserError(problem, f"remove {folder.parent}; the same command trains from the start")
    trainer.state.load_state_dict(known["objective"])
    for name in _KEPT:
        setattr(trainer, name, known[name])
    trainer.journal.go_on(trainer.next_step)
    large = _large(trainer)
    checkpoint.load(large, checkpoint_id=folder, process_group=trainer.together.checkpoints)
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


def _pinned() -> DefaultStager:
    """Its thread begins at the first GPU, as any new one does: it is told which is ours."""
    stager = DefaultStager(_PINNED)
    if stager._staging_executor:
        stager._staging_executor.submit(torch.cuda.set_device, torch.cuda.current_device()).result()
    return stager


class _AsItIs(AsyncStager):
    """Writes from where a tensor stands, without the copy that an asynchronous checkpoint otherwise begins with."""

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        return state_dict

    def synchronize_staging(self) -> None:
        """Nothing is copied, so nothing is waited for."""
        return None

    def close(self) -> None:
        """Nothing is held."""
