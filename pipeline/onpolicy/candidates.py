"""Answers to prompts as rows of tables.CANDIDATES: what names them, and what their sampling is keyed by."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import randomness
from pipeline.onpolicy.prompts import Prompt
from pipeline.preferences.messages import Dropped
from pipeline.results.tables import messages_json

if TYPE_CHECKING:
    from pipeline.preferences.tokenise import Tokeniser

Row = dict[str, Any]


def seed_of(*key: object) -> int:
    """The seed of a request: it depends on what is asked, and never on who shares a batch with it."""
    return randomness.seed_of("sample", *key)


def candidate_id(prompt_id: str, response_ids: Sequence[int]) -> str:
    """Content digest of an answer to a prompt: 32 hex digits."""
    return hashlib.sha256(json.dumps([prompt_id, list(response_ids)]).encode()).hexdigest()[:32]


def text_of(
    tokeniser: "Tokeniser", ids: Sequence[int], ended: bool, stop: str | None = None, prefix_ids: Sequence[int] = ()
) -> str:
    """What an answer says that goes on from `prefix_ids` with `ids`, up to the text `stop` that ended it, if one did.

    Both are decoded in one piece: what goes on from a beginning would lose the space before its first word. The last
    token of one that `ended` by a token is no part of its text, be it a control token or not.
    """
    text = tokeniser.text([*prefix_ids, *(ids[:-1] if ended and stop is None else ids)])
    at = -1 if stop is None else text.find(stop, len(tokeniser.text(prefix_ids)) if prefix_ids else 0)
    return text if at < 0 else text[:at]


def of_prompt(prompt: Prompt) -> Row:
    """The columns that all answers to a prompt share."""
    return {
        "prompt_id": prompt.prompt_id,
        "prompt": messages_json(list(prompt.messages)),
        "meta": json.dumps(prompt.meta, sort_keys=True),
        "source": prompt.source,
        "split": prompt.split,
    }


def answered(asked: Row, response: str, response_ids: Sequence[int], **columns: Any) -> Row:
    """A row of tables.CANDIDATES; `asked` is `of_prompt`, `columns` what is neither null nor said by the answer."""
    absent = dict.fromkeys(("seed", "logp", "parent", "prefix_tokens"))
    return {
        **asked,
        **absent,
        "candidate_id": candidate_id(asked["prompt_id"], response_ids),
        "response": response,
        "response_ids": list(response_ids),
        "tokens": len(response_ids),
        **columns,
    }


def references(prompt: Prompt, tokeniser: "Tokeniser") -> Iterator[Row | Dropped]:
    """The data's own answers to a prompt, or why one cannot be a candidate."""
    asked = of_prompt(prompt)
    for name, message in prompt.answers:
        plain = message.keys() == {"role", "content"}
        more = Dropped("more-than-text", f"{', '.join(sorted(message))} of the answer {name}")
        ids = tokeniser.answer(prompt.messages, message) if plain else more
        if isinstance(ids, Dropped):
            yield ids
        else:
            yield answered(asked, message["content"], ids, answered_by=name, sample=0, finish_reason="data")
