"""Files and folders of any kind: every row is read, whatever dress it comes in, or what would not be is named."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import annotations, questions
from pipeline.evaluation.benchmarks.annotations import LeftOut
from pipeline.preferences.normalise import Normaliser, Preference
from pipeline.preferences.rows import Source, Unreadable
from pipeline.preferences.sources import _load, open_source

FILES = Path(__file__).parents[4] / "shared" / "cases" / "files"
PAIRS = [{"prompt": f"Größe {i}?", "chosen": f"gut, {i}\nja", "rejected": "no"} for i in range(4)]
LINES = "".join(json.dumps(pair) + "\n" for pair in PAIRS).encode()


def rows_of(source: Source) -> list[Any]:
    return [row for _, row in source.rows]


def zst(content: bytes) -> bytes:
    half = len(content) // 2  # two frames, as parallel compression and `cat` write them
    codec = pa.Codec("zstd")
    frames = [b"\x5a\x2a\x4d\x18" + bytes([3, 0, 0, 0]) + b"any"]  # one without content, as some writers begin
    for part in (content[:half], content[half:]):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec.name) as stream:
            stream.write(part)
        frames.append(sink.getvalue().to_pybytes())
    return b"".join(frames)


def table(delimiter: str, rows: list[dict[str, Any]] = PAIRS) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "loader"),
    [
        ("a.jsonl.bz2", bz2.compress(LINES), "jsonl"),
        ("a.jsonl.xz", lzma.compress(LINES), "jsonl"),
        ("a.jsonl.zst", zst(LINES), "jsonl"),
        ("named-wrongly.jsonl", zst(LINES), "jsonl"),
        ("a.json.bz2", bz2.compress(json.dumps({"data": PAIRS}).encode()), "json"),
        ("a.csv", table(","), "csv"),
        ("A.CSV", b"\xef\xbb\xbf" + table(";"), "csv"),
        ("a.tsv", table("\t"), "csv"),
        ("a.csv.gz", gzip.compress(table(","), mtime=0), "csv"),
        ("a.csv.zst", zst(table(",")), "csv"),
        ("[x] *?{a,b} Größe 100%.jsonl", LINES, "jsonl"),
    ],
)
def test_a_file_in_any_dress_gives_the_same_rows(tmp_path: Path, name: str, content: bytes, loader: str) -> None:
    write(tmp_path / name, content)
    source = open_source(str(tmp_path / name))
    assert (source.loader, rows_of(source), rows_of(source)) == (loader, PAIRS, PAIRS)


@pytest.mark.parametrize("kind", ["feather", "stream", "compressed"])
def test_arrow_files_and_streams(tmp_path: Path, kind: str) -> None:
    given, file = pa.Table.from_pylist(PAIRS), tmp_path / "a.arrow"
    if kind == "stream":
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, given.schema) as writer:
            writer.write_table(given, max_chunksize=3)
    else:
        feather.write_feather(given, str(file), compression="zstd" if kind == "compressed" else "uncompressed")
    source = open_source(str(file))
    assert (source.loader, list(source.rows)) == ("arrow", list(enumerate(PAIRS, 1)))


def test_broken_rows_of_a_table_are_rows_of_the_ledger(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", b'prompt,chosen,rejected,margin\nq,a,b,\nq,a,b\nq,a,b,1,2\n\xff,a,b,1\n"q\nr",a,b,42\n')
    rows = rows_of(open_source(str(tmp_path / "a.csv")))
    assert rows[0] == {"prompt": "q", "chosen": "a", "rejected": "b", "margin": None}
    assert [row.detail.partition(":")[::2] for row in rows if isinstance(row, Unreadable)] == [
        ("line 3", " 3 fields, the header has 4"),
        ("line 4", " 5 fields, the header has 4"),
        ("line 5", f" byte 1, 0xff, is not UTF-8 ('ÿ' in Windows-1252): {TO_UTF8}"),
    ]
    reasons = [getattr(outcome, "reason", "") for row in rows for outcome in Normaliser([]).read(row)]
    assert reasons == ["", "unreadable-row", "unreadable-row", "unreadable-row", ""]
    assert rows[4]["prompt"] == "q\nr" and rows[4]["margin"] == "42"


TO_UTF8 = "convert the file to UTF-8, such as by iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"


@pytest.mark.parametrize(
    ("name", "lines", "place"),
    [
        ("a.jsonl", [json.dumps({"prompt": "a"}), '{"prompt": "schön"}'], None),
        ("a.csv", ["prompt,chosen", "a,b", 'c,"d', '\nGröße"'], None),
        ("a.json", ["[", '{"prompt": "schön"}', "]"], "line 2: byte 16, 0xf6, is not UTF-8"),
        ("a.json", ["{", '"data": [{"prompt": "schön"}]', "}"], "line 2: byte 25, 0xf6, is not UTF-8"),
        ("a.csv", ["prompt,größe", "a,b"], "line 1: byte 10, 0xf6, is not UTF-8"),
    ],
)
def test_another_encoding_is_told_with_its_place_and_the_way_out(
    tmp_path: Path, name: str, lines: list[str], place: str | None
) -> None:
    """A row alone is counted out; where the whole file hangs together it is refused."""
    write(tmp_path / name, "\n".join(lines).encode("cp1252"))
    if place is None:
        first, second = rows_of(open_source(str(tmp_path / name)))
        assert first["prompt"] == "a" and isinstance(second, Unreadable)
        assert "0xf6, is not UTF-8 ('ö' in Windows-1252)" in second.detail and TO_UTF8 in second.detail
    else:
        with pytest.raises(UserError, match=place) as caught:
            rows_of(open_source(str(tmp_path / name)))
        assert caught.value.remedy == TO_UTF8


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.jsonl", "a.json", "a.csv", "a.csv.gz", "a.arrow", "in a/part-0.parquet", "save/x.arrow"]
)
def test_a_pointer_in_a_files_place_is_told_as_that(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, POINTER)
    if name.startswith("save"):
        write(tmp_path / "save" / "state.json", b'{"_data_files": [{"filename": "x.arrow"}]}')
    where = tmp_path / (name.partition("/")[0] if "/" in name else name)
    with pytest.raises(UserError, match=f"{Path(name).name}' is a Git LFS pointer") as caught:
        rows_of(open_source(str(where)))
    assert caught.value.remedy.endswith(" lfs pull")


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.parquet"])
def test_a_pointer_is_no_file_of_questions_or_verdicts(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, POINTER)
    for read in (
        lambda: questions.read("mine", str(tmp_path / name)),
        lambda: annotations.read(tmp_path / name, LeftOut()),
    ):
        with pytest.raises(UserError, match=f"{name}' is a Git LFS pointer"):
            read()


def test_a_json_file_of_splits(tmp_path: Path) -> None:
    """Several lists of rows in one object are splits, by data.split, also within a folder."""
    content = json.dumps({"version": 2, "train": PAIRS, "test": PAIRS[:1], "authors": ["x"]})
    for name, text in (("a.json", content), ("b/all.json", json.dumps(json.loads(content), indent=1))):
        write(tmp_path / name, text.encode())
        given = str(tmp_path / name.partition("/")[0])
        with pytest.raises(UserError, match=r"has the splits test, train\n.*choose one with data.split"):
            open_source(given)
        with pytest.raises(UserError, match=r"data.split='tets'.*\n.*did you mean test\?"):
            open_source(given, split="tets")
        train, test = (open_source(given, split=split) for split in ("train", "eval"))
        assert (rows_of(train), rows_of(test)) == (PAIRS, PAIRS[:1])
        assert [source.identity["split"] for source in (train, test)] == ["train", "test"]
    write(tmp_path / "c.json", json.dumps({"train": PAIRS}).encode())
    assert rows_of(open_source(str(tmp_path / "c.json"))) == rows_of(
        open_source(str(tmp_path / "c.json"), split="train")
    )
    assert "split" not in open_source(str(tmp_path / "c.json")).identity
    write(tmp_path / "d" / "a.json", json.dumps(PAIRS).encode())
    with pytest.raises(UserError, match="has no splits of its own"):
        open_source(str(tmp_path / "d"), split="train")


@pytest.mark.parametrize("cut", ["a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst", "a.arrow"])
def test_a_file_that_is_cut_is_one_error(tmp_path: Path, cut: str) -> None:
    many = LINES * 999
    content = {"a.jsonl.bz2": bz2.compress(many), "a.jsonl.xz": lzma.compress(many), "a.jsonl.zst": zst(many)}.get(cut)
    if content is None:
        feather.write_feather(pa.Table.from_pylist(PAIRS), str(tmp_path / cut), compression="uncompressed")
        content = (tmp_path / cut).read_bytes()
    write(tmp_path / cut, content[: len(content) - 9])
    with pytest.raises(UserError, match=r"is damaged: |not valid Arrow") as told:
        rows_of(open_source(str(tmp_path / cut)))
    assert told.value.remedy == "fetch or write it again: it was cut or changed on its way"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zst])
def test_streams_are_read_one_after_another_and_a_spoilt_one_is_told(tmp_path: Path, compress: Any) -> None:
    """Python's own readers of bz2 and xz leave out all from it on, in silence."""
    padded = bytes(8) if compress is lzma.compress else b""
    write(tmp_path / "a.jsonl", compress(LINES) + padded + compress(LINES))
    assert len(rows_of(open_source(str(tmp_path / "a.jsonl")))) == 2 * len(PAIRS)
    write(tmp_path / "a.jsonl", compress(LINES) + b"garbage")
    with pytest.raises(UserError, match="is damaged: "):
        rows_of(open_source(str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zst])
def test_a_stream_of_which_a_byte_is_another_is_told_as_damaged(tmp_path: Path, compress: Any) -> None:
    """Wherever it is, it is told in words, or, as zstd keeps no sum, the rows before it are as they were."""
    many = b"".join(json.dumps({**PAIRS[0], "prompt": f"q{n * n}"}).encode() + b"\n" for n in range(3000))
    whole = compress(many)
    told = 0
    for place in range(12, len(whole) - 9, max(1, len(whole) // 40)):
        write(tmp_path / "a.jsonl", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            rows = list(open_source(str(tmp_path / "a.jsonl")).rows)
        except UserError as error:
            told += "is damaged: " in error.problem and error.remedy.startswith("fetch or write it again")
        else:
            assert compress is zst and len(rows) > 0
    assert told > (10 if compress is zst else 30)


def test_what_a_file_or_folder_of_no_use_needs_is_said(tmp_path: Path) -> None:
    """Of each fault its own remedy: none of these is mended by permissions."""
    write(tmp_path / "delta" / "_delta_log" / "0.json", b"{}")
    write(tmp_path / "old" / "state.json", b'{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}')
    write(tmp_path / "quote.csv", b'prompt,chosen,rejected\nq,"a,b\n')
    write(tmp_path / "twice.csv", b"prompt,chosen,chosen\nq,a,b\n")
    write(tmp_path / "ends.csv", b"prompt,chosen,rejected\rq,a,b\r")
    write(tmp_path / "cut.json", b'[{"prompt": "q"}, {"prompt"]')
    for name, said in (
        ("delta", "read it with deltalake"),
        ("old", "datasets.load_from_disk"),
        ("quote.csv", "double the quotation marks within fields"),
        ("twice.csv", "another name in its first line"),
        ("ends.csv", "end its lines with line feeds"),
        ("cut.json", "mend it at that place"),
    ):
        with pytest.raises(UserError) as told:
            rows_of(open_source(str(tmp_path / name)))
        assert said in told.value.remedy and "may be read" not in told.value.remedy, name


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['p,c,r', *["a,b,d"] * 5, 'a,"b,d', *["a,b,d"] * 9], "in the row of line 7"),
        (['p,c,r', "a,b,d", 'a,b,"d', *["a,b,d"] * 9], "in the row of line 3"),
        (['p\tc\tr', 'a\t"b\td', "a\tb\td", 'a\t"b\td'], "in the row of line 2"),
        (['p,c,r', 'a,"b" said he,d'], "in the row of line 2"),
        (['p,c,c,r', "a,b,x,d"], "names the column 'c' twice"),
    ],
)  # fmt: skip
def test_quotes_that_do_not_close_and_columns_of_one_name_lose_no_row(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    file = tmp_path / ("x.tsv" if "\t" in lines[0] else "x.csv")
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=said):
        rows_of(open_source(str(file)))


def test_a_key_that_stands_twice_in_an_object_is_told(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "chosen": "a", "chosen": "c"}\n')
    _, second = [row for _, row in open_source(str(file)).rows]
    assert isinstance(second, Unreadable) and "the key 'chosen' stands there twice" in second.detail


def test_an_arrow_file_with_wild_offsets_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "a.arrow"
    feather.write_feather(pa.Table.from_pylist(PAIRS), str(file), compression="uncompressed")
    begins = len("Größe 0?".encode())
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, begins, 2 * begins))
    assert file.read_bytes().count(offsets) == 1
    file.write_bytes(file.read_bytes().replace(offsets, offsets[:4] + b"\xff\xff\xff\x7f" + offsets[8:]))
    with pytest.raises(UserError, match="not valid Arrow"):
        rows_of(open_source(str(file)))


def test_an_archive_and_another_encoding_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.jsonl", b"PK\x03\x04" + LINES, "ZIP archive"),
        ("a.jsonl", LINES.decode().encode("utf-16"), "UTF-16"),
        ("a.csv", b"prompt,chosen,rejected\rq,a,b\rq,a,b\r", "not valid CSV"),
    ):
        write(tmp_path / name, content)
        with pytest.raises(UserError, match=said):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("folder", ["parts", "pairs [v2]", "Größe * {a,b}?", "a b/c"])
def test_a_folder_of_all_kinds_is_read_whole(tmp_path: Path, folder: str) -> None:
    here = tmp_path / folder
    parquet(here / "b.parquet", PAIRS[:1])
    write(here / "nested" / "deep" / "a.jsonl", LINES.splitlines()[1])
    write(here / "c.csv.gz", gzip.compress(table(",", PAIRS[2:3]), mtime=0))
    feather.write_feather(pa.Table.from_pylist(PAIRS[3:]), str(here / "d.feather"))
    for name in ("_SUCCESS", ".part.crc", "LICENSE", ".cache/x.jsonl", "_temporary/y.parquet", "notes.md"):
        write(here / name, b"not rows")
    source = open_source(str(here))
    assert source.loader == "arrow+csv+jsonl+parquet"
    assert sorted(rows_of(source), key=lambda row: row["prompt"]) == PAIRS
    assert [number for number, _ in source.rows] == [1, 2, 3, 4]
    os.symlink(here, tmp_path / "link")
    assert open_source(str(tmp_path / "link")).identity == source.identity


def test_a_folder_behind_a_link_is_read_and_a_circle_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.jsonl", LINES)
    (tmp_path / "here").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "here" / "more")
    os.symlink(tmp_path / "here", tmp_path / "elsewhere" / "back")
    assert rows_of(open_source(str(tmp_path / "here"))) == PAIRS


def test_partitions_are_columns(tmp_path: Path) -> None:
    for number, name in enumerate(
        ("split=train/lang=de", "split=dev/lang=a%20b", "split=test/lang=__HIVE_DEFAULT_PARTITION__")
    ):
        parquet(tmp_path / name / "part-0.parquet", [PAIRS[number]])
    rows = rows_of(open_source(str(tmp_path)))
    assert [(row["split"], row["lang"]) for row in rows] == [("dev", "a b"), ("test", None), ("train", "de")]
    reader = Normaliser(enumerate(rows))
    assert [each.split for row in rows for each in reader.read(row) if isinstance(each, Preference)] == [
        "dev",
        "test",
        "train",
    ]
    assert reader.unused == ["lang"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.jsonl", "more.txt"], "'more.txt', so that their rows would be left out"),
        (["a.jsonl", "b/old.pkl", "b/c.xlsx"], "'b/c.xlsx', 'b/old.pkl'"),
        (["train.jsonl", "more.jsonl"], "'more.jsonl'"),
        (["a.txt"], "'a.txt'"),
        ([".hidden.jsonl"], "no file of rows"),
        (["train.jsonl", "test.jsonl"], "splits test, train"),
        (["_delta_log/0.json", "a.parquet"], "Delta table"),
        (["train-00000-of-00002.jsonl"], "of the 2 parts train-*.jsonl part 1 is not there"),
        (["b/x-00001-of-00004.jsonl", "b/x-00002-of-00004.jsonl"], "parts b/x-*.jsonl part 3 is not there, nor are 1"),
    ],
)
def test_what_would_not_be_read_is_named(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        write(tmp_path / name, LINES)
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("files", "split", "rows"),
    [
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], None, 8),
        (["x-00001-of-00002.jsonl", "x-00002-of-00002.jsonl", "y-00000-of-00001.jsonl"], None, 12),
        (["train.jsonl", "val.jsonl"], "validation", 4),
        (["train/a.jsonl", "train/b.jsonl", "eval/a.jsonl"], "train", 8),
        (["data/pairs_dev.jsonl", "data/pairs_training.jsonl"], "dev", 4),
        (["train_prefs-00000-of-00001.jsonl", "train_sft-00000-of-00001.jsonl", "test_gen.jsonl"], "train_prefs", 4),
    ],
)
def test_splits_told_by_names(tmp_path: Path, files: list[str], split: str | None, rows: int) -> None:
    for name in files:
        write(tmp_path / "x [1]" / name, LINES)
    assert len(rows_of(open_source(str(tmp_path / "x [1]"), split=split))) == rows


CARD = """---
configs:
- config_name: prefs
  data_files:
  - split: train_prefs
    path: data/train-*.jsonl
  - split: test_prefs
    path: ["data/test.jsonl"]
- config_name: other
  data_files: raw/*.parquet
---
# Pairs
"""


def test_a_card_says_subsets_and_splits(tmp_path: Path) -> None:
    here = tmp_path / "pairs [v2]"
    write(here / "README.md", CARD.encode())
    write(here / "data" / "train-0.jsonl", LINES)
    write(here / "data" / "test.jsonl", LINES.splitlines()[0])
    parquet(here / "raw" / "x.parquet", PAIRS[2:])
    found = [
        open_source(str(here), subset=subset, split=split)
        for subset, split in (("prefs", "train_prefs"), ("prefs", "test_prefs"), ("other", None))
    ]
    assert [rows_of(source) for source in found] == [PAIRS, PAIRS[:1], PAIRS[2:]]
    assert len({json.dumps(source.identity) for source in found}) == 3
    for options, said in (
        ({}, "subsets other, prefs"),
        ({"subset": "pref"}, "did you mean prefs"),
        ({"subset": "prefs"}, "splits"),
    ):
        with pytest.raises(UserError, match=said):
            open_source(str(here), **options)
    write(here / "forgotten.jsonl", LINES)
    with pytest.raises(UserError, match=r"names no split of 'forgotten.jsonl'"):
        open_source(str(here), subset="other")


def test_what_save_to_disk_writes(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(PAIRS)
    whole.save_to_disk(tmp_path / "one [1]", num_shards=3)
    assert rows_of(open_source(str(tmp_path / "one [1]"))) == PAIRS
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(tmp_path / "two")
    assert rows_of(open_source(str(tmp_path / "two"), split="train")) == PAIRS
    test = open_source(str(tmp_path / "two"), split="test")
    assert rows_of(test) == PAIRS[1:2] and test.identity["split"] == "test"
    for options, said in (
        ({}, "splits test, train"),
        ({"split": "trian"}, "did you mean train"),
        ({"subset": "x"}, "no subsets"),
    ):
        with pytest.raises(UserError, match=said):
            open_source(str(tmp_path / "two"), **options)


def test_a_hub_data_set_is_read_without_decoding_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = datasets.Features({**{name: datasets.Value("string") for name in PAIRS[0]}, "pic": datasets.Image()})
    (tmp_path / "hub").mkdir()
    rows = [{**pair, "pic": {"bytes": b"no image at all", "path": None}} for pair in PAIRS]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "hub" / "train.parquet")
    split, data = _load(str(tmp_path / "hub"), None, None, None)  # what the hub's loader makes of a repository
    assert split == "train"
    with pytest.raises(UserError, match="the column pic holds an image"):
        Normaliser(enumerate(data))
    assert Normaliser(enumerate(data), columns={"pic": None}).first is not None


def test_one_row_with_a_list_in_it_is_a_row(tmp_path: Path) -> None:
    for row in (
        {"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
        {"question": "q", "candidates": [{"text": "a"}, {"text": "b"}]},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}},
    ):
        write(tmp_path / "one.jsonl", json.dumps(row).encode())
        assert rows_of(open_source(str(tmp_path / "one.jsonl"))) == [row]
    write(tmp_path / "one.json", json.dumps({"rows": [{"question": "q", "good": "a", "bad": "b"}]}).encode())
    assert len(rows_of(open_source(str(tmp_path / "one.json"), columns=["question", None]))) == 1


@pytest.mark.skipif(not FILES.exists(), reason="needs the cases in ../shared")
@pytest.mark.parametrize(("name", "rows"), [("mixed", 6), ("saved_to_disk", 4), ("pairs [v2]", 4)])
def test_cases(name: str, rows: int) -> None:
    source = open_source(str(FILES / name))
    reader = Normaliser(source.rows)
    found = [outcome for _, row in source.rows for outcome in reader.read(row)]
    assert len(found) == rows and all(isinstance(each, Preference) for each in found)
