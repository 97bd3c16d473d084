"""Write the page of a run, report.html: python -m jobs.report --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.judged_answers import asked, benchmark, judgements, notes, said, samples
from jobs.common.own_answers import own_answers
from jobs.common.provenance import provenance_lines
from jobs.common.stage import Outcome, Work, main
from pipeline.results import tables
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.report import data
    from pipeline.results.artifacts import Artifact

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
    from pipeline.report.data import Elsewhere
    from pipeline.report.outcomes import MODELS

    if given is None:
        return None
    found = {model: harness.read(harness.newest(Path(given).expanduser() / model)) for model in MODELS}
    rows = harness.compare(found["base"], found["trained"])
    return Elsewhere(rows, {model: one.model for model, one in found.items()})


if __name__ == "__main__":
    main("report")
