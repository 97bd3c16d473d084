"""Pairs as token ids: exactly those of the whole conversation as the model's chat template renders it.

A prompt is what the template writes up to where the answer begins, a completion what it goes on with, up to and with
the token that ends a turn. Both together are the ids of the whole text, so that nothing is trained that the model would
not read in a conversation: no leading space of a tokenizer's own, no answer without the block of thoughts that the
template puts before it. A pair for which that cannot be is counted out.

User text must not forge a turn. Text that spells a control token (`<|im_end|>`) is encoded as the plain characters it
is; all other text is encoded in one piece, as the model saw it in training. Whether a turn was forged is not guessed
from the text but read off the ids: control tokens must be those the template writes for such messages of plain words.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError, code_not_trusted
from pipeline.preferences.encode import Encoder, reveal, shown
from pipeline.preferences.messages import Dropped, Message, Unusable, said, short
from pipeline.preferences.normalise import Preference
from pipeline.preferences.template import DATE, Template
from pipeline.preferences.texts import THOUGHTS, map_texts, opened_thoughts, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER = "\ue002"  # stands for an answer in a rendering
_SIGNS = re.compile(r"[^\w\s]")
_ANSWERS = ("Blue.", "A banana", "the", "1", "I", "**No**")  # how answers begin, to look at the seam before them


@dataclass(frozen=True)
class TokenisedPair:
    """Token ids; both completions end with the token that ends a turn."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True)
class Ending:
    """What a template writes after an answer, the part of it that is trained, and the token that ends the turn."""

    tail: str
    trained: str
    token: int
    written: bool  # by the template; else it is EOS, put there by us


class Tokeniser:
    """Encodes pairs with one tokenizer and template; what is longer than a limit is dropped, never cut.

    Limits are in tokens, the completion's with its end token. `arguments` and `today` go to every rendering. What
    should be said of the template once is counted in `notes`. Raises UserError for a tokenizer without an EOS token or
    without a chat template that renders one exchange.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_prompt_tokens: int,
        max_completion_tokens: int,
        arguments: Mapping[str, Any] | None = None,
        today: date = DATE,
    ):
        self.tokenizer = tokenizer
        self.max_prompt_tokens, self.max_completion_tokens = max_prompt_tokens, max_completion_tokens
        self.template = Template(tokenizer, arguments or {}, today)
        self.notes: Counter[str] = Counter()
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no EOS token, so that no completion could end",
                "use a model whose tokenizer_config.json names an eos_token",
            )
        question = {"role": "user", "content": "x"}
        asked, stated, answered = self._exchange(question)
        self.encode = Encoder(tokenizer, asked + answered, self.template.source)
        self._neutral: dict[tuple[Any, ...], list[int]] = {}
        self._ending = self._ending_of(question, answered.rpartition(_ANSWER)[2], unasked=asked == stated)
        self.end_id: int = self._ending.token
        self._silence: list[int] | None = None  # an answer that says nothing
        self.left_to_answer = self._seam(question, asked)
        with suppress(Unusable):
            _, self._silence = self._ids([question], (), [said("")])
        begin = tokenizer.bos_token_id
        if begin is not None and tokenizer("x")["input_ids"][:1] == [begin] != self.encode(asked)[0][:1]:
            self.notes[f"the tokenizer puts {tokenizer.bos_token} before a text, the chat template writes none"] += 1

    def _exchange(self, question: Message) -> tuple[str, str, str]:
        """A question as asked and as told, and with its answer, which is _ANSWER, as the template renders them."""
        try:
            asked = self.template([question], answer_next=True)
            stated = self.template([question], answer_next=False)
            answered = self.template([question, said(_ANSWER)], answer_next=False)
        except Exception as error:  # a template is a program: it may fail in any way
            raise self.template.error(f"has a chat template that fails: {error}") from error
        header, found, _ = answered.rpartition(_ANSWER)
        if not found:
            raise self.template.error("has a chat template that leaves out an assistant's answer")
        if asked == stated and re.search(r"\w", lacks := THOUGHTS.sub("", header.removeprefix(asked))):
            raise self.template.error(
                f"has a chat template whose generation prompt lacks what it writes before an answer ({lacks!r})"
            )
        return asked, stated, answered

    @property
    def end(self) -> dict[str, Any]:
        """The token that ends a turn, for a manifest."""
        return {"token": self.end_id, "text": str(self.tokenizer.convert_ids_to_tokens(self.end_id))}

    def remarks(self) -> dict[str, int]:
        """What should be said of the template so far, and how often it was so."""
        date = f"the chat template asks for the date and gets {self.template.today} (model.template_date)"
        return {**self.notes, **({date: 1} if self.template.asked_for_date else {})}

    def pair(self, preference: Preference) -> TokenisedPair | Dropped:
        """The pair's token ids, or why it has none: too long, refused by the template, not as the whole, or forged."""
        asked = replace(
            preference,
            prompt=tuple(map(self.encode.hidden, preference.prompt)),
            chosen=self.encode.hidden(preference.chosen),
            rejected=self.encode.hidden(preference.rejected),
            tools=tuple(self.encode.hidden_texts(preference.tools)),
        )
        try:
            if asked != preference:  # a template may refuse what it does not see
                for side in (preference.chosen, preference.rejected):
                    self._render([*preference.prompt, side], preference.tools, answer_next=False)
            prompt, chosen, rejected = self._ids(asked.prompt, asked.tools, (asked.chosen, asked.rejected))
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
            return self._ids([self.encode.hidden(message) for message in messages], (), ())[0]
        except Unusable as unusable:
            return unusable.dropped

    def _ids(self, messages: Sequence[Message], tools: Sequence[Any], sides: Sequence[Message]) -> list[list[int]]:
        """Ids of a prompt, and of what the conversation goes on with where the answer is each of `sides`."""
        prompt = self._prompt(messages, tools)
        wholes = [self._whole(messages, tools, side, prompt) for side in sides]
        start = self.encode.last_turn(prompt)  # what follows is encoded apart from what is before
        prompt_ids, *rests = self.encode(prompt, *(whole[start:] for whole, _ in wholes))
        if self._forged(prompt_ids, messages, tools):
            raise Unusable("control-token", f"the prompt would forge a turn: {shown(prompt)}")
        before = prompt_ids[: self.encode.last_turn_of(prompt_ids)] if start else []
        if start and any(rest[:1] != prompt_ids[len(before) :][:1] for rest in rests):  # it was no token by itself
            before, rests = [], self.encode(*(whole for whole, _ in wholes))
        found = [prompt_ids]
        for side, (whole, ending), rest in zip(sides, wholes, rests, strict=True):
            ids = [*before, *rest]
            if self._forged(ids, messages, tools, side):
                raise Unusable("control-token", f"the completion would forge a turn: {shown(side['content'])}")
            if ids[: len(prompt_ids)] != prompt_ids:
                raise Unusable("seam", f"prompt and answer share a token: {shown(whole[len(prompt) - 8 :])}")
            completion = [*ids[len(prompt_ids) :], *([] if ending.written else [ending.token])]
            if completion == self._silence and "tool_calls" not in side:
                raise Unusable("empty-completion", f"nothing is left of the answer {shown(side['content'])}")
            found.append(completion)
        return found

    def _prompt(self, messages: Sequence[Message], tools: Sequence[Any]) -> str:
        """The text of a conversation, up to where the answer begins."""
        text = self._asked(self._render(messages, tools, answer_next=True))
        for index, kind, part in self.template.left_out(messages, tools, text, answer_next=True):
            if kind != "thoughts":
                which = f"{kind} of message {index + 1}, of role {messages[index]['role']}"
                raise Unusable("template-leaves-out", f"{which}: {shown(part)}")
            self.notes["the chat template leaves out thoughts of earlier turns"] += 1
        if tools and not self.template.writes_tools(messages, tools):
            raise Unusable("template-leaves-out", f"the row's tools: {short.repr(tools)}")
        return text

    def _whole(
        self, messages: Sequence[Message], tools: Sequence[Any], side: Message, prompt: str
    ) -> tuple[str, Ending]:
        """The text of a conversation with its answer, up to and with what ends the turn; it begins with `prompt`."""
        opened = opened_thoughts(prompt)
        if opened and not opened.closed_by(side):
            problem = f"the generation prompt opens thoughts ({opened.opening}) that this answer does not close with"
            raise Unusable("open-thoughts", f"{problem} {opened.closing}: {shown(side['content'])}")
        if opened and self.template.thoughts:
            side = opened.of(side)
        rendered = self._render([*messages, side], tools, answer_next=False)
        ending = self._ending if "tool_calls" not in side else self._call_ending(rendered)
        if not rendered.startswith(prompt):
            if opened and rendered.startswith(opened.before(prompt)):
                return prompt + opened.answer(side, prompt) + ending.trained, ending
            raise Unusable("generation-prompt", _difference(prompt, rendered))
        if not rendered.endswith(ending.tail):
            end = reveal(rendered)[-len(ending.tail) - 20 :]
            raise Unusable("end-of-turn", f"this answer ends {end!r}, others with {ending.tail!r}")
        answer, start = rendered[len(prompt) :], len(messages)
        for _, kind, part in self.template.left_out([*messages, side], tools, answer, answer_next=False, start=start):
            raise Unusable("template-leaves-out", f"{kind} of the answer: {shown(part)}")
        return prompt + answer[: len(answer) - len(ending.tail)] + ending.trained, ending

    def _ending_of(self, question: Message, tail: str, unasked: bool) -> Ending:
        """What ends an answer: of what the template writes after the last one (`tail`) and after an earlier one alike,
        the last control token. Where there is none, EOS, which may be written after the last answer alone."""
        try:
            talk = self.template([question, said(_ANSWER), question], answer_next=False)
        except Exception:  # a template that wants something else next
            talk = _ANSWER + tail
        alike = tail[: _alike(tail, talk.rpartition(_ANSWER)[2])]
        if unasked:  # the next turn is begun there, which is no end of this one
            before = self.template([question | {"content": _ANSWER}], answer_next=True).partition(_ANSWER)[0]
            begins = self.encode.written.findall(before)[-1:]
            alike = alike[: alike.rfind(begins[0])] if begins and begins[0] in alike else alike
        found = list(self.encode.written.finditer(alike))
        if not found and (first := self.encode.written.search(tail)) and first.group() == self.tokenizer.eos_token:
            found = [first]
        if not found:
            return Ending(tail, "", self.tokenizer.eos_token_id, written=False)
        return self._written(tail, found[-1])

    def _call_ending(self, rendered: str) -> Ending:
        """What ends an answer that calls a tool; with some families it is another token."""
        if rendered.endswith(self._ending.tail):
            return self._ending
        run = re.search(rf"(?:\s*(?:{self.encode.written.pattern}))*\s*$", rendered)
        tail = run.group() if run else ""
        found = list(self.encode.written.finditer(tail))
        if not found:
            return self._ending
        return self._written(tail, found[-1])

    def _written(self, tail: str, end: re.Match[str]) -> Ending:
        return Ending(tail, tail[: end.end()], self.encode(end.group())[0][0], written=True)

    def _seam(self, question: Message, rendered: str) -> str:
        """The white space at the end of a generation prompt that is left to the answer: none, for most.

        After "Assistant: " a tokenizer that joins a space with the word after it ("▁Blue") would never write what is
        trained. Without the space, prompt and answer are the ids of the whole.
        """
        opened = opened_thoughts(rendered)
        closed = f"x\n{opened.closing}\n\n" if opened else ""
        for end in range(len(rendered), len(rendered.rstrip()) - 1, -1):
            self.left_to_answer = rendered[end:]
            try:
                self._ids([question], (), [said(closed + text) for text in _ANSWERS])
            except Unusable as unusable:
                if unusable.dropped.reason == "seam":
                    continue
            if self.left_to_answer:
                self.notes[f"{self.left_to_answer!r} at the end of the generation prompt is left to the answer"] += 1
            return self.left_to_answer
        return ""

    def _asked(self, rendered: str) -> str:
        """A rendered prompt as the model is asked it."""
        return rendered.removesuffix(self.left_to_answer)

    def _forged(
        self, ids: list[int], messages: Sequence[Message], tools: Sequence[Any], side: Message | None = None
    ) -> bool:
        """Whether there are other control tokens than such messages have where all words in them are plain."""
        found = self.encode.controls(ids)
        everything = [*messages, side] if side else [*messages]
        made_of = (side is not None, len(tools), *map(_make_up, everything))
        if made_of not in self._neutral:
            self._neutral[made_of] = self._plain_controls(everything, tools, side is not None)
        if found == self._neutral[made_of]:
            return False
        return found != self._plain_controls(everything, tools, side is not None)  # of this row's own words

    def _plain_controls(self, messages: Sequence[Message], tools: Sequence[Any], answered: bool) -> list[int]:
        *before, last = plain = [{**map_texts(message, _plain), "role": message["role"]} for message in messages]
        tools = map_texts(tools, _plain)
        text = self._asked(self._render(before if answered else plain, tools, answer_next=True))
        return self.encode.controls(*self.encode(self._whole(before, tools, last, text)[0] if answered else text))

    def _render(self, messages: Sequence[Message], tools: Sequence[Any], *, answer_next: bool) -> str:
        try:
            rendered = self.template(messages, tools, answer_next=answer_next)
            rendered.encode()
            return rendered
        except UnicodeEncodeError as error:
            raise Unusable("bad-text", f"{error.reason}: {short.repr(error.object)}") from error
        except Exception as error:  # such as a template that wants no system message, or strictly alternating roles
            raise Unusable("template-refused", f"{type(error).__name__}: {short.repr(str(error))}") from error


def _plain(text: str) -> str:
    """`text` without anything that could be a part of a control token; tags of thoughts, which templates read, stay."""
    pieces, position = [], 0
    for tag in THOUGHTS.finditer(text):
        pieces += [_SIGNS.sub("x", text[position : tag.start()]), tag.group()]
        position = tag.end()
    return "".join([*pieces, _SIGNS.sub("x", text[position:])])


def _make_up(message: Message) -> tuple[Any, ...]:
    """What control tokens around a message may depend on: its role, and which texts there are."""
    if message.keys() == {"role", "content"} and "<" not in message["content"] and "[" not in message["content"]:
        return message["role"], bool(message["content"])
    tags = tuple(tag.group() for tag in THOUGHTS.finditer(message["content"]))
    return message["role"], tags, tuple((kind, bool(text.strip())) for kind, text in texts_of(message))


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _difference(prompt: str, whole: str) -> str:
    """Where the rendering of a whole conversation leaves that of its prompt."""
    prompt, whole = reveal(prompt), reveal(whole)
    same = _alike(prompt, whole)
    return f"asked {prompt[max(0, same - 20) : same + 40]!r}, and whole {whole[max(0, same - 20) : same + 40]!r}"


def tokens_digest(prompt_ids: Sequence[int], chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> str:
    """sha256 over the three lists as little-endian int32, each after its length, so that triples cannot be confused."""
    lists = (part for ids in (prompt_ids, chosen_ids, rejected_ids) for part in ((len(ids),), ids))
    return hashlib.sha256(b"".join(np.asarray(part, dtype="<i4").tobytes() for part in lists)).hexdigest()


def open_tokeniser(
    directory: Path,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    *,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
    template_date: date = DATE,
) -> Tokeniser:
    """The tokeniser of a model's folder, with its template or the Jinja file `chat_template`; see `Tokeniser`.

    Raises UserError where the directory holds no tokenizer, or the file cannot be read.
    """
    tokenizer = load_tokenizer(directory, chat_template, trust_remote_code=trust_remote_code)
    return Tokeniser(tokenizer, max_prompt_tokens, max_completion_tokens, template_arguments, template_date)


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
