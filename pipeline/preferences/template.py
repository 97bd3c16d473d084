"""A tokenizer's chat template: one rendering for what is trained, scored, asked and judged.

Every rendering gets the same arguments (`model.template_arguments`) and, where the template asks for today's date, the
same one (`model.template_date`), so that what it writes depends on nothing but them and the messages.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.preferences.arguments import require_arguments
from pipeline.preferences.calls import arguments_as_text, has_calls, short_ids
from pipeline.preferences.messages import RESULTS, Message
from pipeline.preferences.texts import Text, rewritten, rewritten_tool, spellings, texts_of, texts_of_tool, times
from pipeline.preferences.thoughts import tags_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = date(2025, 1, 1)  # what a template is told is today, unless the user says otherwise


_STAND_IN = "70836125"  # in place of a text, to see whether the template writes it


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
        self.shortens_ids = False  # whether calls have had to get other ids
        self._frames: dict[Any, tuple[frozenset[int], str]] = {}
        require_arguments(self.source, arguments, f"the template of {tokenizer.name_or_path!r}")

        def strftime_now(form: str) -> str:
            self.asked_for_date = True
            return today.strftime(form)

        self._options: dict[str, Any] = {**arguments, "strftime_now": strftime_now}

    def forget(self) -> None:
        """Begin anew, as if nothing had been rendered yet."""
        self.asked_for_date = self.shortens_ids = False
        self._frames.clear()

    def __call__(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, answer_next: bool) -> str:
        """The conversation as text; with `answer_next`, up to where the assistant's next answer begins.

        Calls are given as transformers documents them. Where a template fails on that, they are tried with their
        arguments as JSON, and with ids of nine letters and digits, which some want.
        """
        try:
            return self._rendered(messages, tools, answer_next)
        except Exception:
            if not any(has_calls(message) or message["role"] in RESULTS for message in messages):
                raise
            for as_text, with_ids in ((True, False), (False, True), (True, True)):
                given = short_ids(messages) if with_ids else messages
                given = [arguments_as_text(message) for message in given] if as_text else given
                try:
                    rendered = self._rendered(given, tools, answer_next)
                except Exception:
                    continue
                self.shortens_ids |= with_ids
                return rendered
            raise

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Any], answer_next: bool) -> str:
        if self.thoughts not in (None, "reasoning_content"):
            messages = [{self.thoughts if k == "reasoning_content" else k: v for k, v in m.items()} for m in messages]
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
        """What does not stand whole in `text`, the template's rendering: of the messages from `start` on, and tools.

        A text must stand there as often as it is said, within other texts, too, beside what the template writes by
        itself, which is known by rendering stand-ins for all texts, once for every make-up of a conversation.
        """
        tools_looked_at = tools if start == 0 else ()
        texts = [
            Text(index, kind, part)
            for index, message in enumerate(messages[start:], start)
            for kind, part in texts_of(message)
        ]
        texts += [Text(-1, kind, part) for tool in tools_looked_at for kind, part in texts_of_tool(tool)]
        made_of = (
            answer_next,
            len(tools),
            tuple(message["role"] for message in messages),
            tuple((index, kind, bool(part.strip())) for index, kind, part in texts),
            tuple(
                tag.group()
                for message in messages[start:]
                if message["role"] == "assistant"
                for tag in tags_in(message["content"])
            ),
        )
        if made_of not in self._frames:
            self._frames[made_of] = self._frame(messages, tools, answer_next, start)
        never, frame = self._frames[made_of]
        contents = [each.text.strip() for each in texts if each.kind == "content"]

        def whole(number: int, each: Text) -> bool:
            wanted = each.text.strip()
            if not wanted or number in never or each.kind != "content":
                return not wanted or (number not in never and times(wanted, text) > 0)
            return times(wanted, text) - times(wanted, frame) >= sum(said.count(wanted) for said in contents)

        return [each for number, each in enumerate(texts) if not whole(number, each)]

    def _frame(
        self, messages: Sequence[Message], tools: Sequence[Any], answer_next: bool, start: int
    ) -> tuple[frozenset[int], str]:
        """Those texts, by number, whose stand-ins are not rendered, and what the template writes around them.

        Neither where the template fails on stand-ins; and where `start` is not 0, what is around is not told.
        """
        numbers = itertools.count()
        stood: dict[int, str] = {}

        def stand_in(_: str, text: str) -> str:
            number = next(numbers)
            if not text.strip():
                return text
            stood[number] = f"{_STAND_IN}{number:03d}{_STAND_IN}"  # digits, which no template changes
            return stood[number]

        changed = [*messages[:start], *(rewritten(message, stand_in) for message in messages[start:])]
        others = tools if start else [rewritten_tool(tool, stand_in) for tool in tools]
        try:
            text = self(changed, others, answer_next=answer_next)
        except Exception:  # a template that reads its texts
            return frozenset(), ""
        never = frozenset(number for number, mark in stood.items() if mark not in text)
        for mark in stood.values():
            for each in spellings(mark):
                text = text.replace(each, "\0")
        return never, "" if start else text

    def error(self, problem: str) -> UserError:
        return UserError(
            f"the tokenizer of {self.tokenizer.name_or_path!r} {problem}",
            "use an instruction-tuned model, or give model.chat_template a Jinja file",
        )
