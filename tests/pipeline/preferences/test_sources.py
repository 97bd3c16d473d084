"""Sources: which loader is chosen, what becomes a row of the ledger, what one clear error."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.preferences.rows import Source, Unreadable
from pipeline.preferences.sources import open_source

PAIRS = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(3)]
LINES = "".join(json.dumps(pair) + "\n" for pair in PAIRS)


def rows_of(source: Source) -> list:
    return [row for _, row in source.rows]


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "loader"),
    [
        ("a.jsonl", LINES, "jsonl"),
        ("no-suffix", LINES.rstrip("\n"), "jsonl"),
        ("a.json", LINES, "jsonl"),  # the content decides, not the name
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0), "jsonl"),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n\r\n").encode(), "jsonl"),
        ("a.json", json.dumps(PAIRS), "json"),
        ("a.json", "\n" + json.dumps(PAIRS, indent=2), "json"),
        ("a.json", json.dumps({"version": 1, "data": PAIRS}), "json"),
        ("a.json", json.dumps({"version": 1, "data": PAIRS}, indent=2), "json"),
    ],
)
def test_json_in_every_dress_gives_the_same_rows(tmp_path, name, content, loader):
    source = open_source(write(tmp_path / name, content))
    assert (source.loader, rows_of(source), rows_of(source)) == (loader, PAIRS, PAIRS)


def test_one_pair_on_one_line_is_a_row_even_with_one_list_in_it(tmp_path):
    pair = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    source = open_source(write(tmp_path / "one.jsonl", json.dumps(pair)))
    assert (source.loader, rows_of(source)) == ("jsonl", [pair])


def test_parquet_file_and_folder_of_parts(tmp_path):
    for part, pair in enumerate(PAIRS):
        pq.write_table(pa.Table.from_pylist([pair]), tmp_path / f"part-{part}.parquet")
    one, all_parts = open_source(str(tmp_path / "part-1.parquet")), open_source(str(tmp_path))
    assert (one.loader, list(one.rows)) == ("parquet", [(1, PAIRS[1])])
    assert (all_parts.loader, list(all_parts.rows)) == ("parquet", list(enumerate(PAIRS, 1)))


def test_parquet_text_that_is_not_utf8_is_an_unreadable_row(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"\xff\xfe"], pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": text}), tmp_path / "a.parquet")
    first, second = rows_of(open_source(str(tmp_path / "a.parquet")))
    assert first == {"prompt": "good"} and isinstance(second, Unreadable)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch) -> Path:
    """A local folder laid out as a data set repository on the hub is."""
    folder = tmp_path / "me" / "my-pairs"
    write(folder / "README.md", "---\nlicense: apache-2.0\n---\n")
    write(folder / "data" / "train.jsonl", LINES)
    write(folder / "data" / "test.jsonl", LINES.replace("q", "t"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_local_hub_folder_is_loaded_by_split(hub_folder):
    train, test = (open_source("me/my-pairs", split=split) for split in ("train", "test"))
    assert train.loader == "jsonl" and rows_of(train) == PAIRS and rows_of(train) == PAIRS
    assert [row["prompt"] for row in rows_of(test)] == ["t0", "t1", "t2"]
    assert train.identity["sha256"] == test.identity["sha256"] and train.identity != test.identity
    # Changed content is seen at once: no cached copy answers for it.
    write(hub_folder / "data" / "train.jsonl", LINES.replace("good", "fine"))
    changed = open_source(str(hub_folder), split="train")
    assert rows_of(changed)[0]["chosen"] == "fine" and changed.identity["sha256"] != train.identity["sha256"]


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "splits test, train"), ({"split": "dev"}, "dev"), ({"split": "train", "revision": "main"}, "data.revision")],
)
def test_local_hub_folder_errors(hub_folder, options, said):
    with pytest.raises(UserError, match=said):
        open_source("me/my-pairs", **options)


def test_identity_is_of_the_content_not_of_the_name(tmp_path):
    one, same = (open_source(write(tmp_path / name, LINES)).identity for name in ("a.jsonl", "b.jsonl"))
    other = open_source(write(tmp_path / "c.jsonl", LINES + LINES)).identity
    assert one == same != other


def test_bad_lines_are_rows_with_the_number_of_their_line(tmp_path):
    bad = [b"{broken", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"]
    lines = [LINES.split("\n")[0].encode(), b"", *bad]
    rows = dict(open_source(write(tmp_path / "a.jsonl", b"\n".join(lines))).rows)
    assert rows.pop(1) == PAIRS[0]
    unreadable = {number: row for number, row in rows.items() if isinstance(row, Unreadable)}
    assert sorted(rows) == sorted(unreadable) == [3, 4, 5, 6, 7]
    assert unreadable[3].content == "{broken" and unreadable[4].detail == "a JSON list, not an object"


def test_odd_characters_inside_strings_pass(tmp_path):
    texts = {"separator": "a\u2028b\x85c", "nul": "a\0b", "surrogate": "\ud800"}
    separators_unescaped = json.dumps({**texts, "raw": "RAW"}).replace("RAW", "a\u2028b\x85c")
    (row,) = rows_of(open_source(write(tmp_path / "a.jsonl", separators_unescaped)))
    assert row == {**texts, "raw": "a\u2028b\x85c"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", "", "no rows"),
        ("blank.jsonl", "\n\n  \n", "no rows"),
        ("empty.json", "[]", "no rows"),
        ("garbage.jsonl", bytes(range(128, 256)) * 9, "row 1: byte 1, 0x80, is not UTF-8"),
        ("numbers.json", "[1, 2]", "a JSON int, not an object"),
        ("cut.json", json.dumps(PAIRS)[:-5], "not valid JSON: .*\n  remedy: mend it at that place"),
        ("garbage.jsonl.gz", b"\x1f\x8b" + b"garbage" * 9, "is damaged: Unknown compression"),
        (
            "cut.jsonl.gz",
            gzip.compress(LINES.encode(), mtime=0)[:-12],
            "is damaged: .*\n  remedy: fetch or write it again",
        ),
        ("a.parquet", "not Parquet", "not valid Parquet: .*\n  remedy: fetch or write it again"),
        ("magic-only", b"PAR1" + b"\0" * 50, "not valid Parquet"),
    ],
)
def test_a_source_of_which_nothing_can_be_read_is_one_error(tmp_path, name, content, said):
    with pytest.raises(UserError, match=said) as caught:
        list(open_source(write(tmp_path / name, content)).rows)
    assert name in caught.value.problem and caught.value.remedy


def test_a_pipe_is_refused_before_it_is_read(tmp_path):
    """As `data.source=<(zcat pairs.gz)` gives one: a file is read several times."""
    os.mkfifo(tmp_path / "pairs.jsonl")
    with pytest.raises(UserError, match="is no file but a pipe or a device"):
        open_source(str(tmp_path / "pairs.jsonl"))


def test_empty_parquet_is_an_error(tmp_path):
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no rows"):
        open_source(str(tmp_path / "a.parquet"))


def test_missing_file_names_the_nearest_one(tmp_path):
    write(tmp_path / "pairs.jsonl", LINES)
    with pytest.raises(UserError, match=r"did you mean '.*/pairs.jsonl'"):
        open_source(str(tmp_path / "pair.jsonl"))
    with pytest.raises(UserError, match="no folder"):
        open_source(str(tmp_path / "nowhere" / "pairs.jsonl"))


@pytest.mark.parametrize(
    "source", ["", "  ", "pairs.jsonl", "a/b/c", "./x", "https://host/x", "a\0b", "x" * 5000 + ".gz"]
)
def test_what_cannot_be_a_hub_name_is_a_missing_path(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(source)


@pytest.mark.parametrize("option", ["split", "subset", "revision"])
def test_hub_options_do_not_apply_to_a_file(tmp_path, option):
    with pytest.raises(UserError, match=f"data.{option}='x' does not apply"):
        open_source(write(tmp_path / "a.jsonl", LINES), **{option: "x"})


def test_hub_without_network_is_one_error(tmp_path):
    """In a process of its own: the hub's client reads its settings once, when it is imported."""
    code = (
        "from pipeline.errors import UserError\nfrom pipeline.preferences.sources import open_source\nimport sys\n"
        "assert not {'datasets', 'torch', 'transformers', 'pyarrow'} & sys.modules.keys()\n"
        "try: open_source('me/pairs', split='train')\nexcept UserError as error: print(error)"
    )
    settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=60).stdout
    assert "'me/pairs' cannot be loaded as a hub data set" in said and "remedy: no such local path" in said
