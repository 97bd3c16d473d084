"""Where preference rows come from: a file, a folder of files, or a data set on the hub.

The loader is chosen by looking at the source, never by a flag. What a row means is not decided here (see normalise.py):
a row that cannot be read is handed on as `Unreadable`, so that it is counted; a source that cannot be read at all is a
`UserError`. How files are read is in kinds.py, files.py and columnar.py, how folders in folders.py.
"""

import difflib
import itertools
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences.files import COMPRESSED
from pipeline.preferences.folders import open_folder
from pipeline.preferences.kinds import SUFFIXES, open_file
from pipeline.preferences.ranked import LISTS
from pipeline.preferences.rows import Row, Rows, Source, Unreadable
from pipeline.preferences.shapes import CONVERSATIONS

_BATCH = 1024  # rows of a hub data set that are read at a time
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_ROW_KEYS = {"prompt", "chosen", "rejected", "instruction", *LISTS, *CONVERSATIONS}


def open_source(
    source: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    columns: Collection[str | None] = (),
) -> Source:
    """Open the data set named by a local path or, where no such path exists, by its name on the Hugging Face hub.

    `split` and `subset` choose within a hub data set or a local folder shaped like one, and `split` within a JSON file
    of several lists; `revision` is the hub's; `columns` are further names of which a row may have one. Raises UserError
    where not a single row can be read.
    """
    path = Path(source)
    row_keys = _ROW_KEYS | {name for name in columns if name is not None}
    if not source.strip() or not os.path.exists(source):
        _refuse_missing_path(source)
        opened = _open_hub(source, split, subset, revision)
    elif path.is_dir():
        _refuse_options(source, revision=revision)
        opened = open_folder(path, split, subset, row_keys)
    else:
        _refuse_options(source, subset=subset, revision=revision)
        opened = open_file(path, row_keys, split)
        if "split" not in opened.identity:
            _refuse_options(source, split=split)
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
        "give JSON Lines (one object a line, UTF-8), a JSON list of objects, CSV (named so), Parquet, Arrow, or the "
        "name of a hub data set",
    )


def _refuse_missing_path(source: str) -> None:
    """A name that can only be a path is not looked up on the hub."""
    if _HUB_NAME.fullmatch(source) and not source.endswith((*SUFFIXES, *COMPRESSED, ".txt")):
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
    split, data = _load(name, split, subset, commit)
    return Source(_hub_rows(name, data), "hub", {"name": name, "commit": commit, "subset": subset, "split": split})


def _load(name: str, split: str | None, subset: str | None, commit: str | None) -> tuple[str, Any]:
    import datasets

    try:
        data = datasets.load_dataset(name, name=subset, split=split, revision=commit)
    except Exception as error:  # bad split, bad subset, no network, a damaged file: each of a different kind
        raise _hub_error(name, error) from error
    if split is None:
        if len(data) > 1:
            raise UserError(
                f"data.source {name!r} has the splits {', '.join(sorted(data))}", "choose one with data.split"
            )
        split, data = next(iter(data.items()))
    for column, feature in data.features.items():
        if hasattr(feature, "decode"):  # images and the like: seen as what they are, and refused, without a decoder
            data = data.cast_column(column, type(feature)(decode=False))
    return str(split), data


def _hub_rows(name: str, data: Any) -> Rows:
    def read() -> Iterator[tuple[int, Row | Unreadable]]:
        numbers = itertools.count(1)
        try:
            for batch in data.iter(_BATCH):  # a row at a time takes ten times as long
                for values in zip(*batch.values(), strict=True):
                    yield next(numbers), dict(zip(batch, values, strict=True))
        except Exception as error:  # media that cannot be decoded
            raise _hub_error(name, error) from error

    return Rows.of(read)


def _hub_error(name: str, error: Exception) -> UserError:
    return UserError(
        f"data.source {name!r} cannot be loaded as a hub data set: {type(error).__name__}: {error}",
        "no such local path exists either: check the name, data.split, data.subset, data.revision and the network",
    )
