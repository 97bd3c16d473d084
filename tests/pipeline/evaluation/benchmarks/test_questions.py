"""Benchmarks' questions out of their owners' formats, and files that hold none."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.questions import Question, read

SHARED = Path(__file__).parents[5] / "shared" / "data" / "questions"


def written(folder: Path, *rows: Any) -> str:
    file = folder / "questions.jsonl"
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(file)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_every_owner_s_way_of_asking(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, user("Hi")]
    file = written(
        tmp_path,
        {"instruction": "a\u2028b", "dataset": "koala", "output": "not kept"},
        {"uid": "u1", "prompt": "c", "category": "math"},
        {"id": "chat", "prompt": chat},
        {"question_id": 81, "turns": ["d", "e"]},
        {"question_id": "q", "turns": [{"content": "f"}], "cluster": "g"},
    )
    first, *rest = read("mine", file)
    assert (first.messages, first.meta, len(first.question_id)) == ((user("a\u2028b"),), {"dataset": "koala"}, 16)
    assert rest == [
        Question("u1", (user("c"),), meta={"category": "math"}),
        Question("chat", tuple(chat)),
        Question("81", (user("d"),), ("e",)),
        Question("q", (user("f"),), meta={"cluster": "g"}),
    ]
    assert read("mine", file, limit=2) == [first, rest[0]]


def test_ids_that_are_floats_are_ids_and_others_are_refused_by_row(tmp_path: Path) -> None:
    """As tables write whole numbers beside gaps."""
    rows = [{"question_id": 81.0, "turns": ["x"]}, {"id": "82.0", "prompt": "y"}, {"uid": None, "prompt": "z"}]
    assert [each.question_id for each in read("mine", written(tmp_path, *rows))][:2] == ["81", "82"]
    with pytest.raises(UserError, match="row 2: question 81 is in row 1 already"):
        read("mine", written(tmp_path, rows[0], {"question_id": "81", "prompt": "y"}))
    for bad in (81.5, float("nan"), True, ["a"], {"n": 1}, "  "):
        with pytest.raises(UserError, match=r"row 2: uid=.* is no id"):
            read("mine", written(tmp_path, rows[0], {"uid": bad, "prompt": "y"}))


def test_mt_bench_has_a_temperature_by_category(tmp_path: Path) -> None:
    rows = [
        {"question_id": place, "turns": ["x"], "category": name}
        for place, name in enumerate(("writing", "stem", "math"))
    ]
    assert [each.temperature for each in read("mt_bench", written(tmp_path, *rows))] == [0.7, 0.1, 0.0]
    assert [each.temperature for each in read("mine", written(tmp_path, *rows))] == [None] * 3


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["{"], "row 1 cannot be read"),
        ([{"instruction": "x"}, "{"], "row 2 cannot be read"),
        ([{"instruction": "x"}, {"instruction": " "}], "row 2 holds no question"),
        ([{"prompt": "x"}, {"prompt": []}], "row 2 holds no question"),
        ([{"prompt": "x"}, {"turns": ["a", 3]}], "row 2 holds no question"),
        ([{"prompt": "x"}, {"prompt": [{"role": "assistant", "content": "x"}]}], "row 2 holds no question"),
        ([{"prompt": "x"}, {"question": "y"}], "row 2 holds no question"),
        ([{"prompt": "x", "id": 1}, {"prompt": "y", "id": 1}], "row 2: question 1 is in row 1 already"),
        ([{"prompt": "x"}, {"prompt": "x"}], "is in row 1 already"),
    ],
)
def test_what_is_no_question_is_named(tmp_path: Path, rows: list[Any], says: str) -> None:
    file = written(tmp_path, *rows)
    with pytest.raises(UserError) as refused:
        read("mine", file)
    assert file in refused.value.problem
    assert says in refused.value.problem


@pytest.mark.parametrize(
    ("benchmark", "given", "says"),
    [
        ("mine", None, "names no file"),
        ("mine", "/nowhere.jsonl", "there is no such file"),
        ("mine", "package://no_such_package_here/x.jsonl", "is not installed"),
    ],
)
def test_questions_that_are_nowhere(benchmark: str, given: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(benchmark, given)


@pytest.mark.parametrize(
    ("row", "benchmark"),
    [
        ({"prompt": "x", "category": "arena-hard-v0.1"}, "arena_hard_v0.1"),
        ({"turns": ["x"], "question_id": "0123456789abcdef" * 2}, "arena_hard_v0.1"),
        ({"prompt": "x", "category": "creative_writing", "uid": "q"}, "arena_hard_v2.0"),
        ({"prompt": "x", "category": "own", "uid": "0123456789abcdef"}, "arena_hard_v2.0"),
    ],
)
def test_questions_of_arena_hards_other_version_are_refused(tmp_path: Path, row: Any, benchmark: str) -> None:
    file = written(tmp_path, {"prompt": "own", "category": "own"}, row)
    assert len(read(benchmark, file)) == len(read("mine", file)) == 2
    (other,) = {"arena_hard_v0.1", "arena_hard_v2.0"} - {benchmark}
    with pytest.raises(UserError, match=r"row 2 is no question of Arena-Hard") as refused:
        read(other, file)
    assert refused.value.remedy == f"give it as generate.benchmarks.{benchmark}"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmarks' real questions are not here")
@pytest.mark.parametrize(
    ("benchmark", "file", "count", "turns"),
    [
        ("alpaca_eval", "alpaca_eval.jsonl", 805, 1),
        ("arena_hard_v0.1", "arena-hard-v0.1.jsonl", 500, 1),
        ("arena_hard_v2.0", "arena-hard-v2.0.jsonl", 750, 1),
        ("mt_bench", "mt_bench.jsonl", 80, 2),
    ],
)
def test_the_real_questions_are_all_read(benchmark: str, file: str, count: int, turns: int) -> None:
    questions = read(benchmark, str(SHARED / file))
    assert len(questions) == count
    assert {1 + len(question.then) for question in questions} == {turns}
    if benchmark == "mt_bench":
        assert sum("references" in question.meta for question in questions) == 30
