"""The reference scorer: an actor that holds the base model and scores one part of pairs a call.

Torch is imported by the actor alone: the driver that starts the pool has no use for it, and it takes seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.pooled import Pooled
from pipeline.settings.config import Resources


@dataclass(frozen=True)
class ScorerSpec:
    model: str  # a folder
    dtype: str
    pairs: str  # the pairs artifact's folder
    folder: str  # where finished parts go
    resources: Resources
    threads: int
    trust_remote_code: bool = False


class Scorer(Pooled):
    def open(self, spec: ScorerSpec) -> None:
        import torch

        from pipeline.compute.models import load_model
        from pipeline.compute.selfcheck import chosen

        torch.set_num_threads(spec.threads)
        self.spec = spec
        device = "cuda" if torch.cuda.is_available() else "cpu"
        where = "auto" if torch.cuda.device_count() > 1 else device
        trusted = spec.trust_remote_code
        self.model = load_model(
            Path(spec.model), spec.dtype, where, trust_remote_code=trusted, resources=spec.resources
        )
        self.note = chosen(self.model).words(device, spec.dtype)

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Score a part of pairs. `note` is how the model is run, for the door to say once."""
        from pipeline.compute.scoring import score_part

        part, budgets = work["part"], self.spec.resources.budgets(self.model.device.type)
        pairs, reference = Path(self.spec.pairs) / part, Path(self.spec.folder) / part
        rows, tokens = score_part(self.model, pairs, reference, budgets.score_tokens, budgets.logits_chunk)
        return {"rows": rows, "tokens": tokens, "note": self.note}
