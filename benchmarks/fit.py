"""What `python -m jobs.fit` predicts against what processes hold: python -m benchmarks.fit [--threads N]

Random Llamas of several sizes score made-up pairs, and train on them, in a process of their own each, by the loops of
the stages and without Ray. The peak is that of the whole process, its libraries included.
"""

import argparse
import gc
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actors.environment import CPU
from benchmarks.measure import Result, forget_peak, peak_memory, run_child
from pipeline.fit.devices import device
from pipeline.fit.lengths import Lengths, Work
from pipeline.fit.shape import shape_of
from pipeline.fit.stages import Questions, stages
from pipeline.settings.config import RunConfig

_LLAMA = {"hidden_act": "silu", "max_position_embeddings": 2048, "tie_word_embeddings": True}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "16M": _LLAMA
    | {"vocab_size": 32000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}
    | {"num_attention_heads": 8, "num_key_value_heads": 4},
    "66M": _LLAMA
    | {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    | {"num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False},
    "135M": _LLAMA
    | {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3},
}
PAIR = (60, 60, 60)  # tokens of prompt and both sides
STAGES = ("reference", "train")


def compare(name: str, threads: int, pairs: int = 8, batch: int = 4, **settings: Any) -> dict[str, tuple[float, float]]:
    """By stage (predicted, measured) bytes of one worker, for a model of SIZES; `settings` as section__name=value."""
    raw: dict[str, dict[str, Any]] = {"train": {"batch_size": batch}, "data": {"shard_pairs": pairs // 2}}
    raw["resources"] = {"micro_batch_tokens": 2 * sum(PAIR)}
    for key, value in settings.items():
        section, _, setting = key.partition("__")
        raw[section][setting] = value
    with tempfile.TemporaryDirectory() as folder:
        job = {"model": folder, "raw": raw, "pairs": pairs, "threads": threads}
        make(folder, SIZES[name])
        config = RunConfig.model_validate(raw | {"model": {"source": folder}})
        prompt_P, chosen_P, rejected_P = (np.full(pairs, length) for length in PAIR)
        lengths = Lengths(prompt_P, chosen_P, rejected_P)
        work = Work(lengths, lengths, lengths.take(np.arange(0)), True, "")
        shape = shape_of(Path(folder), name)
        found = stages(config, shape, None, work, Questions(0, 0, 0), device("cpu"), 1)
        predicted = {each.stage: each.need.host_bytes for each in found}
        measured = run_child("benchmarks.fit", "measure", job, environment=CPU)
    return {stage: (predicted[stage], measured[stage]) for stage in STAGES}


def make(folder: str, sizes: Mapping[str, Any]) -> None:
    """A random Llama in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)


def measure(job: dict[str, Any]) -> Result:
    """Peaks in bytes, of scoring all pairs, and of training on them."""
    import ray.train  # noqa: F401 - as an actor has it
    import torch

    from benchmarks.tables import PART, write_pairs, write_schedule
    from pipeline.compute.cpu import give_back_memory
    from pipeline.compute.models import load_model
    from pipeline.compute.scoring import score_part
    from pipeline.objectives.objective import build
    from pipeline.training.epoch import Epoch
    from pipeline.training.join import join
    from pipeline.training.loop import Trainer

    torch.set_num_threads(job["threads"])
    config = RunConfig.model_validate(job["raw"] | {"model": {"source": job["model"]}})
    ids = torch.randint(3, 32000, (job["pairs"], sum(PAIR)), generator=torch.Generator().manual_seed(0))
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [
        {"pair_id": f"{i:04}"} | {name: part.tolist() for name, part in zip(names, row.split(PAIR), strict=True)}
        for i, row in enumerate(ids)
    ]
    with tempfile.TemporaryDirectory() as given:
        pairs, reference, schedule = (Path(given) / name for name in ("pairs", "reference", "schedule"))
        for start in range(0, len(rows), config.data.shard_pairs):
            write_pairs(rows[start : start + config.data.shard_pairs], pairs / f"part-{start:05}.parquet")
        write_schedule(rows, schedule / PART)
        reference.mkdir()
        forget_peak()
        model, found = load_model(Path(job["model"]), "float32"), {}
        for part in pairs.iterdir():
            score_part(model, part, reference / part.name, 4096, 1024)
        found["reference"] = peak_memory() * 2**20
        gc.collect()
        give_back_memory()  # as in a process that has only loaded the model
        epoch = Epoch(join(pairs, reference, schedule, Path(given) / "epoch"), config.train.batch_size)
        trainer = Trainer(model, build("dpo", beta=0.1), epoch, config.train, config.resources)
        forget_peak()
        while not trainer.done:
            trainer.step()
        found["train"] = peak_memory() * 2**20
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for name in SIZES:
        for more in ({}, {"resources__checkpoint_activations": True}, {"train__lora": {"rank": 16}}):
            for stage, (predicted, measured) in compare(name, options.threads, **more).items():
                ratio = predicted / measured
                print(f"{name} {more} {stage}: {predicted / 2**20:,.0f} of {measured / 2**20:,.0f} MiB, {ratio:.2f}")


if __name__ == "__main__":
    main()
