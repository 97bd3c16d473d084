"""The reference scorer: an actor that holds the base model and scores one part of pairs a call."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline import tables
from pipeline.compute.layout import Tokens, lay_out, micro_batches
from pipeline.compute.logprobs import score
from pipeline.compute.models import load_model
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


class Scorer:
    def __init__(self, spec: ScorerSpec):
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_model(Path(spec.model), spec.dtype, self.device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Score the parts named in column `part`; each is written whole or not at all, under its own name."""
        done = [self._part(str(name)) for name in batch["part"]]
        return {key: [row[key] for row in done] for key in ("part", "rows", "tokens", "seconds")}

    def _part(self, name: str) -> dict[str, Any]:
        started = time.perf_counter()
        columns = ["pair_id", "prompt_ids", "chosen_ids", "rejected_ids"]
        rows = pq.read_table(Path(self.spec.pairs) / name, columns=columns).to_pylist()
        pairs = [Tokens(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]
        # Longest first: packs of like lengths, and a part too large for the memory fails at its first pack.
        order = sorted(range(len(pairs)), key=lambda i: (-pairs[i].packed, rows[i]["pair_id"]))
        sums: dict[int, tuple[float, float]] = {}
        for chunk in micro_batches([pairs[i].packed for i in order], self.spec.score_tokens, "resources.score_tokens"):
            index = [order[i] for i in chunk]
            pack = lay_out([pairs[i] for i in index], self.device)
            sums.update(zip(index, score(self.model, pack, self.spec.logits_chunk), strict=True))
        scored = [self._row(row, pairs[i], sums[i]) for i, row in enumerate(rows)]
        tables.write(scored, tables.REFERENCE, Path(self.spec.folder) / name)
        tokens = sum(pair.packed for pair in pairs)
        return {"part": name, "rows": len(rows), "tokens": tokens, "seconds": time.perf_counter() - started}

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
