"""Where preference rows come from: a JSON, JSON Lines or Parquet file, a folder of Parquet parts, or a hub data set.

The loader is chosen by looking at the source, never by a flag. What a row means is not decided here (see normalise.py):
a row that cannot be read is handed on as `Unreadable`, so that it is counted; a source that cannot be read at all is a
`UserError`. How files are read is in files.py.
"""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences.files import (
    Row,
    Rows,
    Source,
    Unreadable,
    folder_digest,
    is_folder_of_parts,
    is_parquet,
    open_json,
    open_parquet,
)

_FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".gz", ".csv", ".txt")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def open_source(
    source: str, *, split: str | None = None, subset: str | None = None, revision: str | None = None
) -> Source:
    """Open the data set named by a local path or, where no such path exists, by its name on the Hugging Face hub.

    `split` and `subset` choose within a hub data set or a local folder shaped like one; `revision` is the hub's.
    Raises UserError where not a single row can be read.
    """
    path = Path(source)
    if not source.strip() or not os.path.exists(source):
        _refuse_missing_path(source)
        opened = _open_hub(source, split, subset, revision)
    elif path.is_dir() and not is_folder_of_parts(path):
        _refuse_options(source, revision=revision)
        opened = _open_hub_folder(path, split, subset)
    else:
        _refuse_options(source, split=split, subset=subset, revision=revision)
        opened = open_parquet(path) if path.is_dir() or is_parquet(path) else open_json(path)
    _require_a_row(source, opened)
    return opened


def _require_a_row(source: str, opened: Source) -> None:
    first: Unreadable | None = None
    for number, row in opened.rows:
        if not isinstance(row, Unreadable):
            return
        first = first or Unreadable(f"row {number}: {row.detail}")
    if first is None:
        raise UserError(f"data.source {source!r} holds no rows", "give a source with at least one preference pair")
    raise UserError(
        f"data.source {source!r}: none of its rows can be read as {opened.loader} ({first.detail})",
        "give JSON Lines (one object a line, UTF-8), a JSON list of objects, Parquet, or the name of a hub data set",
    )


def _refuse_missing_path(source: str) -> None:
    """A name that can only be a path is not looked up on the hub."""
    if _HUB_NAME.fullmatch(source) and not source.endswith(_FILE_SUFFIXES):
        return
    path = Path(source)
    remedy = "correct the path; it is taken relative to the working directory"
    if os.path.isdir(path.parent):
        near = difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)
        remedy = f"did you mean {str(path.parent / near[0])!r}?" if near else remedy
    else:
        remedy += f" (there is no folder {str(path.parent)!r} either)"
    raise UserError(f"data.source {source!r}: there is no such file or folder", remedy)


def _refuse_options(source: str, **options: str | None) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"data.{name}={value!r} does not apply to data.source {source!r}, which is a local path",
                f"leave data.{name} out (a row's own `split` column is respected), or name a hub data set",
            )


def _open_hub(name: str, split: str | None, subset: str | None, revision: str | None) -> Source:
    from huggingface_hub import HfApi

    try:
        # A full commit needs no look-up, so that a data set already downloaded opens without a network.
        resolved = re.fullmatch(r"[0-9a-f]{40}", revision or "")
        commit = revision if resolved else HfApi().dataset_info(name, revision=revision).sha
    except Exception as error:  # the hub's client raises its transport's errors, of no common kind
        raise _hub_error(name, error) from error
    split, data = _load(name, split, {"name": subset, "revision": commit})
    return Source(_hub_rows(name, data), "hub", {"name": name, "commit": commit, "subset": subset, "split": split})


def _open_hub_folder(folder: Path, split: str | None, subset: str | None) -> Source:
    files = sorted(file for file in folder.rglob("[!.]*") if file.is_file())
    # Streaming reads the files themselves: no copy in a cache that could outlive a change of the folder.
    split, data = _load(str(folder.resolve()), split, {"name": subset, "streaming": True})
    identity = {"sha256": folder_digest(folder, files), "subset": subset, "split": split}
    return Source(_hub_rows(str(folder), data), "hub", identity)


def _load(name: str, split: str | None, options: dict[str, Any]) -> tuple[str, Any]:
    import datasets

    try:
        data = datasets.load_dataset(name, split=split, **options)
    except Exception as error:  # bad split, bad subset, no network, a damaged file: each of a different kind
        raise _hub_error(name, error) from error
    if split is not None:
        return split, data
    if len(data) > 1:
        raise UserError(f"data.source {name!r} has the splits {', '.join(sorted(data))}", "choose one with data.split")
    return next(iter(data.items()))


def _hub_rows(name: str, data: Any) -> Rows:
    def read() -> Iterator[tuple[int, Row | Unreadable]]:
        try:
            yield from enumerate(data, 1)
        except Exception as error:  # a streamed folder is parsed while it is read
            raise _hub_error(name, error) from error

    return Rows(read)


def _hub_error(name: str, error: Exception) -> UserError:
    local = os.path.exists(name)
    return UserError(
        f"data.source {name!r} cannot be loaded as a hub data set: {type(error).__name__}: {error}",
        "check data.split, data.subset and the files in the folder"
        if local
        else "no such local path exists either: check the name, data.split, data.subset, data.revision and the network",
    )
