"""The reference scorer: an actor that holds the base model and scores one part of pairs a call.

Torch is imported by the actor alone: the driver that starts the pool has no use for it, and it takes seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.pooled import Pooled
from pipeline.errors import memory_for
from pipeline.settings.features import Features
from pipeline.settings.resources import Resources
from pipeline.settings.training import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What to do about a model that is too large for where it is scored.
LARGE = "model.dtype=bfloat16 takes half of float32's memory, and a scorer lays its model over resources.gpus_per_actor"


@dataclass(frozen=True)
class ScorerSpec:
    model: str  # a folder
    dtype: str
    folder: str  # where finished parts go
    resources: Resources
    threads: int
    trust_remote_code: bool = False
    pairs: str = ""  # the folder of the pairs, where a part does not say its file
    by_token: bool = False  # each token's log-prob in place of sums
    adapter: str | None = None  # a folder of unmerged adapters, which are merged as the model is loaded
    lora: Lora | None = None  # how they were put into the model
    autoencoder: str | None = None  # a folder, where features are read in place of log-probs
    features: Features | None = None


class Scorer(Pooled):
    def open(self, spec: ScorerSpec) -> None:
        import torch

        from pipeline.compute.models import load_model
        from pipeline.compute.scoring import Lanes
        from pipeline.compute.selfcheck import chosen

        torch.set_num_threads(spec.threads)
        self.spec = spec
        device = "cuda" if torch.cuda.is_available() else "cpu"
        where = "auto" if torch.cuda.device_count() > 1 else device
        trusted = spec.trust_remote_code
        adapter = (Path(spec.adapter), spec.lora) if spec.adapter and spec.lora else None
        with memory_for(f"loading the model in {spec.dtype}, a scorer", LARGE):
            self.model = load_model(
                Path(spec.model),
                spec.dtype,
                where,
                trust_remote_code=trusted,
                resources=spec.resources,
                adapter=adapter,
            )
        self.lanes, self.reader = Lanes(self.model), None
        if spec.autoencoder and spec.features:
            from pipeline.compute.features import Reader, open_autoencoder

            autoencoder, layer = open_autoencoder(Path(spec.autoencoder), spec.features)
            self.reader = Reader(self.model, layer, autoencoder)
        self.note = chosen(self.model).words(device, spec.dtype, devices(self.model))

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Score a part of pairs: that of its name, or the file `pairs`. `note` is how the model is run, for the door to
        say once."""
        from pipeline.compute.scoring import read_part, score_part

        part, asked = work["part"], self.spec.resources.budgets(self.model.device.type)
        budgets = f"resources.score_tokens={asked.score_tokens} and logits_chunk={asked.logits_chunk}"
        with memory_for(f"with {budgets} a scorer", f"lower these; {LARGE}"):
            pairs = Path(work["pairs"]) if "pairs" in work else Path(self.spec.pairs) / part
            reference, sizes = Path(self.spec.folder) / part, (asked.score_tokens, asked.logits_chunk)
            if self.reader:
                done = read_part(self.model, self.reader, pairs, reference, asked.score_tokens, self.lanes)
            else:
                done = score_part(self.model, pairs, reference, *sizes, self.lanes, self.spec.by_token)
        return {"rows": done.rows, "tokens": done.tokens, "packs": done.packs, "note": self.note}


def devices(model: "PreTrainedModel") -> str:
    """What a model lies on, such as `2 x NVIDIA H100 80GB HBM3` or `a CPU`."""
    import torch

    on = {weight.device for weight in model.parameters()}
    names = [torch.cuda.get_device_name(each) for each in on if each.type == "cuda"]
    counts = [f"{names.count(name)} x {name}" for name in sorted({*names})]
    return ", ".join(counts) or "a CPU"
