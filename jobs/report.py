"""Write the page of a run, report.html: python -m jobs.report --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jobs.judge import MODELS, Which, first_samples
from jobs.stage import Outcome, Work, main
from pipeline import tables
from pipeline.config import EMBEDDED

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.report import data
    from pipeline.statistics import WinRate


def run(work: Work) -> Outcome:
    """One self-contained HTML page from the manifests and tables of every stage before."""
    import pyarrow.parquet as pq

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
        asked=asked(work),
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


def benchmark(work: Work) -> data.Benchmark | None:
    """The figures of the embedded tasks, in the page's own records; None where they were not asked."""
    from pipeline.evaluation.profile import Profile
    from pipeline.report import data
    from pipeline.statistics import Interval

    figures = work.inputs["judge"].manifest["metrics"]
    if EMBEDDED not in figures["benchmarks"]:
        return None
    games = figures["benchmarks"][EMBEDDED].get("games")

    def model_score(model: Which) -> data.ModelScore:
        one = figures[model]
        return data.ModelScore(
            Interval(**one["share_met"]), Interval(**one["wholly_met"]), one["tokens"], Profile(**one["profile"])
        )

    counts = kind_counts(work)
    constant = {"empty answer": figures["empty"], "best constant answer": figures["constant"]}
    return data.Benchmark(
        name=f"{EMBEDDED}/{work.config.generate.split}",
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
        judge=judge_score(games) if games else None,
    )


def asked(work: Work) -> list[data.Asked]:
    """The other benchmarks, in the order in which they were asked."""
    from pipeline.evaluation.profile import Profile
    from pipeline.evaluation.questions import LICENCES
    from pipeline.report import data

    found = []
    for name, figures in work.inputs["judge"].manifest["metrics"]["benchmarks"].items():
        if name == EMBEDDED:
            continue
        looks = {
            model: data.Looks(one["tokens"], one["no_room"], Profile(**one["profile"]))
            for model, one in ((model, figures[model]) for model in MODELS)
        }
        found.append(
            data.Asked(
                name=name,
                questions=figures["base"]["questions"],
                licence=LICENCES.get(name, ""),
                models=looks,
                judge=judge_score(figures["games"]) if "games" in figures else None,
                ratings=rating(figures["ratings"]) if "ratings" in figures else None,
            )
        )
    return found


def rating(figures: dict[str, Any]) -> data.Ratings:
    from pipeline.report.data import ModelRating, Ratings
    from pipeline.statistics import Interval

    def interval(found: dict[str, float] | None) -> Interval | None:
        return Interval(**found) if found else None

    return Ratings(
        judge=figures["judge"],
        wording=figures["wording"],
        models={
            model: ModelRating(
                interval(one["overall"]), one["turns"], one["categories"], one["unparsable"], one["missing"]
            )
            for model, one in ((model, figures["models"][model]) for model in MODELS)
        },
        difference=interval(figures["difference"]),
        tokens=figures["prompt_tokens"] + figures["completion_tokens"],
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

    rows = responses(work, "base").get(EMBEDDED, [])
    return Counter(constraint["kind"] for row in rows for constraint in json.loads(row["meta"])["constraints"])


def responses(work: Work, model: Which) -> dict[str, list[dict[str, Any]]]:
    """A model's answers by benchmark, as the judge saw them."""
    return first_samples(work.inputs[f"generate_{model}"])


def samples(work: Work) -> list[data.Sample]:
    """Questions with both answers, and what rules and judge said: the first of each benchmark, whatever they show."""
    from pipeline.report.data import Answer, Rule, Sample

    rules = {
        (row["model"], row["question_id"]): [Rule(rule["wording"], rule["met"]) for rule in json.loads(row["detail"])]
        for row in verdicts(work, tables.VERDICTS, "part-*.parquet")
    }
    said: dict[tuple[str, str], list[str]] = {}
    points: dict[tuple[str, str], list[float | None]] = {}
    for row in verdicts(work, tables.GAMES, "games.parquet"):
        place = "first" if row["ours_first"] else "second"
        said.setdefault((row["benchmark"], row["question_id"]), []).append(
            f"Trained answer shown {place}: {row['judgment'] or row['outcome']}"
        )
        points.setdefault((row["benchmark"], row["question_id"]), []).append(row["points"])
    for row in verdicts(work, tables.RATINGS, "ratings.parquet"):
        words = f"{row['model']}, turn {row['turn']}: {row['judgment']}"
        said.setdefault((row["benchmark"], row["question_id"]), []).append(words)
    base_answers, trained_answers = (responses(work, model) for model in MODELS)
    found = []
    for name, rows in base_answers.items():
        both = list(zip(rows, trained_answers[name], strict=True))
        for number, (base, trained) in enumerate(both[: work.config.report.samples]):
            key = name, base["question_id"]
            again = number and both[number - 1][0]["question_id"] == base["question_id"]  # a later turn
            decided = [each for each in points.get(key, []) if each is not None]
            whole = decided and len(decided) == len(points[key])
            found.append(
                Sample(
                    json.loads(base["prompt"])[-1]["content"],
                    {
                        model: Answer(row["response"], row["finish_reason"], rules.get((model, key[1]), []))
                        for model, row in zip(MODELS, (base, trained), strict=True)
                    },
                    points=sum(decided) / len(decided) if whole else None,
                    benchmark=name,
                    judgments=[] if again else said.get(key, []),
                )
            )
    return found


def verdicts(work: Work, schema: pa.Schema, pattern: str) -> list[dict[str, Any]]:
    return tables.read(work.inputs["judge"].path, schema, pattern=pattern).to_pylist()


def notes(work: Work) -> list[str]:
    """What a reader of the figures must know."""
    from pipeline.evaluation.profile import Profile, warnings

    figures = work.inputs["judge"].manifest["metrics"]
    several = len(figures["benchmarks"]) > 1
    found = []
    for name, own in figures["benchmarks"].items():
        told = [line for model in MODELS for line in warnings(model, Profile(**own[model]["profile"]))]
        for model in MODELS:
            if count := own[model]["no_room"]:
                turns = "turn" if count == 1 else "turns"
                told.append(f"{count} {turns} did not fit into the {model} model: not asked, and not judged.")
        if games := own.get("games"):
            if undecided := games["unparsable"] + games["missing"]:
                told.append(f"{undecided} of the judge's {games['games']} verdicts are missing or could not be read.")
            if games["first_shown"] is not None and abs(games["first_shown"] - 50) > 10:
                told.append(
                    f"The judge gave {games['first_shown']:.0f}% of the points to the answer that it saw first."
                )
        for model, one in own.get("ratings", {}).get("models", {}).items():
            if undecided := one["unparsable"] + one["missing"]:
                told.append(f"{undecided} of the {model} model's ratings are missing or could not be read.")
        found += [f"{name}: {line}" for line in told] if several else told
    for model in MODELS:
        if EMBEDDED in figures["benchmarks"] and (
            figures[model]["share_met"]["value"] <= figures["constant"]["share_met"]
        ):
            found.append(f"The {model} model meets no more constraints than one constant answer does.")
    if work.config.generate.samples > 1:
        found.append(f"Of {work.config.generate.samples} answers to each question the first is judged.")
    if work.config.schedule.flip_fraction:
        found.append(f"{work.config.schedule.flip_fraction:.0%} of the training labels were flipped on purpose.")
    return found


if __name__ == "__main__":
    main("report")
