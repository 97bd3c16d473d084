"""What each row of the table of objectives costs a training step: its CPU time over dpo's on the same pairs.

A random Llama on a CPU. For each row a trainer of its own and one of dpo take their steps in turn, and the median of
the ratios is told, the first step left out. All of a step counts: reading and laying out, forward, loss, backward,
update. What a row needs beside pairs and reference was made before and is not counted: weights of tokens, features,
mismatched answers scored by the reference.

    python -m benchmarks.objectives [--rows wpo fpo ...]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Result, median_ratio, reported, run_child
from benchmarks.pairs import IDS, Row
from benchmarks.tables import PART, write_pairs, write_schedule
from pipeline.objectives.presets import PRESETS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline.objectives.presets import Preset
    from pipeline.training.epoch import Epoch
    from pipeline.training.epoch_files import Line
    from pipeline.training.loop import Trainer

# Rows of the table, and settings of theirs that cost otherwise.
ROWS: dict[str, dict[str, Any]] = {name: {"name": name} for name in PRESETS} | {
    "mixdpo": {"name": "mixdpo", "preference": "gamma-dpo"},
    "bvpo, least-error": {"name": "bvpo", "balance": "least-error"},
    "gamma-dpo, solver=paper": {"name": "gamma-dpo", "solver": "paper"},
}
BUDGET, CHUNK = 4096, 1024


def run(job: dict[str, Any]) -> Result:
    """The ratio of each of job["rows"], over job["steps"] steps."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(Path(folder), job)
        return {"ratios": {name: _ratio(tables, ROWS[name], job["steps"]) for name in job["rows"]}}


def _ratio(tables: "Tables", row: Mapping[str, Any], steps: int) -> float:
    own, dpo = tables.trainer(**row), tables.trainer("dpo")
    seconds = [(_seconds(own.step), _seconds(dpo.step)) for _ in range(1 + steps)]
    return round(median_ratio(*zip(*seconds[1:], strict=True)), 3)


def _seconds(step: Callable[[], object]) -> float:
    """CPU time of this process: its threads read the next step's rows while one is computed."""
    began = time.process_time()
    step()
    return time.process_time() - began


class Tables:
    """What stages write of random pairs, as far as a row of the table asks for it."""

    def __init__(self, folder: Path, job: Mapping[str, Any]):
        self.folder, self.job, self.epochs = folder, job, 0
        self.rows = random_pairs(job)
        write_pairs(self.rows, folder / "pairs" / PART)
        write_schedule(self.rows, folder / "schedule" / PART)
        write_schedule(self.rows, folder / "routed" / PART, sft=range(3, len(self.rows), 4))
        self._score(folder / "pairs" / PART, "reference")

    def _score(self, pairs: Path, table: str, by_token: bool = False) -> Path:
        from pipeline.compute.scoring import score_part

        made = self.folder / table / pairs.name
        made.parent.mkdir(exist_ok=True)
        score_part(self.model(), pairs, made, BUDGET, CHUNK, by_token=by_token)
        return made.parent

    def model(self) -> "PreTrainedModel":
        from pipeline.compute.models import load_model

        return load_model(self.saved, "float32")

    @cached_property
    def saved(self) -> Path:
        import torch
        from transformers import LlamaConfig

        from benchmarks.gpu.inputs import random_model

        folder = self.folder / "model"
        random_model(LlamaConfig(**self.job["model"]), torch.float32, "cpu").save_pretrained(folder)
        return folder

    @cached_property
    def by_token(self) -> Path:
        """Log-probs of tokens, which stand for any column of weights, too: what they are, costs nothing."""
        return self._score(self.folder / "pairs" / PART, "by-token", by_token=True)

    @cached_property
    def autoencoder(self) -> tuple[Any, int]:
        """Of four times as many latents as channels, 32 of them active at a position; the reference's are written."""
        import torch

        from pipeline.compute.autoencoders import Autoencoder
        from pipeline.compute.features import Reader
        from pipeline.compute.scoring import read_part

        width, layer = self.job["model"]["hidden_size"], self.job["model"]["num_hidden_layers"] // 2
        weight_CM = torch.randn(width, 4 * width, generator=torch.Generator().manual_seed(0)) / width**0.5
        made = Autoencoder(weight_CM, torch.zeros(4 * width), active=32)
        (self.folder / "features").mkdir()
        model, pairs = self.model(), self.folder / "pairs" / PART
        read_part(model, Reader(model, layer, made), pairs, self.folder / "features" / PART, BUDGET)
        return made, layer

    def line(self, routed: bool = False) -> "Line":
        from pipeline.training.epoch_files import Line

        return Line(*(self.folder / name for name in ("pairs", "reference", "routed" if routed else "schedule")))

    def epoch(self, preset: "Preset") -> "Epoch":
        from pipeline.training.epoch import Epoch
        from pipeline.training.epoch_files import More
        from pipeline.training.join import join

        self.epochs += 1
        folder, line = self.folder / f"epoch-{self.epochs}", self.line(preset.routes)._asdict()
        if preset.two_streams:  # of the same pairs: a step has half of its pairs from either
            return Epoch(join(**line, folder=folder, streams={"other": self.line()}), self.job["batch"])
        if "features" in preset.needs:
            line["features"] = self.folder / "features"
        values = {column: (self.by_token, "part-*.parquet") for column in preset.token_columns}
        mismatched = self.mismatched if "mismatched" in preset.needs else None
        return Epoch(join(**line, folder=folder, more=More(values, mismatched)), self.job["batch"])

    @cached_property
    def mismatched(self) -> Path:
        from pipeline.training.mismatched import write_asked

        asked = self.folder / "asked"
        write_asked(self.epoch(PRESETS["dpo"]), asked, size=len(self.rows), positions=None)
        return [self._score(part, "mismatched") for part in asked.iterdir()][-1]

    def trainer(self, name: str, **parameters: Any) -> "Trainer":
        from pipeline.objectives import build
        from pipeline.settings.config import Train
        from pipeline.settings.resources import Resources
        from pipeline.training.loop import Trainer

        objective = build(name, **parameters)
        return Trainer(
            self.model(),
            objective,
            autoencoder=self.autoencoder if "features" in objective.preset.needs else None,
            epoch=self.epoch(objective.preset),
            settings=Train(
                learning_rate=1e-5, lr_schedule="constant", warmup_fraction=0.0, batch_size=self.job["batch"]
            ),
            resources=Resources(micro_batch_tokens=BUDGET),
            weights=(0.5, 0.5) if objective.preset.two_streams else None,
        )


def random_pairs(job: Mapping[str, Any]) -> list[Row]:
    import torch

    draw = torch.Generator().manual_seed(0)
    return [
        {"pair_id": f"{number:032d}"}
        | {
            name: torch.randint(3, job["model"]["vocab_size"], (tokens,), generator=draw).tolist()
            for name, tokens in zip(IDS, job["tokens"], strict=True)
        }
        for number in range((1 + job["steps"]) * job["batch"])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="pairs a step")
    parser.add_argument("--tokens", type=int, nargs=3, default=(60, 120, 120), help="of prompt, chosen, rejected")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=16384)
    job = vars(parser.parse_args())
    layers, width, vocabulary = (job.pop(name) for name in ("layers", "width", "vocabulary"))
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    with reported():
        result = run_child(
            "benchmarks.objectives", "run", {**job, "model": {**sizes, **heads, "vocab_size": vocabulary}}
        )
    print(json.dumps({**job, **sizes, "vocab_size": vocabulary, **result}, indent=2))


if __name__ == "__main__":
    main()
