"""Whether another model reads the base model's tokens as it does: pairs are tokenised once, for all that score them."""

from functools import cache
from pathlib import Path

from pipeline.compute.limits import Limits
from pipeline.errors import UserError
from pipeline.preferences.messages import Dropped, Message, said
from pipeline.preferences.tokenise import Tokeniser, open_tokeniser
from pipeline.settings.inputs import Model

_TEXTS = ("Name a colour.", "  1,234.5 + 6 =\n\n\tx", "Größe \N{SNOWMAN} <|im_end|> </s>")


def require_same_tokens(base: Path, other: Path, model: Model, given: str) -> None:
    """Raise UserError where ids of the base model's tokenizer mean something else to the model in folder `other`.

    `given` is how the user named that one. Both are rendered as `model` says. Of another size than the base model's it
    may be, but not have fewer tokens or positions than pairs may take.
    """
    _require(base, other, model.model_dump_json(), given)


@cache  # asked by the check before any work, and by each stage that opens the model
def _require(base: Path, other: Path, model: str, given: str) -> None:
    rendering = Model.model_validate_json(model).rendering
    one, another = (open_tokeniser(folder, 1, 1, **rendering) for folder in (base, other))
    if differ := _difference(one, another):
        raise UserError(
            f"{given}: {differ}, and pairs are tokenised once, as model.source has it",
            "give weights of the same tokenizer and chat template, or set model.source to this model",
        )
    limits, its = Limits.of(base), Limits.of(other)
    if its.positions is not None and its.positions < (limits.positions or its.positions + 1):
        known = f"{limits.positions:,}" if limits.positions else "no limit"
        problem = f"{given} has {its.positions:,} positions, and model.source {known}: pairs may be longer"
        raise UserError(problem, "give weights of a model that takes as long a conversation")
    tokens = max(one.tokenizer.get_vocab().values()) + 1
    if its.embeddings is not None and its.embeddings < min(tokens, limits.embeddings or tokens):
        problem = f"{given} has {its.embeddings:,} embeddings, and pairs may hold any of {tokens:,} tokens"
        raise UserError(problem, "give weights of a model with as many tokens")


def _difference(one: Tokeniser, other: Tokeniser) -> str | None:
    """What the second has otherwise: tokens, the end of a turn, or how it renders and splits a conversation."""
    known, its = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if known != its:
        token = min(token for token, _ in known.items() ^ its.items())
        return f"its tokenizer is another one (token {token!r} is {known.get(token)} and {its.get(token)})"
    if one.end_id != other.end_id:
        return f"its chat template ends a turn with {other.end['text']}, and not with {one.end['text']}"
    if any(_ids(one, talk) != _ids(other, talk) for talk in _talks()):
        return "its tokenizer or chat template makes other tokens of a conversation"
    return None


def _ids(tokeniser: Tokeniser, talk: list[Message]) -> tuple[list[int] | Dropped, ...]:
    *asked, answer = talk
    return tokeniser.prompt(asked), tokeniser.answer(asked, answer)


def _talks() -> list[list[Message]]:
    """Conversations that end with an answer: of one turn, with a system message, of two."""
    asked = [{"role": "user", "content": text} for text in _TEXTS]
    one, two, three = ([each, said(text)] for each, text in zip(asked, reversed(_TEXTS), strict=True))
    return [one, [{"role": "system", "content": _TEXTS[1]}, *two], [*three, *one], two]
