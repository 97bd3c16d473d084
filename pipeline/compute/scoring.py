"""The reference pass, without Ray: a part of pairs in, a part of log-prob sums out."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from transformers import PreTrainedModel

from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import score
from pipeline.compute.packing import plan
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables


def score_part(model: PreTrainedModel, pairs: Path, reference: Path, budget: int, chunk: int) -> tuple[int, int]:
    """Score the file `pairs` and write the file `reference`, whole or not at all. Returns its rows and tokens.

    `budget` tokens are packed for a forward, and logits of `chunk` positions exist at a time. Raises UserError where a
    pair exceeds the budget, or its log-probs are no finite numbers.
    """
    rows = pq.read_table(pairs, columns=["pair_id", "prompt_ids", "chosen_ids", "rejected_ids"]).to_pylist()
    tokens = [Tokens(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]
    sums: dict[int, tuple[float, float]] = {}
    for index in plan([pair.packed for pair in tokens], budget, "resources.score_tokens")[0]:
        pack = lay_out([tokens[i] for i in index], model.device)
        sums.update(zip(index, score(model, pack, chunk), strict=True))
    scored = [_row(row["pair_id"], tokens[i], sums[i]) for i, row in enumerate(rows)]
    tables.write(scored, tables.REFERENCE, reference)
    return len(rows), sum(pair.packed for pair in tokens)


def _row(pair_id: str, pair: Tokens, sums: tuple[float, float]) -> dict[str, Any]:
    if not np.isfinite(sums).all():
        raise UserError(
            f"pair {pair_id}: the reference log-probs are {sums}",
            "the model gives no finite numbers: try model.dtype=float32",
        )
    return {
        "pair_id": pair_id,
        "tokens_digest": tokens_digest(*pair),
        "chosen_logps": sums[0],
        "rejected_logps": sums[1],
        "chosen_tokens": len(pair.chosen),
        "rejected_tokens": len(pair.rejected),
    }
