"""The reference scorer: an actor that holds the base model and scores one part of pairs a call."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline import tables
from pipeline.compute.attention import is_packed
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import score
from pipeline.compute.models import load_model
from pipeline.compute.packing import plan
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest


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
        started = time.perf_counter()
        columns = ["pair_id", "prompt_ids", "chosen_ids", "rejected_ids"]
        rows = pq.read_table(Path(self.spec.pairs) / name, columns=columns).to_pylist()
        pairs = [Tokens(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]
        sums: dict[int, tuple[float, float]] = {}
        for index in plan([pair.packed for pair in pairs], self.spec.score_tokens, "resources.score_tokens")[0]:
            pack = lay_out([pairs[i] for i in index], self.model.device)
            sums.update(zip(index, score(self.model, pack, self.spec.logits_chunk), strict=True))
        scored = [self._row(row, pairs[i], sums[i]) for i, row in enumerate(rows)]
        tables.write(scored, tables.REFERENCE, Path(self.spec.folder) / name)
        tokens = sum(pair.packed for pair in pairs)
        seconds = time.perf_counter() - started
        return {"part": name, "rows": len(rows), "tokens": tokens, "seconds": seconds, "note": self.note}

    def _row(self, row: dict[str, Any], pair: Tokens, sums: tuple[float, float]) -> dict[str, Any]:
        if not np.isfinite(sums).all():
            raise UserError(
                f"pair {row['pair_id']}: the reference log-probs are {sums}",
                "the model gives no finite numbers: try model.dtype=float32",
            )
        return {
            "pair_id": row["pair_id"],
            "tokens_digest": tokens_digest(*pair),
            "chosen_logps": sums[0],
            "rejected_logps": sums[1],
            "chosen_tokens": len(pair.chosen),
            "rejected_tokens": len(pair.rejected),
        }
