"""What kind of file one is, found out by its first bytes; only CSV by its name, as any text might be one."""

import codecs
from collections.abc import Collection
from pathlib import Path

from pipeline.errors import UserError
from pipeline.preferences.columnar import is_parquet, open_arrow, open_parquet
from pipeline.preferences.files import COMPRESSED, begins, open_csv, open_json
from pipeline.preferences.rows import Source

TABLES = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".ipc", *TABLES)


def open_file(path: Path, row_keys: Collection[str], split: str | None = None) -> Source:
    """Any file that can be read. `row_keys` are names of which a row has one, `split` one of a file's; see `open_json`.

    The identity has the split where the file has splits.
    """
    start = begins(path)
    if is_parquet(path):
        return open_parquet(path)
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return open_arrow([path], path)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"the file {str(path)!r} is text in UTF-16", "save it as UTF-8")
    if start.startswith(b"PK\x03\x04"):
        raise UserError(f"the file {str(path)!r} is a ZIP archive (or a spreadsheet)", "unpack it, or save it as CSV")
    return open_csv(path) if bare(path.name).endswith(TABLES) else open_json(path, row_keys, split)


def bare(name: str) -> str:
    """A file's name in lower case, without what says that it is compressed."""
    name = name.lower()
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)
