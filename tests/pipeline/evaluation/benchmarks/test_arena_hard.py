"""Arena-Hard: points by hand, real battles, the fit that a mean stands for, style control, rows that cannot be used."""

import gzip
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.arena_hard import points, score_file
from pipeline.evaluation.benchmarks.arena_style import read_answers, style, style_differences, styles_of
from pipeline.evaluation.benchmarks.verdicts import arena_game, arena_label, arena_label_v01

DATA = Path(__file__).parents[3] / "data"
# Mean points in percent, which an independent Bradley-Terry fit confirmed to 1e-7.
REAL = {
    "claude-3-5-sonnet-20240620": 88.69485294117648,
    "gpt-4o": 86.82310469314079,
    "gpt-4o-mini": 80.05725190839695,
    "claude-3-opus-20240229": 75.9727626459144,
}


def game(score: Any) -> dict[str, Any]:
    return {"score": score, "judgment": "..."}


def judged(question: str, first: Any, second: Any, model: str = "m", **more: Any) -> dict[str, Any]:
    """Game 1: A is the baseline. Game 2: A is the model."""
    row = {"uid": question, "category": "hard_prompt", "judge": "j", "model": model, "baseline": "o"}
    return row | {"games": [game(first), game(second)], **more}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("judgment", "last", "only"),
    [
        ("My final verdict is: [[A>B]]", "A>B", "A>B"),
        ("first [[B>A]], no: [[A>>B]].", "A>>B", None),
        ("[[A=B]] and again [[A=B]]", "A=B", "A=B"),
        ("verdict: [a<b]", "A<B", None),
        ("the label [[A]]", "A", "A"),  # of no meaning; see below
        ("no verdict", None, None),
    ],
)
def test_labels(judgment: str, last: str | None, only: str | None) -> None:
    assert (arena_label(judgment), arena_label_v01(judgment)) == (last, only)


@pytest.mark.parametrize(
    ("label", "as_b", "as_a"),
    [
        ("A>>B", (0, 3), (1, 3)),
        ("A>B", (0, 1), (1, 1)),
        ("A=B", (0.5, 1), (0.5, 1)),
        ("B>A", (1, 1), (0, 1)),
        ("B>>A", (1, 3), (0, 3)),
        ("A<B", (1, 1), (0, 1)),
        ("A<<B", (1, 3), (0, 3)),
        ("B=A", (0.5, 1), (0.5, 1)),
        ("B<A", (0, 1), (1, 1)),
        ("B<<A", (0, 3), (1, 3)),
        ("A", None, None),
        (None, None, None),
    ],
)
def test_games(label: str | None, as_b: Any, as_a: Any) -> None:
    assert (arena_game(label, model_is_a=False), arena_game(label, model_is_a=True)) == (as_b, as_a)


def test_real_battles() -> None:
    found = {score.model: score for score in score_file(DATA / "arena_battles.jsonl.gz", "v0.1", resamples=200)}
    assert {name: score.rate.value for name, score in found.items()} == pytest.approx(REAL, abs=1e-6)
    assert [score.battles for score in found.values()] == [544, 554, 524, 514]
    assert all(score.rate.low < score.rate.value < score.rate.high for score in found.values())
    assert list(found) == sorted(REAL, key=lambda name: -REAL[name])


def bradley_terry(path: Path) -> dict[str, float]:
    """v0.1's own way: ratings of base 10 and scale 400, one fit over all models, by plain gradient ascent."""
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    names = sorted({side for line in lines for side in (line["model_a"], line["model_b"])})
    place = {name: i for i, name in enumerate(names)}
    a, b = (np.array([place[line[side]] for line in lines]) for side in ("model_a", "model_b"))
    won = np.array([{"model_a": 1.0, "model_b": 0.0}.get(line["winner"], 0.5) for line in lines])
    rating = np.zeros(len(names))
    for _ in range(20_000):
        missing = won - 1 / (1 + 10 ** ((rating[b] - rating[a]) / 400))
        rating += 0.5 * (np.bincount(a, missing, len(names)) - np.bincount(b, missing, len(names)))
    base = rating[place["claude-3-haiku-20240307"]]
    return {
        name: 100 / (1 + 10 ** ((base - rating[place[name]]) / 400)) for name in names if rating[place[name]] != base
    }


def test_the_mean_is_what_bradley_terry_gives() -> None:
    assert bradley_terry(DATA / "arena_battles.jsonl.gz") == pytest.approx(REAL, abs=1e-6)


def test_resampling_questions_is_wider_than_resampling_battles() -> None:
    """Battles of one question go together, and strong verdicts stand there three times."""
    path = DATA / "arena_battles.jsonl.gz"
    ours = score_file(path, "v0.1", resamples=1000)[0].rate
    theirs = score_file(path, "v0.1", resample="battles", resamples=1000)[0].rate
    assert ours.value == theirs.value
    assert 1.3 < (ours.high - ours.low) / (theirs.high - theirs.low) < 3


def test_points_by_hand(tmp_path: Path) -> None:
    """q1: lost, then won strongly. q2: tie, then lost. Of q3 one game has no verdict."""
    rows = [judged("q1", "A>B", "A>>B"), judged("q2", "A=B", "B>A"), judged("q3", "B>A", None)]
    path = write(tmp_path / "j.jsonl", rows)
    (new,) = score_file(path, "v2.0", resamples=50)
    assert (new.questions, new.battles) == (2, 6) and new.rate.value == pytest.approx(100 * 3.5 / 6)
    assert any("1 questions with a game that has no verdict are left out" in note for note in new.notes)
    assert points(path, "v2.0") == {"m": {"q1": 0.75, "q2": 0.25}}
    path = write(tmp_path / "old.jsonl", [row | {"category": "arena-hard-v0.1"} for row in rows])
    (old,) = score_file(path, "v0.1", resamples=50)
    assert (old.questions, old.battles) == (3, 7) and old.rate.value == pytest.approx(100 * 4.5 / 7)
    assert any("1 games without a verdict are left out" in note for note in old.notes)
    # Shown first: the baseline has 1, the model 1; the baseline 1/2, the model 0.
    assert new.first_shown == pytest.approx(62.5)


def test_categories_are_never_pooled(tmp_path: Path) -> None:
    rows = [judged("q1", "B>A", "A>B"), judged("q2", "A>B", "B>A", category="creative_writing")]
    rows.append(judged("q3", "A=B", "A=B", subcategory="coding"))
    scores = score_file(write(tmp_path / "j.jsonl", rows), "v2.0")
    assert not any("left out" in note for score in scores for note in score.notes)  # nothing is, and nothing is said
    found = {score.category: score.rate.value for score in scores}
    assert found == {"hard_prompt": 100, "creative_writing": 0, "coding": 50}


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = [judged("q1", "A>B", "B>A"), judged("q2", 7, {"x": 1}), {"uid": "q3", "model": "m", "games": []}, [1]]
    rows += [{"uid": "q4", "model": None, "games": [game("A>B")] * 2}]
    (found,) = score_file(write(tmp_path / "j.jsonl", rows), "v2.0", resamples=10)
    assert found.questions == 1
    said = " ".join(found.notes)
    for words in ("1 unreadable", "2 rows that hold no two games", "1 questions with a game"):
        assert words in said
    battles = [{"question_id": "q5", "winner": "?"}, {"question_id": "q6", "winner": "tie"} | SIDES]
    (found,) = score_file(write(tmp_path / "b.jsonl", battles), "v0.1", resamples=10)
    assert found.questions == 1 and "1 battles without models or a winner are left out" in found.notes


SIDES = {"model_a": "o", "model_b": "m"}
OLD_ID, NEW_ID = "0123456789abcdef" * 2, "0123456789abcdef"  # as the questions of v0.1 and v2.0 have them


@pytest.mark.parametrize(
    ("row", "version", "why"),
    [
        (judged("q", "A>B", "B>A"), "v2.0", "category hard_prompt"),
        (judged("q", "A>B", "B>A", category="creative_writing"), "v2.0", "category creative_writing"),
        (judged(OLD_ID, "A>B", "B>A", subcategory="math"), "v2.0", "category hard_prompt"),
        (judged("q", "A>B", "B>A", category="arena-hard-v0.1"), "v0.1", "category arena-hard-v0.1"),
        (judged(NEW_ID, "A>B", "B>A", category=None), "v2.0", f"uid {NEW_ID}"),
        (judged("", "A>B", "B>A", category=None, question_id=OLD_ID), "v0.1", f"question_id {OLD_ID}"),
        ({"question_id": 7, "winner": "tie", **SIDES}, "v0.1", "a battle"),
    ],
)
def test_a_version_is_not_scored_as_the_other(tmp_path: Path, row: Any, version: Any, why: str) -> None:
    path, other = write(tmp_path / "j.jsonl", [row]), {"v0.1": "v2.0", "v2.0": "v0.1"}[version]
    assert len(score_file(path, version, resamples=10)) == 1
    with pytest.raises(
        UserError, match=rf"1 of 1 rows are of Arena-Hard {version}, not {other} \(row 1: {why}"
    ) as told:
        score_file(path, other, resamples=10)  # type: ignore[arg-type]
    assert told.value.remedy == f"give --benchmark arena_hard_{version}"
    rows = [judged("q1", "A>B", "B>A", category="own"), row]
    with pytest.raises(UserError, match=r"1 of 2 rows are of .* \(row 2: ") as told:
        points(write(tmp_path / "mixed.jsonl", rows), other)  # type: ignore[arg-type]
    assert "leave them out" in told.value.remedy


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def test_what_names_no_version_is_headed_by_what_was_asked(tmp_path: Path, version: Any) -> None:
    """Ids of other forms, and those that we give to questions without one."""
    rows = [judged("q", "B>A", "A>B", category=None), judged("", "A>B", "B>A", category=None, question_id=NEW_ID)]
    (found,) = score_file(write(tmp_path / "j.jsonl", rows), version, resamples=10)
    assert (found.category, found.rate.value, found.questions) == (f"arena-hard-{version}", 50, 2)
    assert f"2 of {500 if version == 'v0.1' else 750} questions: not comparable with the leaderboard" in found.notes


def test_the_other_versions_baseline_is_said(tmp_path: Path) -> None:
    """Whom models meet is a choice."""
    for name, noted in (("gpt-4-0314", 1), ("o3-mini-2025-01-31", 0), ("mine", 0)):
        (found,) = score_file(write(tmp_path / "j.jsonl", [judged("q", "B>A", "A>B", baseline=name)]), "v2.0")
        said = "gpt-4-0314 is the baseline of Arena-Hard v0.1, not of v2.0"
        assert found.notes.count(said) == noted


@pytest.mark.parametrize("rows", [[], [{"uid": "q"}], [judged("q", None, None)]])
def test_a_file_without_verdicts_is_one_error(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(UserError):
        score_file(write(tmp_path / "j.jsonl", rows), "v2.0")


def test_style_by_hand() -> None:
    answer = "# Title\n\n- one\n- two\n1. three\n**bold** and __bold__\n```\n# code\n- code\n```\n"
    assert style(answer, 30).tolist() == [30, 1, 3, 2]
    ours, theirs = np.array([30.0, 1, 3, 2]), np.array([10.0, 0, 1, 0])
    dense = [1 / 31, 3 / 31, 2 / 31], [0, 1 / 11, 0]
    expected = [20 / 40, *((x - y) / (x + y + 1) for x, y in zip(*dense, strict=True))]
    assert style_differences(ours, theirs).tolist() == pytest.approx(expected)


def drawn(models: dict[str, float], length_pull: float, questions: int) -> tuple[list[Any], dict[Any, Any]]:
    """Judgments by a judge that follows strength and length, and the answers' styles."""
    rng, rows = np.random.default_rng(0), []
    styles: dict[Any, Any] = defaultdict(lambda: np.zeros(4))
    for question in map(str, range(questions)):
        styles["o", question] = np.array([200.0, 0, 0, 0])
        for place, (model, strength) in enumerate(models.items()):
            length = float(rng.integers(100, 400)) + 100 * place
            styles[model, question] = np.array([length, 0, 0, 0])
            chance = 1 / (1 + math.exp(-strength - length_pull * (length - 200) / (length + 200)))
            won = rng.random(2) < chance
            rows.append(judged(question, "B>A" if won[0] else "A>B", "A>B" if won[1] else "B>A", model))
    return rows, styles


def test_style_control_takes_out_what_length_gave(tmp_path: Path) -> None:
    """Both models are as strong as the baseline, and the second writes longer, which this judge likes."""
    rows, styles = drawn({"short": 0.0, "long": 0.0}, length_pull=3.0, questions=2000)
    path = write(tmp_path / "j.jsonl", rows)
    found = {score.model: score for score in score_file(path, "v2.0", styles, resamples=20)}
    controlled = {name: score.style_controlled for name, score in found.items()}
    assert controlled["short"] is not None and controlled["long"] is not None
    assert found["long"].rate.value - found["short"].rate.value > 8
    # The features are centred over all battles, so that both are seen at the mean length: alike there.
    assert controlled["long"].value == pytest.approx(controlled["short"].value, abs=4)


def test_style_control_says_which_answer_it_lacks(tmp_path: Path) -> None:
    rows, styles = drawn({"m": 0.0}, 0.0, 3)
    del styles["o", "2"]
    with pytest.raises(UserError, match="no answer of o to question 2"):
        score_file(write(tmp_path / "j.jsonl", rows), "v2.0", dict(styles))


def test_answers_in_both_versions_formats(tmp_path: Path) -> None:
    new = {
        "uid": "q",
        "model": "m",
        "messages": [{"role": "user"}, {"role": "assistant", "content": {"answer": "# A"}}],
    }
    old = {"question_id": "q", "model_id": "o", "choices": [{"turns": [{"content": "- b"}]}]}
    path = write(
        tmp_path / "a.jsonl", [new | {"metadata": {"token_len": 5}}, old | {"conv_metadata": {"token_len": 7}}]
    )
    assert {key: each.tolist() for key, each in styles_of(read_answers([path])).items()} == {
        ("m", "q"): [5, 1, 0, 0],
        ("o", "q"): [7, 0, 1, 0],
    }
    with pytest.raises(UserError, match="token_len"):
        styles_of(read_answers([write(tmp_path / "b.jsonl", [new])]))


def test_an_answer_that_is_given_again_counts_once_and_another_one_is_refused(tmp_path: Path) -> None:
    def answer(words: str, tokens: int = 3) -> dict[str, Any]:
        messages = [{"role": "assistant", "content": {"answer": words}}]
        return {"uid": "q", "model": "m", "messages": messages, "metadata": {"token_len": tokens}}

    once, other = write(tmp_path / "one.jsonl", [answer("a")]), write(tmp_path / "other.jsonl", [answer("b")])
    assert read_answers([write(tmp_path / "two.jsonl", [answer("a"), answer("a")]), once]) == read_answers([once])
    with pytest.raises(UserError, match=r"other\.jsonl: question q has another answer of m.* than in .*one\.jsonl"):
        read_answers([once, other])
    for second in (answer("b"), answer("a", tokens=4)):
        with pytest.raises(UserError, match="than in the same file before"):
            read_answers([write(tmp_path / "both.jsonl", [answer("a"), second])])


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def test_stored_labels_that_the_judgment_contradicts_are_told(tmp_path: Path, version: Any) -> None:
    """They count as stored. A mirrored spelling says the same, and words without a label contradict nothing."""
    category = "hard_prompt" if version == "v2.0" else "arena-hard-v0.1"

    def said(label: str, words: str) -> dict[str, Any]:
        return {"score": label, "judgment": {"answer": words} if version == "v2.0" else words}

    games = [[said("A>B", "so [[B>>A]]"), said("A>B", "[[B<A]]")], [said("B>A", "none"), said("A=B", "[[A>B]]")]]
    rows = [judged(str(n), None, None, category=category) | {"games": own} for n, own in enumerate(games)]
    (score,) = score_file(write(tmp_path / "j.jsonl", rows), version, resamples=10)
    assert "2 stored labels are not what the judgment says" in score.notes
    assert score.rate.value == pytest.approx(100 * (0 + 1 + 1 + 0.5) / 4)
    (score,) = score_file(write(tmp_path / "k.jsonl", [judged("q", "A>B", "B>A")]), "v2.0", resamples=10)
    assert not any("stored labels" in note for note in score.notes)


def test_a_category_of_others_is_told(tmp_path: Path) -> None:
    rows = [judged("q", "B>A", "A>B", category=name) for name in ("poems", "hard_prompt", "coding")]
    told = {
        score.category: [note for note in score.notes if "no category" in note]
        for score in score_file(write(tmp_path / "j.jsonl", rows), "v2.0", resamples=10)
    }
    poems = "poems is no category of Arena-Hard's: not comparable with its leaderboard"
    assert told == {"poems": [poems], "hard_prompt": [], "coding": []}
