"""Judge both models' answers and compare them: python -m jobs.judge --config FILE [section.key=value ...]

The embedded tasks are decided by rules. Where judge.model names a model, it compares both models' answers to every
benchmark; answers of several turns, as MT-Bench's, it rates one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from jobs.stage import Outcome, Work, main
from pipeline.config import EMBEDDED, Judge

if TYPE_CHECKING:
    from pipeline.artifacts import Artifact
    from pipeline.preferences.verifiable import Question

Which = Literal["base", "trained"]
MODELS: tuple[Which, ...] = ("base", "trained")
Row = dict[str, Any]


def run(work: Work) -> Outcome:
    """Verdicts as tables, and the benchmarks' figures in the manifest: the rules' on top, then `benchmarks`."""
    from pipeline import tables

    settings, folder, judge = work.config.judge, work.folder, None
    if settings.model is not None:
        from jobs.ask_judge import ModelJudge

        judge = ModelJudge(work)  # before any work: it may be none that can be asked
    base, trained = (first_samples(work.inputs[model]) for model in MODELS)
    verdicts, metrics = rules([each.get(EMBEDDED, []) for each in (base, trained)], settings)
    parts = {"part-00000.parquet": tables.write(verdicts, tables.VERDICTS, folder / "part-00000.parquet")}
    metrics["benchmarks"] = {}
    games: list[Row] = []
    ratings: list[Row] = []
    for benchmark, theirs in base.items():
        ours = trained[benchmark]
        figures = metrics["benchmarks"][benchmark] = {"base": looks(theirs), "trained": looks(ours)}
        if judge is None:
            continue
        # What a model was not asked is no bad answer, and nothing that a judge could compare.
        ours, theirs = ([row for row in rows if row["finish_reason"] != "no-room"] for rows in (ours, theirs))
        if any(row["turn"] > 1 for row in theirs):
            rows, figures["ratings"] = judge.rate(benchmark, {"base": theirs, "trained": ours})
            ratings += rows
        else:
            texts, other = ({row["question_id"]: row["response"] for row in rows} for rows in (ours, theirs))
            asked = {
                row["question_id"]: as_text(json.loads(row["prompt"])) for row in theirs if row["question_id"] in texts
            }
            rows, figures["games"] = judge.compare(benchmark, asked, texts, other)
            games += rows
    if games:
        parts["games.parquet"] = tables.write(games, tables.GAMES, folder / "games.parquet")
    if ratings:
        parts["ratings.parquet"] = tables.write(ratings, tables.RATINGS, folder / "ratings.parquet")
    return Outcome(parts, metrics=metrics)


def first_samples(responses: Artifact) -> dict[str, list[Row]]:
    """A model's answers by benchmark, in order: where there are several to a question, the first of them."""
    from pipeline import tables

    answers: dict[str, list[Row]] = {}
    for row in tables.read(responses.path, tables.RESPONSES).to_pylist():
        if row["sample"] == 0:
            answers.setdefault(row["benchmark"], []).append(row)
    return answers


def as_text(messages: Sequence[Row]) -> str:
    """What was asked, as one text: with the messages before the question, where there are any."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def looks(rows: Sequence[Row]) -> dict[str, Any]:
    """What one model's answers to a benchmark look like, before anyone judges them."""
    from pipeline.evaluation.profile import profile

    reasons = [row["finish_reason"] for row in rows]
    return {
        "questions": len({row["question_id"] for row in rows}),
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        "no_room": reasons.count("no-room"),
        "profile": asdict(profile([row["response"] for row in rows], reasons.count("length"))),
    }


def rules(answers: Sequence[Sequence[Row]], settings: Judge) -> tuple[list[Row], dict[str, Any]]:
    """Rows of tables.VERDICTS and figures of the embedded tasks, from both MODELS' rows; nothing without any."""
    from pipeline.evaluation.verifiable import Judged, baselines, compare, judge, summarise

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
