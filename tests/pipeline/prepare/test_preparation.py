"""Blocks of rows as parts of pairs: what is written depends on the rows, and not on how they were gone through."""

import itertools
import json
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.preferences.changes import changed
from pipeline.preferences.rows import Rows, Unreadable
from pipeline.preferences.sources import open_source
from pipeline.preferences.tokenise import tokens_digest
from pipeline.prepare import blocks, copies, parts
from pipeline.prepare.blocks import Blocks, cut
from pipeline.prepare.copies import COPY, grouped
from pipeline.results import tables
from tests.pipeline.prepare.small import GOOD, Made, prepared

PLAIN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
SCORED = {"chosen_score": 9, "rejected_score": 2}


def mixed(count: int, seed: int = 0) -> list[Any]:
    """Pairs of several splits with copies that say other things, mirrored ones, and rows that are none."""
    draw, rows = random.Random(seed), list[Any]()
    for _ in range(count):
        row: dict[str, Any] = {**PLAIN, "prompt": f"{draw.randrange(count // 3)}?", "rejected": draw.choice("567")}
        row |= draw.choice([{}, {}, {"split": draw.choice(["train", "dev", "test"])}, {"source": "exam"}])
        row |= draw.choice([{}, {"chosen_score": draw.choice([7, 9]), "rejected_score": 2}, {"difficulty": 1}])
        if draw.random() < 0.3:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        rows.append(draw.choice([row] * 9 + [{"prompt": "x"}, Unreadable("cut"), {**row, "prompt": "long " * 200}]))
    return rows


def one_by_one(rows: list[Any]) -> Rows:
    """Of which a block may hold one."""
    lots = [Rows.of(partial(iter, [row])) for row in enumerate(rows, 1)]
    return Rows(lambda: (held for lot in lots for held in lot.held()))


def shuffled(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterable[Any]:
    """As many hands as there are jobs, which end in any order."""
    given = list(jobs)
    random.Random(len(given)).shuffle(given)
    return map(function, given)


def same(one: Made, other: Made) -> bool:
    facts = [(each.parts, each.dropped, {**vars(each.account), "examples": None}) for each in (one, other)]
    return facts[0] == facts[1] and one.account.examples == other.account.examples


@pytest.mark.parametrize("limit", [None, 20, 1000])
def test_neither_blocks_nor_their_order_have_a_part_in_what_is_written(tmp_path: Path, limit: int | None) -> None:
    rows, data = mixed(120), dict[str, Any]({"shard_pairs": 7, "limit": limit, "dev_fraction": 0.2, "max_dropped": 1})
    whole = prepared(rows, tmp_path / "whole", **data)
    assert len(whole.pairs) > 20 and len(whole.dropped) > 20 and len(whole.parts) > 3
    assert whole.account.contradicting.count and whole.account.shared_prompts.count
    for number, (size, spread) in enumerate([(1, map), (64, shuffled), (1, shuffled)]):
        few = one_by_one(rows)
        assert same(whole, prepared(few, tmp_path / str(number), size, spread, **data)), (size, spread)


def test_a_partition_on_disk_and_ranges_of_ids_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, data = mixed(200), dict[str, Any](shard_pairs=7, limit=60, dev_fraction=0.2, max_dropped=1)
    whole = prepared(rows, tmp_path / "whole", **data)
    for module, name, size in ((copies, "TOGETHER", 16), (parts, "TOGETHER", 7)):
        monkeypatch.setattr(module, name, size)
    small = prepared(rows, tmp_path / "small", 1, **data)
    assert len(list(small.preparation.between.glob("range-*.arrow"))) > 7
    assert same(whole, small)


def test_pairs_are_kept_by_the_lowest_ids_of_each_split(tmp_path: Path) -> None:
    rows, data = mixed(200, seed=1), dict[str, Any](dev_fraction=0.2, max_dropped=1)
    every = sorted(prepared(rows, tmp_path / "every", **data).pairs, key=lambda pair: pair["pair_id"])
    kept = prepared(rows, tmp_path / "kept", limit=30, **data).pairs
    train = [pair for pair in every if pair["split"] == "train"]
    order = list(dict.fromkeys(pair["split"] for pair in every))
    of = {split: [pair for pair in every if pair["split"] == split] for split in order}
    assert kept == [pair for split in order for pair in of[split][: round(30 / len(train) * len(of[split]))]]
    assert sum(pair["split"] == "train" for pair in kept) == 30


def test_a_part_has_the_bytes_that_its_rows_have(tmp_path: Path) -> None:
    made = prepared(mixed(150), tmp_path / "made", 64, shard_pairs=40, max_dropped=1)
    for part in sorted(made.folder.glob("part-*.parquet")):
        tables.write(pq.read_table(part).to_pylist(), tables.PAIRS, tmp_path / "again.parquet")
        assert (tmp_path / "again.parquet").read_bytes() == part.read_bytes()


@pytest.mark.parametrize(
    ("given", "kept", "reasons"),
    [
        ([{}, SCORED], 1, ["duplicate"]),
        ([SCORED, {}], 0, ["duplicate"]),
        ([{"source": "a"}, {"label_confidence": 0.9}, {"difficulty": 1}], 1, ["duplicate"] * 2),
        ([{"split": "dev"}, {"source": "a"}, {"split": "dev", "source": "a"}], 2, ["duplicate"] * 2),
        ([SCORED, {"chosen_score": 8, "rejected_score": 2}], 0, ["contradicting-duplicate"]),
        ([SCORED, {**SCORED, "chosen_score": 8, "difficulty": 3}], 1, ["contradicting-duplicate"]),
        ([{"split": "train"}, SCORED, {"split": "dev"}], 1, ["duplicate"] * 2),
        ([{**SCORED, "split": "train"}, {"split": "dev"}], 0, ["contradicting-duplicate"]),
        ([{**SCORED, "source": "a"}, {**SCORED, "source": "b"}], 0, ["duplicate"]),
        ([{**SCORED, "split": "test"}] * 3, 0, ["duplicate"] * 2),
    ],
)
@pytest.mark.parametrize("a_block", [1, 2048])
def test_of_copies_the_first_that_says_most_is_kept(
    given: list[dict[str, Any]], kept: int, reasons: list[str], a_block: int, tmp_path: Path
) -> None:
    rows = [{**PLAIN, "rejected": "6", **SCORED}, *({**PLAIN, **copy} for copy in given)]
    made = prepared(one_by_one(rows), tmp_path / "made", a_block)
    assert [reason for _, reason in made.reasons] == reasons and made.account.pairs == len(made.pairs) == 2
    assert [row for row, _ in made.reasons] == [number + 2 for number in range(len(given)) if number != kept]
    (other,) = prepared([rows[kept + 1]], tmp_path / "other").pairs
    assert made.pairs[1] == other


def test_what_copies_contradict_each_other_in_is_told(tmp_path: Path) -> None:
    one, other = {**PLAIN, **SCORED, "difficulty": 1}, {**PLAIN, "chosen_score": 8, "rejected_score": 2.5}
    made = prepared([one, {**other, "difficulty": 1, "split": "dev"}], tmp_path / "made")
    (dropped,) = made.dropped
    assert dropped["detail"] == f"pair {made.pairs[0]['pair_id']} has scores (8.0, 2.5) and (9.0, 2.0)"
    assert "'chosen_score': 9" in dropped["content"]


def test_a_copy_that_cannot_be_used_is_one_pair_of_the_account(tmp_path: Path) -> None:
    long = {**PLAIN, "prompt": "word " * 200}
    made = prepared([long, {**long, **SCORED}, PLAIN], tmp_path / "made", max_dropped=1)
    assert made.reasons == [(1, "duplicate"), (2, "prompt-too-long")]
    assert (made.account.pairs, made.account.kept, made.account.read) == (2, 1, 3)


def test_pairs_that_are_labelled_both_ways_are_kept_and_told(tmp_path: Path) -> None:
    mirrored = {**PLAIN, "chosen": "5", "rejected": "4"}
    rows = [
        PLAIN,
        *GOOD[:3],
        PLAIN,
        mirrored,
        {**mirrored, **SCORED},
        {**GOOD[0], "chosen": "Seven.", "rejected": "Red."},
    ]
    made = prepared(rows, tmp_path / "made", 1)
    found = made.account.contradicting
    assert made.account.kept == 6 and (found.count, found.rows) == (2, (1, 7))
    assert made.account.dropped == {"duplicate": 2}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    assert not prepared([PLAIN, {**mirrored, "tools": tools}], tmp_path / "tools").account.contradicting.count
    assert not prepared([PLAIN, {**mirrored, "prompt": "2+3?"}], tmp_path / "prompts").account.contradicting.count


def test_prompts_in_several_splits_are_told(tmp_path: Path) -> None:
    rows = [{**PLAIN, "split": "train"}, {**PLAIN, "rejected": "6", "split": "train"}, *GOOD[:4]]
    rows += [{**PLAIN, "rejected": "7", "split": "test"}, {**GOOD[3], "rejected": "Nine.", "split": "dev"}]
    found = prepared(rows, tmp_path / "made").account.shared_prompts
    assert (found.count, found.rows) == (2, (1, 7))
    other = [{**row, "split": "dev"} for row in GOOD[:5]] + [{**row, "split": "train"} for row in GOOD[5:]]
    assert prepared(other, tmp_path / "other").account.shared_prompts.count == 0
    # a copy that is dropped is in no split
    assert prepared([PLAIN, {**PLAIN, "split": "dev"}], tmp_path / "copy").account.shared_prompts.count == 0


def ranked(number: int, name: str) -> dict[str, Any]:
    return {"prompt": f"{number}?", "answers": [{"answer": text, name: 3 - len(text)} for text in ("a", "bb")]}


@pytest.mark.parametrize("spread", [map, shuffled])
def test_a_scale_that_comes_late_holds_from_there_on(tmp_path: Path, spread: Any) -> None:
    rows: list[Any] = [*GOOD, *({**row, "prompt": f"{row['prompt']} {n}"} for n in range(3) for row in GOOD)]
    rows += [ranked(1, "rating"), PLAIN, *(ranked(n, "score") for n in range(2, 9)), ranked(9, "rating")]
    rows += [{**ranked(10, "score"), "ratings": [1, 2]}]
    whole = prepared(rows, tmp_path / "whole", max_dropped=1)
    assert [reason for _, reason in whole.reasons] == ["other-scale"] * 8 and whole.account.kept == 163
    each = one_by_one(rows)
    assert same(whole, prepared(each, tmp_path / "each", 1, spread, max_dropped=1))


def test_what_a_killed_run_made_is_kept_and_only_that_of_the_same_rows(tmp_path: Path) -> None:
    rows, data = mixed(64 * 4), {"max_dropped": 1, "shard_pairs": 20}
    whole = prepared(rows, tmp_path / "whole", 64, **data)

    def killed(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterable[Any]:
        yield from map(function, itertools.islice(jobs, 1, None, 2))  # blocks 1 and 3
        raise KeyboardInterrupt

    calls = list[int]()

    def counted(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterable[Any]:
        for job in jobs:
            calls.append(job[0].number if isinstance(job, tuple) else -1)
            yield function(job)

    with pytest.raises(KeyboardInterrupt):
        prepared(rows, tmp_path / "again", 64, killed, **data)
    assert same(whole, prepared(rows, tmp_path / "again", 64, counted, **data)) and calls[:2] == [0, 2]
    assert {*calls[2:]} == {-1}
    calls.clear()
    assert same(
        prepared(rows[:-1], tmp_path / "fewer", 64, **data),
        prepared(rows[:-1], tmp_path / "again", 64, counted, **data),
    )
    assert [number for number in calls if number >= 0] == [3]


def test_a_block_that_is_cut_is_made_again(tmp_path: Path) -> None:
    rows = mixed(64 * 2)
    whole = prepared(rows, tmp_path / "made", 64, max_dropped=1)
    file = blocks.file_of(whole.preparation.between, 1)
    for content in (file.read_bytes()[:-40], b""):
        file.write_bytes(content)
        assert same(whole, prepared(rows, tmp_path / "made", 64, max_dropped=1))


def test_blocks_end_where_rows_are_many_or_long(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows.of(lambda: ((number, {"prompt": "x"}) for number in range(1, 301)))
    assert [block.span for block in cut(rows, 128)] == [(128, 1, 128), (128, 129, 256), (44, 257, 300)]
    assert [number for block in cut(rows, 128) for number, _ in block] == [number for number, _ in rows]
    long = Rows.of(lambda: ((number, {"prompt": "x" * (1 << 20)}) for number in range(1, 12)))
    assert [block.span[0] for block in cut(long)] == [8, 3]
    for count, within in ((2, False), (3, True), (9, True)):
        ahead = Blocks(rows, 128)
        assert ahead.within(count) is within
        assert [block.number for block in ahead] == [0, 1, 2]


def test_every_source_gives_the_same_blocks_in_another_process(tmp_path: Path) -> None:
    """What is held can be sent, whatever kind of file it is from."""
    import pickle

    rows = [{**row, "source": "a"} for row in GOOD]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=16)
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=16)
    (tmp_path / "folder" / "source=a").mkdir(parents=True)
    pq.write_table(table.drop_columns("source"), tmp_path / "folder" / "source=a" / "part.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow", "folder"):
        source = open_source(str(tmp_path / name))
        sent = [pickle.loads(pickle.dumps(block)) for block in cut(source.rows, 16)]
        assert [row for block in sent for row in block] == list(source.rows), name
        assert [row for _, row in source.rows] == rows, name


def test_groups_hold_all_of_a_key() -> None:
    assert [len(each) for each in grouped([], COPY, 0, Path())] == [0]


def test_which_tokens_differ_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    """Beside each part, of the same pairs in the same order; the pairs themselves are the same."""
    plain, asked = (
        prepared(mixed(300), tmp_path / name, 64, shard_pairs=50, max_dropped=1, changed_tokens=asked)
        for name, asked in (("plain", False), ("asked", True))
    )
    assert plain.parts == asked.parts and not list((tmp_path / "plain").glob("changed-*"))
    names = [name.replace("part-", "changed-") for name in asked.parts]
    assert names == sorted(file.name for file in (tmp_path / "asked").glob("changed-*"))
    rows = tables.read(tmp_path / "asked", tables.TOKEN_VALUES, pattern="changed-*.parquet").to_pylist()
    for pair, row in zip(asked.pairs, rows, strict=True):
        assert row["pair_id"] == pair["pair_id"]
        assert row["tokens_digest"] == tokens_digest(*(pair[f"{n}_ids"] for n in ("prompt", "chosen", "rejected")))
        for side, differs in zip(
            ("chosen", "rejected"), changed(pair["chosen_ids"], pair["rejected_ids"]), strict=True
        ):
            assert row[side] == [float(each) for each in differs]
            assert row[side][-1] == 0.0 and any(row[side])  # both end a turn
