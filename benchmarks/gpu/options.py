"""What saves memory, an option at a time, as train workers have it: opened empty, sharded, filled, trained, kept.

A step's loss must be that of the plain one; what an option costs in time and gives back in memory is beside it.
"""

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.inputs import chosen_model, pairs_of, reference, shape, trainer_of
from benchmarks.gpu.part import Part
from pipeline.compute.layout import Tokens
from pipeline.compute.loading import open_empty
from pipeline.training.checkpoints import load, save
from pipeline.training.loop import Trainer

LAYERS, BUDGET, STEPS = 8, 16384, 3
AGAIN = {"checkpoint_activations": True}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of `resources`, of `train`
    "plain": ({}, {}),
    "layers as they are": ({"compile_layers": False}, {}),
    "gradients of the share alone": ({"whole_gradients": False}, {}),
    "activations again": (AGAIN, {}),
    "activations again, every second layer": ({"checkpoint_activations": 2}, {}),
    "activations again, kept on the host": (AGAIN | {"offload_activations": True}, {}),
    "weights on the host": ({"cpu_offload": True}, {}),
    "moments of 8 bits": ({}, {"optimizer": "adamw-8bit"}),
    "adapters, weights on the host": ({"cpu_offload": True}, {"lora": {"rank": 16}}),
}
RESUMED = ("gradients of the share alone", "weights on the host", "moments of 8 bits")


def run(part: Part) -> None:
    config = shape(part, "1b", None if part.small else LAYERS)
    pairs = pairs_of(1024 if part.small else STEPS * 4 * BUDGET, 60 if part.small else 1000, config.vocab_size, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        model = chosen_model(config, torch.bfloat16, part.device)
        sums = reference(model, pairs, BUDGET)
        model.save_pretrained(Path(folder) / "model")
        del model
        for name, (resources, train) in OPTIONS.items():
            with part.trying(option=name):
                if train.get("optimizer") and not find_spec("torchao"):
                    part.note(option=name, skipped="torchao is not installed")
                    continue
                _trained(part, name, Path(folder), pairs, sums, resources, train)


def _trained(
    part: Part,
    name: str,
    folder: Path,
    pairs: Sequence[Tokens],
    sums: Sequence[tuple[float, float]],
    resources: dict[str, Any],
    train: dict[str, Any],
) -> None:
    own = folder / name.replace(" ", "-").replace(",", "")

    def opened(tables: str, journal: Path | None = None) -> Trainer:
        return trainer_of(
            open_empty(folder / "model", "bfloat16", part.device),
            pairs,
            sums,
            own / tables,
            steps=STEPS,
            train={"learning_rate": 1e-6} | train,
            resources={"micro_batch_tokens": BUDGET, "allow_slow_path": True} | resources,
            journal=journal,
        )

    trainer = opened("tables")
    steps = [trainer.step()]
    save(trainer, own / "first")
    steps.append(trainer.step())
    save(trainer, own / "second").result()
    steps.append(trainer.step())
    peak = part.peak_gib()
    figures = {figure: [record[figure] for record in steps] for figure in ("loss", "grad_norm", "seconds")}
    part.note(option=name, **figures, tokens=steps[-1]["tokens"], peak_gib=peak)
    if name in RESUMED:
        del trainer
        part.free()
        resumed = opened("again", own / "tables" / "journal")
        load(resumed, own / "second")
        part.note(option=name, resumed=resumed.step()["loss"])
