"""Answers that are not the engine's own, to compare it with."""

from pathlib import Path
from typing import Any


def greedy(folder: Path, messages: list[dict[str, str]], tokens: int) -> str:
    """The answer of transformers' own generation in float32, as the engine says it.

    Where an answer is cut within a character, the engine leaves the broken one out.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    text = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(text).removesuffix("\N{REPLACEMENT CHARACTER}")
