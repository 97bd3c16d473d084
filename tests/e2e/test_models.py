"""Models that are not as they seem, through the doors: refused before anything is computed, or handled rightly."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.conftest import Head, tiny_model
from tests.e2e.doors import REPOSITORY, made, only, refused, rows

pytestmark = pytest.mark.e2e

FEW = ("data.pairs=8", "data.dev_pairs=0", "generate.prompts=2", "resources.log_seconds=1")


@pytest.fixture
def ends_elsewhere(tiny: Path, tmp_path: Path) -> Path:
    """A model that writes <|im_end|> always, while <|endoftext|> is the end by its configuration and tokenizer; with a
    generation_config that transformers does not save again; and a template that refuses to go on after no answer, in a
    file. In its folder, beside the files that its index names, are other weights under a name that vLLM prefers."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    (tmp_path / "turns.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'assistant' and not m.content %}{{ raise_exception('no answer') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    model = AutoModelForCausalLM.from_pretrained(tiny, tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 1] = 50.0
        model.lm_head.weight.mul_(0.001)
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("<|im_end|>"), 1] = 5.0
    model.save_pretrained(tmp_path / "model", max_shard_size="4MB")
    save_file({"lm_head.weight": torch.zeros(4, 4)}, tmp_path / "model" / "consolidated.safetensors")
    tokenizer.save_pretrained(tmp_path / "model")
    generation = {"eos_token_id": tokenizer.eos_token_id, "do_sample": False, "temperature": 0.9}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(generation))
    return tmp_path / "model"


def test_answers_end_where_a_turn_ends_in_training(ends_elsewhere: Path, head: Head, tmp_path: Path) -> None:
    """Those of the base model, of the trained one, and what others will ask of the exported one. A turn that the
    template does not render is not asked, and the turns beside it are."""
    questions = ({"turns": ["A?", "B?"], "id": 1}, {"prompt": "C?", "id": 2})
    (tmp_path / "q.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in questions))
    asked = ("generate.max_new_tokens=8", f"generate.benchmarks={{mine: {tmp_path / 'q.jsonl'}}}")
    template = os.path.relpath(tmp_path / "turns.jinja", REPOSITORY)  # from where the door is opened
    model = (f"model.source={ends_elsewhere}", f"model.chat_template={template}")
    given = (*FEW, *model, f"resources.root={tmp_path / 'root'}", *asked)
    said = made("run", *given, "--until", "generate", environment=head.environment)
    assert said.count("temperature in the model's generation_config have no effect") == 1
    manifests = list(tmp_path.glob("root/generate/*/manifest.json"))
    for manifest in manifests:
        answers = rows(manifest.parent)
        found = [(row["question_id"], row["turn"], row["tokens"], row["finish_reason"]) for row in answers]
        assert found == [("1", 1, 1, "stop"), ("1", 2, 0, "not-rendered"), ("2", 1, 1, "stop")]
        assert {row["response"] for row in answers} == {""}
        assert json.loads(manifest.read_text())["metrics"]["no_room"] == 1
    assert len(manifests) == 2
    exported = json.loads((only(tmp_path / "root", "train") / "model" / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(ends_elsewhere)
    end, eos = map(tokenizer.convert_tokens_to_ids, ("<|im_end|>", "<|endoftext|>"))
    assert exported["eos_token_id"] == [end, eos] and "temperature" not in exported
    assert made("status", *given).splitlines()[-1].startswith(f"a turn ends with <|im_end|> (token {end})")

    (ends_elsewhere / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))  # mended by its user
    assert "make" not in made("run", *given, "--until", "generate", "--dry-run")


def test_a_template_whose_tokens_have_no_embedding_is_refused_in_prepare(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    count = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|extra|>")
    tokenizer.save_pretrained(folder)
    told = refused("prepare", *FEW, f"model.source={folder}", f"resources.root={tmp_path / 'root'}")
    assert f"<|extra|>, which is token {count} of {count} embeddings" in told


def test_pairs_longer_than_the_model_are_counted_out(tiny: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    sizes: dict[str, Any] = {"n_positions": 64, "n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    pairs = [{"prompt": "Name a colour. " * n, "chosen": "Blue.", "rejected": "A banana."} for n in (1, 2, 30)]
    pairs.append({"prompt": "Why?", "chosen": "So.", "rejected": "no " * 60})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    given = (f"model.source={tmp_path / 'model'}", f"data.source={file}", f"resources.root={tmp_path}")
    made("prepare", *given, "data.max_dropped=0.5")
    ledger = json.loads((only(tmp_path, "prepare") / "manifest.json").read_text())["ledger"]
    assert ledger == {"rows": 4, "read": 4, "kept": 2, "dropped": {"longer-than-model": 2}, "beyond_limit": 0}


def test_adapters_that_vllm_does_not_serve_are_refused_before_they_are_trained(head: Head, tmp_path: Path) -> None:
    sizes = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    folder = tiny_model("Qwen3Moe", tmp_path / "model", **sizes)
    given = (*FEW, f"model.source={folder}", f"resources.root={tmp_path}")
    for stage in ("prepare", "reference", "schedule"):
        made(stage, *given, environment=head.environment)
    lora = ("train.lora.rank=4", "train.lora.merge=false")
    told = refused("train", *given, *lora, environment=head.environment)
    assert "cannot serve adapters" in told and "train.lora.merge=true" in told
    assert not list(tmp_path.glob("train/*/ray")), "nothing is trained"
