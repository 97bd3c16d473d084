"""Answers that a judge compares a model's with: those of a benchmark's owners, or a file's.

Three forms of row are read: AlpacaEval's {"instruction", "output", "generator"}, Arena-Hard's and FastChat's
model_answer ({"uid" or "question_id", "model" or "model_id", "messages" or "choices"}), and with the same names
{"question_id", "response"}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import LeftOut, Row, identifier, text
from pipeline.evaluation.benchmarks.annotations import read as read_rows
from pipeline.evaluation.benchmarks.arena_style import answer_of, tokens_of
from pipeline.evaluation.benchmarks.questions import Owner, from_owner
from pipeline.evaluation.judging.games import Answer, Asked
from pipeline.results.files import given_path


@dataclass(frozen=True)
class Baseline:
    """One file of answers, to the questions of one category or to all."""

    file: Path
    category: str | None = None


# Where a benchmark's owners have the answers that its leaderboard compares with; by category where there are several.
_ARENA = "lmarena-ai/arena-hard-auto"
OWNERS: Mapping[str, Mapping[str | None, Owner]] = {
    "alpaca_eval": {None: Owner("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json")},
    "arena_hard_v0.1": {None: Owner(_ARENA, "data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl")},
    "arena_hard_v2.0": {
        "hard_prompt": Owner(_ARENA, "data/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl"),
        "creative_writing": Owner(_ARENA, "data/arena-hard-v2.0/model_answer/gemini-2.0-flash-001.jsonl"),
    },
}


_IDS = ("question_id", "uid", "id")


def locate(benchmark: str, given: str | None) -> list[Baseline]:
    """The files of answers: `given`, or the owners'. Raises UserError where there are none."""
    setting = f"judge.baselines.{benchmark}"
    if given is not None:
        path = given_path(given, setting)
        if not path.is_file():
            raise UserError(f"{setting}={given}: there is no such file", "give a .json, .jsonl or .parquet file")
        return [Baseline(path)]
    owners = OWNERS.get(benchmark)
    if owners is None:
        raise UserError(f"{setting} names no file of answers", f"give one; {', '.join(OWNERS)} can do without")
    return [Baseline(from_owner(owner, setting), category) for category, owner in owners.items()]


def read(benchmark: str, given: str | None, questions: Mapping[str, Asked]) -> dict[str, Answer]:
    """An answer by question_id, for those of `questions` that have one. Raises UserError where none has."""
    setting = f"judge.baselines.{benchmark}"
    found: dict[str, Answer] = {}
    of_text = {question.text: name for name, question in questions.items()}
    for baseline in locate(benchmark, given):
        for row in read_rows(baseline.file, LeftOut()):
            asked = next((each for key in _IDS if (each := identifier(row.get(key))) is not None), None)
            name = asked if asked in questions else of_text.get(text(row, "instruction", "prompt") or "")
            answer = answer_of(row) or text(row, "output", "response")
            if name is None or answer is None or baseline.category not in (None, questions[name].category):
                continue
            answered = Answer(_author(row, baseline.file, setting), answer, tokens_of(row))
            if (first := found.setdefault(name, answered)).by != answered.by:
                raise UserError(
                    f"{setting}={baseline.file}: question {name} has answers by {first.by} and by {answered.by}",
                    "leave one baseline's answers in it: figures against several are nobody's",
                )
    if not found:
        raise UserError(
            f"{setting}={given}: none of its rows answers one of the {len(questions)} questions",
            "give answers to the questions that are asked: rows name them by question_id, or by their instruction",
        )
    return found


def _author(row: Row, file: Path, setting: str) -> str:
    name = text(row, "generator", "model", "model_id") or file.stem
    if name in ("base", "trained"):  # which are ours
        raise UserError(f"{setting}={file}: its answers are by {name!r}", "give their author another name")
    return name


def rows(benchmark: str, answers: Mapping[str, Answer]) -> Sequence[Row]:
    """Rows of tables.BASELINES."""
    return [
        {
            "benchmark": benchmark,
            "question_id": name,
            "name": answer.by,
            "response": answer.text,
            "tokens": answer.tokens,
        }
        for name, answer in answers.items()
    ]
