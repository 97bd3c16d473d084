"""AlpacaEval's raw completions: what a judge said, beside the preference that the tool read from it.

The tool reads the first token. Of a judge that thinks, that is a thought, and what its log-probs hold of `m` and `M` is
chance: such a preference is read again, from the first token after the thoughts.
"""

import ast
import json
from typing import Any, Literal

from pipeline.evaluation.benchmarks.thoughts import Token, first_word, spoken, thinks
from pipeline.evaluation.benchmarks.verdicts import preference

Stored = Literal["unclear", "as stored"]


def read_again(raw: Any, switched: bool) -> float | Stored | None:
    """A preference from 1 to 2 out of the words after a judge's thoughts.

    None where they end within thoughts or the words hold no verdict; "unclear" where they are of another kind than `m`
    or `M`; "as stored" where there are no thoughts.
    """
    completion = _parsed(raw)
    text, tokens = _text(completion), _tokens(completion)
    whole = "".join(token for token, _ in tokens) or text
    if not thinks(whole) and not thinks(text):
        return "as stored"
    words = spoken(whole)
    if words is None:
        return None
    if first := first_word(tokens):
        return preference(first, switched)
    if not words.strip():
        return None
    named = {"m": 1.0, "M": 2.0}.get(words.strip())
    if named is None:
        return "unclear"
    return 3 - named if switched else named


def _parsed(raw: Any) -> Any:
    """A completion that a table wrote as text: JSON, or as Python shows it."""
    if isinstance(raw, str) and raw.lstrip().startswith(("{", "[")):
        for parse in (json.loads, ast.literal_eval):
            try:
                raw = parse(raw)
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return raw[0] if isinstance(raw, list) and raw and isinstance(raw[0], dict) else raw


def _text(completion: Any) -> str:
    if isinstance(completion, dict):
        message = completion.get("message")
        completion = completion.get("text") or (message.get("content") if isinstance(message, dict) else None)
    return completion if isinstance(completion, str) else ""


def _tokens(completion: Any) -> list[Token]:
    """Each token with its likeliest alternatives' log-probs; none where the completion holds no such thing."""
    try:
        return [
            (one["token"], {each["token"]: float(each["logprob"]) for each in one["top_logprobs"]})
            for one in completion["logprobs"]["content"]
        ]
    except (TypeError, KeyError, ValueError):
        return []
