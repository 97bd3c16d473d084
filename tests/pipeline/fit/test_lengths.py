"""Tokens before prepare has run: from the first rows of a source, for all of them, and said as estimated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.fit.lengths import TURN_TOKENS, Lengths, Work, together, work_of
from pipeline.settings.config import RunConfig, validate

ROWS = [{"prompt": f"{i:08}", "chosen": "abcd" * 5, "rejected": "abcd" * 10} for i in range(3000)]
A_PAIR = (2 + 2 * TURN_TOKENS) + (5 + 1) + (10 + 1)  # 4 bytes a token, and what a template writes around


def config(file: Path, **sections: dict[str, Any]) -> RunConfig:
    data = {"source": str(file)} | sections.pop("data", {})
    return validate({"model": {"source": "x"}, "data": data, "objective": {"name": "dpo"}} | sections)


@pytest.fixture(params=["rows.jsonl", "rows.parquet", "rows.csv"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        path.write_text("prompt,chosen,rejected\n" + "".join(",".join(row.values()) + "\n" for row in ROWS))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_the_first_rows_stand_for_all(file: Path) -> None:
    work = work_of(config(file), None, None, seconds=60.0)
    assert work.how == "estimated from 1,000 of 3,000 rows" and not work.exact
    assert (work.trained.pairs, work.trained.tokens) == (3000, 3000 * A_PAIR)
    assert (work.all.scored, work.all.longest, work.held_out.pairs) == (3000 * 17, A_PAIR, 0)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_rows_of_every_part_of_a_source_are_looked_at(tmp_path: Path, name: str) -> None:
    """Its last third is longer, as of a mixture that was written a source after the other; of it 10 % are no pairs."""
    file, third = tmp_path / name, 3000
    rows = ROWS + [{**row, "prompt": f"b{i:07}"} for i, row in enumerate(ROWS)]
    longer = [{"prompt": f"c{i:07}", "chosen": "abcd" * 50, "rejected": "b" if i % 10 else ""} for i in range(third)]
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows + longer), file)
    elif file.suffix == ".csv":
        file.write_text("prompt,chosen,rejected\n" + "".join(",".join(row.values()) + "\n" for row in rows + longer))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows + longer))
    work = work_of(config(file), None, None, seconds=60.0)
    assert work.how == "estimated from 1,000 of 9,000 rows" and work.all.longest > A_PAIR
    assert np.mean(work.all.chosen_P == 51) == pytest.approx(0.31, abs=0.12)
    assert work.seen and work.seen.lost == pytest.approx(0.033, abs=0.02)
    assert work_of(config(file), None, None, seconds=60.0).trained.tokens == work.trained.tokens  # the same rows


def test_a_machine_with_no_time_looks_at_one_pair(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    work = work_of(config(file), None, None, seconds=0.0)
    assert (work.trained.pairs, work.how) == (3000, "estimated from 1 of 3,000 rows")
    embedded = config(file, data={"source": "verifiable", "pairs": 40, "dev_pairs": 8})
    work = work_of(embedded, None, None, seconds=0.0)
    assert (work.trained.pairs, work.held_out.pairs, work.how) == (40, 8, "estimated from 1 of 48 rows")


def test_splits_limits_epochs_and_routes_are_taken_into_account(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:1000]))
    schedule = {"drop_percentile": 10, "sft_percentile": 30, "epochs": 2, "difficulty": "reference-gap"}
    given = config(file, data={"dev_fraction": 0.2, "limit": 400}, schedule=schedule, objective={"name": "mixdpo"})
    work = work_of(given, None, None, seconds=60.0)
    assert 80 <= work.held_out.pairs <= 120  # a hash of each prompt decides
    assert work.trained.pairs == pytest.approx(2 * 360, abs=3)
    of_sft = A_PAIR - 11
    assert work.trained.tokens == pytest.approx(2 * (120 * of_sft + 240 * A_PAIR), rel=0.02)


def test_pairs_that_are_too_long_are_left_out_and_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    longer = {"prompt": "p", "chosen": "abcd" * 900, "rejected": "b"}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:9], longer]))
    work = work_of(config(file), None, None, seconds=60.0)
    assert work.trained.pairs == 9 and work.dropped == {"too-long": 1} and work.lost == 0.1
    with pytest.raises(UserError, match="none of 10 pairs looked at is short enough"):
        work_of(config(file, data={"max_prompt_tokens": 3}), None, None, seconds=60.0)


def test_what_attention_sees_by_hand() -> None:
    """A prompt of 3 sees 1 + 2 + 3; sides of 2 and 1 after it 4 + 5 and 4."""
    one = Lengths(np.array([3]), np.array([2]), np.array([1]))
    assert (one.tokens, one.scored, one.seen, one.longest) == (6, 3, 6 + 9 + 4, 6)


def test_streams_are_mixed_as_training_has_them() -> None:
    """In proportion, each in its own order; what is estimated stands for so many as it does alone."""

    def work(prompts: list[int], scale: float = 1.0) -> Work:
        lengths = Lengths(np.array(prompts), np.full(len(prompts), 2), np.full(len(prompts), 3), scale)
        return Work(lengths, lengths, lengths.take(np.array([0])), scale == 1, "as prepared")

    both = together([work([1, 2, 3, 4]), work([10, 20])])
    assert both.trained.prompt_P.tolist() == [1, 10, 2, 3, 20, 4] and both.held_out.prompt_P.tolist() == [1, 10]
    assert both.exact and both.all.tokens == 40 + 6 * 5 and both.how == "as prepared"
    more = together([work([1, 2, 3, 4]), work([10, 20], scale=2.5)])
    assert not more.exact and sorted(more.trained.prompt_P) == [1, 2, 3, 4, 10, 10, 10, 20, 20]
    assert together([alone := work([5])]) is alone


def test_pairs_that_are_not_sampled_yet_are_told_at_most(tmp_path: Path) -> None:
    """By the prompts, and by how long answers may be: a prompt of 4 letters takes a token and two turns."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{number:04d}"}) + "\n" for number in range(40)) * 2)
    sample = {"prompts": {"source": str(file)}, "max_new_tokens": 30}
    given = config(file, data={"source": "sampled", "dev_fraction": 0.25}, sample=sample, pair={"per_prompt": 2})
    work = work_of(given, None, None, seconds=60.0)
    assert (work.all.pairs, work.trained.pairs, work.held_out.pairs) == (80, 60, 20)
    assert work.all.longest == 1 + 2 * 12 + 2 * 30 and not work.exact
    assert work.how == "at most: pairs of 40 prompts, answers of up to 30 tokens"
    short = config(file, data={"source": "sampled", "max_prompt_tokens": 4}, sample=sample)
    with pytest.raises(UserError, match=r"sample\.prompts\.source=.*: none of its first 40 prompts is short enough"):
        work_of(short, None, None, seconds=60.0)
