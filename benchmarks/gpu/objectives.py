"""Every objective of the table: three steps of a small float32 model on the device against the same on the CPU.

But those that look at features, which would need an autoencoder and its cache.
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.inputs import chosen_model, family, pairs_of, reference, trainer_of
from benchmarks.gpu.part import Part
from pipeline.objectives.presets import PRESETS
from pipeline.training.loop import Trainer

STEPS = 3


def run(part: Part) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in [name for name, row in PRESETS.items() if "features" not in row.needs]:
            with part.trying(objective=name):
                _compare(part, name, Path(folder) / name)


def _compare(part: Part, name: str, folder: Path) -> None:
    config = family("Llama")
    pairs = pairs_of(1200, 60, config.vocab_size)
    start = chosen_model(config, torch.float32, "cpu")
    sums, seconds = reference(start, pairs, 4096), []
    logs: list[Trainer] = []
    for device in (part.device, "cpu"):
        model = chosen_model(config, torch.float32, device)
        model.load_state_dict(start.state_dict())
        trainer = trainer_of(model, pairs, sums, folder / str(len(logs)), steps=STEPS, objective=name)
        while not trainer.done:
            trainer.step()
        logs.append(trainer)
        seconds.append(trainer.journal.steps[-1]["seconds"])
    off = {
        figure: max(
            abs(a[figure] - b[figure]) / (1 + abs(b[figure]))
            for a, b in zip(*(each.journal.steps for each in logs), strict=True)
        )
        for figure in ("loss", "grad_norm")
    }
    part.note(objective=name, **{f"{figure}_off": value for figure, value in off.items()}, seconds=seconds)
