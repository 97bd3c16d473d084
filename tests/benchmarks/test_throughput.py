"""benchmarks.throughput on a tiny model: what is computed is right; how fast is not asked."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import side_ours
from benchmarks.measure import forward_flops
from benchmarks.pairs import IDS, multi_turn, prompt_share
from benchmarks.throughput import SETTINGS, agreement, figures, installed, padded_tokens
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import score
from pipeline.compute.models import load_model
from pipeline.errors import UserError

BATCH = 2


def pair(*lengths: int) -> dict[str, Any]:
    ids = [[3 + (7 * sum(lengths) + 5 * i + j * j) % 90 for j in range(length)] for i, length in enumerate(lengths)]
    return {"pair_id": "-".join(map(str, lengths)), **dict(zip(IDS, ids, strict=True))}


PAIRS = [pair(4, 3, 2), pair(5, 1, 6), pair(3, 2, 2), pair(6, 4, 1), pair(2, 5, 3)]


@pytest.fixture(scope="module")
def job(tiny_model: Callable[[str], Path]) -> dict[str, Any]:
    known = {"model": str(tiny_model("Llama")), "pairs": PAIRS, "batch": BATCH, "threads": 1}
    return {**known, "settings": SETTINGS, "peer_checkpointing": False, "kinds": False}


def test_ours_scores_and_trains_the_pairs_it_was_given(job: dict[str, Any]) -> None:
    model = load_model(Path(job["model"]), "float32")
    tokens = [Tokens(*(each[name] for name in IDS)) for each in PAIRS]
    reference = side_ours.run(job | {"phase": "reference"})
    expected = torch.cat([score(model, lay_out([each]), 256) for each in tokens])
    torch.testing.assert_close(torch.tensor(reference["logps"], dtype=torch.float64), expected, rtol=1e-5, atol=1e-5)
    trained = side_ours.run(job | {"phase": "train", "logps": reference["logps"], "kinds": True})
    assert len(trained["losses"]) == 3  # one step to warm up, two that are timed
    assert trained["losses"][0] == pytest.approx(math.log(2), abs=1e-5)
    assert reference["gflop"] == pytest.approx(forward_flops(model, tokens[BATCH:]) / 1e9)
    assert trained["gflop"] == pytest.approx(3 * reference["gflop"])
    assert not reference["kinds"]
    assert {"products", "attention", "the update"} <= trained["kinds"].keys()
    assert min(trained["kinds"].values()) > 0
    assert sum(trained["kinds"].values()) <= trained["seconds"]
    assert min(reference["seconds"], trained["seconds"], trained["matrix_peak_gflops"]) > 0


def test_sides_that_disagree_are_not_compared() -> None:
    ours = [[-10.0, -20.0], [-5.0, -30.0]]
    theirs = [[-10.0, -20.0], [-5.0, -30.0 + 3e-4]]
    pairs = [pair(4, 3, 2), pair(5, 1, 6)]
    assert agreement(pairs, [ours]) == {}
    assert agreement(pairs, [ours, theirs])["largest_logp_difference_per_token"] == pytest.approx(3e-4 / 6)
    for apart in (6.1e-4, math.nan):
        theirs[1][1] = -30.0 + apart
        with pytest.raises(UserError, match="cannot be compared"):
            agreement(pairs, [ours, theirs])


def test_figures_are_medians_over_alternations() -> None:
    job: dict[str, Any] = {"pairs": [pair(4, 3, 2), pair(4, 3, 2), pair(6, 1, 1), pair(2, 4, 2)], "batch": BATCH}
    ours = [
        {"seconds": s, "peak_memory_mib": 50.0, "gflop": 8.0, "matrix_peak_gflops": 10.0} | {"losses": [0.7, 0.6]}
        for s in (1.0, 2.0, 4.0)
    ]
    peer = [{"seconds": s, "peak_memory_mib": 200.0, "losses": [0.7, 0.5]} for s in (3.0, 4.0, 20.0)]
    found = figures(job, {"ours": ours, "peer": peer})
    assert found["packed_tokens"] == 16 and found["prompt_share"] == 0.5
    assert found["times_as_fast"] == 3.0 and found["memory_ratio"] == 0.25  # of 3, 2 and 5
    assert found["largest_loss_difference"] == pytest.approx(0.1)
    assert found["ours"]["packed_tokens_per_second"] == 8.0 and found["ours"]["share_of_peak"] == 0.4
    assert found["peer"]["share_of_peak"] == 0.2
    assert found["peer"]["computed_tokens"] == padded_tokens(job["pairs"][BATCH:], BATCH) == 4 * 7


def test_multi_turn_pairs_are_mostly_prompt_and_the_same_each_time(demo_tokenizer_folder: Path) -> None:
    pairs = multi_turn(demo_tokenizer_folder, 3)
    assert all(prompt_share([each]) >= 0.75 for each in pairs)
    assert pairs == multi_turn(demo_tokenizer_folder, 3) != multi_turn(demo_tokenizer_folder, 3, seed=1)


def test_a_peer_that_is_missing_is_said_plainly() -> None:
    with pytest.raises(UserError, match=r"no-such-peer is not installed.*\n.*pip install --group benchmarks"):
        installed("no-such-peer", sys.executable)
    with pytest.raises(UserError, match="cannot be run"):
        installed("trl", "/no/such/python")


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="the peer is not installed")
def test_trl_computes_the_same(job: dict[str, Any], demo_tokenizer_folder: Path, tmp_path: Path) -> None:
    from benchmarks import side_trl

    for folder in (demo_tokenizer_folder, Path(job["model"])):  # the weights come last, with their own config
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pad_token_id": 2}))
    job = job | {"model": str(tmp_path), "phase": "reference"}
    sides = [side.run(job) for side in (side_ours, side_trl)]
    agreement(PAIRS, [side["logps"] for side in sides])
    job = job | {"phase": "train", "logps": sides[0]["logps"]}
    ours, theirs = (side.run(job)["losses"] for side in (side_ours, side_trl))
    assert ours == pytest.approx(theirs, abs=1e-5)
