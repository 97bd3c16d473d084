"""Tables as files: written whole or refused, a group of rows at a time, read in order, joined by pair id."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.results import tables

Row = dict[str, Any]
ROWS: list[Row] = [
    {"position": i, "pair_id": f"p{i}", "difficulty": None if i % 2 else float(i), "route": "sft", "flipped": i == 1}
    for i in range(10)
]


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=tables.SCHEDULE)


def test_groups_are_written_as_they_come_and_read_as_one(tmp_path: Path) -> None:
    file = tmp_path / "part-00001.parquet"
    assert tables.write_tables((table(ROWS[i : i + 4]) for i in range(0, 10, 4)), tables.SCHEDULE, file) == 10
    assert pq.ParquetFile(file).num_row_groups == 3
    assert tables.write(ROWS[:2], tables.SCHEDULE, tmp_path / "part-00000.parquet") == 2
    assert tables.read(tmp_path, tables.SCHEDULE).to_pylist() == ROWS[:2] + ROWS
    found = tables.read(tmp_path, tables.SCHEDULE, ["route", "position"])
    assert found.column_names == ["route", "position"] and found["position"].to_pylist() == [0, 1, *range(10)]
    assert tables.read(tmp_path, tables.SCHEDULE, ["route"], pattern="none-*").num_rows == 0


def test_a_part_of_no_rows_has_its_columns(tmp_path: Path) -> None:
    assert tables.write([], tables.SCHEDULE, tmp_path / "part-00000.parquet") == 0
    assert tables.read(tmp_path, tables.SCHEDULE).schema == tables.SCHEDULE


def test_a_null_out_of_place_is_named_and_leaves_no_part(tmp_path: Path) -> None:
    file = tmp_path / "part-00000.parquet"
    with pytest.raises(ValueError, match="column route has 1 nulls"):
        tables.write_tables([table(ROWS), table([ROWS[0] | {"route": None}])], tables.SCHEDULE, file)
    assert not list(tmp_path.iterdir())


@given(
    ours=st.lists(st.sampled_from("abcdefgh"), unique=True),
    theirs=st.lists(st.sampled_from("abcdefgh"), unique=True),
    alike=st.booleans(),
)
def test_a_join_is_by_id_whatever_the_order(ours: list[str], theirs: list[str], alike: bool) -> None:
    theirs = ours if alike else theirs
    left = pa.table({"pair_id": pa.array(ours, pa.string()), "place": pa.array(range(len(ours)), pa.int64())})
    right = pa.table({"pair_id": pa.array(theirs, pa.string()), "code": pa.array(map(ord, theirs), pa.int32())})
    found = tables.joined(left, pa.concat_tables([right.slice(0, 1), right.slice(1)]))
    assert found.to_pylist() == [
        {"pair_id": name, "place": place, "code": ord(name) if name in theirs else None}
        for place, name in enumerate(ours)
    ]


def test_an_optional_column_that_a_part_is_older_than_is_null(tmp_path: Path) -> None:
    """And no other: a part without a column that every row has is none of this table."""
    schema = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("later", pa.float64())])
    tables.write([{"key": "a"}], pa.schema([schema.field("key")]), tmp_path / "part-00000.parquet")
    tables.write([{"key": "b", "later": 1.0}], schema, tmp_path / "part-00001.parquet")
    assert tables.read(tmp_path, schema).to_pylist() == [{"key": "a", "later": None}, {"key": "b", "later": 1.0}]
    pq.write_table(pa.table({"later": [2.0]}), tmp_path / "part-00002.parquet")
    with pytest.raises(pa.ArrowInvalid, match="key"):
        tables.read(tmp_path, schema)
