"""Write the page of a run, report.html: python -m jobs.report --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.own_answers import own_answers
from jobs.common.stage import Outcome, Work, main
from jobs.judge import MODELS, Which, first_samples
from pipeline.results import tables
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from pipeline.report import data
    from pipeline.results.artifacts import Artifact
    from pipeline.statistics import WinRate

Rows = list[dict[str, Any]]
OPENED: dict[str, tuple[str, ...]] = {"bridge": (), "reference": (), "weigh": (), "train": ("*.parquet",)}
OPENED |= dict.fromkeys(("sample", "rate", "pair", "prepare", "features"), ("part-*.parquet",))


def run(work: Work) -> Outcome:
    """One self-contained HTML page from the manifests and tables of every stage before."""
    from pipeline.objectives.presets import resolve
    from pipeline.onpolicy.describing import warnings
    from pipeline.report import data
    from pipeline.report.page import render
    from pipeline.results.files import write_aside

    config, train = work.config, work.inputs["train"]
    _, parameters = resolve(config.objective.name, config.objective.parameters)
    ledger = ledgers(work)
    told = said(work)
    judged = judgements(work, *told)
    shown, not_shown = samples(work, *told)
    sampled = own_answers(work)
    page = data.ReportData(
        title=config.name,
        config_name=config.name,
        config=config.model_dump(mode="json", exclude={"resources"}),
        provenance=provenance_lines(train.manifest["provenance"]),
        objective=data.Objective(config.objective.name, parameters),
        stages=[stage_run(work, role) for role in work.step.inputs],
        sampled=sampled,
        ledger=ledger,
        scheduled=scheduled(work),
        steps=tables.read(train.path, tables.STEPS, pattern="steps.parquet"),
        trained_pairs=tables.read(train.path, tables.TRAINED_PAIRS, data.DRAWN, "trained_pairs.parquet"),
        reliability=optional(train.path, "reliability.parquet", tables.RELIABILITY),
        dictionary=dictionary(work),
        streams=optional(train.path, "streams.parquet", tables.STREAMS),
        held_out=held_out(train.manifest["metrics"]["held_out"]),
        ranked=[ranked(Path(name).expanduser()) for name in config.report.ranked],
        elsewhere=elsewhere(config.report.lm_eval),
        benchmark=benchmark(work, judged.get(EMBEDDED)),
        asked=asked(work, judged),
        samples=shown,
        not_shown=not_shown,
        notes=[*notes(work), *(warnings(sampled) if sampled else ())],
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
        made["metrics"].get("notes", ()),
    )


def provenance_lines(provenance: dict[str, Any]) -> dict[str, str]:
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    host = ", ".join(f"{name} {fact}" for name, fact in provenance["host"].items())
    return {"commit": provenance["commit"] or "unknown", "versions": versions, "host": host}


def lines(work: Work, stage: str) -> list[Artifact]:
    """A stage's results, of the configuration's own line and of each stream's."""
    return [work.inputs[stage], *(work.inputs[f"{name}/{stage}"] for name in work.config.streams)]


def ledgers(work: Work) -> data.Ledger:
    """Of all lines together."""
    from pipeline.report.data import Ledger

    found = [each.manifest["ledger"] for each in lines(work, "prepare")]
    dropped = sum((Counter(each["dropped"]) for each in found), Counter[str]())
    return Ledger(sum(each["read"] for each in found), sum(each["kept"] for each in found), dict(dropped))


def scheduled(work: Work) -> data.Scheduled:
    from pipeline.report.scheduled import described

    positions, scores = ["pair_id", "route", "flipped"], ["pair_id", "chosen_score", "rejected_score"]
    schedules = (tables.read(each.path, tables.SCHEDULE, positions) for each in lines(work, "schedule"))
    pairs = (tables.read(each.path, tables.PAIRS, scores) for each in lines(work, "prepare"))
    return described([*zip(schedules, pairs, strict=True)])


def dictionary(work: Work) -> pa.Table | None:
    """How an autoencoder was trained, where one was."""
    trained = work.inputs.get("features")
    return tables.read(trained.path, tables.DICTIONARY) if trained else None


def optional(folder: Path, name: str, schema: pa.Schema) -> pa.Table | None:
    """A table that not every training has."""
    return tables.read(folder, schema, pattern=name) if (folder / name).exists() else None


def held_out(figures: dict[str, Any]) -> data.HeldOut | None:
    from pipeline.report.data import HeldOut, HeldOutState

    if not figures:
        return None
    before = HeldOutState(**figures["before"]) if "before" in figures else None
    return HeldOut(figures["pairs"], before, HeldOutState(**figures["after"]))


def ranked(file: Path) -> data.Ranked:
    """What jobs.rank wrote, in the page's own records."""
    from pipeline.evaluation.ranking import remarks
    from pipeline.report.data import Ranked, RankedGroup
    from pipeline.statistics import Interval

    found = json.loads(file.read_text(encoding="utf-8"))
    groups = [found["all"], *found["sections"], *found["subsets"]]
    if "held_out" in found:
        groups.append({**found["held_out"], "name": "held-out pairs of the run"})
    shown = [
        RankedGroup(group["name"], group["pairs"], [Interval(**each) for each in group["accuracy"].values()])
        for group in groups
    ]
    return Ranked(found["data"], list(found["all"]["accuracy"]), found["own_measure"], shown, remarks(found))


def elsewhere(given: str | None) -> data.Elsewhere | None:
    """What lm-evaluation-harness wrote of both models."""
    from pipeline.evaluation import harness
    from pipeline.report.data import MODELS, Elsewhere

    if given is None:
        return None
    found = {model: harness.read(harness.newest(Path(given).expanduser() / model)) for model in MODELS}
    rows = harness.compare(found["base"], found["trained"])
    return Elsewhere(rows, {model: one.model for model, one in found.items()})


def benchmark(work: Work, judged: data.Judged | None) -> data.Benchmark | None:
    """The figures of the embedded tasks, in the page's own records; None where they were not asked."""
    from pipeline.evaluation.profile import Profile
    from pipeline.report import data
    from pipeline.statistics import Interval

    figures = work.inputs["judge"].manifest["metrics"]
    if EMBEDDED not in figures["benchmarks"]:
        return None

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
        judged=judged,
    )


def asked(work: Work, judged: Mapping[str, data.Judged]) -> list[data.Asked]:
    """The other benchmarks, in the order in which they were asked."""
    from pipeline.evaluation.benchmarks.questions import LICENCES
    from pipeline.evaluation.profile import Profile
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
                judged=judged.get(name),
            )
        )
    return found


def judgements(work: Work, games: Rows, ratings: Rows, baselines: Rows) -> dict[str, data.Judged]:
    """What a judge model said, by benchmark; of those that it did not judge, nothing."""
    from pipeline.report import judging

    settings = work.config.judge
    answers = {model: responses(work, model) for model in MODELS}
    played, rated, others = (by_benchmark(rows) for rows in (games, ratings, baselines))
    found = {}
    for name, figures in work.inputs["judge"].manifest["metrics"]["benchmarks"].items():
        if "judged" in figures:
            theirs = judging.Asked.of({model: answers[model][name] for model in MODELS}, others.get(name, []))
            rows = played.get(name, []), rated.get(name, [])
            found[name] = judging.judged(figures["judged"], theirs, *rows, settings.resamples, settings.seed)
    return found


def said(work: Work) -> tuple[Rows, Rows, Rows]:
    """Rows of the games, of the ratings, and of the baselines' answers; none where there were none."""
    import pyarrow.parquet as pq

    baselines = work.inputs["judge"].path / "baselines.parquet"
    return (
        verdicts(work, tables.GAMES, "games.parquet"),
        verdicts(work, tables.RATINGS, "ratings.parquet"),
        pq.read_table(baselines).to_pylist() if baselines.exists() else [],
    )


def by_benchmark(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["benchmark"], []).append(row)
    return found


def win_rate(figures: dict[str, Any]) -> WinRate:
    """The comparison of both models, as the judge's manifest has it."""
    from pipeline.statistics import Interval, WinRate

    compared = figures["comparison"]
    return WinRate(**{**compared, "rate": Interval(**compared["rate"])})


def kind_counts(work: Work) -> dict[str, int]:
    rows = responses(work, "base").get(EMBEDDED, [])
    return Counter(constraint["kind"] for row in rows for constraint in json.loads(row["meta"])["constraints"])


def responses(work: Work, model: Which) -> dict[str, Rows]:
    """A model's answers by benchmark, as the judge saw them."""
    return first_samples(work.inputs[f"generate_{model}"])


def samples(work: Work, games: Rows, ratings: Rows, baselines: Rows) -> tuple[list[data.Sample], int]:
    """The first answers to each benchmark, whatever they show, and how many there are beyond them."""
    from pipeline.report.data import Rule
    from pipeline.report.samples import laid_out

    rules = {
        (row["model"], row["question_id"]): [Rule(rule["wording"], rule["met"]) for rule in json.loads(row["detail"])]
        for row in verdicts(work, tables.VERDICTS, "part-*.parquet")
    }
    base, trained = (responses(work, model) for model in MODELS)
    most = work.config.report.samples
    first = {name: list(zip(rows, trained[name], strict=True))[:most] for name, rows in base.items()}
    beyond = sum(max(0, len(rows) - most) for rows in base.values())
    return laid_out(first, rules, games, ratings, baselines), beyond


def verdicts(work: Work, schema: pa.Schema, pattern: str) -> Rows:
    return tables.read(work.inputs["judge"].path, schema, pattern=pattern).to_pylist()


def notes(work: Work) -> list[str]:
    """What a reader of the figures must know."""
    from pipeline.evaluation.profile import Profile, warnings

    figures = work.inputs["judge"].manifest["metrics"]
    several = len(figures["benchmarks"]) > 1
    base, trained = (responses(work, model) for model in MODELS)
    found = []
    for name, own in figures["benchmarks"].items():
        told = [line for model in MODELS for line in warnings(model, Profile(**own[model]["profile"]))]
        for model in MODELS:
            if count := own[model]["no_room"]:
                turns = "turn" if count == 1 else "turns"
                told.append(f"{count} {turns} did not fit into the {model} model or its template: not asked or judged.")
        both = list(zip(base[name], trained[name], strict=True))
        alike = [row["response"] == after["response"] for row, after in both if answered(row) and answered(after)]
        if 2 * sum(alike) > len(alike):
            told.append(f"{sum(alike)} of {len(alike)} answers are the same before and after the training.")
        if "judged" in own:
            told += doubts(own["judged"])
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


def answered(row: dict[str, Any]) -> bool:
    return row["finish_reason"] not in tables.UNASKED


def doubts(judged: dict[str, Any]) -> list[str]:
    """What speaks against a judge's figures: verdicts that are not there or on nothing, and a bias for the place."""
    from pipeline.evaluation.profile import of_itself

    found = []
    for match in judged["matches"]:
        summary = match["summary"]
        if match["against"] not in MODELS:  # whose answers are looked at with or without a judge
            found += of_itself(match["model"], match["against"], summary["alike"], summary["games"])
        where = f" ({match['model']} against {match['against']})" if len(judged["matches"]) > 1 else ""
        if undecided := summary["unparsable"] + summary["missing"]:
            found.append(
                f"{undecided} of the judge's {summary['games']} verdicts{where} are missing or could not be read."
            )
        first = summary["first_shown"]
        if first is not None and abs(first - 50) > 10:
            found.append(f"The judge gave {first:.0f}% of the points to the answer that it saw first{where}.")
    for model, one in (judged["ratings"] or {"models": {}})["models"].items():
        if undecided := one["unparsable"] + one["missing"]:
            found.append(f"{undecided} of the {model} model's ratings are missing or could not be read.")
    return found


if __name__ == "__main__":
    main("report")
