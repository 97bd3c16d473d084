"""Chat templates of different families, a question to render by them, and what becomes of a pair."""

from typing import Any

from pipeline.preferences.messages import Dropped, Message, said
from pipeline.preferences.normalise import Preference
from pipeline.preferences.tokenise import TokenisedPair, Tokeniser
from tests.pipeline.preferences.families import tokenizer

ASK = {"role": "user", "content": "Name a colour."}
SYSTEM = {"role": "system", "content": "Answer in one word."}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# An empty block of thoughts before the last answer, unless it brings its own; none where thinking is switched off.
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# The generation prompt opens thoughts, which answers of a conversation are rendered without.
OPENS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CALLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a town.", "parameters": {}}}


def call(town: str, text: str = "") -> Message:
    function = {"name": "weather", "arguments": {"town": town}}
    return said(text) | {"tool_calls": [{"id": "c1", "type": "function", "function": function}]}


def open_(template: str, family: str = "byte-level", added: Any = (), **arguments: Any) -> Tokeniser:
    """`added` are tokens that the tokenizer does not mark as special."""
    made = tokenizer(family, template)
    made.add_tokens(list(added))
    return Tokeniser(made, 1000, 1000, arguments)


def texts(tokeniser: Tokeniser, prompt: list[Message], chosen: Message | str, **more: Any) -> tuple[str, str]:
    """Prompt and chosen answer as the token ids spell them."""
    side = said(chosen) if isinstance(chosen, str) else chosen
    pair = tokeniser.pair(Preference(tuple(prompt), side, side | {"content": f"{side['content']}No."}, **more))
    assert isinstance(pair, TokenisedPair), pair
    prompt_text, chosen_text = (tokeniser.tokenizer.decode(ids) for ids in (pair.prompt_ids, pair.chosen_ids))
    return str(prompt_text), str(chosen_text)


def reason(tokeniser: Tokeniser, prompt: list[Message], chosen: Message | str, **more: Any) -> str:
    side = said(chosen) if isinstance(chosen, str) else chosen
    dropped = tokeniser.pair(Preference(tuple(prompt), side, side | {"content": f"{side['content']}No."}, **more))
    assert isinstance(dropped, Dropped), dropped
    assert "90317264" not in dropped.detail
    return dropped.reason
