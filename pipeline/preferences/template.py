"""A tokenizer's chat template: one rendering for what is trained, scored, asked and judged.

Every rendering gets the same arguments (`model.template_arguments`) and, where the template asks for today's date, the
same one (`model.template_date`), so that what it writes depends on nothing but them and the messages.
"""

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError, meta

from pipeline.errors import UserError
from pipeline.preferences.messages import Message
from pipeline.preferences.texts import Text, calls_as_text, rewritten, tags_of, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = date(2025, 1, 1)  # what a template is told is today, unless the user says otherwise


_STAND_IN = "70836125"  # in place of a text, to see whether the template writes it
# What apply_chat_template takes beside a template's own arguments.
_RESERVED = {"conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"}
_RESERVED |= {"continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
_RESERVED |= {"return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now"}


def require_arguments(source: str, arguments: Mapping[str, Any], whose: str) -> None:
    """Raise UserError for an argument that a template's source does not read beside what every rendering has."""
    bare = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", source)  # an extension of transformers' own
    try:
        read = meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(bare))
    except TemplateError:  # said when it is rendered
        read = set(arguments)
    takes = sorted(name for name in read - _RESERVED if name != "raise_exception" and not name.endswith("_token"))
    for name in arguments:
        if name not in takes:
            problem = f"model.template_arguments.{name}: {whose} ignores it"
            raise UserError(problem, f"leave it out; it takes: {', '.join(takes) or 'none'}")


class Template:
    """Renders conversations. Raises UserError where there is no chat template, or it takes no such arguments."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any], today: date = DATE):
        self.tokenizer, self.today, self.asked_for_date = tokenizer, today, False
        if not tokenizer.chat_template:
            raise self.error("has no chat template")
        own = tokenizer.chat_template
        self.source = own if isinstance(own, str) else "\n".join(own.values())
        # Families read an answer's thoughts under several names.
        code = re.sub(r"{#.*?#}", "", self.source, flags=re.DOTALL)
        names = ("reasoning_content", "thinking", "reasoning")
        read = (name for name in names if re.search(rf"[.'\"]{name}\b", code))
        self.thoughts: str | None = next(read, None)
        self._calls_as_text = False  # whether arguments of calls are given as JSON, which some templates want
        self._unwritten: dict[Any, frozenset[int]] = {}
        self._writes_tools: dict[tuple[str, ...], bool] = {}
        require_arguments(self.source, arguments, f"the template of {tokenizer.name_or_path!r}")

        def strftime_now(form: str) -> str:
            self.asked_for_date = True
            return today.strftime(form)

        self._options: dict[str, Any] = {**arguments, "strftime_now": strftime_now}

    def __call__(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, answer_next: bool) -> str:
        """The conversation as text; with `answer_next`, up to where the assistant's next answer begins."""
        called = any("tool_calls" in message for message in messages)
        try:
            return self._rendered(messages, tools, answer_next, self._calls_as_text)
        except Exception:
            if self._calls_as_text or not called:
                raise
            rendered = self._rendered(messages, tools, answer_next, True)
            self._calls_as_text = True
            return rendered

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Any], answer_next: bool, as_text: bool) -> str:
        if self.thoughts not in (None, "reasoning_content"):
            messages = [{self.thoughts if k == "reasoning_content" else k: v for k, v in m.items()} for m in messages]
        if as_text:
            messages = [calls_as_text(message) for message in messages]
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
            tuple(tag.group() for message in messages[start:] for tag in tags_of(message)),
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

    def writes_tools(self, messages: Sequence[Message], tools: Sequence[Any]) -> bool:
        """Whether the template writes the tools that an assistant may call: found by another name for the first."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._writes_tools:
            first = json.loads(json.dumps(tools[0])) if isinstance(tools[0], Mapping) else {}
            function = first.get("function")
            (function if isinstance(function, dict) else first)["name"] = f"tool{_STAND_IN}"
            try:
                written = self(messages, [first, *tools[1:]], answer_next=True)
            except Exception:  # a template that wants to know its tools
                return True
            self._writes_tools[roles] = _STAND_IN in written
        return self._writes_tools[roles]

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
            stood[number] = f"{_STAND_IN}{number:03d}{_STAND_IN}"  # digits, which no template changes
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
