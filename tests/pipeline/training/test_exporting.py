"""What is exported a layer at a time is what save_pretrained would write, to the last bit and name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.compute.adapters import add_adapters, add_drawn_adapters
from pipeline.compute.loading import open_empty
from pipeline.compute.models import load_model
from pipeline.compute.policy import Policy
from pipeline.settings.resources import Resources
from pipeline.settings.training import Lora, Train
from pipeline.training.exporting import adapter_weights, export_weights

FAMILIES = ["Llama", "Gemma2", "Phi", "Bloom", "Mamba", "Qwen3Moe"]  # Gemma's and Bloom's heads are tied


def moved(model: Any, by: float = 0.01) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += by


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_files(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str, dtype: str, shard_bytes: int
) -> None:
    """Names, bytes, the configuration, and the index where there is one."""
    folder, (ours, theirs) = tiny_model(family), (tmp_path / "ours", tmp_path / "theirs")
    policy = Policy(load_model(folder, "float32"), Train(), Resources())  # as masters are, where it is exported in less
    moved(policy)
    empty = open_empty(folder, dtype)
    empty.model.save_pretrained(ours, state_dict={})  # its configuration
    export_weights(policy, empty, ours, shard_bytes)
    whole: Any = AutoModelForCausalLM.from_pretrained(folder)
    moved(whole)
    whole.to(getattr(torch, dtype)).save_pretrained(theirs, max_shard_size=shard_bytes)
    assert (ours / "model.safetensors").is_file() == (shard_bytes == 10**9)
    # Experts that were one weight fall into several files otherwise.
    if (ours / "model.safetensors").is_file() or family != "Qwen3Moe":
        assert files(ours) == files(theirs)
    here, there = weights(ours), weights(theirs)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in there)


@pytest.mark.parametrize("layers", ["all-linear", ["lm_head"], ["embed_tokens", "q_proj"]])
@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_adapters_are_merged_as_peft_merges_them(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str, layers: Any
) -> None:
    """Also into a head that shared its weights; and apart they are PEFT's."""
    folder, lora = tiny_model(family), Lora(rank=4, alpha=8, layers=layers)
    policy = Policy(load_model(folder, "float32"), Train(lora=lora), Resources())
    moved(policy)
    export_weights(policy, open_empty(folder, "float32"), tmp_path)

    torch.manual_seed(0)
    adapted = add_adapters(AutoModelForCausalLM.from_pretrained(folder), lora)
    moved(adapted)
    apart = {name: weight.clone() for name, weight in get_peft_model_state_dict(adapted).items() if "lora_" in name}
    found = {name.replace(".default", ""): weight for name, weight in adapter_weights(policy).items()}
    assert found.keys() == apart.keys() and all(torch.equal(found[name], apart[name]) for name in apart)
    merged: Any = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(each / "model.safetensors") for each in (tmp_path, tmp_path / "theirs"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert ("lm_head.weight" in ours) == (family == "Llama" or layers != "all-linear")


def test_adapters_of_a_model_without_weights_are_drawn_alike(tiny_model: Callable[[str], Path]) -> None:
    """Whatever the layout, training begins with the same adapters; the rest stays empty until it is filled."""
    folder, lora = tiny_model("Gemma2"), Lora(layers=("q_proj", "embed_tokens"))
    empty, loaded = open_empty(folder, "bfloat16").model, load_model(folder, "bfloat16")
    for model in (empty, loaded):
        add_drawn_adapters(model, lora, seed=7)
    here, there = (dict(model.named_parameters()) for model in (empty, loaded))
    assert here.keys() == there.keys()
    for name, weight in there.items():
        assert here[name].dtype is weight.dtype and here[name].requires_grad == weight.requires_grad
        assert torch.equal(here[name], weight) if weight.requires_grad else here[name].is_meta
    assert json.loads(empty.config.to_json_string())["tie_word_embeddings"] is False
