"""Formulas of memory: an 8B model worked by hand, and what autograd keeps, counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.fit.devices import device
from pipeline.fit.memory import Pack, activations, adapters, head, scorer, states, train_worker
from pipeline.fit.setup import Setup, setup_of
from pipeline.fit.shape import Shape, shape_of
from pipeline.settings.config import RunConfig, validate
from tests.pipeline.fit.test_shape import LLAMA_8B

GB = 1e9
PACK = Pack(tokens=8192, scored=5000, keys=11000)


@pytest.fixture
def llama(tmp_path: Path) -> Shape:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return shape_of(tmp_path, "x")


def config(**sections: dict[str, Any]) -> RunConfig:
    return validate({"model": {"source": "x", "dtype": "bfloat16"}} | sections)


def setup(gpus: int = 1, gpu: str = "h100", **sections: dict[str, Any]) -> Setup:
    return setup_of(config(**sections), device(gpu), gpus)


@pytest.mark.parametrize(("gpus", "gigabytes"), [(1, 128), (2, 64), (4, 32), (8, 16), (16, 8)])
def test_state_is_sixteen_bytes_a_parameter_over_the_gpus(llama: Shape, gpus: int, gigabytes: float) -> None:
    assert sum(states(llama, setup(gpus)).values()) / GB == pytest.approx(gigabytes, rel=0.005)


def test_what_fits_where(llama: Shape) -> None:
    """8B: 4 cards and not 1. 4B fills one. 70B is 35 GB of state on each of 32."""

    def gigabytes(shape: Shape, gpus: int) -> float:
        at = setup(gpus, resources={"checkpoint_activations": True, "micro_batch_tokens": 8192})
        return train_worker(shape, at, PACK, 2, 0.0).gpu_bytes / GB

    card = device("h100").memory / GB
    assert gigabytes(llama, 4) < 0.7 * card and gigabytes(llama, 1) > card
    smaller = Shape(**vars(llama) | {"parameters": 4_000_000_000, "layers": 16})
    assert 0.9 * card < gigabytes(smaller, 1) < 1.1 * card
    large = Shape(**vars(llama) | {"parameters": 70_000_000_000, "layers": 80, "width": 8192})
    assert sum(states(large, setup(32)).values()) / GB == pytest.approx(35, rel=0.005)


def test_adapters_leave_the_base_in_its_dtype(llama: Shape) -> None:
    at = setup(train={"lora": {"rank": 16}})
    small = adapters(llama, at.lora) if at.lora else 0
    held = states(llama, at)
    assert held == {"weights": 4 * small + 2 * llama.parameters, "gradients": 4 * small, "optimiser": 8 * small}
    assert sum(held.values()) / GB == pytest.approx(16.06 + 0.67, abs=0.01)


def test_recomputation_keeps_a_layers_input_and_one_layer(llama: Shape) -> None:
    """34 T d bytes are often quoted for a layer; this one's MLP is 3.5 d wide, and each of its norms keeps 8 bytes."""
    kept = activations(llama, setup(), PACK)
    a_token = 2 * 8 * 4096 + 3 * 2 * 4096 + 4 * 2 * 14336 + 4 * 32
    a_layer = (a_token + 2 * 2 * 1024) * 8192
    assert kept == 32 * a_layer
    again = activations(llama, setup(resources={"checkpoint_activations": True}), PACK)
    assert again == 32 * 2 * 8192 * 4096 + a_layer
    assert (again - a_layer) / GB == pytest.approx(2.1, abs=0.05)


def test_the_head_is_one_chunk_of_logits(llama: Shape) -> None:
    at = setup(resources={"logits_chunk": 1024})
    hidden = 2 * 4096 * (8192 + 5000)
    assert head(llama, at, PACK, fused=False, learns=True) == hidden + 1000 * 128256 * (2 + 4 + 4)  # 5 chunks of 1,000
    fused = head(llama, at, PACK, fused=True, learns=True)
    assert fused == hidden + 2 * 5000 * 4096 + 4 * 128256 * 4096
    assert head(llama, at, PACK, fused=True, learns=False) == hidden + 2 * 5000 * 4096


def test_a_scorer_holds_its_part_of_the_weights(llama: Shape) -> None:
    one, four = (scorer(llama, setup(4, resources={"gpus_per_actor": n}), PACK).gpu["weights"] for n in (1, 4))
    assert one == 2 * llama.parameters and four == one / 4 + 2 * llama.root


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_activations_are_what_autograd_keeps(family: str, dtype: str, tiny_model: Callable[[str], Path]) -> None:
    """Every storage that is saved for the backward, counted once; of the decoder alone."""
    import torch

    from pipeline.compute.layout import Tokens, lay_out
    from pipeline.compute.models import load_model

    prompt, chosen, rejected, pairs = 20, 30, 25, 2
    model = load_model(tiny_model(family), dtype).train()
    pack = lay_out([Tokens([5] * prompt, [6] * chosen, [7] * rejected)] * pairs)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # alive, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        given = {"position_ids": pack.positions_T[None], "attention_mask": None, "use_cache": False, "pack": pack}
        model.get_decoder()(input_ids=pack.ids_T[None], **given)
    measured = sum(storage.nbytes() for storage in kept.values())
    at = setup_of(validate({"model": {"source": "x", "dtype": dtype}}), device("cpu"), 1)
    tokens = pairs * (prompt + chosen + rejected)
    seen = Pack(tokens, 0, tokens + pairs * prompt, pairs * rejected * (prompt + rejected))
    predicted = activations(shape_of(tiny_model(family), family), at, seen)
    final_norm = tokens * 32 * (4 + at.compute)
    assert predicted + final_norm == pytest.approx(measured, rel=0.03)
