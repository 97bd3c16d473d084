"""Pairs as token ids: the prompt through the model's chat template, each completion with the token that ends a turn.

User text must not forge a turn. Text that spells a control token (`<|im_end|>`) is encoded as the plain characters it
is; all other text is encoded in one piece, as the model saw it in training. Whether a turn was forged is not guessed
from the text but read off the ids: a prompt's control tokens must be those the template writes for the same roles.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError, code_not_trusted
from pipeline.preferences.normalise import Preference
from pipeline.preferences.shapes import Dropped, Message, Unusable, short

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenisedPair:
    """Token ids; both completions end with the token that ends a turn."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class Tokeniser:
    """Encodes pairs with one tokenizer; what is longer than a limit is dropped, never cut.

    Limits are in tokens, the completion's with its end token. Raises UserError for a tokenizer without an EOS token or
    without a chat template that renders one exchange.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_prompt_tokens: int, max_completion_tokens: int):
        self.tokenizer = tokenizer
        self.max_prompt_tokens, self.max_completion_tokens = max_prompt_tokens, max_completion_tokens
        if not tokenizer.chat_template:
            raise _template_error(tokenizer, "has no chat template")
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no EOS token, so that no completion could end",
                "use a model whose tokenizer_config.json names an eos_token",
            )
        try:
            bare = self._render([{"role": "user", "content": "x"}])
            tail = self._after_answer()
        except Exception as error:  # a template is a program: it may fail in any way
            raise _template_error(tokenizer, f"has a chat template that fails: {error}") from error
        # Not every tokenizer marks the tokens its own template writes as special.
        control = {
            str(token): id_
            for id_, token in tokenizer.added_tokens_decoder.items()
            if token.special or (re.match(r"[<\[{]", str(token)) and str(token) in bare)
        }
        self._control_ids = frozenset(control.values())
        longest_first = sorted(control, key=lambda text: (-len(text), text))
        # Finds what spells a control token.
        self.spelled = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._neutral: dict[tuple[str, ...], list[int]] = {}
        # What ends an answer is what the template writes after one: a control token, or else EOS.
        after = self._encode(tail.lstrip())[:1]
        self.end_id: int = after[0] if self._controls(after) else tokenizer.eos_token_id

    def pair(self, preference: Preference) -> TokenisedPair | Dropped:
        """The pair's token ids, or why it has none: too long, refused by the template, or a forged turn."""
        try:
            prompt = self._prompt(preference.prompt)
            chosen, rejected = (
                self._completion(message["content"]) for message in (preference.chosen, preference.rejected)
            )
        except Unusable as unusable:
            return unusable.dropped
        if len(prompt) > self.max_prompt_tokens:
            return Dropped("prompt-too-long", f"{len(prompt)} tokens, the limit is {self.max_prompt_tokens}")
        if max(len(chosen), len(rejected)) > self.max_completion_tokens:
            lengths = f"chosen {len(chosen)}, rejected {len(rejected)} tokens"
            return Dropped("completion-too-long", f"{lengths}, the limit is {self.max_completion_tokens}")
        if chosen == rejected:
            return Dropped("equal-completions", f"different texts, the same {len(chosen)} tokens")
        return TokenisedPair(prompt, chosen, rejected)

    def prompt(self, messages: Sequence[Message]) -> list[int] | Dropped:
        """Token ids of a prompt of any length, up to where the assistant's answer begins: for generation."""
        try:
            return self._prompt(messages)
        except Unusable as unusable:
            return unusable.dropped

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        rendered = self._render_row(messages)
        roles = tuple(message["role"] for message in messages)
        if roles not in self._neutral:
            bare = self._render_row([{"role": role, "content": "x"} for role in roles])
            self._neutral[roles] = self._controls(self._encode(bare))
        ids = self._encode(rendered)
        if self._controls(ids) == self._neutral[roles]:
            return ids
        # Stand-ins keep what the user spelled out of the template's sight and mark where it goes in the rendering.
        mark = _mark(messages)
        hidden = [{**message, "content": self.spelled.sub(mark, message["content"])} for message in messages]
        spelled = [text for message in messages for text in self.spelled.findall(message["content"])]
        ids = self._join(self._render_row(hidden).split(mark), spelled)
        if self._controls(ids) != self._neutral[roles]:
            raise Unusable("control-token", f"the prompt would forge a turn: {short.repr(rendered)}")
        return ids

    def _completion(self, text: str) -> list[int]:
        ids = self._encode(text)
        if self._controls(ids):
            ids = self._join(self.spelled.split(text), self.spelled.findall(text))
        if self._controls(ids):
            raise Unusable("control-token", f"the completion would forge a turn: {short.repr(text)}")
        if not ids:  # characters no token stands for are lost, by some tokenizers
            raise Unusable("empty-completion", f"the tokenizer has no token for {short.repr(text)}")
        return [*ids, self.end_id]

    def _join(self, pieces: Sequence[str], spelled: Sequence[str]) -> list[int]:
        """`pieces` encoded as usual, with `spelled` between them as plain characters."""
        if len(pieces) != len(spelled) + 1:
            raise Unusable("control-token", f"the chat template repeats or drops the text around {short.repr(spelled)}")
        ids = self._encode(pieces[0])
        for text, piece in zip(spelled, pieces[1:], strict=True):
            ids += self._encode(text, split_special_tokens=True) + self._encode(piece)
        return ids

    def _encode(self, text: str, split_special_tokens: bool = False) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": split_special_tokens, "verbose": False}
        return self.tokenizer(text, **options)["input_ids"] if text else []

    def _controls(self, ids: list[int]) -> list[int]:
        return [id_ for id_ in ids if id_ in self._control_ids]

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        rendered = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(rendered)

    def _render_row(self, messages: Sequence[Message]) -> str:
        try:
            return self._render(messages)
        except Exception as error:  # such as a template that wants no system message, or strictly alternating roles
            raise Unusable("template-refused", f"{type(error).__name__}: {short.repr(str(error))}") from error

    def _after_answer(self) -> str:
        """What the template writes after the assistant's last message."""
        question = {"role": "user", "content": "x"}
        mark = _mark([question])
        messages = [question, {"role": "assistant", "content": mark}]
        _, found, tail = self._render(messages, add_generation_prompt=False).rpartition(mark)
        return tail if found else ""


def _mark(messages: Sequence[Message]) -> str:
    """A text that does not occur in `messages`, since it holds their digest."""
    return f"\ue000{hashlib.sha256(json.dumps(list(messages)).encode()).hexdigest()}\ue000"


def tokens_digest(prompt_ids: Sequence[int], chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> str:
    """sha256 over the three lists as little-endian int32, each after its length, so that triples cannot be confused."""
    digest = hashlib.sha256()
    for ids in (prompt_ids, chosen_ids, rejected_ids):
        digest.update(np.asarray([len(ids), *ids], dtype="<i4").tobytes())
    return digest.hexdigest()


def load_tokenizer(
    directory: Path, chat_template: str | None = None, *, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer saved in `directory`, with the Jinja file `chat_template` in place of its own template if given.

    Code beside it is run where `trust_remote_code`. Raises UserError where the directory holds no tokenizer, or the
    file cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # transformers reports a missing or damaged tokenizer by many kinds of error
        first_line = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"the model directory {str(directory)!r} has no tokenizer that can be loaded: {first_line}",
            code_not_trusted(error)
            or "put tokenizer.json and tokenizer_config.json beside the weights, as `save_pretrained` does",
        ) from error
    if chat_template is not None:
        try:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(
                f"model.chat_template {chat_template!r} cannot be read: {error}", "give a Jinja file"
            ) from error
    return tokenizer


def _template_error(tokenizer: "PreTrainedTokenizerBase", problem: str) -> UserError:
    return UserError(
        f"the tokenizer of {tokenizer.name_or_path!r} {problem}",
        "use an instruction-tuned model, or give model.chat_template a Jinja file",
    )
