"""A tokenizer's chat template: one rendering for what is trained, scored, asked and judged.

Every rendering gets the same arguments (`model.template_arguments`) and, where the template asks for today's date, the
same one (`model.template_date`), so that what it writes depends on nothing but them and the messages.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.preferences.shapes import Message
from pipeline.preferences.texts import Text, rewritten, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = date(2025, 1, 1)  # what a template is told is today, unless the user says otherwise


# What apply_chat_template takes beside a template's own arguments.
_RESERVED = {"conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"}
_RESERVED |= {"continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
_RESERVED |= {"return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now"}


class Template:
    """Renders conversations. Raises UserError where there is no chat template, or it takes no such arguments."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any], today: date = DATE):
        self.tokenizer, self.asked_for_date = tokenizer, False
        self._unwritten: dict[Any, frozenset[int]] = {}
        if not tokenizer.chat_template:
            raise self.error("has no chat template")
        source = tokenizer.chat_template
        text = source if isinstance(source, str) else " ".join(source.values())
        for name in arguments:
            if name in _RESERVED or not re.search(rf"\b{re.escape(name)}\b", text):
                problem = (
                    f"model.template_arguments.{name}: the template of {tokenizer.name_or_path!r} has no use for it"
                )
                raise UserError(problem, "leave it out, or name one that the template reads, such as enable_thinking")

        def strftime_now(form: str) -> str:
            self.asked_for_date = True
            return today.strftime(form)

        self._options: dict[str, Any] = {**arguments, "strftime_now": strftime_now}

    def __call__(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, answer_next: bool) -> str:
        """The conversation as text; with `answer_next`, up to where the assistant's next answer begins."""
        rendered = self.tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=answer_next,
            **self._options,
        )
        return str(rendered)

    def left_out(
        self, messages: Sequence[Message], tools: Sequence[Any], text: str, *, answer_next: bool, start: int = 0
    ) -> list[Text]:
        """What the template leaves out of the messages from `start` on, in its rendering `text`.

        Found by looking: stand-ins for all texts are rendered once for every make-up of a conversation. A text that
        does not stand in `text` letter for letter may have been changed on the way (trimmed, written as JSON): a
        stand-in for it alone tells.
        """
        texts = [
            Text(index, kind, part)
            for index, message in enumerate(messages[start:], start)
            for kind, part in texts_of(message)
        ]
        made_of = (
            answer_next,
            bool(tools),
            tuple(message["role"] for message in messages),
            tuple((index, kind, bool(part.strip())) for index, kind, part in texts),
        )
        if made_of not in self._unwritten:
            everything = set(range(len(texts)))
            self._unwritten[made_of] = self._missing(messages, tools, answer_next, start, everything) or frozenset()
        never = self._unwritten[made_of]
        return [
            each
            for number, each in enumerate(texts)
            if (wanted := each.text.strip())
            and (
                number in never
                or (wanted not in text and self._missing(messages, tools, answer_next, start, {number}) != frozenset())
            )
        ]

    def _missing(
        self, messages: Sequence[Message], tools: Sequence[Any], answer_next: bool, start: int, which: Collection[int]
    ) -> frozenset[int] | None:
        """Those of the texts `which` whose stand-ins are not rendered; None where the template fails on them."""
        numbers = itertools.count()
        stood: dict[int, str] = {}

        def stand_in(_: str, text: str) -> str:
            number = next(numbers)
            if number not in which or not text.strip():
                return text
            stood[number] = f"\ue002{number}\ue003"
            return stood[number]

        changed = [*messages[:start], *(rewritten(message, stand_in) for message in messages[start:])]
        try:
            text = self(changed, tools, answer_next=answer_next)
        except Exception:  # a template that reads its texts
            return None
        return frozenset(number for number, mark in stood.items() if mark not in text)

    def error(self, problem: str) -> UserError:
        return UserError(
            f"the tokenizer of {self.tokenizer.name_or_path!r} {problem}",
            "use an instruction-tuned model, or give model.chat_template a Jinja file",
        )
