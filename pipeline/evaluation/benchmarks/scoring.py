"""A file of verdicts by its benchmark's name: its scores, and what makes them doubtful."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.benchmarks import alpaca_eval, arena_hard, mt_bench
from pipeline.evaluation.benchmarks.annotations import ALL, Judged, Wanted
from pipeline.evaluation.benchmarks.arena_battles import ARENA, Battle, read_battles
from pipeline.evaluation.benchmarks.arena_style import Answers, styles_of
from pipeline.evaluation.benchmarks.length_control import PACKAGED, read_coefficients
from pipeline.evaluation.profile import of_itself, profile, warnings

Points = Mapping[str, Mapping[Hashable, float]]  # by model, and by question
Score = alpaca_eval.Score | arena_hard.Score | mt_bench.Score

BENCHMARKS: dict[str, Callable[[Path, Wanted], Points]] = {
    "alpaca_eval": alpaca_eval.points,
    "arena_hard_v0.1": lambda path, wanted: arena_hard.points(path, "v0.1", wanted),
    "arena_hard_v2.0": lambda path, wanted: arena_hard.points(path, "v2.0", wanted),
    "mt_bench": mt_bench.points,
}
_JUDGED: dict[str, Callable[[Path, Wanted], Sequence[Judged]]] = {
    "alpaca_eval": alpaca_eval.read_verdicts,
    "arena_hard_v0.1": lambda path, wanted: read_battles(path, "v0.1", wanted)[0],
    "arena_hard_v2.0": lambda path, wanted: read_battles(path, "v2.0", wanted)[0],
    "mt_bench": mt_bench.read_ratings,
}


@dataclass(frozen=True)
class Annotations:
    """The verdicts in a file that are wanted. What is read of it raises UserError where there are none."""

    benchmark: str  # of BENCHMARKS
    path: Path
    wanted: Wanted = ALL

    def points(self) -> Points:
        return BENCHMARKS[self.benchmark](self.path, self.wanted)

    def judged(self) -> Sequence[Judged]:
        return _JUDGED[self.benchmark](self.path, self.wanted)

    def scores(
        self,
        answers: Answers,
        coefficients: Path | None = None,
        original_intervals: bool = False,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Sequence[Score]:
        """The records of every model, baseline and judge, best first.

        `answers`, where there are any, are for Arena-Hard v2.0's style control, `coefficients` for AlpacaEval's length
        control; with `original_intervals` Arena-Hard's are drawn as its authors draw them.
        """
        if self.benchmark == "alpaca_eval":
            shared = read_coefficients(coefficients or PACKAGED)
            return alpaca_eval.score_file(self.path, shared, resamples, seed, self.wanted)
        if self.benchmark == "mt_bench":
            return mt_bench.score_file(self.path, resamples, seed, self.wanted)
        version = ARENA[self.benchmark]
        styles = styles_of(answers) if answers and version == "v2.0" else None
        drawn: tuple[arena_hard.Resample, int] = ("battles", 100) if original_intervals else ("questions", resamples)
        return arena_hard.score_file(self.path, version, styles, *drawn, seed, self.wanted)

    def looks(self, answers: Answers) -> list[dict[str, Any]]:
        """What the models' answers look like, here or in `answers`: a score says little without."""
        texts: dict[str, list[str]] = {}
        for each in self.judged():
            if isinstance(each, alpaca_eval.Verdicts):
                texts.setdefault(each.model, each.answers)
        for (model, _), answer in answers.items():
            texts.setdefault(model, []).append(answer.text)
        profiles = {model: profile(own) for model, own in texts.items() if own}
        return [
            {"model": model, **dataclasses.asdict(one), "warnings": warnings(model, one)}
            for model, one in profiles.items()
        ]

    def met_itself(self, answers: Answers) -> list[str]:
        """Warnings of models that were judged against themselves: their scores are of nothing."""
        met: dict[tuple[str, str], dict[str, bool]] = {}  # by model and baseline, then question: whether they are alike
        for each in self.judged():
            if each.baseline is None:
                continue  # rated, not compared
            own = met.setdefault((each.model, each.baseline), {})
            match each:
                case alpaca_eval.Verdicts():
                    own |= {one.instruction: one.alike for one in each.found}
                case Battle():
                    ours, theirs = (answers.get((name, each.question)) for name in (each.model, each.baseline))
                    same = ours is not None and theirs is not None and ours.text == theirs.text
                    own[each.question] = each.alike or same
        return [
            warning
            for (model, baseline), alike in met.items()
            for warning in of_itself(model, baseline, sum(alike.values()), len(alike))
        ]
