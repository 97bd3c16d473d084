"""What a model cannot do is read from its folder, and said before anything is computed with it."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.compute.limits import (
    Limits,
    positions,
    require_configured,
    require_language_model,
    require_trainable,
    weight_files,
)
from pipeline.compute.models import load_model, locate
from pipeline.errors import UserError
from pipeline.preferences.tokenise import TokenisedPair
from pipeline.results.files import DigestMemory
from pipeline.settings.inputs import Model

Folder = Callable[[str], Path]


def edited(folder: Path, into: Path, **config: Any) -> Path:
    """A copy whose config.json has other values."""
    shutil.copytree(folder, into)
    known = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps(known | config))
    return into


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"load_in_8bit": True}, "load_in_8bit"),
    ],
)
def test_quantised_weights_are_served_but_not_trained(
    tiny_model: Folder, tmp_path: Path, found: dict[str, Any], named: str
) -> None:
    folder = edited(tiny_model("Qwen2"), tmp_path / "model", quantization_config=found)
    with pytest.raises(UserError, match=f"model.source=x is quantised .*{named}"):
        require_trainable(folder, "model.source=x")
    require_language_model(folder, "judge.local.source=x")  # as a judge, vLLM may open it
    seeing = edited(tiny_model("Qwen2"), tmp_path / "seeing", text_config={"quantization_config": found})
    with pytest.raises(UserError, match=named):
        require_trainable(seeing, "x")
    require_trainable(edited(tiny_model("Qwen2"), tmp_path / "plain", quantization_config=None), "x")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "no language model .LlamaForSequenceClassification"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "no language model"),
        ({"architectures": ["BertForMaskedLM"]}, "no language model"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "an encoder with a decoder"),
        ({"architectures": None, "is_encoder_decoder": True, "model_type": "bart"}, "decoder .bart"),
    ],
)
def test_what_writes_no_next_token_is_refused(
    tiny_model: Folder, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    folder = edited(tiny_model("Llama"), tmp_path / "model", **config)
    with pytest.raises(UserError, match=said):
        locate(Model(source=str(folder)), DigestMemory(tmp_path))


@pytest.mark.parametrize(
    "heads", [["GPT2LMHeadModel"], ["Gemma3ForConditionalGeneration"], ["OwnForCausalLM"], ["Own"], [], None]
)
def test_what_may_be_a_language_model_is_left_to_transformers(
    tiny_model: Folder, tmp_path: Path, heads: list[str] | None
) -> None:
    require_language_model(edited(tiny_model("Llama"), tmp_path / "model", architectures=heads), "x")


def adapters(base: Path, into: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(base, "float32"), LoraConfig(r=4, target_modules=["q_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(str(into))
    return into


def test_adapters_are_no_model_and_the_remedy_merges_them(tiny_model: Folder, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    base = shutil.copytree(tiny_model("Llama"), tmp_path / "base")
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a").save_pretrained(base)
    folder = adapters(base, tmp_path / "adapter")
    with pytest.raises(UserError) as refused:
        locate(Model(source=str(folder)), DigestMemory(tmp_path))
    assert f"holds adapters (adapter_config.json) of the model {base}" in refused.value.problem

    _, _, command = refused.value.remedy.partition("python -c ")
    (code,) = shlex.split(command)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    found = locate(Model(source=str(tmp_path / "whole")), DigestMemory(tmp_path))
    merged, began = (load_file(each / "model.safetensors") for each in (found.path, base))
    moved = [name for name in began if not torch.equal(began[name], merged[name])]
    assert moved and all("q_proj" in name for name in moved)
    assert (found.path / "tokenizer.json").exists()

    shutil.copy(folder / "adapter_config.json", base)  # beside a whole model, transformers would put them on it
    with pytest.raises(UserError, match="beside a model"):
        locate(Model(source=str(base)), DigestMemory(tmp_path))


def test_adapters_of_an_unnamed_base_are_refused_too(tmp_path: Path) -> None:
    for content in ("{}", "not json", "[]"):
        (tmp_path / "adapter_config.json").write_text(content)
        with pytest.raises(UserError, match="of the model that it does not name"):
            locate(Model(source=str(tmp_path)), DigestMemory(tmp_path))


def test_weights_in_pickles_alone_are_named(tiny_model: Folder, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(UserError, match=r"pickles alone \(pytorch_model-00001-of-00001.bin\)"):
        locate(Model(source=str(folder)), DigestMemory(tmp_path))
    (folder / "pytorch_model-00001-of-00001.bin").rename(folder / "training_args.bin")
    with pytest.raises(UserError, match=r"has a config\.json and no weights \(model\.safetensors\)"):
        locate(Model(source=str(folder)), DigestMemory(tmp_path))


@pytest.mark.parametrize("family", ["Llama", "Bloom", "Mamba", "Qwen3Moe"])
def test_a_config_json_alone_is_told_as_that_of_any_family(tiny_model: Folder, tmp_path: Path, family: str) -> None:
    shutil.copy(tiny_model(family) / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"has a config\.json and no weights .*\n  remedy: fetch its weights, too"):
        require_language_model(tmp_path, "model.source=x")
    require_configured(tmp_path, "model.source=x")  # which is enough to plan by


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "=4, which num_key_value_heads=3 does not divide"),
        ({"num_attention_heads": 2, "num_key_value_heads": 4}, "=2, which num_key_value_heads=4 does not divide"),
        ({"num_hidden_layers": -2}, "its config.json has num_hidden_layers=-2"),
        ({"text_config": {"hidden_size": -64}}, "its config.json has hidden_size=-64"),
    ],
)
def test_sizes_that_no_model_can_have(tiny_model: Folder, tmp_path: Path, config: dict[str, Any], said: str) -> None:
    folder = edited(tiny_model("Llama"), tmp_path / "model", **config)
    with pytest.raises(UserError, match=said):
        require_language_model(folder, "x")


SHARDS = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}


@pytest.mark.parametrize(
    ("files", "index", "said"),
    [
        (["model.safetensors"], None, None),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], SHARDS, None),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"],
            SHARDS,
            None,
        ),
        (["model-00001-of-00002.safetensors"], SHARDS, "lacks model-00002-of-00002.safetensors, which its model.safe"),
        (["model.safetensors"], {"weight_map": {"a": "model.safetensors"}}, None),
        (["model.safetensors"], SHARDS, "beside model.safetensors: model-00001-of-00002.safetensors, .* by its index"),
        (["model.safetensors", "model-00001-of-00001.safetensors"], None, "beside model.safetensors: model-00001-of"),
        (["model.safetensors", "consolidated.safetensors"], None, "beside model.safetensors: consolidated"),
        (["consolidated.safetensors"], None, r"no weights \(model.safetensors, but consolidated.safetensors\)"),
        (["adapter_model.safetensors"], None, "no weights .*but adapter_model.safetensors"),
    ],
)
def test_transformers_and_vllm_would_read_the_same_weights(
    tiny_model: Folder, tmp_path: Path, files: list[str], index: dict[str, Any] | None, said: str | None
) -> None:
    shutil.copy(tiny_model("Llama") / "config.json", tmp_path)
    for name in files:
        shutil.copy(tiny_model("Llama") / "model.safetensors", tmp_path / name)
    if index:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    if said is None:
        require_language_model(tmp_path, "x")
        assert {file.name for file in weight_files(tmp_path)} <= {*files}
        return
    with pytest.raises(UserError, match=said):
        require_language_model(tmp_path, "x")


ROPE = {"rope_theta": 1e4}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024, "n_ctx": 1024}, 1024),  # GPT-2
        ({"max_seq_len": 2048}, 2048),  # MPT
        ({}, None),  # Bloom, Mamba
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **ROPE}}, 8192),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 40960, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 40960),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", **ROPE}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": None}, 512),
        ({"text_config": {"max_position_embeddings": 8192}, "model_type": "gemma3"}, 8192),
        (
            {"max_position_embeddings": 131072, "model_type": "gemma3_text"}
            | {
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": ROPE}
            },
            131072,
        ),
    ],
)
def test_positions_are_those_that_the_model_reaches(config: dict[str, Any], expected: int | None) -> None:
    assert positions(config) == expected


@pytest.mark.parametrize("family", ["Llama", "GPT2", "GPTNeoX", "OPT", "Bloom"])
def test_a_pair_is_counted_out_where_the_model_fails_and_kept_where_it_does_not(family: str, tmp_path: Path) -> None:
    """By what the model's own forward does with them; rotary embeddings reach further than they were trained."""
    import transformers

    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    reach = {} if family == "Bloom" else {"max_position_embeddings": 16}
    config = getattr(transformers, f"{family}Config")(**sizes, **reach)
    config.save_pretrained(tmp_path)
    limits = Limits.of(tmp_path)
    assert limits == Limits(97, None if family == "Bloom" else 16)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    fits, long = TokenisedPair([3] * 10, [4] * 6, [96]), TokenisedPair([3] * 10, [4], [5] * 7)
    unknown = TokenisedPair([3], [4], [97])
    assert limits.check(fits) is None
    model(torch.tensor([fits.prompt_ids + fits.chosen_ids]))
    if family != "Bloom":
        assert (dropped := limits.check(long)) and dropped.reason == "longer-than-model"
        assert dropped.detail == "17 tokens, the model has 16 positions"
    assert (dropped := limits.check(unknown)) and (dropped.reason, dropped.detail) == (
        "no-embedding",
        "token 97 of 97 embeddings",
    )
    with pytest.raises(IndexError):
        model(torch.tensor([unknown.rejected_ids]))
    if family in ("GPT2", "OPT"):  # a table of positions
        with pytest.raises(IndexError):
            model(torch.tensor([long.prompt_ids + long.rejected_ids]))


def test_a_config_that_is_cut_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidd')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"m: its config.json is no JSON"):
        require_language_model(tmp_path, "m")
