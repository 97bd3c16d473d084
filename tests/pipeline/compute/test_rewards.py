"""Rewards over packs against transformers' own, one conversation at a time, on tiny random reward models."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.compute.rewards import Rewards, load_reward_model, rewards
from pipeline.compute.selfcheck import chosen
from pipeline.errors import UserError
from tests.conftest import family_config

END = 2  # every conversation ends with it, as with an end of text
DRAW = random.Random(0)
PROMPTS = [[1, *DRAW.choices(range(5, 97), k=length)] for length in (3, 20, 9)]
ANSWERS = [[*DRAW.choices(range(5, 97), k=length), END] for length in (1, 7, 7, 15, 30)]
# Answers to one prompt, one that is the beginning of another, one that is there twice, and one that shares nothing.
ALL = [prompt + answer for prompt in PROMPTS for answer in ANSWERS]
ALL += [ALL[0][:-1], ALL[3], [60, 61, END]]
DRAW.shuffle(ALL)


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny random reward model of a family, and of settings of its config.json."""

    def made(family: str, **changes: Any) -> Path:
        config = family_config(family, **({"num_labels": 1} | changes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.AutoModelForSequenceClassification.from_config(config)
            for parameter in model.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return folder

    return made


def one_by_one(folder: Path, pad: int | None = None) -> list[float]:
    """By transformers, as a user would call it; without padding, so that there is nothing to look for."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    model.config.pad_token_id = pad
    with torch.no_grad():
        return [float(model(torch.tensor([ids])).logits[0, 0]) for ids in ALL]


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "Mistral", "Bloom", "Phi3-longrope"])
def test_packed_rewards_are_transformers_own(family: str, reward_model: Callable[..., Path]) -> None:
    """Whatever is packed together, and in whatever order. Bloom and longrope take rows of sides, which are padded."""
    folder = reward_model(family)
    model, right = load_reward_model(folder, "float32"), one_by_one(folder)
    assert ("packed" in chosen(model).attention) == (family not in ("Bloom", "Phi3-longrope"))
    assert min(right) < 0 < max(right) and max(map(abs, right)) > 1  # no sigmoid has a part in it
    for budget in (60, 200, 4096):
        found = rewards(model, ALL, budget)
        assert found.values == pytest.approx(right, abs=1e-5, rel=1e-5)
        assert rewards(model, ALL[::-1], budget).values[::-1] == pytest.approx(right, abs=1e-5, rel=1e-5)
    assert found.packs == 1 < rewards(model, ALL, 60).packs
    assert found.tokens < 0.85 * sum(map(len, ALL))  # prompts are computed once for two answers


@pytest.mark.parametrize("pad", [None, END])
def test_the_end_token_is_read_though_it_be_padding(pad: int | None, reward_model: Callable[..., Path]) -> None:
    """transformers looks for the last token that is no padding, and would read the one before it."""
    folder = reward_model("Llama", pad_token_id=pad)
    right = one_by_one(folder)
    assert rewards(load_reward_model(folder, "float32"), ALL, 4096).values == pytest.approx(right, abs=1e-5)
    if pad is not None:
        assert one_by_one(folder, pad) != pytest.approx(right, abs=1e-2)


def test_a_head_of_bfloat16_computes_in_float32(reward_model: Callable[..., Path]) -> None:
    folder = reward_model("Llama")
    model = load_reward_model(folder, "bfloat16")
    found, right = rewards(model, ALL, 4096).values, one_by_one(folder)
    assert found == pytest.approx(right, abs=0.1 * max(map(abs, right)))
    as_bfloat16 = torch.tensor(found).to(torch.bfloat16).double().tolist()
    assert sum(a != b for a, b in zip(found, as_bfloat16, strict=True)) > len(found) / 2
    assert {weight.dtype for weight in model.get_decoder().parameters()} == {torch.bfloat16}


def test_what_gives_no_reward_is_refused(
    reward_model: Callable[..., Path], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"has 2 labels, and a reward is one number\n.*num_labels=1"):
        load_reward_model(reward_model("Llama", num_labels=2), "float32")
    with pytest.raises(UserError, match=r"lacks weights: score\.weight"):
        load_reward_model(tiny_model("Llama"), "float32")
    spoilt = transformers.AutoModelForSequenceClassification.from_pretrained(reward_model("Llama"))
    spoilt.score.weight.data[:] = torch.nan
    spoilt.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="LlamaForSequenceClassification gives rewards that are no finite numbers"):
        load_reward_model(tmp_path, "float32")
    with_bias = load_file(file := reward_model("Llama") / "model.safetensors") | {"score.bias": torch.ones(1)}
    save_file(with_bias, file, {"format": "pt"})  # which transformers leaves out without a word
    with pytest.raises(UserError, match=r"more of a head \(score\.bias\) than LlamaForSequenceClassification has"):
        load_reward_model(file.parent, "float32")
    (tmp_path / "config.json").write_text('{"model_type": "whisper", "num_labels": 1}')
    with pytest.raises(UserError, match=r"cannot be opened(.|\n)*AutoModelForSequenceClassification opens"):
        load_reward_model(tmp_path, "float32")


def test_what_sees_more_than_what_is_before_is_refused(reward_model: Callable[..., Path]) -> None:
    """Its last token would be another one's in a pack, and see the padding of others' rows."""
    folder = reward_model("Gemma3Text", use_bidirectional_attention=True)
    assert len(one_by_one(folder)) == len(ALL)
    with pytest.raises(UserError, match="Gemma3TextForSequenceClassification rewards a conversation by"):
        load_reward_model(folder, "float32")


def test_what_is_no_decoder_is_refused_in_words(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 128}
    config = transformers.BartConfig(vocab_size=97, pad_token_id=1, eos_token_id=2, **sizes)
    config.num_labels = 1
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^BartForSequenceClassification cannot be scored (.|\n)*give a decoder"):
        load_reward_model(tmp_path, "float32")


def test_one_conversation_beyond_the_budget_is_told(reward_model: Callable[..., Path]) -> None:
    """And none are no reward."""
    model = load_reward_model(reward_model("Llama"), "float32")
    assert rewards(model, [], 20) == Rewards([], 0, 0)
    with pytest.raises(UserError, match=r"resources\.score_tokens=20 is less than one pair of \d+ tokens"):
        rewards(model, ALL, 20)
