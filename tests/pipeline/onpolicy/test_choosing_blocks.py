"""Tables of candidates and scores, in shards of any order, as a table of pairs."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.onpolicy import choosing_blocks
from pipeline.onpolicy.choosing_blocks import NONE, PAIRS, Counts, pair_all
from pipeline.onpolicy.selected import selected_pairs
from pipeline.results import tables
from pipeline.settings.onpolicy import Pair, Rate

Row = dict[str, Any]


def prompt_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def candidate(prompt: int, name: str, ids: Sequence[int], finish: str = "stop", **more: Any) -> Row:
    return {
        "prompt_id": prompt_id(prompt),
        "candidate_id": f"{prompt}/{name}",
        "answered_by": "model",
        "sample": 0,
        "prompt": f'[{{"content": "What is {prompt}?", "role": "user"}}]',
        "meta": "{}",
        "response": f"{name} of {prompt}",
        "response_ids": list(ids),
        "tokens": len(ids),
        "finish_reason": finish,
        "source": "made",
        **dict.fromkeys(("seed", "logp", "parent", "prefix_tokens", "split")),
    } | more


def score(row: Row, value: float | None, rater: str = "rules") -> Row:
    ids = {name: row[name] for name in ("prompt_id", "candidate_id")}
    return ids | {"rater": rater, "score": value, "detail": "{}", "rated_tokens": 1}


def made(tmp: Path, rows: Sequence[Row], scores: Sequence[Sequence[Row]], *shards: int, **pair: Any) -> Counts:
    """The pairs of `rows`, laid into as many files as `shards` has numbers of rows, and one more for the rest."""
    tmp.mkdir(exist_ok=True)
    files: list[list[Path]] = []
    for table, schema, name in ((rows, tables.CANDIDATES, "c"), *((each, tables.SCORES, "s") for each in scores)):
        files.append([])
        left = list(table)
        for number, size in enumerate((*shards, len(left))):
            files[-1].append(tmp / f"{name}{len(files)}-{number}.parquet")
            tables.write(left[:size], schema, files[-1][-1])
            left = left[size:]
    return pair_all(files[0], files[1:], Rate(), Pair(**pair), tmp)


def read(tmp: Path) -> tuple[pa.Table, pa.Table]:
    pairs = tables.read(tmp, tables.SELECTED, pattern=PAIRS)
    return pairs, tables.read(tmp, tables.UNPAIRED, pattern=NONE)


@pytest.fixture(scope="module")
def many() -> tuple[list[Row], list[Row]]:
    """300 prompts of 0 to 5 answers, of which some are alike, cut or unrated."""
    draw = random.Random(0)
    rows = [
        candidate(prompt, str(kind), [prompt, *range(kind + 2)], draw.choice(["stop", "stop", "length"]), sample=sample)
        for prompt in range(300)
        for sample, kind in enumerate(draw.choices(range(4), k=draw.randrange(6)))
    ]
    once = {row["candidate_id"]: row for row in rows}
    return rows, [score(row, draw.choice([None, 0.0, 0.5, 1.0])) for row in once.values()]


def test_every_prompt_is_accounted_for_in_any_order(
    many: tuple[list[Row], list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is joined by position: rows and shards shuffled, and in more ranges, give the same two tables."""
    rows, scores = many
    counts = made(tmp_path / "one", rows, [scores], cut="rejected-only")
    pairs, without = read(tmp_path / "one")
    prompts = {row["prompt_id"] for row in rows}
    paired = set(pairs["prompt_id"].to_pylist())
    assert paired | set(without["prompt_id"].to_pylist()) == prompts
    assert counts.prompts == len(prompts) == counts.paired + counts.reasons.total()
    assert counts.paired == len(paired) and without.num_rows == counts.reasons.total() > 20
    assert {"too-few", "all-equal", "unrated", "cut"} <= counts.reasons.keys()
    assert pairs["prompt_id"].to_pylist() == sorted(paired)
    assert sorted(path.name for path in (tmp_path / "one").iterdir() if "-0000" in path.name) == [PAIRS]

    monkeypatch.setattr(choosing_blocks, "TOGETHER", 50)
    draw = random.Random(1)
    again = made(
        tmp_path / "two", draw.sample(rows, len(rows)), [draw.sample(scores, len(scores))], 100, 7, cut="rejected-only"
    )
    assert read(tmp_path / "two") == (pairs, without) and again == counts


def test_a_pair_holds_what_its_answers_say(tmp_path: Path) -> None:
    rows = [
        candidate(1, "a", [5, 6, 7, 8], split="dev"),
        candidate(1, "b", [5, 6, 9], split="dev"),
        candidate(1, "c", [4], split="dev"),
        candidate(2, "a", [1, 2]),
        candidate(2, "b", [3]),
    ]
    values = [2.0, 0.5, 1.0, 1.0, 1.0]
    made(
        tmp_path, rows, [[score(row, value) for row, value in zip(rows, values, strict=True)]], confidence_temperature=1
    )
    pairs, without = read(tmp_path)
    assert pairs.to_pylist() == [
        {
            "prompt_id": prompt_id(1),
            "chosen_id": "1/a",
            "rejected_id": "1/b",
            "prompt": rows[0]["prompt"],
            "chosen": "a of 1",
            "rejected": "b of 1",
            "chosen_score": 2.0,
            "rejected_score": 0.5,
            "margin": 1.5,
            "label_confidence": pytest.approx(0.8175744761936437),
            "rule": "best-worst",
            "bin": "high",
            "chosen_tokens": 4,
            "rejected_tokens": 3,
            "shared_prefix_tokens": 2,
            "source": "made",
            "split": "dev",
        }
    ]
    detail = "2 answers, 2 different; 0 cut, 0 unrated"
    assert without.to_pylist() == [{"prompt_id": prompt_id(2), "reason": "all-equal", "detail": detail}]
    ((_, row),) = selected_pairs([tmp_path]).rows
    assert isinstance(row, dict) and row["prompt"] == [{"content": "What is 1?", "role": "user"}]


def test_a_second_rater_is_found_by_id(tmp_path: Path) -> None:
    """Its file has another order; what it did not rate is out."""
    rows = [candidate(1, name, [ord(name)]) for name in "abcd"]
    one = [score(row, value) for row, value in zip(rows, (4.0, 3.0, 2.0, 1.0), strict=True)]
    two = [score(row, value, "rm") for row, value in zip(rows[:3], (10.0, 30.0, 20.0), strict=True)][::-1]
    made(tmp_path, rows, [one, two])  # ranks: a 1 0, b .5 1, c 0 .5
    (pair,) = read(tmp_path)[0].to_pylist()
    assert (pair["chosen_id"], pair["rejected_id"], pair["margin"]) == ("1/b", "1/c", 0.5)


def test_no_candidates_are_no_pairs(tmp_path: Path) -> None:
    assert made(tmp_path, [], [[]]) == Counts()
    assert [table.num_rows for table in read(tmp_path)] == [0, 0]
