"""The scorer, outside of Ray: what it says of itself, and of memory that runs out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors import metrics
from actors.scorer import Scorer, ScorerSpec
from pipeline.errors import UserError
from pipeline.settings.resources import Resources
from tests.conftest import SMALL_MEMORY, pairs_file, with_code

WORK = {"part": np.array(["part-00000.parquet"])}


def spec(model: Path, folder: Path, score_tokens: int) -> ScorerSpec:
    """Of two pairs of 50 tokens each."""
    ids = {"prompt_ids": [*range(5, 25)], "chosen_ids": [*range(25, 45)], "rejected_ids": [*range(45, 55)]}
    (folder / "pairs").mkdir()
    pairs_file(folder / "pairs" / "part-00000.parquet", [ids, ids])
    return ScorerSpec(
        model=str(model),
        dtype="float32",
        pairs=str(folder / "pairs"),
        folder=str(folder),
        resources=Resources(score_tokens=score_tokens, logits_chunk=64),
        threads=1,
        trust_remote_code=True,
    )


def test_memory_that_runs_out_is_told_with_what_to_lower(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """And lowered it is enough."""
    own = with_code(tiny_model("Llama"), tmp_path / "own", SMALL_MEMORY.format(tokens=60))
    asked = spec(own, tmp_path, score_tokens=4096)
    with pytest.raises(
        UserError, match=r"with resources\.score_tokens=4096 and logits_chunk=64 a scorer ran out of"
    ) as full:
        Scorer(asked, "reference")(WORK)
    assert "OutOfMemoryError: CUDA out of memory" in full.value.problem and "lower these" in full.value.remedy
    lowered = replace(asked, resources=Resources(score_tokens=60))
    (done,) = zip(*Scorer(lowered, "reference")(WORK).values(), strict=True)
    assert {"part-00000.parquet", 2, 100} <= set(done)
    assert any(str(each).startswith("float32 on a CPU; attention packed") for each in done)


def test_parts_count_for_the_stage_that_has_them_made(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """weigh and rank have pairs scored, too."""
    monkeypatch.setattr(metrics, "_waiting", [])
    Scorer(spec(tiny_model("Llama"), tmp_path, score_tokens=4096), "weigh")(WORK)
    assert metrics._waiting == [
        ("widemargin_stage_pairs", 2.0, {"stage": "weigh"}),
        ("widemargin_stage_tokens", 100.0, {"stage": "weigh"}),
    ]


def test_a_model_too_large_to_load_is_told_so(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    own = with_code(tiny_model("Llama"), tmp_path / "own", SMALL_MEMORY.format(tokens=2))
    with pytest.raises(UserError, match=r"loading the model in float32, a scorer ran out of .*\n.*gpus_per"):
        Scorer(spec(own, tmp_path, score_tokens=4096), "reference")(WORK)
