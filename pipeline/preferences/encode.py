"""Text to token ids such that no text of a user's acts as a control token.

What a user spells (`<|im_end|>`) is put out of the chat template's sight before it renders (`hidden`), and written as
the plain characters it is when the rendering is encoded. All text is encoded in one piece, as the model saw it in
training.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.preferences.messages import Message, Unusable, short
from pipeline.preferences.texts import map_texts
from pipeline.preferences.thoughts import is_tag

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# A control token that a text spells, while the template sees it: its bytes in decimal, between two numbers. Digits come
# through whatever a template does with texts (repr, JSON, upper case); a text with the first number is hidden itself.
_BEGIN, _FINISH = "90317264", "46271309"
_HIDDEN = re.compile(f"{_BEGIN}((?:[0-9]{{3}})*?){_FINISH}")
_ALIAS = "\ue004"  # begins the name of a control token where texts may spell it


class Encoder:
    """One tokenizer. `exchange` is a question and answer as its template renders them, `template` the template itself.

    Control tokens are those that a tokenizer marks as special, and what its template writes around messages. In an
    assistant's own words only what ends or begins a turn is one: calls are a model's to write, as thoughts are.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", exchange: str, template: str):
        self.tokenizer = tokenizer
        turns = _control_tokens(tokenizer, exchange, _TURN)
        control = turns | _control_tokens(tokenizer, exchange + template, _ROLE)
        # What stands for unknown characters is no turn, though a user must not write it either.
        unknown = () if str(tokenizer.unk_token) in exchange else (tokenizer.unk_token_id,)
        self._turns = {id_: text for text, id_ in turns.items() if id_ not in unknown}
        self._spelled, self._spelled_by_model = _any_of([_BEGIN, *control]), _any_of([_BEGIN, *turns])
        self.written = _any_of(control)
        self._ids = control
        # Those that a tokenizer may find in other characters: full-width ones, under some normalizers.
        added = tokenizer.added_tokens_decoder
        self._soft = {id_ for id_ in control.values() if added[id_].normalized}
        self._renamed = _Renamed.of(tokenizer, control)
        self._backend = _backend_of(tokenizer)

    def spells(self, text: str) -> bool:
        """Whether a user's text spells a control token."""
        return self._spelled.search(text) is not None

    def controls(self, ids: list[int]) -> list[int]:
        """Those of the ids that begin or end turns."""
        return [id_ for id_ in ids if id_ in self._turns]

    def hidden(self, message: Message) -> Message:
        """The message with every control token that its texts spell put out of the template's sight."""
        own = self._spelled_by_model if message["role"] == "assistant" else self._spelled
        if message.keys() == {"role", "content"}:
            content = message["content"]
            return {**message, "content": _hide(content, own)} if own.search(content) else message
        words = {key: _hide(message[key], own) for key in ("content", "reasoning_content") if key in message}
        return {**self.hidden_texts(message), **words, "role": message["role"]}

    def hidden_texts(self, value: Any) -> Any:
        """The same of all texts in a value that no assistant wrote."""
        return map_texts(value, lambda text: _hide(text, self._spelled))

    def __call__(self, *texts: str) -> list[list[int]]:
        """Ids of renderings, with what is hidden in them as plain characters."""
        hidden = next((text for text in texts if _BEGIN in text), None)
        if hidden is None:
            found = self._encoded(list(texts))
        elif self._renamed is None:
            raise Unusable("control-token", f"no plain characters for a control token in {shown(hidden)}")
        else:
            found = [self._renamed.ids(text, self.written) for text in texts]
        for text, ids in zip(texts, found, strict=True):
            if not self._soft.isdisjoint(ids) and not self._as_written(ids, text):
                raise Unusable("control-token", f"the tokenizer reads a control token in {shown(text)}")
        return found

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        if self._backend is not None:
            return [self._backend.encode(text, add_special_tokens=False).ids for text in texts]
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def _as_written(self, ids: list[int], text: str) -> bool:
        """Whether all control tokens stand in a rendering letter for letter, in this order."""
        there = iter([self._ids[name] for name in self.written.findall(text)])
        return all(id_ in there for id_ in ids if id_ in self._soft)

    def last_turn(self, rendered: str) -> int:
        """Where the last control token of a rendering begins, 0 where there is none."""
        return max((rendered.rfind(text) for text in self._turns.values() if text in rendered), default=0)

    def last_turn_of(self, ids: list[int]) -> int:
        """Which of the ids is the last control token; as many as there are where none is."""
        return next((index for index in range(len(ids) - 1, -1, -1) if ids[index] in self._turns), len(ids))


class _Renamed:
    """A copy of a tokenizer in which control tokens have other names, so that text may spell the names they had."""

    def __init__(
        self, backend: "Tokenizer", names: dict[str, str], ids: dict[int | None, int], control: Collection[int]
    ):
        self.backend, self.names, self.true_ids = backend, names, ids
        self.control = frozenset(control)
        self.named = {id_ for id_, true in ids.items() if true in self.control}

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", control: Mapping[str, int]) -> "_Renamed | None":
        """None for a tokenizer that is no tokenizers.Tokenizer, or not whole in what it writes of itself."""
        from tokenizers import AddedToken, Tokenizer

        try:
            state = json.loads(tokenizer.backend_tokenizer.to_str())
            added = tokenizer.added_tokens_decoder
            copy = Tokenizer.from_str(json.dumps(state | {"added_tokens": [], "truncation": None, "padding": None}))
        except Exception:  # tokenizers raises plain ones
            return None
        names = {text: f"{_ALIAS}{number}\ue005" for number, text in enumerate(control)}
        for token in added.values():
            flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
            name = names.get(str(token), str(token))
            copy.add_tokens([AddedToken(name, normalized=token.normalized, special=token.special, **flags)])
        ids = {copy.token_to_id(names.get(str(token), str(token))): id_ for id_, token in added.items()}
        return cls(copy, names, ids, control.values())

    def ids(self, text: str, written: re.Pattern[str]) -> list[int]:
        """Ids of a rendering: what is `written` in it is the template's own, what is hidden in it plain characters."""
        named = reveal(written.sub(lambda found: self.names[found.group()], text))
        ids = self.backend.encode_batch([named], add_special_tokens=False)[0].ids
        names = sum(id_ in self.named for id_ in ids)
        if names != len(written.findall(text)) or named.count(_ALIAS) != names or _BEGIN in named:
            raise Unusable("control-token", f"its control tokens and its text cannot be told apart: {shown(text)}")
        if not self.control.isdisjoint(id_ for id_ in ids if id_ not in self.named):
            raise Unusable("control-token", f"no plain characters for a control token in {shown(text)}")
        return [self.true_ids.get(id_, id_) for id_ in ids]


def _backend_of(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer | None":
    """What encodes for a tokenizer that adds nothing but fields that nothing here reads, and a fifth to the time."""
    from transformers import PreTrainedTokenizerFast as Plain

    own = type(tokenizer)
    if not issubclass(own, Plain) or own.__call__ is not Plain.__call__ or own._encode_plus is not Plain._encode_plus:
        return None
    tokenizer("x", verbose=False)  # which has it neither cut nor pad, and nothing here does
    return tokenizer.backend_tokenizer


# Tokens not marked as special that begin a turn by its role (<|user|>, [system]), or speak of one (<tool_response>).
_ROLES = "system|developer|user|human|assistant|model|tool|function|ipython|observation|environment"
_ROLE = re.compile(rf"[<\[{{].*(?:{_ROLES}).*", re.IGNORECASE)
_TURN = re.compile(rf"[<\[{{]\W*(?:im_|start_of_)?(?:{_ROLES})\W*", re.IGNORECASE)


def _control_tokens(tokenizer: "PreTrainedTokenizerBase", written: str, by_role: re.Pattern[str]) -> dict[str, int]:
    """Special tokens, and others that a template writes or puts together; but thoughts are for a model to write."""
    return {
        str(token): id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if (token.special or by_role.fullmatch(str(token)) or (str(token) in written and str(token)[0] in "<[{"))
        and not is_tag(str(token))
    }


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _hide(text: str, spelled: re.Pattern[str]) -> str:
    return spelled.sub(lambda found: _BEGIN + "".join(f"{b:03d}" for b in found.group().encode()) + _FINISH, text)


def reveal(text: str) -> str:
    """A rendering with what is hidden in it."""
    return _HIDDEN.sub(lambda found: bytes(map(int, re.findall("...", found.group(1)))).decode(), text)


def shown(text: str) -> str:
    """The same, shortened, for a message."""
    return short.repr(reveal(text))
