"""AlpacaEval 2: win rates against GPT-4 Turbo's answers (Dubois et al. 2024, arXiv 2404.04475), from annotations.

A preference is 1 where the baseline's answer is preferred, 2 where the model's is, and in between by the judge's own
probabilities. Questions are told apart by their instruction, never by their place in a file.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import (
    ALL,
    CONTRADICTING,
    REPEATED,
    UNNAMED,
    LeftOut,
    Row,
    Wanted,
    judge_of,
    number,
    read,
    require,
    require_one,
    text,
)
from pipeline.evaluation.benchmarks.length_control import Coefficients, LengthControlled, length_controlled
from pipeline.evaluation.benchmarks.raw_completions import read_again
from pipeline.evaluation.benchmarks.verdicts import is_switched
from pipeline.statistics import Interval, bootstrap_mean

QUESTIONS = 805


@dataclass(frozen=True)
class Preference:
    """One question's verdict. Lengths are in characters, None where the annotations hold no answers."""

    instruction: str
    preference: float  # 1 to 2
    baseline_length: int | None
    model_length: int | None
    alike: bool = False  # both answers are one and the same: a draw that no judge was asked about


@dataclass(frozen=True)
class Score:
    """One model's figures, rates in percent, named as AlpacaEval's leaderboard names what they are."""

    model: str
    baseline: str
    judge: str | None  # None where the file does not say
    n_total: int
    win_rate: Interval  # 95 % bootstrap over questions
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    discrete_win_rate: float
    avg_length: int | None
    # Mean preference for the answer that AlpacaEval's seeds show first, where a judge saw two: 50 without a bias.
    first_shown: float | None
    length_controlled: LengthControlled | None
    left_out: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Verdicts:
    """One model's verdicts against one baseline by one judge: what can be used of them, and what cannot."""

    model: str
    baseline: str
    judge: str | None
    found: list[Preference]
    left_out: LeftOut
    notes: tuple[str, ...]  # what else must be said of them
    answers: list[str]  # the model's, where the annotations hold them

    def score(self, shared: Coefficients, resamples: int, seed: int) -> Score:
        """Raises UserError where nothing can be used."""
        of = (self.model, self.baseline, self.found, self.left_out)
        found = score(*of, shared, resamples, seed, self.judge)
        return replace(found, notes=(*found.notes, *self.notes))


def score_file(
    path: Path, shared: Coefficients, resamples: int = 1000, seed: int = 0, wanted: Wanted = ALL
) -> list[Score]:
    """A score for every model, baseline and judge of an annotations file that is wanted.

    Raises UserError where it is no such file, or nothing of one of them can be used.
    """
    scores = [each.score(shared, resamples, seed) for each in read_verdicts(path, wanted)]
    return sorted(scores, key=lambda score: -score.win_rate.value)


def score_rows(rows: Sequence[Row], shared: Coefficients, resamples: int = 1000, seed: int = 0) -> Score:
    """The score of one model's annotations. Raises UserError where none of them can be used."""
    model, baseline = (text(rows[0], name) or "" for name in ("generator_2", "generator_1"))
    return verdicts(model, baseline, judge_of(rows[0]), rows).score(shared, resamples, seed)


def points(path: Path, wanted: Wanted = ALL) -> dict[str, dict[Hashable, float]]:
    """P(model preferred) by model and question.

    Raises UserError where nothing of a model can be used, or its verdicts are of several baselines or judges.
    """
    read = read_verdicts(path, wanted)
    require_one(read, str(path))
    for each in read:
        _require_any(each, str(path))
    return {each.model: {one.instruction: one.preference - 1 for one in each.found} for each in read}


def read_verdicts(path: Path, wanted: Wanted = ALL) -> list[Verdicts]:
    """Those of a file that are wanted, by model, baseline and judge. Raises UserError where there are none."""
    unread = LeftOut()
    rows = read(path, unread)
    require(rows, [("instruction",), ("preference",)], path, "AlpacaEval annotations")
    _require_scale(rows, path)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if text(row, "instruction") is None:
            unread["without an instruction"] += 1
            continue
        name = text(row, "generator_2") or ""
        model = name if name not in ("", "example") else path.parent.name  # some files on the leaderboard say "example"
        groups.setdefault((model, text(row, "generator_1") or UNNAMED, judge_of(row) or ""), []).append(row)
    if not groups:
        raise UserError(f"{path}: no verdict can be used ({unread})", "mend the annotations, or judge again")
    return wanted.of(
        [
            verdicts(model, baseline, judge or None, own, LeftOut(unread))
            for (model, baseline, judge), own in sorted(groups.items())
        ],
        str(path),
    )


def _require_scale(rows: Sequence[Row], path: Path) -> None:
    """Raise UserError where preferences are from 0 to 1: what is a win on that scale is a loss on AlpacaEval's."""
    found = [value for row in rows if (value := number(row.get("preference"))) is not None]
    below = [value for value in found if 0 <= value < 1]
    if below and max(found) <= 1:
        raise UserError(
            f"{path}: no preference is above 1, and {len(below)} of {len(found)} are below: a scale from 0 to 1",
            "AlpacaEval's are from 1, the baseline's answer, to 2, the model's: add 1 to each; a draw is 1.5",
        )


def verdicts(
    model: str, baseline: str, judge: str | None, rows: Sequence[Row], left_out: LeftOut | None = None
) -> Verdicts:
    """What can be used of such rows: one verdict a question, the first where there are several."""
    left_out = LeftOut() if left_out is None else left_out
    found: dict[str, Preference] = {}
    unclear = afresh = zeros = 0
    for row in rows:
        instruction, stored = row["instruction"], row.get("preference")
        again = read_again(row.get("raw_completion"), is_switched(instruction))
        value = number(stored) if isinstance(again, str) else again
        if again is None:
            left_out["whose judge came to no verdict after its thoughts"] += 1
        elif stored is None and isinstance(again, str):
            left_out["without a preference"] += 1
        elif value is None:
            left_out["whose preference is no number"] += 1
        elif value != 0 and not 1 <= value <= 2:
            left_out["whose preference is outside of 1 to 2"] += 1
        elif instruction in found:
            same = found[instruction].preference == (value or 1.5)
            left_out[REPEATED if same else CONTRADICTING] += 1
        else:
            zeros += value == 0
            value = value or 1.5  # how early files wrote a draw, which the owners' code reads as one, too
            outputs = [text(row, f"output_{which}") for which in (1, 2)]
            alike = outputs[0] is not None and outputs[0] == outputs[1]
            found[instruction] = Preference(instruction, value, _length(row, 1), _length(row, 2), alike)
            unclear += again == "unclear"
            afresh += isinstance(again, float) and again != number(stored)
    notes = [f"{afresh} preferences are read again, from what the judge said after its thoughts"] if afresh else []
    notes += [f"{zeros} preferences of 0 count as draws, as early files wrote them"] if zeros else []
    notes += [f"{unclear} preferences of a judge that thinks are as the file has them"] if unclear else []
    answers = {row["instruction"]: answer for row in rows if (answer := text(row, "output_2")) is not None}
    return Verdicts(model, baseline, judge, list(found.values()), left_out, tuple(notes), list(answers.values()))


def _require_any(read: Verdicts, source: str) -> None:
    if not read.found:
        raise UserError(
            f"{source}: no verdict on {read.model} can be used ({read.left_out})",
            "mend the annotations, or judge again",
        )


def _length(row: Row, which: int) -> int | None:
    answer, length = text(row, f"output_{which}"), number(row.get(f"output_{which}_len"))
    return len(answer) if answer is not None else None if length is None else int(length)


def score(
    model: str,
    baseline: str,
    found: Sequence[Preference],
    left_out: LeftOut,
    shared: Coefficients,
    resamples: int = 1000,
    seed: int = 0,
    judge: str | None = None,
) -> Score:
    """Raises UserError without any preference."""
    if not found:
        raise UserError(f"{model}: no verdict can be used ({left_out})", "mend the annotations, or judge again")
    won = np.array([each.preference - 1 for each in found])
    wins, losses, draws = (int(flags.sum()) for flags in (won > 0.5, won < 0.5, won == 0.5))
    interval = bootstrap_mean((100 * won).tolist(), resamples, seed, within=(0, 100))
    notes = [f"{left_out[reason]} rows {reason} are left out" for reason in left_out]
    if len(found) < QUESTIONS:
        notes.append(f"{len(found)} of AlpacaEval's {QUESTIONS} questions: not comparable with its leaderboard")
    controlled, why = _controlled(found, shared, resamples, seed)
    notes += why
    if controlled and _extreme(interval.value, controlled.win_rate):
        notes.append("length control moves the win rate unusually far: look at the answers")
    lengths = [each.model_length for each in found if each.model_length is not None]
    return Score(
        model=model,
        baseline=baseline,
        judge=judge,
        n_total=len(found),
        win_rate=interval,
        standard_error=float(100 * won.std(ddof=1) / len(won) ** 0.5) if len(won) > 1 else 0.0,
        n_wins=wins,
        n_wins_base=losses,
        n_draws=draws,
        discrete_win_rate=100 * (wins + draws / 2) / len(won),
        avg_length=int(fmean(lengths)) if lengths else None,
        first_shown=_first_shown(found),
        length_controlled=controlled,
        left_out=dict(left_out),
        notes=tuple(notes),
    )


def _first_shown(found: Sequence[Preference]) -> float | None:
    seen = [(each.preference - 1, is_switched(each.instruction)) for each in found if not each.alike]
    return 100 * fmean(share if model_first else 1 - share for share, model_first in seen) if seen else None


def _controlled(
    found: Sequence[Preference], shared: Coefficients, resamples: int, seed: int
) -> tuple[LengthControlled | None, list[str]]:
    """The length-controlled figure of the questions that have lengths and a difficulty, and what to say of the rest."""
    usable, unknown, unmeasured = [], 0, 0
    for each in found:
        row = shared.find(each.instruction)
        if row is None:
            unknown += 1
        elif each.baseline_length is None or each.model_length is None:
            unmeasured += 1
        else:
            usable.append((each.preference - 1, each.baseline_length - each.model_length, row))
    notes = [f"{unknown} questions are not AlpacaEval's: left out of length control"] if unknown else []
    notes += [f"{unmeasured} rows hold no answers: left out of length control"] if unmeasured else []
    if not usable:
        return None, notes
    chances, longer, rows = zip(*usable, strict=True)
    return length_controlled(chances, longer, rows, shared, resamples, seed), notes


def _extreme(win_rate: float, controlled: float) -> bool:
    """AlpacaEval's own bounds for a length-controlled rate that is worth a warning."""
    low = min(win_rate - win_rate / 4, win_rate - 10)
    high = max(win_rate + (100 - win_rate) / 4, win_rate + 10)
    return not low <= controlled <= high
