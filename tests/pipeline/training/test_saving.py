"""What is trained is saved so that others end where it was trained to, and that is tried before it is trained."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline.compute.models import load_model
from pipeline.compute.policy import Policy
from pipeline.errors import UserError
from pipeline.settings.inputs import Model
from pipeline.settings.resources import Resources
from pipeline.settings.training import Lora, Train
from pipeline.training.saving import rehearse, save_model, save_trained, tokeniser_of

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ END }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
END, EOS = 3, 2


@pytest.fixture
def base(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A tiny model with a tokenizer whose EOS, token 2, is not the token 3 that its template ends a turn with."""

    def made(family: str = "Llama", generation: dict[str, Any] | str | None = None, end: str = "<|end|>") -> Path:
        folder = shutil.copytree(tiny_model(family), tmp_path / family)
        named = ["<pad>", "<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>"]
        words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*named, "x", "?"])}, unk_token="?"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in named])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="?", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
        tokenizer.chat_template = TEMPLATE.replace("{{ END }}", end)
        tokenizer.save_pretrained(folder)
        if generation is not None:
            content = generation if isinstance(generation, str) else json.dumps(generation)
            (folder / "generation_config.json").write_text(content)
        return folder

    return made


def exported(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation_config.json").read_text())


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma3Text", "Mistral", "Phi"])
def test_what_is_exported_ends_where_a_turn_ends(base: Callable[..., Path], tmp_path: Path, family: str) -> None:
    """By transformers' own generate on the exported folder, with a head that writes the end of a turn alone."""
    folder = base(family)
    tokeniser = tokeniser_of(folder, Model(source=str(folder)))
    save_model(AutoModelForCausalLM.from_pretrained(folder), tokeniser, tmp_path / "out")
    assert exported(tmp_path / "out")["eos_token_id"] == [END, EOS]
    assert exported(tmp_path / "out")["pad_token_id"] == 0

    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    head = again.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.zeros_like(head.weight))
    head.bias = torch.nn.Parameter(torch.eye(len(head.weight))[END])
    asked = torch.tensor([tokeniser.prompt([{"role": "user", "content": "x"}])])
    written = again.generate(asked, max_new_tokens=8)[0, asked.shape[1] :]
    assert written.tolist() == [END]


@pytest.mark.parametrize(
    ("given", "expected", "dropped"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": [3, 2], "pad_token_id": 0}, ""),
        ({"eos_token_id": [2, 9, 3]}, {"eos_token_id": [3, 2, 9]}, ""),  # as Llama 3 has several
        ({"pad_token_id": -1}, {"eos_token_id": [3], "pad_token_id": 0}, ""),
        ({"pad_token_id": 7}, {"pad_token_id": 7}, ""),
        (
            {"eos_token_id": 2, "do_sample": False, "temperature": 0.9, "top_p": 0.6},
            {"do_sample": False, "temperature": None, "top_p": None},
            "temperature, top_p",
        ),
        ({"temperature": 0.6, "top_k": 20, "min_p": 0.1}, {"top_k": None, "min_p": None}, "temperature, top_k, min_p"),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, {"temperature": 0.6, "top_k": 20}, ""),
        ({"early_stopping": True, "length_penalty": 2.0}, {"early_stopping": None}, "early_stopping, length_penalty"),
        ({"num_beams": 4, "early_stopping": True}, {"early_stopping": True}, ""),
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 50}, {}, ""),  # what they are anyway
        ("not json", {"eos_token_id": [3, 2]}, ""),
    ],
)  # fmt: skip
def test_a_generation_config_is_mended_and_what_is_left_out_is_said(
    base: Callable[..., Path], tmp_path: Path, given: Any, expected: dict[str, Any], dropped: str
) -> None:
    folder = base(generation=given)
    notes = rehearse(folder, Model(source="x"), None, tmp_path / "trial")
    found = exported(tmp_path / "trial")
    assert {name: found.get(name) for name in expected} == expected
    assert [note.partition(" in the model's")[0] for note in notes] == ([dropped] if dropped else [])


def test_a_template_of_ones_own_is_exported_with_its_end(base: Callable[..., Path], tmp_path: Path) -> None:
    folder, own = base(end="</s>"), tmp_path / "own.jinja"
    own.write_text(TEMPLATE.replace("{{ END }}", "<|end|>"))
    rehearse(folder, Model(source="x"), None, tmp_path / "plain")
    assert exported(tmp_path / "plain")["eos_token_id"] == [EOS]
    rehearse(folder, Model(source="x", chat_template=str(own)), None, tmp_path / "own")
    assert exported(tmp_path / "own")["eos_token_id"] == [END, EOS]
    assert tokeniser_of(tmp_path / "own", Model(source="x")).end_id == END


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_return_sequences": 4}, "num_return_sequences"),
        ({"cache_implementation": "nonsense"}, "cache_implementation"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ("[1, 2]", "could not be saved"),
    ],
)
def test_what_cannot_be_mended_is_refused_before_any_training(
    base: Callable[..., Path], tmp_path: Path, given: Any, said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        rehearse(base(generation=given), Model(source="x"), None, tmp_path / "trial")


def test_a_rehearsal_holds_no_weights_and_adapters_without_effect(base: Callable[..., Path], tmp_path: Path) -> None:
    folder = base()
    rehearse(folder, Model(source="x"), Lora(rank=4), tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("*.safetensors"))
    rehearse(folder, Model(source="x"), Lora(rank=4, merge=False), tmp_path / "apart")
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[4, 6, 3, 5]])
    with torch.no_grad():
        before = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, str(tmp_path / "apart")).eval()
        assert torch.equal(adapted(ids).logits, before)
    with pytest.raises(UserError, match=r"train\.lora\.layers=\('q_prj',\)"):
        rehearse(folder, Model(source="x"), Lora(layers=("q_prj",)), tmp_path / "none")


@pytest.mark.parametrize("merge", [True, False])
def test_what_was_trained_opens_as_itself(base: Callable[..., Path], tmp_path: Path, merge: bool) -> None:
    """A head that shared its weights with the embeddings and is adapted: in the folder it has its own."""
    folder, lora = base("Gemma2"), Lora(rank=4, layers=("lm_head",), merge=merge)
    settings = Model(source=str(folder))
    policy = Policy(load_model(folder, "float32"), Train(lora=lora), Resources())
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.01 * weight.requires_grad)
    name = save_trained(policy, folder, settings, tmp_path)
    ids = torch.tensor([[4, 6, 3, 5]])
    eager = {"attn_implementation": "eager"}
    opened: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model" if merge else folder, **eager)
    plain = AutoModelForCausalLM.from_pretrained(folder, **eager)
    if not merge:
        opened = PeftModel.from_pretrained(opened, str(tmp_path / "adapter"))
    assert name == ("model" if merge else "adapter")
    with torch.no_grad():
        policy.model.set_attn_implementation("eager")
        learnt = policy.model(ids).logits
        torch.testing.assert_close(opened.eval()(ids).logits, learnt, rtol=1e-4, atol=1e-4)
        assert float((plain(ids).logits - learnt).abs().max()) > 1e-3
    assert (tmp_path / "model" / "tokenizer_config.json").is_file() == merge
