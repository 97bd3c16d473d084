"""Write the page of a run, report.html: python -m jobs.report --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jobs.judge import MODELS, Which
from jobs.stage import Outcome, Work, main

if TYPE_CHECKING:
    from pipeline.report import data
    from pipeline.statistics import WinRate


def run(work: Work) -> Outcome:
    """One self-contained HTML page from the manifests and tables of every stage before."""
    import pyarrow.parquet as pq

    from pipeline import tables
    from pipeline.artifacts import write_aside
    from pipeline.objectives.presets import resolve
    from pipeline.report import data
    from pipeline.report.page import render

    config, train = work.config, work.inputs["train"]
    _, parameters = resolve(config.objective.name, config.objective.parameters)
    ledger = work.inputs["prepare"].manifest["ledger"]
    page = data.ReportData(
        title=config.name,
        config_name=config.name,
        config=config.model_dump(mode="json", exclude={"resources"}),
        provenance=provenance_lines(train.manifest["provenance"]),
        objective=data.Objective(config.objective.name, parameters),
        stages=[stage_run(work, role) for role in work.step.inputs],
        ledger=data.Ledger(ledger["read"], ledger["kept"], ledger["dropped"]),
        scheduled=scheduled(work),
        steps=pq.read_table(train.path / "steps.parquet", schema=tables.STEPS).to_pylist(),
        trained_pairs=pq.read_table(train.path / "trained_pairs.parquet", schema=tables.TRAINED_PAIRS).to_pylist(),
        held_out=held_out(train.manifest["metrics"]["held_out"]),
        benchmark=benchmark(work),
        samples=samples(work),
        notes=notes(work),
    )
    write_aside(work.folder / "report.html", render(page))
    return Outcome({})


def stage_run(work: Work, role: str) -> data.StageRun:
    from pipeline.report.data import StageRun

    artifact, step = work.inputs[role], work.step.inputs[role]
    made = artifact.manifest
    return StageRun(
        step.name,
        step.address.label,
        step.address.fingerprint,
        str(artifact.path),
        made["seconds"],
        made["rows"],
        made["tokens"],
    )


def provenance_lines(provenance: dict[str, Any]) -> dict[str, str]:
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    host = ", ".join(f"{name} {fact}" for name, fact in provenance["host"].items())
    return {"commit": provenance["commit"] or "unknown", "versions": versions, "host": host}


def scheduled(work: Work) -> list[data.ScheduledPair]:
    from pipeline import tables
    from pipeline.report.data import ScheduledPair

    pairs = tables.read(
        work.inputs["prepare"].path, tables.PAIRS, ["pair_id", "chosen_score", "rejected_score"]
    ).to_pylist()
    margins = {
        row["pair_id"]: None if row["chosen_score"] is None else row["chosen_score"] - row["rejected_score"]
        for row in pairs
    }
    rows = tables.read(work.inputs["schedule"].path, tables.SCHEDULE, ["pair_id", "route", "flipped"]).to_pylist()
    return [ScheduledPair(margins[row["pair_id"]], row["route"], row["flipped"]) for row in rows]


def held_out(figures: dict[str, Any]) -> data.HeldOut | None:
    from pipeline.report.data import HeldOut, HeldOutState

    if not figures:
        return None
    before = HeldOutState(**figures["before"]) if "before" in figures else None
    return HeldOut(figures["pairs"], before, HeldOutState(**figures["after"]))


def benchmark(work: Work) -> data.Benchmark:
    """The judge's figures, in the page's own records."""
    from pipeline.evaluation.profile import Profile
    from pipeline.report import data
    from pipeline.statistics import Interval

    figures = work.inputs["judge"].manifest["metrics"]

    def model_score(model: Which) -> data.ModelScore:
        one = figures[model]
        return data.ModelScore(
            Interval(**one["share_met"]), Interval(**one["wholly_met"]), one["tokens"], Profile(**one["profile"])
        )

    counts = kind_counts(work)
    constant = {"empty answer": figures["empty"], "best constant answer": figures["constant"]}
    return data.Benchmark(
        name=f"{work.config.generate.benchmark}/{work.config.generate.split}",
        questions=figures["base"]["prompts"],
        models={model: model_score(model) for model in MODELS},
        comparison=win_rate(figures),
        baselines=[
            data.Baseline(name, one["text"], one["share_met"], one["wholly_met"]) for name, one in constant.items()
        ],
        kinds=[
            data.KindScore(kind, counts[kind], figures["base"]["kinds"][kind], figures["trained"]["kinds"][kind])
            for kind in sorted(counts)
        ],
        judge=judge_score(figures["games"]) if "games" in figures else None,
    )


def judge_score(games: dict[str, Any]) -> data.JudgeScore:
    """The games' figures, which are in percent, in the page's shares."""
    from pipeline.report.data import JudgeScore
    from pipeline.statistics import Interval

    rate, first = games["rate"], games["first_shown"]
    return JudgeScore(
        judge=games["judge"],
        wording=games["wording"],
        rate=Interval(*(rate[end] / 100 for end in ("value", "low", "high"))) if rate else None,
        questions=games["questions"],
        games=games["games"],
        unparsable=games["unparsable"],
        missing=games["missing"],
        first_shown=None if first is None else first / 100,
        tokens=games["prompt_tokens"] + games["completion_tokens"],
    )


def win_rate(figures: dict[str, Any]) -> WinRate:
    """The comparison of both models, as the judge's manifest has it."""
    from pipeline.statistics import Interval, WinRate

    compared = figures["comparison"]
    return WinRate(**{**compared, "rate": Interval(**compared["rate"])})


def kind_counts(work: Work) -> dict[str, int]:
    from collections import Counter

    rows = responses(work, "base")
    return Counter(constraint["kind"] for row in rows for constraint in json.loads(row["meta"])["constraints"])


def responses(work: Work, model: Which) -> list[dict[str, Any]]:
    from pipeline import tables

    return tables.read(work.inputs[f"generate_{model}"].path, tables.RESPONSES).to_pylist()


def samples(work: Work) -> list[data.Sample]:
    """Questions with both answers and what the rules said: the first of the benchmark, whatever they show."""
    from pipeline import tables
    from pipeline.report.data import Answer, Rule, Sample

    verdicts = tables.read(work.inputs["judge"].path, tables.VERDICTS).to_pylist()
    rules = {
        (row["model"], row["question_id"]): [Rule(rule["wording"], rule["met"]) for rule in json.loads(row["detail"])]
        for row in verdicts
    }
    answers: dict[str, dict[Which, Answer]] = {}
    questions: dict[str, str] = {}
    for model in MODELS:
        for row in responses(work, model):
            key = row["question_id"]
            questions[key] = json.loads(row["prompt"])[-1]["content"]
            answers.setdefault(key, {})[model] = Answer(row["response"], row["finish_reason"], rules[model, key])
    shown = list(questions)[: work.config.report.samples]
    return [Sample(questions[key], answers[key]) for key in shown]


def notes(work: Work) -> list[str]:
    """What a reader of the figures must know."""
    from pipeline.evaluation.profile import Profile, warnings

    figures = work.inputs["judge"].manifest["metrics"]
    found = []
    for model in MODELS:
        one = figures[model]
        found += warnings(model, Profile(**one["profile"]))
        if one["share_met"]["value"] <= figures["constant"]["share_met"]:
            found.append(f"The {model} model meets no more constraints than one constant answer does.")
    if games := figures.get("games"):
        if undecided := games["unparsable"] + games["missing"]:
            found.append(f"{undecided} of the judge's {games['games']} verdicts are missing or could not be read.")
        if games["first_shown"] is not None and abs(games["first_shown"] - 50) > 10:
            found.append(f"The judge gave {games['first_shown']:.0f}% of the points to the answer that it saw first.")
    if work.config.schedule.flip_fraction:
        found.append(f"{work.config.schedule.flip_fraction:.0%} of the training labels were flipped on purpose.")
    return found


if __name__ == "__main__":
    main("report")
