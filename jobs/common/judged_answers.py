"""What the report shows of both models' answers to the benchmarks, and of what rules and a judge made of them."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from jobs.common.contests import MODELS, Which, first_samples
from jobs.common.stage import Work
from pipeline.results import tables
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from pipeline.report import outcomes
    from pipeline.statistics import WinRate

Rows = list[dict[str, Any]]


def benchmark(work: Work, judged: outcomes.Judged | None) -> outcomes.Benchmark | None:
    """The figures of the embedded tasks, in the page's own records; None where they were not asked."""
    from pipeline.evaluation.profile import Profile
    from pipeline.report import outcomes
    from pipeline.statistics import Interval

    figures = work.inputs["judge"].manifest["metrics"]
    if EMBEDDED not in figures["benchmarks"]:
        return None

    def model_score(model: Which) -> outcomes.ModelScore:
        one = figures[model]
        return outcomes.ModelScore(
            Interval(**one["share_met"]), Interval(**one["wholly_met"]), one["tokens"], Profile(**one["profile"])
        )

    counts = kind_counts(work)
    constant = {"empty answer": figures["empty"], "best constant answer": figures["constant"]}
    return outcomes.Benchmark(
        name=f"{EMBEDDED}/{work.config.generate.split}",
        questions=figures["base"]["prompts"],
        models={model: model_score(model) for model in MODELS},
        comparison=win_rate(figures),
        baselines=[
            outcomes.Baseline(name, one["text"], one["share_met"], one["wholly_met"]) for name, one in constant.items()
        ],
        kinds=[
            outcomes.KindScore(kind, counts[kind], figures["base"]["kinds"][kind], figures["trained"]["kinds"][kind])
            for kind in sorted(counts)
        ],
        judged=judged,
    )


def asked(work: Work, judged: Mapping[str, outcomes.Judged]) -> list[outcomes.Asked]:
    """The other benchmarks, in the order in which they were asked."""
    from pipeline.evaluation.benchmarks.questions import LICENCES
    from pipeline.evaluation.profile import Profile
    from pipeline.report import outcomes

    found = []
    for name, figures in work.inputs["judge"].manifest["metrics"]["benchmarks"].items():
        if name == EMBEDDED:
            continue
        looks = {
            model: outcomes.Looks(one["tokens"], one["no_room"], Profile(**one["profile"]))
            for model, one in ((model, figures[model]) for model in MODELS)
        }
        found.append(
            outcomes.Asked(
                name=name,
                questions=figures["base"]["questions"],
                licence=LICENCES.get(name, ""),
                models=looks,
                judged=judged.get(name),
            )
        )
    return found


def judgements(work: Work, games: Rows, ratings: Rows, baselines: Rows) -> dict[str, outcomes.Judged]:
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


def samples(work: Work, games: Rows, ratings: Rows, baselines: Rows) -> tuple[list[outcomes.Sample], int]:
    """The first answers to each benchmark, whatever they show, and how many there are beyond them."""
    from pipeline.report.outcomes import Rule
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


def answered(row: dict[str, Any]) -> bool:
    return row["finish_reason"] not in tables.UNASKED


def verdicts(work: Work, schema: pa.Schema, pattern: str) -> Rows:
    return tables.read(work.inputs["judge"].path, schema, pattern=pattern).to_pylist()
