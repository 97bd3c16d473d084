"""Judge both models' answers and compare them: python -m jobs.judge --config FILE [section.key=value ...]

The embedded tasks are decided by rules. A model that judges (judge.model at an endpoint, or judge.local here) compares
both models' answers to every benchmark with each other or with a baseline's, in the benchmark's own way, and rates
those of conversations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs.common.ask_judge import judge_of
from jobs.common.contests import MODELS, Answers, Row, first_samples, put_to
from jobs.common.stage import Outcome, Work, main
from pipeline.settings.evaluation import Judge
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    from pipeline.preferences.verifiable import Question


def run(work: Work) -> Outcome:
    """Verdicts as tables, and the benchmarks' figures in the manifest: the rules' on top, then `benchmarks`."""
    from pipeline.results import tables

    judge = judge_of(work)  # before any work: it may be none that can be asked
    answers: Answers = {model: first_samples(work.inputs[model]) for model in MODELS}
    verdicts, metrics = rules([answers[model].get(EMBEDDED, []) for model in MODELS], work.config.judge)
    parts = {"part-00000.parquet": tables.write(verdicts, tables.VERDICTS, work.folder / "part-00000.parquet")}
    metrics["benchmarks"] = {name: {model: looks(answers[model][name]) for model in MODELS} for name in answers["base"]}
    if judge is not None:
        parts |= put_to(judge, work, answers, metrics["benchmarks"])
    return Outcome(parts, metrics=metrics)


def looks(rows: Sequence[Row]) -> dict[str, Any]:
    """What one model's answers to a benchmark look like, before anyone judges them."""
    from pipeline.evaluation.profile import profile
    from pipeline.results import tables

    reasons = [row["finish_reason"] for row in rows]
    return {
        "questions": len({row["question_id"] for row in rows}),
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        "no_room": sum(map(reasons.count, tables.UNASKED)),
        "profile": asdict(profile([row["response"] for row in rows], reasons.count("length"))),
    }


def rules(answers: Sequence[Sequence[Row]], settings: Judge) -> tuple[list[Row], dict[str, Any]]:
    """Rows of tables.VERDICTS and figures of the embedded tasks, from both MODELS' rows; nothing without any."""
    from pipeline.evaluation.benchmarks.verifiable import Judged, baselines, compare, judge, summarise

    verdicts: list[Row] = []
    judged: dict[str, list[Judged]] = {model: [] for model in MODELS}
    asked: dict[str, Question] = {}
    for model, rows in zip(MODELS, answers, strict=True):
        for row in rows:
            question = asked[row["question_id"]] = question_of(row)
            verdict = judge(question, row["response"], row["tokens"], row["finish_reason"])
            judged[model].append(verdict)
            detail = [
                {"kind": kind, "wording": wording, "met": met}
                for kind, wording, met in zip(verdict.kinds, question.wordings, verdict.met, strict=True)
            ]
            named = {"question_id": row["question_id"], "model": model, "score": verdict.share}
            verdicts.append({**named, "detail": json.dumps(detail)})
    if not asked:
        return [], {}
    texts = {verdict.text for model in MODELS for verdict in judged[model]}
    empty, constant = baselines(list(asked.values()), texts)
    return verdicts, {
        **{model: asdict(summarise(judged[model], settings.resamples, settings.seed)) for model in MODELS},
        "comparison": asdict(compare(judged["trained"], judged["base"], settings.resamples, settings.seed)),
        "empty": asdict(empty),
        "constant": asdict(constant),
    }


def question_of(row: dict[str, Any]) -> Question:
    """The question that a row of tables.RESPONSES answers."""
    from pipeline.preferences.verifiable import Question

    return Question.restore(row["question_id"], json.loads(row["prompt"]), json.loads(row["meta"]))


if __name__ == "__main__":
    main("judge")
