"""The reference scorer: an actor that holds the base model and scores one part of pairs a call.

Torch is imported by the actor alone: the driver that starts the pool has no use for it, and it takes seconds.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ScorerSpec:
    model: str  # a folder
    dtype: str
    pairs: str  # the pairs artifact's folder
    folder: str  # where finished parts go
    score_tokens: int
    logits_chunk: int
    threads: int
    trust_remote_code: bool = False


class Scorer:
    def __init__(self, spec: ScorerSpec):
        import torch

        from pipeline.compute.attention import is_packed
        from pipeline.compute.models import load_model

        torch.set_num_threads(spec.threads)
        self.spec = spec
        device = "cuda" if torch.cuda.is_available() else "cpu"
        where = "auto" if torch.cuda.device_count() > 1 else device
        self.model = load_model(Path(spec.model), spec.dtype, where, trust_remote_code=spec.trust_remote_code)
        name = type(self.model).__name__
        self.note = "" if is_packed(self.model) else f"{name} cannot be packed: it takes one sequence a side, slower"

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Score the parts named in column `part`; each is written whole or not at all, under its own name.

        `note` is what the door should say of the model, once; empty where nothing is unusual.
        """
        done = [self._part(str(name)) for name in batch["part"]]
        return {key: [row[key] for row in done] for key in ("part", "rows", "tokens", "seconds", "note")}

    def _part(self, name: str) -> dict[str, Any]:
        from pipeline.scoring import score_part

        spec, started = self.spec, time.perf_counter()
        rows, tokens = score_part(
            self.model, Path(spec.pairs) / name, Path(spec.folder) / name, spec.score_tokens, spec.logits_chunk
        )
        seconds = time.perf_counter() - started
        return {"part": name, "rows": rows, "tokens": tokens, "seconds": seconds, "note": self.note}
