"""Put both models' answers to the rules and compare them: python -m jobs.judge --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from jobs.stage import Outcome, Work, main

if TYPE_CHECKING:
    from pipeline.evaluation.verifiable import Judged
    from pipeline.preferences.verifiable import Question

Which = Literal["base", "trained"]
MODELS: tuple[Which, ...] = ("base", "trained")


def run(work: Work) -> Outcome:
    """Verdicts as a table, and the benchmark's figures in the manifest."""
    from pipeline import tables
    from pipeline.evaluation.verifiable import baselines, compare, judge, summarise

    settings = work.config.judge
    verdicts: list[dict[str, Any]] = []
    judged: dict[str, list[Judged]] = {model: [] for model in MODELS}
    asked: dict[str, Question] = {}
    for model in MODELS:
        for row in tables.read(work.inputs[model].path, tables.RESPONSES).to_pylist():
            question = asked[row["question_id"]] = question_of(row)
            verdict = judge(question, row["response"], row["tokens"], row["finish_reason"])
            judged[model].append(verdict)
            detail = [
                {"kind": kind, "wording": wording, "met": met}
                for kind, wording, met in zip(verdict.kinds, question.wordings, verdict.met, strict=True)
            ]
            named = {"question_id": row["question_id"], "model": model, "score": verdict.share}
            verdicts.append({**named, "detail": json.dumps(detail)})
    tables.write(verdicts, tables.VERDICTS, work.folder / "part-00000.parquet")
    answers = {verdict.text for model in MODELS for verdict in judged[model]}
    empty, constant = baselines(list(asked.values()), answers)
    metrics: dict[str, Any] = {
        **{model: asdict(summarise(judged[model], settings.resamples, settings.seed)) for model in MODELS},
        "comparison": asdict(compare(judged["trained"], judged["base"], settings.resamples, settings.seed)),
        "empty": asdict(empty),
        "constant": asdict(constant),
    }
    return Outcome({"part-00000.parquet": len(verdicts)}, metrics=metrics)


def question_of(row: dict[str, Any]) -> Question:
    """The question that a row of tables.RESPONSES answers."""
    from pipeline.preferences.verifiable import Question

    return Question.restore(row["question_id"], json.loads(row["prompt"]), json.loads(row["meta"]))


if __name__ == "__main__":
    main("judge")
