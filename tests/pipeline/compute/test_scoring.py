"""The reference pass over a part of pairs: what is refused, and that nothing is left behind then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.compute.models import load_model
from pipeline.compute.scoring import score_part
from pipeline.errors import UserError
from pipeline.results import tables
from tests.conftest import VOCABULARY

SPOILT = VOCABULARY - 1  # a token whose embedding is no number


def pairs_of(folder: Path, completions: dict[str, list[int]]) -> Path:
    rows = [
        {
            **dict.fromkeys(("prompt", "chosen", "rejected", "source"), ""),
            **dict.fromkeys(("chosen_score", "rejected_score", "label_confidence", "difficulty")),
            **{"pair_id": pair, "split": "train", "prompt_ids": [3, 4, 5], "chosen_ids": ids, "rejected_ids": [6, 2]},
        }
        for pair, ids in completions.items()
    ]
    tables.write(rows, tables.PAIRS, folder / "pairs.parquet")
    return folder / "pairs.parquet"


@pytest.mark.parametrize("family", ["Llama", "GptOss"])
def test_log_probs_that_are_no_numbers_name_their_pair(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    """One pair of three, in one pack where the model takes one; the model itself is sound on every other token."""
    model: Any = load_model(tiny_model(family), "float32")
    model.get_input_embeddings().weight.data[SPOILT] = torch.nan
    completions = {"first": [7, 8, 2], "second": [7, SPOILT, 2], "third": [9, 2]}
    written = tmp_path / "reference.parquet"
    with pytest.raises(UserError, match=r"pair second: the reference log-probs are .*nan"):
        score_part(model, pairs_of(tmp_path, completions), written, budget=64, chunk=16)
    assert not written.exists()
    del completions["second"]
    assert score_part(model, pairs_of(tmp_path, completions), written, budget=64, chunk=16).rows == 2
    assert pq.read_table(written)["pair_id"].to_pylist() == ["first", "third"]
