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
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.preferences.encode import Encoder, reveal, shown
from pipeline.preferences.ending import Ending, alike
from pipeline.preferences.exchange import Exchange
from pipeline.preferences.forged import Turns
from pipeline.preferences.lengths import Lengths
from pipeline.preferences.loading import load_tokenizer
from pipeline.preferences.messages import Dropped, Message, Unusable, said, short
from pipeline.preferences.normalise import Preference
from pipeline.preferences.template import DATE, Template
from pipeline.preferences.thoughts import opened_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template may leave out of a prompt, as reasoning models have it of thoughts: said, with how often it was so.
MAY_LACK = {"thoughts": "thoughts of earlier turns", "description": "descriptions of tools"}
_ANSWERS = ("Blue.", "A banana", "the", "1", "I", "**No**")  # how answers begin, to look at the seam before them


@dataclass(frozen=True)
class TokenisedPair:
    """Token ids; both completions end with the token that ends a turn, unless they are cut to one length."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class Tokeniser:
    """Encodes pairs with one tokenizer and template; what is longer than a limit is dropped, unless `cuts` says more.

    Limits are in tokens, the completion's with its end token; `cuts` are what Lengths takes beside them. `arguments`
    and `today` go to every rendering. What should be said of the template once is counted in `notes`. Raises UserError
    for a tokenizer without an EOS token or without a chat template that renders one exchange.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_prompt_tokens: int,
        max_completion_tokens: int,
        arguments: Mapping[str, Any] | None = None,
        today: date = DATE,
        **cuts: bool,
    ):
        self.tokenizer = tokenizer
        self.lengths = Lengths(max_prompt_tokens, max_completion_tokens, **cuts)
        self.template = Template(tokenizer, arguments or {}, today)
        self.notes: Counter[str] = Counter()
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no EOS token, so that no completion could end",
                "use a model whose tokenizer_config.json names an eos_token",
            )
        exchange = Exchange.of(self.template)
        self.encode = Encoder(tokenizer, exchange.asked + exchange.answered, self.template.source)
        self.turns = Turns(self.encode, self._trained)
        self._ending = Ending.of(exchange, self.template, self.encode)
        self.end_id: int = self._ending.token
        self._silence: list[int] | None = None  # an answer that says nothing
        self.left_to_answer = self._seam(exchange)
        with suppress(Unusable):
            _, self._silence = self._ids(exchange.question, exchange.tools, [said("")])
        if not self._ending.written:
            words = f" in place of {self._ending.tail!r}" if self._ending.tail.strip() else ""
            self.notes[f"the chat template ends answers with no token: {tokenizer.eos_token} is put there{words}"] += 1
        begin = tokenizer.bos_token_id
        if begin is not None and tokenizer("x")["input_ids"][:1] == [begin] != self.encode(exchange.asked)[0][:1]:
            self.notes[f"the tokenizer puts {tokenizer.bos_token} before a text, the chat template writes none"] += 1

    @property
    def end(self) -> dict[str, Any]:
        """The token that ends a turn, for a manifest."""
        return {"token": self.end_id, "text": str(self.tokenizer.convert_ids_to_tokens(self.end_id))}

    def remarks(self) -> dict[str, int]:
        """What should be said of the template so far, and how often it was so."""
        return {**self.notes, **dict.fromkeys(self.standing_remarks(), 1)}

    def standing_remarks(self) -> list[str]:
        """Those that are said once however often it was so."""
        date = f"the chat template asks for the date and gets {self.template.today} (model.template_date)"
        ids = "the chat template wants other ids of calls, which get such of nine letters and digits"
        found = {date: self.template.asked_for_date, ids: self.template.shortens_ids}
        return [remark for remark, so in found.items() if so]

    def forget(self) -> None:
        """Begin anew: what was learnt of conversations already read, and noted of them, has no part in the next."""
        self.notes = Counter()
        self.template.forget()
        self.turns.forget()

    def pair(self, preference: Preference) -> TokenisedPair | Dropped:
        """The pair's token ids, or why it has none: too long, refused by the template, not as the whole, or forged."""
        given = [*preference.prompt, preference.chosen, preference.rejected]
        *messages, one, other = hidden = [self.encode.hidden(message) for message in given]
        tools = self.encode.hidden_texts(preference.tools)
        try:
            if hidden != given or tools != [*preference.tools]:  # a template may refuse what it does not see
                for side in (preference.chosen, preference.rejected):
                    self.render([*preference.prompt, side], preference.tools, answer_next=False)
            prompt, chosen, rejected = self._ids(messages, tools, (one, other))
        except Unusable as unusable:
            return unusable.dropped
        fitting = self.lengths.fit((prompt, chosen, rejected), self.tokenizer.bos_token_id, self.notes)
        return fitting if isinstance(fitting, Dropped) else TokenisedPair(*fitting)

    def prompt(self, messages: Sequence[Message]) -> list[int] | Dropped:
        """Token ids of a prompt of any length, up to where the assistant's answer begins: for generation."""
        try:
            return self._ids([self.encode.hidden(message) for message in messages], (), ())[0]
        except Unusable as unusable:
            return unusable.dropped

    def answer(self, messages: Sequence[Message], side: Message) -> list[int] | Dropped:
        """Token ids of an answer of any length to a prompt, with the token that ends its turn."""
        try:
            return self._ids([self.encode.hidden(each) for each in messages], (), [self.encode.hidden(side)])[1]
        except Unusable as unusable:
            return unusable.dropped

    def text(self, ids: Sequence[int]) -> str:
        """What an answer's first tokens say, without control tokens."""
        said = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(said).removeprefix(self.left_to_answer)

    def _ids(self, messages: Sequence[Message], tools: Sequence[Any], sides: Sequence[Message]) -> list[list[int]]:
        """Ids of a prompt, and of what the conversation goes on with where the answer is each of `sides`."""
        prompt = self._prompt(messages, tools)
        wholes = [self._whole(messages, tools, side, prompt) for side in sides]
        start = self.encode.last_turn(prompt)  # what follows is encoded apart from what is before
        prompt_ids, *rests = self.encode(prompt, *(whole[start:] for whole, _ in wholes))
        if self.turns.forged(prompt_ids, messages, tools, answered=False):
            raise Unusable("control-token", f"the prompt would forge a turn: {shown(prompt)}")
        before = prompt_ids[: self.encode.last_turn_of(prompt_ids)] if start else []
        if start and any(rest[:1] != prompt_ids[len(before) :][:1] for rest in rests):  # it was no token by itself
            before, rests = [], self.encode(*(whole for whole, _ in wholes))
        found = [prompt_ids]
        for side, (whole, ending), rest in zip(sides, wholes, rests, strict=True):
            ids = [*before, *rest]
            if self.turns.forged(ids, [*messages, side], tools, answered=True):
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
        text = self._asked(self.render(messages, tools, answer_next=True))
        for index, kind, part in self.template.left_out(messages, tools, text, answer_next=True):
            if kind not in MAY_LACK:
                which = f"message {index + 1}, of role {messages[index]['role']}," if index >= 0 else "the row's tools"
                raise Unusable("template-leaves-out", f"{kind} of {which} is not rendered whole: {shown(part)}")
            self.notes[f"the chat template leaves out {MAY_LACK[kind]}"] += 1
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
        rendered = self.render([*messages, side], tools, answer_next=False)
        ending = self._ending if "tool_calls" not in side else self._ending.of_call(rendered, self.encode)
        if not rendered.startswith(prompt):
            if opened and rendered.startswith(opened.before(prompt)):
                return prompt + opened.answer(side, prompt) + ending.trained, ending
            raise Unusable("generation-prompt", _difference(prompt, rendered))
        if not rendered.endswith(ending.tail):
            end = reveal(rendered)[-len(ending.tail) - 20 :]
            raise Unusable("end-of-turn", f"this answer ends {end!r}, others with {ending.tail!r}")
        answer, start = rendered[len(prompt) :], len(messages)
        for _, kind, part in self.template.left_out([*messages, side], tools, answer, answer_next=False, start=start):
            raise Unusable("template-leaves-out", f"{kind} of the answer is not rendered whole: {shown(part)}")
        return prompt + answer[: len(answer) - len(ending.tail)] + ending.trained, ending

    def _seam(self, exchange: Exchange) -> str:
        """The white space at the end of a generation prompt that is left to the answer: none, for most.

        After "Assistant: " a tokenizer that joins a space with the word after it ("▁Blue") would never write what is
        trained. Without the space, prompt and answer are the ids of the whole.
        """
        rendered = exchange.asked
        opened = opened_thoughts(rendered)
        closed = f"x\n{opened.closing}\n\n" if opened else ""
        for end in range(len(rendered), len(rendered.rstrip()) - 1, -1):
            self.left_to_answer = rendered[end:]
            try:
                self._ids(exchange.question, exchange.tools, [said(closed + text) for text in _ANSWERS])
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

    def _trained(self, messages: Sequence[Message], tools: Sequence[Any], answered: bool) -> str:
        """The text of a conversation, which ends with an answer where it is `answered`."""
        before = messages[:-1] if answered else messages
        asked = self._asked(self.render(before, tools, answer_next=True))
        return self._whole(before, tools, messages[-1], asked)[0] if answered else asked

    def render(self, messages: Sequence[Message], tools: Sequence[Any], *, answer_next: bool) -> str:
        """The template's text, which can be encoded. Raises Unusable."""
        try:
            rendered = self.template(messages, tools, answer_next=answer_next)
            rendered.encode()
            return rendered
        except UnicodeEncodeError as error:
            raise Unusable("bad-text", f"{error.reason}: {short.repr(error.object)}") from error
        except Exception as error:  # such as a template that wants no system message, or strictly alternating roles
            raise Unusable("template-refused", f"{type(error).__name__}: {short.repr(str(error))}") from error


def _difference(prompt: str, whole: str) -> str:
    """Where the rendering of a whole conversation leaves that of its prompt."""
    prompt, whole = reveal(prompt), reveal(whole)
    same = alike(prompt, whole)
    return f"asked {prompt[max(0, same - 20) : same + 40]!r}, and whole {whole[max(0, same - 20) : same + 40]!r}"


def tokens_bytes(prompt_ids: Sequence[int], chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> bytes:
    """The three lists as little-endian int32, each after its length, so that triples cannot be confused."""
    lists = (np.asarray(ids, dtype="<i4").tobytes() for ids in (prompt_ids, chosen_ids, rejected_ids))
    return b"".join(part for ids in lists for part in ((len(ids) // 4).to_bytes(4, "little"), ids))


def tokens_digest(prompt_ids: Sequence[int], chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> str:
    """sha256 (hex) of a pair's `tokens_bytes`."""
    return hashlib.sha256(tokens_bytes(prompt_ids, chosen_ids, rejected_ids)).hexdigest()


def open_tokeniser(
    directory: Path,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    *,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
    template_date: date = DATE,
    **cuts: bool,
) -> Tokeniser:
    """The tokeniser of a model's folder, with its template or the Jinja file `chat_template`; see `Tokeniser`.

    Raises UserError where the directory holds no tokenizer, or the file cannot be read.
    """
    tokenizer = load_tokenizer(directory, chat_template, trust_remote_code=trust_remote_code)
    return Tokeniser(tokenizer, max_prompt_tokens, max_completion_tokens, template_arguments, template_date, **cuts)
