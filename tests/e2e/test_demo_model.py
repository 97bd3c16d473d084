"""The real demo model, from its GGUF file to the report: converting, scoring, training, answering, judging."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Head
from tests.e2e.doors import made, only, rows

pytestmark = pytest.mark.e2e


def test_the_demo_model_goes_through_the_whole_line(head: Head, tmp_path: Path) -> None:
    asked = ("generate.prompts=20", "generate.max_new_tokens=12", "generate.shard_prompts=20")
    said = made("run", f"resources.root={tmp_path}", *asked, environment=head.environment)
    assert "model: converting" in said and "smoke: 8 results made, 0 kept" in said
    assert (only(tmp_path, "report") / "report.html").stat().st_size > 100_000

    trained, converted = only(tmp_path, "train"), only(tmp_path, "model")
    held_out = json.loads((trained / "manifest.json").read_text())["metrics"]["held_out"]
    assert held_out["before"] != held_out["after"]
    scored = rows(only(tmp_path, "reference"), ["chosen_logps", "chosen_tokens"])
    per_token = [row["chosen_logps"] / row["chosen_tokens"] for row in scored]
    assert -6 < sum(per_token) / len(per_token) < -0.5  # a language model's; a random one is at -ln(49152) = -10.8

    for label, folder in (("smollm2-*", converted), ("gamma-dpo-*", trained / "model")):
        for row in rows(only(tmp_path, "generate", label)):
            # An answer that is cut within a character: the engine leaves the broken one out.
            assert row["response"] == greedy(folder, json.loads(row["prompt"]), 12).removesuffix(
                "\N{REPLACEMENT CHARACTER}"
            )


def greedy(folder: Path, messages: list[dict[str, str]], tokens: int) -> str:
    """The answer of transformers' own generation, for comparison with the engine's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
