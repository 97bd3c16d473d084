"""What the page over rounds shows, gathered from the rounds' manifests and tables; see jobs/rounds.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.common.judged_answers import win_rate
from jobs.common.provenance import provenance_lines
from jobs.common.saying import shown
from jobs.common.stage import Work
from pipeline.line.rounds import Series
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.report.rounds import Reward, Round, RoundsData
    from pipeline.results.artifacts import Artifact
    from pipeline.statistics import Interval


def rounds_data(series: Series, work: Work) -> RoundsData:
    from pipeline.report.rounds import RoundsData

    rules = series.rounds.model_dump(mode="json")
    last = work.inputs[f"round-{series.rounds.count}:train"].manifest
    return RoundsData(
        title=series.config.name,
        config={"rounds": rules, **series.config.model_dump(mode="json", exclude={"resources"})},
        provenance=provenance_lines(last["provenance"]),
        rules=rules,
        rounds=[one_round(series, work, number) for number in range(1, series.rounds.count + 1)],
    )


def one_round(series: Series, work: Work, number: int) -> Round:
    from pipeline.report.rounds import Round
    from pipeline.results import tables

    made = {
        role.partition(":")[2]: artifact
        for role, artifact in work.inputs.items()
        if role.startswith(f"round-{number}:")
    }
    columns = ["chosen_id", "rejected_id", "chosen_tokens", "rejected_tokens"]
    selected = tables.read(made["pair"].path, tables.SELECTED, columns)
    sampled, paired = (made[name].manifest for name in ("sample", "pair"))
    joined = made["prepare"].manifest["ledger"].get("joined", ())
    return Round(
        number,
        "the base model" if number == 1 else f"the model of round {number - 1}",
        prompts=sampled["metrics"]["prompts"],
        answers=sampled["metrics"]["candidates"],
        tokens=sampled["metrics"]["mean_tokens"],
        cut=sampled["metrics"]["cut"] / max(1, sampled["metrics"].get("sampled", sampled["metrics"]["candidates"])),
        pairs=paired["ledger"]["pairs"],
        earlier=sum(each["kept"] for each in joined[1:]),
        paired=paired["ledger"]["paired"] / max(1, paired["ledger"]["prompts"]),
        rewards={label: reward(rater, selected) for label, rater in raters(made)},
        accuracy=accuracy(made["train"]),
        seconds=seconds(series, number),
        report=shown(made["report"].path / "report.html") if "report" in made else "",
        **lengths(selected),
        **(judged(made["judge"]) if "judge" in made else {}),
    )


def accuracy(trained: Artifact) -> Interval | None:
    from pipeline.statistics import wilson

    held_out = trained.manifest["metrics"]["held_out"]
    return wilson(held_out["after"]["accuracy"], held_out["pairs"]) if "after" in held_out else None


def seconds(series: Series, number: int) -> float:
    """What a round's own results took; those that a round before it has, too, are that one's."""
    *before, own = ([step.address for step in series.steps_of(plan)] for plan in series.planned[:number])
    shared = {address.path for each in before for address in each}
    found = [address.find() for address in own if address.path not in shared]
    return sum(artifact.manifest["seconds"] for artifact in found if artifact)


def raters(made: dict[str, Artifact]) -> list[tuple[str, Artifact]]:
    """By their labels in this round: what was made before may have had another."""
    return [(name.removeprefix("rate:"), artifact) for name, artifact in made.items() if name.startswith("rate:")]


def reward(rater: Artifact, selected: pa.Table) -> Reward:
    """The rater's mean scores: of all answers, and of those that are chosen or rejected in a pair."""
    import pyarrow.compute as pc

    from pipeline.report.rounds import Reward
    from pipeline.results import tables

    scores = tables.read(rater.path, tables.SCORES, ["candidate_id", "score"])

    def mean(column: str) -> float | None:
        among = pc.is_in(scores["candidate_id"], value_set=selected[column].combine_chunks())
        return pc.mean(scores.filter(among)["score"]).as_py()  # type: ignore[no-any-return]

    return Reward(rater.manifest["metrics"]["scores"]["mean"], mean("chosen_id"), mean("rejected_id"))


def lengths(selected: pa.Table) -> dict[str, Any]:
    import pyarrow.compute as pc

    from pipeline.onpolicy.describing import longer_wins

    sides = ("chosen_tokens", "rejected_tokens")
    return {side: pc.mean(selected[side]).as_py() for side in sides} | {"longer": longer_wins(selected)}


def judged(judge: Artifact) -> dict[str, Any]:
    """Win rates over the base model, by rules and by a judge, and what is known of the embedded tasks beside."""
    from pipeline.statistics import Interval

    figures = judge.manifest["metrics"]
    found: dict[str, Any] = {"judged": by_a_judge(figures["benchmarks"])}
    if EMBEDDED not in figures["benchmarks"]:
        return found
    met, tokens = Interval(**figures["trained"]["share_met"]), figures["trained"]["tokens"]
    return found | {"win_rate": win_rate(figures), "share_met": met, "answer_tokens": tokens}


def by_a_judge(benchmarks: dict[str, Any]) -> dict[str, Interval]:
    """Of each benchmark whose two answers a judge compared with each other: over a baseline is no win over the base."""
    from pipeline.statistics import Interval

    found = {}
    for name, figures in benchmarks.items():
        for match in figures.get("judged", {}).get("matches", ()):
            rate = match["summary"]["rate"]
            if (match["model"], match["against"]) == ("trained", "base") and rate:
                found[name] = Interval(*(rate[end] / 100 for end in ("value", "low", "high")))
    return found
