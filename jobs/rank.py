"""Rank a set of pairs by the trained and the base model: python -m jobs.rank --config FILE --data SOURCE

How often a model's implicit reward is higher for the chosen side, by subset, beside the run's own held-out pairs.
RewardBench's columns are known: --data '{source: allenai/reward-bench, split: filtered}'.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.survival import may_restart, outlive
from jobs.common.check import recheck
from jobs.common.saying import doing, say, shown, tell
from jobs.common.stage import Outcome, Work, door, in_use, make, planned, reported
from jobs.reference import parts_of, scored
from pipeline.line.ranking import plan_ranking
from pipeline.line.steps import Plan
from pipeline.results.artifacts import Artifact

if TYPE_CHECKING:
    import pyarrow as pa

OPENED = {"train": ("model/*", "adapter/*")}
FIGURES = "ranking.json"
HELD_OUT = "held-out.parquet"  # as a part: the held-out pairs, and what they are scored


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.rank", "Rank pairs by the trained model's implicit reward, and by the base model.")
    help = "a source as data.source, or a section as data in braces; what it leaves out is as the run's own data"
    parser.add_argument("--data", metavar="SOURCE", required=True, help=help)
    parser.add_argument("--force", action="store_true", help="rank them again")
    parser.add_argument("--json", action="store_true", help="every figure, as JSON")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        outlive(say)
        plan = planned("rank", options.config, options.overrides)
        made = ranked(plan, options.data, options.force)
        figures = made.manifest["metrics"]["ranking"]
        for line in [json.dumps(figures, indent=2)] if options.json else table(figures):
            tell(line)
        say(f"rank: report.ranked={shown(made.path / FIGURES)} shows it in the report")


def ranked(plan: Plan, given: str, force: bool = False) -> Artifact:
    """The ranking of a pair set, made with what is missing before it. Raises UserError where nothing is trained yet."""
    pairs, step = plan_ranking(plan, given)
    for role in (role for role in step.inputs if role not in ("pairs", "base")):
        if step.inputs[role].address.find() is None:
            raise step.lacks(role)
    first = [pairs.steps[stage] for stage in ("prepare", "reference")]
    pending = [each for each in first if not each.address.find()]
    recheck([(pairs, pending)])
    may_restart(plan.config.resources.max_failures)
    with in_use(pairs) as held:
        for each in first:
            held.enter_context(make(pairs, each).held())
        return make(plan, step, force)


def run(work: Work) -> Outcome:
    """The trained model's log-probs of the pairs, and of the held-out ones, as parts; and the figures."""
    from pipeline.results import tables
    from pipeline.results.files import write_aside

    pairs = work.inputs["pairs"]
    held_out = of_split(work.inputs["run_pairs"].path, "dev")
    beside = work.folder / f"{HELD_OUT}.pairs"
    tables.write_tables([held_out], tables.PAIRS, beside)
    wanted = parts_of(pairs.path)
    parts = wanted | ({HELD_OUT: beside} if held_out.num_rows else {})
    outcome = scored(work, parts, trained=work.inputs["trained"].path)
    beside.unlink()
    doing("comparing")
    found = figures(work, held_out)
    write_aside(work.folder / FIGURES, json.dumps(found, indent=2) + "\n")
    return replace(outcome, metrics={**outcome.metrics, "ranking": found})


def of_split(folder: Path, split: str) -> pa.Table:
    """The pairs of a split."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.results import tables

    names = sorted(part.name for part in folder.glob("part-*.parquet"))
    parts = (tables.read(folder, tables.PAIRS, pattern=name) for name in names)  # one at a time: ids are large
    return pa.concat_tables(part.filter(pc.equal(part["split"], split)) for part in parts)


def figures(work: Work, held_out: pa.Table) -> dict[str, Any]:
    """Accuracies of all pairs and of the held-out ones, and what there is to say of them."""
    import pyarrow.compute as pc

    from pipeline.evaluation.ranking import MEASURES
    from pipeline.objectives.presets import resolve
    from pipeline.results import tables

    columns = ["pair_id", "prompt", "source"]
    pairs = tables.read(work.inputs["pairs"].path, tables.PAIRS, columns)
    trained_on = trained_ids([each.path for role, each in work.inputs.items() if role.startswith("run_pairs")])
    preset, _ = resolve(work.config.objective.name, work.config.objective.parameters)
    prepared = work.inputs["pairs"].manifest
    own = [measure for measure, reward in MEASURES.items() if reward == preset.reward]
    found = {
        "data": prepared["config"]["data"]["source"],
        "train": work.inputs["trained"].manifest["fingerprint"],
        "objective": work.config.objective.name,
        "own_measure": own[0] if own else None,
        "dropped": prepared["ledger"]["dropped"],
        "trained_on": pc.sum(pc.is_in(pairs["pair_id"], value_set=trained_on)).as_py(),
        **accuracies(work, pairs, "base", "part-*.parquet"),
    }
    if held_out.num_rows:
        found["held_out"] = accuracies(work, held_out.select(columns), "run_base", HELD_OUT)["all"]
    return found


def trained_ids(folders: Sequence[Path]) -> pa.ChunkedArray:
    """The ids of the pairs that were to be trained on, of all streams."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.results import tables

    table = pa.concat_tables(tables.read(folder, tables.PAIRS, ["pair_id", "split"]) for folder in folders)
    return table["pair_id"].filter(pc.equal(table["split"], "train"))


def accuracies(work: Work, pairs: pa.Table, base: str, pattern: str) -> dict[str, Any]:
    """The ranking of some pairs, as plain values; `base` has their log-probs under the base model."""
    from pipeline.evaluation.ranking import points, rank
    from pipeline.results import tables

    ids = pairs.select(["pair_id"])
    theirs = tables.joined(ids, tables.read(work.inputs[base].path, tables.REFERENCE))
    ours = tables.joined(ids, tables.read(work.folder, tables.REFERENCE, pattern=pattern))
    if not ours["tokens_digest"].equals(theirs["tokens_digest"]):
        raise ValueError("the two models were given other tokens")
    settings = work.config.judge
    found = rank(
        points(*({name: each[name].to_numpy() for name in each.column_names[2:]} for each in (ours, theirs))),
        pairs["source"].to_pylist(),
        pairs["prompt"].to_pylist(),
        settings.resamples,
        settings.seed,
    )
    plain: dict[str, Any] = asdict(found)
    return plain


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a terminal: accuracies in percent with their 95 % intervals."""
    from pipeline.evaluation.ranking import remarks

    own = found["own_measure"]
    yield f"{found['all']['pairs']:,} pairs of {found['data']}; percent ranked as labelled, with 95 % intervals"
    names = list(found["all"]["accuracy"])
    heads = [f"{name}{'*' * (name == own)}" for name in names]
    groups = [*found["subsets"], *found["sections"], found["all"]]
    if "held_out" in found:
        groups.append({**found["held_out"], "name": "held-out pairs of the run"})
    wide = max(len(group["name"]) for group in groups)
    yield f"{'':{wide}s} {'pairs':>7s} " + " ".join(f"{head:>19s}" for head in heads)
    for group in groups:
        cells = (interval(group["accuracy"][name]) for name in names)
        yield f"{group['name']:{wide}s} {group['pairs']:7,d} " + " ".join(f"{cell:>19s}" for cell in cells)
    yield from remarks(found)


def interval(found: Mapping[str, float]) -> str:
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f}-{high:.1f})"


if __name__ == "__main__":
    main()
