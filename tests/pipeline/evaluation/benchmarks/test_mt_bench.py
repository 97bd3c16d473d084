"""MT-Bench: real ratings read again, means by hand, rows that cannot be used."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.mt_bench import category_of, points, score_file
from pipeline.evaluation.benchmarks.verdicts import rating

REAL = Path(__file__).parents[3] / "data" / "rating_judgments.jsonl.gz"


def test_every_real_judgment_that_was_scored_is_read_alike() -> None:
    rows = [json.loads(line) for line in gzip.decompress(REAL.read_bytes()).splitlines()]
    scored = [row for row in rows if row["score"] is not None]
    assert len(rows) == 412 and len(scored) == 374
    assert [rating(row["judgment"]) for row in scored] == [row["score"] for row in scored]


@pytest.mark.parametrize(
    ("judgment", "value"),
    [
        ("Rating: [[7]]", 7),
        ("Rating: [[7.5]] or [[3]]", 7.5),
        ("as in [1], so [[4]]", 4),
        ("Rating: [9]", 9),
        ("[[100]]", 100),
        ("[[rating]]", None),
        ("ten", None),
    ],
)
def test_ratings(judgment: str, value: float | None) -> None:
    assert rating(judgment) == value


def test_categories() -> None:
    assert [category_of(str(n)) for n in (80, 81, 90, 91, 111, 121, 160, 161)] == [
        *(None, "writing", "writing", "roleplay", "math", "coding", "humanities", None)
    ]
    assert category_of("81a") is None and category_of("9" * 5000) is None


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(question: Any, turn: Any, score: Any, model: str = "m", **more: Any) -> dict[str, Any]:
    return {"question_id": question, "turn": turn, "model": model, "score": score, **more}


def test_figures_by_hand(tmp_path: Path) -> None:
    """The overall mean is over rows: of the math question one turn could not be read."""
    rows = [row(81, 1, 8), row(81, 2, 6), row(111, 1, 1), row(111, 2, -1), row(81, 1, 9, "other")]
    path = write(tmp_path / "j.jsonl", rows)
    best, found = score_file(path, resamples=200)
    assert (best.model, found.model) == ("other", "m")
    assert found.overall.value == 5 and found.turns == {1: 4.5, 2: 6}
    assert found.categories == {"writing": 7, "math": 1}
    assert (found.ratings, found.unparsable) == (3, 1)
    assert found.overall.low == 1 and found.overall.high == 7  # a question drawn twice
    assert points(path)["m"] == {("81", 1): 8, ("81", 2): 6, ("111", 1): 1}


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = [row(81, 1, 8), row(81, 1, 2), row(81, 3, 5), row(82, 1, None), row(82, 2, "x"), row(83, 1, 100), "no row"]
    rows.append(row(84, 1, 3, judgment="so [[4]]"))
    (found,) = score_file(write(tmp_path / "j.jsonl", rows), resamples=10)
    assert (found.ratings, found.unparsable) == (3, 2)
    said = " ".join(found.notes)
    for words in (
        *(
            "1 rows unreadable",
            "1 rows that contradict the first verdict on their question",
            "1 rows of no turn 1 or 2",
        ),
        *("2 verdicts could not be read", "1 stored scores are not what the judgment says", "1 ratings are outside"),
    ):
        assert words in said


def test_judgments_without_scores_are_read(tmp_path: Path) -> None:
    rows = [{"question_id": 81, "turn": 1, "model": "m", "judgment": "Rating: [[6]]"}]
    assert score_file(write(tmp_path / "j.jsonl", rows), resamples=10)[0].overall.value == 6


@pytest.mark.parametrize("rows", [[], [{"question_id": 81}], [row(81, 1, -1)]])
def test_a_file_without_ratings_is_one_error(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(UserError):
        score_file(write(tmp_path / "j.jsonl", rows))


@pytest.mark.parametrize("other", [80, 161, 81.5e3, "q7", "81a", "9" * 5000, -81, "081"])
def test_questions_of_others_are_counted_out_and_told(tmp_path: Path, other: Any) -> None:
    rows = [row(81, 1, 8), row(82, 1, 6), row(other, 1, 1)]
    (found,) = score_file(write(tmp_path / "j.jsonl", rows), resamples=10)
    assert (found.overall.value, found.ratings) == (7, 2)
    assert any(
        note.startswith("1 rows whose question is none of MT-Bench's (row 3: ") and note.endswith(") are left out")
        for note in found.notes
    )
    assert points(tmp_path / "j.jsonl") == {"m": {("81", 1): 8, ("82", 1): 6}}


def test_a_file_of_other_questions_is_no_mt_bench(tmp_path: Path) -> None:
    """Some are left out, most are refused; all are one's own set, which is said."""
    rows = [row(81, 1, 8), row("a", 1, 2), row("b", 1, 2)]
    with pytest.raises(UserError, match=r"2 of 3 rows are on questions that are none of MT-Bench's \(row 2: 'a'\)"):
        score_file(write(tmp_path / "j.jsonl", rows))
    (found,) = score_file(write(tmp_path / "j.jsonl", rows[1:]), resamples=10)
    assert (found.overall.value, found.categories) == (2, {})
    assert found.notes == ("2 questions are none of MT-Bench's (such as 'a'): not comparable with its leaderboard",)
