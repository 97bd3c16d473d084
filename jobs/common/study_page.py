"""What the page of a study shows, gathered from its cells' manifests and tables; see jobs/study.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.common.judged_answers import win_rate
from jobs.common.provenance import provenance_lines
from jobs.common.saying import shown
from jobs.common.stage import Work
from pipeline.line.study import Cell, Grid
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.objectives.presets import Preset
    from pipeline.report import study as page
    from pipeline.report.study import StudyData
    from pipeline.results.artifacts import Artifact
    from pipeline.statistics import Interval


def study_data(grid: Grid, work: Work) -> StudyData:
    from pipeline.objectives.presets import resolve
    from pipeline.report.study import StudyData

    cells = [cell_figures(cell, work) for cell, _ in grid.cells]
    first, last = grid.study.seeds[0], max(grid.study.flip_fractions)
    shown_cells = [cell for cell, _ in grid.cells if (cell.seed, cell.flip_fraction) == (first, last)]
    presets = {
        cell.method: resolve(cell.config.objective.name, cell.config.objective.parameters)[0] for cell in shown_cells
    }
    train = work.inputs[f"{shown_cells[0].name}:train"].manifest
    judged = rules_of(shown_cells[0], work)
    return StudyData(
        title=grid.config.name,
        config={
            "study": grid.study.model_dump(mode="json"),
            **grid.config.model_dump(mode="json", exclude={"resources"}),
        },
        provenance=provenance_lines(train["provenance"]),
        cells=cells,
        pooled=pooled_rates(grid, work) if judged else {},
        held_out_pairs=sorted({held_out(cell, work)["pairs"] for cell, _ in grid.cells}),
        own_pairs=len(grid.prepared) > 1,
        questions=judged["base"]["prompts"] if judged else None,
        pairs={cell.method: pulled(cell, work) for cell in shown_cells},
        adaptive=[name for name, preset in presets.items() if preset.gamma],
        favours={cell.method: favoured(cell, presets[cell.method]) for cell in shown_cells},
        seconds=sum(cell.seconds for cell in cells),
    )


def favoured(cell: Cell, preset: Preset) -> str:
    """Easy or hard pairs, or neither: by what the schedule leaves to the preference loss, else by the loss itself."""
    schedule = cell.config.schedule
    if schedule.sft_percentile or schedule.sft_below is not None:
        return "easy"
    if schedule.drop_percentile:
        return "easy" if schedule.drop == "hardest" else "hard"
    return preset.favours


def rules_of(cell: Cell, work: Work) -> dict[str, Any] | None:
    """A cell's figures of the embedded tasks; None where it is not judged, or not by them."""
    judged = work.inputs.get(f"{cell.name}:judge")
    figures = judged.manifest["metrics"] if judged else {}
    return figures if EMBEDDED in figures.get("benchmarks", {}) else None


def held_out(cell: Cell, work: Work) -> dict[str, Any]:
    found: dict[str, Any] = work.inputs[f"{cell.name}:train"].manifest["metrics"]["held_out"]
    return found


def cell_figures(cell: Cell, work: Work) -> page.Cell:
    from pipeline.report import study as page
    from pipeline.statistics import Interval, wilson

    train, judged, found = work.inputs[f"{cell.name}:train"], rules_of(cell, work), held_out(cell, work)
    before, after = found.get("before"), found["after"]

    def change(side: str) -> float | None:
        return after[side] - before[side] if before else None

    answers: dict[str, Any] = {}
    if judged:
        answers["win_rate"] = win_rate(judged)
        answers["share_met"] = Interval(**judged["trained"]["share_met"])
    return page.Cell(
        cell.method,
        cell.flip_fraction,
        cell.seed,
        accuracy=wilson(after["accuracy"], found["pairs"]),
        gap=after["gap"],
        chosen_change=change("chosen_logps"),
        rejected_change=change("rejected_logps"),
        pairs=train.manifest["outputs"]["trained_pairs.parquet"]["rows"],
        seconds=train.manifest["seconds"],
        address=shown(train.path),
        **answers,
    )


def pooled_rates(grid: Grid, work: Work) -> dict[tuple[str, float], Interval]:
    """The win rate of a method at a flip fraction over its seeds: questions are resampled, each with all its seeds."""
    from pipeline.statistics import bootstrap_mean

    won: dict[
        tuple[str, float], dict[str, list[float]]
    ] = {}  # by method and flips: each question's points, a seed each
    for cell, _ in grid.cells:
        found = won.setdefault((cell.method, cell.flip_fraction), {})
        for question, point in points_of(work.inputs[f"{cell.name}:judge"]).items():
            found.setdefault(question, []).append(point)
    judge = grid.config.judge
    return {
        key: bootstrap_mean([sum(each) / len(each) for each in found.values()], judge.resamples, judge.seed)
        for key, found in won.items()
    }


def points_of(judged: Artifact) -> dict[str, float]:
    """What each question counts for the trained model over the base model, by the rules: 1, a half or 0."""
    from pipeline.results import tables
    from pipeline.statistics import points

    scores: dict[str, dict[str, float]] = {"trained": {}, "base": {}}
    for row in tables.read(judged.path, tables.VERDICTS).to_pylist():
        scores[row["model"]][row["question_id"]] = row["score"]
    theirs = [scores["base"][question] for question in scores["trained"]]
    return dict(zip(scores["trained"], points(list(scores["trained"].values()), theirs), strict=True))


def pulled(cell: Cell, work: Work) -> pa.Table:
    """The trained preference pairs of a cell, as they are drawn."""
    import pyarrow.compute as pc

    from pipeline.report.data import DRAWN
    from pipeline.results import tables

    folder = work.inputs[f"{cell.name}:train"].path
    rows = tables.read(folder, tables.TRAINED_PAIRS, DRAWN, "trained_pairs.parquet")
    return rows.filter(pc.is_valid(rows["gap"]))
