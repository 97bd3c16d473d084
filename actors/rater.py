"""A rater that is a model: an actor that holds it and rates one part of candidates a call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.pooled import Pooled
from actors.scorer import devices
from pipeline.errors import memory_for
from pipeline.settings.onpolicy import Rater
from pipeline.settings.resources import Resources

# What to do about a model that is too large for where it rates.
LARGE = "dtype: bfloat16 beside the rater takes half of float32's memory, and one lies over resources.gpus_per_actor"


@dataclass(frozen=True)
class RaterSpec:
    label: str
    rater: Rater
    model: str  # a folder
    candidates: str  # the folder of the artifact
    folder: str  # where finished parts go
    resources: Resources
    threads: int


class ModelRater(Pooled):
    def open(self, spec: RaterSpec) -> None:
        import torch

        from pipeline.onpolicy.reward import KINDS

        torch.set_num_threads(spec.threads)
        self.spec = spec
        model = spec.rater.as_model
        assert model is not None
        where = "cuda" if torch.cuda.is_available() else "cpu"
        where = "auto" if torch.cuda.device_count() > 1 else where
        with memory_for(f"loading the rater {spec.label} in {model.dtype}", LARGE):
            self.rate = KINDS[spec.rater.kind](Path(spec.model), model, spec.resources, where)
        self.note = self.rate.words(devices(self.rate.model))

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Rate a part of candidates. `note` is how the model is run, for the door to say once."""
        from pipeline.onpolicy.ratings import rate_part

        part, spec = work["part"], self.spec
        with memory_for(f"the rater {spec.label}", f"lower resources.score_tokens; {LARGE}"):
            done = rate_part(Path(spec.candidates) / part, Path(spec.folder) / part, spec.label, self.rate)
        return {"rows": done.rows, "tokens": done.tokens, "packs": self.rate.packs, "note": self.note}
