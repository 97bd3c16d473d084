"""The reference pass over a part of pairs: what is refused, with nothing left behind, and that nothing waits."""

import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import dispatch_model
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.compute.models import load_model
from pipeline.compute.scoring import score_part
from pipeline.errors import UserError
from tests.conftest import VOCABULARY, pairs_file

SPOILT = VOCABULARY - 1  # a token whose embedding is no number


def pairs_of(folder: Path, completions: dict[str, list[int]]) -> Path:
    ids = {"prompt_ids": [3, 4, 5], "rejected_ids": [6, 2]}
    return pairs_file(
        folder / "pairs.parquet", [{"pair_id": pair, "chosen_ids": own} | ids for pair, own in completions.items()]
    )


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


def some(lengths: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    drawn = iter(random.Random(0).choices(range(3, 90), k=1000))
    sides = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [{side: list(islice(drawn, n)) for side, n in zip(sides, pair, strict=True)} for pair in lengths]


PAIRS = some([(9, 7, 4), (3, 1, 9), (12, 5, 5), (2, 8, 3), (6, 6, 6)])


class Watched(TorchFunctionMode):
    """Notes which of its `moments` each read of the host from a tensor falls in."""

    READS = frozenset({"tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero"})

    def __init__(self) -> None:
        self.moments: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(function, "__name__", "")) in self.READS:
            self.moments.append(name)
        return function(*args, **kwargs or {})


class Scalars(TorchDispatchMode):
    """The same of what reads a tensor below Python: a scalar, or a shape that depends on values."""

    def __init__(self, moments: list[str]) -> None:
        super().__init__()
        self.moments = moments

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.moments.append(str(function))
        return function(*args, **kwargs or {})


def test_the_host_reads_nothing_of_a_pack_before_the_last_is_launched(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """On a GPU each such read would wait for all that was launched before."""
    model = load_model(tiny_model("Llama"), "float32")
    watched = Watched()
    model.model.layers[0].register_forward_pre_hook(lambda *_: watched.moments.append("pack"))
    with watched, Scalars(watched.moments):
        done = score_part(
            model, pairs_file(tmp_path / "pairs.parquet", PAIRS), tmp_path / "reference.parquet", budget=30, chunk=4
        )
    assert done.packs == watched.moments.count("pack") >= 3
    assert watched.moments == ["pack"] * done.packs + ["tolist"]


def test_a_model_laid_over_two_devices_scores_the_same_to_the_bit(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two stages that a real dispatch makes, both on this CPU: its hooks carry the pack from layer to layer."""
    files = [tmp_path / f"{name}.parquet" for name in ("whole", "laid")]
    pairs = pairs_file(tmp_path / "pairs.parquet", PAIRS)
    seen: list[Any] = []
    for laid, file in zip((False, True), files, strict=True):
        model = load_model(tiny_model("Llama"), "float32")
        if laid:
            stages = {name: "cpu" for name in ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm")}
            dispatch_model(model, stages | {"model.rotary_emb": "cpu", "lm_head": "cpu"}, force_hooks=True)
            assert hasattr(model.model.layers[1], "_hf_hook")
        for layer in model.model.layers:
            layer.self_attn.register_forward_pre_hook(lambda *given: seen.append(given[2]["pack"]), with_kwargs=True)
        score_part(model, pairs, file, budget=30, chunk=4)
    assert pq.read_table(files[0]).equals(pq.read_table(files[1]))
    assert seen and all(first is second for first, second in zip(seen[::2], seen[1::2], strict=True))  # layers share it


@pytest.mark.parametrize("family", ["Llama", "Mamba"])
def test_each_token_by_itself(tiny_model: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    """In their order, whatever the packs; they add up to the sums."""
    model, pairs = load_model(tiny_model(family), "float32"), pairs_file(tmp_path / "pairs.parquet", PAIRS)
    sums, tokens, alone = (tmp_path / f"{name}.parquet" for name in ("sums", "tokens", "alone"))
    score_part(model, pairs, sums, budget=40, chunk=4)
    score_part(model, pairs, tokens, budget=40, chunk=4, by_token=True)
    score_part(model, pairs, alone, budget=22, chunk=4, by_token=True)
    for whole, found, one in zip(*(pq.read_table(file).to_pylist() for file in (sums, tokens, alone)), strict=True):
        assert (whole["pair_id"], whole["tokens_digest"]) == (found["pair_id"], found["tokens_digest"])
        for side in ("chosen", "rejected"):
            assert len(found[side]) == whole[f"{side}_tokens"]
            assert sum(found[side]) == pytest.approx(whole[f"{side}_logps"], abs=1e-4)
            assert found[side] == pytest.approx(one[side], abs=1e-4)
