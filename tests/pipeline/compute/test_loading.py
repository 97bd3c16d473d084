"""A model filled from its files is the one that transformers loads, to the last bit; what cannot be filled is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.compute.loading import materialise, open_empty
from pipeline.errors import UserError

# Tied heads, biases, scales and tables kept as buffers, rotary embeddings of several kinds, fused experts.
FAMILIES = ["Llama", "Gemma2", "Gemma3Text", "Phi", "Phi3-longrope", "Bloom", "Mamba", "GptOss", "Qwen3Moe"]


def state(model: Any) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_model_that_transformers_loads(tiny_model: Callable[[str], Path], family: str, dtype: str) -> None:
    folder = tiny_model(family)
    empty = open_empty(folder, dtype)
    assert all(weight.is_meta for weight in empty.model.parameters())
    materialise(empty.model, empty.device)
    empty.fill()
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    here, there = state(empty.model), state(loaded)
    assert here.keys() == there.keys()
    for name, weight in there.items():
        assert here[name].dtype is weight.dtype and torch.equal(here[name], weight), name
    head, embeddings = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    if head is not None:
        tied = empty.model.get_output_embeddings().weight is empty.model.get_input_embeddings().weight
        assert tied == (head.weight is embeddings.weight)


def test_float32_masters_hold_what_the_reference_was_scored_with(tiny_model: Callable[[str], Path]) -> None:
    """A float32 file, trained in bfloat16: the masters are the rounded values, not finer ones."""
    empty = open_empty(tiny_model("Llama"), "bfloat16")
    for weight in empty.model.parameters():
        weight.data = weight.data.float()
    materialise(empty.model, empty.device)
    empty.fill()
    for weight in empty.model.parameters():
        assert weight.dtype is torch.float32 and torch.equal(weight, weight.bfloat16().float())


def test_weights_over_several_files(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """And a file that no index names is not read, as by transformers."""
    whole: Any = AutoModelForCausalLM.from_pretrained(tiny_model("Llama"))
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    save_file({"model.norm.weight": torch.zeros(32)}, tmp_path / "zz.safetensors")
    empty = open_empty(tmp_path, "float32")
    materialise(empty.model, empty.device)
    empty.fill()
    assert all(torch.equal(weight, state(whole)[name]) for name, weight in state(empty.model).items())


def without(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def wider(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = torch.zeros(33)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "problem", "remedy"),
    [
        (lambda folder: without(folder, "model.norm.weight"), "lacks weights: model.norm.weight", "fetch or save"),
        (lambda folder: wider(folder, "model.norm.weight"), "cannot be opened", "save_pretrained writes it"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0"), "cannot be opened", "incomplete"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor", "save_pretrained"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be opened", "save_pretrained"),
    ],
)
def test_what_cannot_be_filled_is_told(
    tiny_model: Callable[[str], Path], tmp_path: Path, spoil: Callable[[Path], Any], problem: str, remedy: str
) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_model("Llama")).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        open_empty(tmp_path, "float32")
    assert problem in caught.value.problem and remedy in caught.value.remedy
