"""Arena-Hard's judgments as battles: which games count, how often, and what is left out."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import (
    ALL,
    CONTRADICTING,
    REPEATED,
    UNNAMED,
    LeftOut,
    Row,
    Wanted,
    identified,
    judge_of,
    question,
    read_numbered,
    require,
    text,
)
from pipeline.evaluation.benchmarks.thoughts import opened, spoken
from pipeline.evaluation.benchmarks.verdicts import arena_game, arena_label, arena_label_v01

Version = Literal["v0.1", "v2.0"]
ARENA: Mapping[str, Version] = {"arena_hard_v0.1": "v0.1", "arena_hard_v2.0": "v2.0"}

# What only one version's files hold: categories, and ids under the name and in the form that its questions have.
_CATEGORIES: Mapping[str, Version] = {"arena-hard-v0.1": "v0.1", "hard_prompt": "v2.0", "creative_writing": "v2.0"}
_IDS: Sequence[tuple[Version, str, re.Pattern[str]]] = (
    ("v0.1", "question_id", re.compile(r"[0-9a-f]{32}")),
    ("v2.0", "uid", re.compile(r"[0-9a-f]{16}")),
)


@dataclass(frozen=True)
class Battle:
    """One game that counts: the model's points are 1 for a win, 1/2 for a tie, 0 for a loss."""

    question: str
    category: str
    model: str
    baseline: str
    points: float
    times: int  # how often it counts
    judge: str | None = None
    model_is_first: bool | None = None  # whose answer the judge saw first; None where it saw none, or none says
    alike: bool = False  # both answers are one and the same: no judge was asked
    differs: bool = field(default=False, compare=False)  # the stored label is not what the judgment says


def read_battles(path: Path, version: Version, wanted: Wanted = ALL) -> tuple[list[Battle], LeftOut]:
    """The games of a file that count, and what does not.

    Raises UserError where none does, none is wanted, or a row says that it is of the other version.
    """
    left_out = LeftOut()
    numbered = read_numbered(path, left_out)
    require(numbered.values(), [("games", "winner")], path, "Arena-Hard judgments")
    _require_version(numbered, version, path)
    battles = battles_of(identified(numbered, left_out, "rows "), version, left_out, str(path))
    return wanted.of(battles, str(path)), left_out


def _require_version(numbered: Mapping[int, Row], version: Version, path: Path) -> None:
    """The versions differ in questions, baseline, labels and intervals: a score under the other's name is nobody's."""
    told = [(number, *said) for number, row in numbered.items() if (said := version_of(row)) and said[0] != version]
    if told:
        number, other, why = told[0]
        raise UserError(
            f"{path}: {len(told)} of {len(numbered)} rows are of Arena-Hard {other}, not {version} "
            f"(row {number}: {why})",
            f"give --benchmark arena_hard_{other}" + (", or leave them out" if len(told) < len(numbered) else ""),
        )


def version_of(row: Row) -> tuple[Version, str] | None:
    """Which version a row says it is of, and by what; None where it does not say."""
    category = text(row, "category") or ""
    if category in _CATEGORIES:
        return _CATEGORIES[category], f"category {category}"
    if "games" not in row and "winner" in row:
        return "v0.1", "a battle, which v0.1's tool alone writes"
    for version, name, form in _IDS:
        if (found := text(row, name)) and form.fullmatch(found):
            return version, f"{name} {found}"
    return None


def battles_of(rows: Sequence[Row], version: Version, left_out: LeftOut, source: str) -> list[Battle]:
    """The games of rows that count: of several rows on one question the first that holds a verdict.

    Raises UserError where none does, or battles without their games stand there more than once.
    """
    found: dict[tuple[str | None, ...], list[Battle]] = {}
    written: list[Battle] = []
    said = _said(rows)
    for number, row in enumerate(rows):
        if "games" not in row:
            written += _written_battle(row, left_out)
            continue
        battles = _battles(row, said.get(number, ()), version, left_out)
        if not battles:
            continue
        earlier = found.setdefault(_contest(battles[0]), battles)
        if earlier is not battles:
            left_out[f"rows {REPEATED if earlier == battles else CONTRADICTING}"] += 1
    _require_two_games(written, source)
    battles = [battle for own in found.values() for battle in own] + written
    if not battles:
        remedy = "mend the judgments (a game's score is A>>B, A>B, A=B, B>A or B>>A), or judge again"
        raise UserError(f"{source}: no verdict can be used ({left_out})", remedy)
    return battles


def _contest(battle: Battle) -> tuple[str | None, ...]:
    return battle.question, battle.category, battle.model, battle.baseline, battle.judge


def _said(rows: Sequence[Row]) -> dict[int, tuple[str, str]]:
    """What the judge said in both games, by the place of each row that has two."""
    judges: dict[str | None, list[tuple[int, str, str]]] = {}
    for number, row in enumerate(rows):
        games = row.get("games")
        if isinstance(games, list) and len(games) == 2:
            judges.setdefault(judge_of(row), []).append((number, _judgment(games[0]), _judgment(games[1])))
    found: dict[int, tuple[str, str]] = {}
    for own in judges.values():
        texts = iter(opened([text for _, *both in own for text in both]))
        found |= {number: (next(texts), next(texts)) for number, *_ in own}
    return found


def _judgment(game: Any) -> str:
    """A game's judgment, "" where it has none: a text in v0.1, an object with it in v2.0."""
    judgment = game.get("judgment") if isinstance(game, dict) else None
    words = judgment.get("answer") if isinstance(judgment, dict) else judgment
    return words if isinstance(words, str) else ""


def _battles(row: Row, said: Sequence[str], version: Version, left_out: LeftOut) -> list[Battle]:
    games, model = row["games"], text(row, "model")
    if not isinstance(games, list) or len(games) != 2 or model is None:
        left_out["rows that hold no two games of a model"] += 1
        return []
    category = text(row, "subcategory", "category") or f"arena-hard-{version}"
    labels = [_label(game, words, version, left_out) for game, words in zip(games, said, strict=True)]
    played = [arena_game(label, model_is_a=number == 1) for number, label in enumerate(labels)]
    if version == "v2.0" and None in played:  # as its authors do: one game without a verdict takes the other along
        left_out["questions with a game that has no verdict"] += 1
        return []
    if without := played.count(None):
        left_out["games without a verdict"] += without
    named = (question(row) or "", category, model, text(row, "baseline") or UNNAMED)
    battles = []
    for number, (game, words, one) in enumerate(zip(games, said, played, strict=True)):
        if one:
            alike = game.get("judgment") == {"answer": ""}  # as we write it: no judge said a word of them
            first = None if alike else number == 1
            read_again = arena_game(_read(words, version), model_is_a=number == 1)
            differs = read_again not in (None, one)  # never of a judge that thinks: its words count
            battles.append(Battle(*named, *one, judge_of(row), first, alike, differs))
    return battles


def _label(game: Any, words: str, version: Version, left_out: LeftOut) -> str | None:
    """A game's label: the stored one, unless there is none or the judge thinks, whose words are then read again."""
    if not isinstance(game, dict):
        return None
    stored = text(game, "score")
    if "score" in game and spoken(words) == words:
        return stored
    said = _read(words, version)
    if stored is not None and stored != said:
        left_out["stored labels that were read out of the judge's thoughts"] += 1
    return said


def _read(words: str, version: Version) -> str | None:
    return arena_label_v01(words) if version == "v0.1" else arena_label(words)


def _written_battle(row: Row, left_out: LeftOut) -> list[Battle]:
    """A row of v0.1's battles: the baseline is model_a, strong verdicts stand there three times already."""
    points = {"model_a": 0.0, "model_b": 1.0, "tie": 0.5, "tie (bothbad)": 0.5}.get(text(row, "winner") or "")
    baseline, model = text(row, "model_a"), text(row, "model_b")
    if points is None or baseline is None or model is None:
        left_out["battles without models or a winner"] += 1
        return []
    return [Battle(question(row) or "", "arena-hard-v0.1", model, baseline, points, 1, judge_of(row))]


def _require_two_games(battles: Iterable[Battle], source: str) -> None:
    """Raise UserError where a question has more battles than two games write: which of them repeat cannot be told."""
    counts: dict[tuple[str | None, ...], Counter[float]] = {}
    for battle in battles:
        counts.setdefault(_contest(battle), Counter())[battle.points] += 1
    for contest, own in counts.items():
        if not _of_two_games(own):
            told = ", ".join(f"{own[points]} {name}" for points, name in ((1, "won"), (0.5, "tied"), (0, "lost")))
            raise UserError(
                f"{source}: question {contest[0]} of {contest[2]} has battles ({told}) that two games cannot have, a "
                "strong verdict written three times: some are given more than once",
                "leave out what repeats, or score the judgments that the battles were made of",
            )


def _of_two_games(counts: Counter[float]) -> bool:
    """Whether one or two games, each written once or, unless it is a tie, three times, can have so many outcomes."""
    if len(counts) == 1:
        ((points, times),) = counts.items()
        return times in ((1, 2) if points == 0.5 else (1, 2, 3, 4, 6))
    return len(counts) == 2 and all(times in ((1,) if points == 0.5 else (1, 3)) for points, times in counts.items())
