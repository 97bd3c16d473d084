"""Folders of files: all of them are rows of one source, or the folder is refused and names what would not be read.

Parts side by side or nested, of one kind or several; partitions (`k=v/`, whose k is then a column); splits told apart
by names or by the card of a data set (README.md); and what the datasets library writes with save_to_disk.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from pipeline.errors import UserError
from pipeline.preferences.columnar import open_arrow
from pipeline.preferences.files import folder_digest, unusable
from pipeline.preferences.kinds import SUFFIXES, bare, open_file
from pipeline.preferences.rows import Held, Row, Rows, Source, Unreadable
from pipeline.preferences.splits import WORDS, chosen, refuse

_ASIDE = re.compile(
    r"[._].*|(README|LICEN[CS]E|CITATION|NOTICE)\b.*|.*\.(md|crc|lock)|dataset_infos?\.json", re.IGNORECASE
)
_PART_OF = re.compile(r"(.*?)(\d{5,})-of-(\d{5,})(.*)")  # as the hub and the datasets library name them
_NOT_A_VALUE = "__HIVE_DEFAULT_PARTITION__"


def open_folder(folder: Path, split: str | None, subset: str | None, row_keys: Collection[str]) -> Source:
    """A folder's rows; `split` and `subset` choose where it has several. Raises UserError."""
    if (folder / "dataset_dict.json").is_file():
        refuse("subset", subset, folder, [])
        names = list(_json(folder / "dataset_dict.json").get("splits", []))
        split = chosen("split", split, folder, names)
        saved = _saved(folder / split)
        return Source(saved.rows, saved.loader, saved.identity | {"split": split})
    if (folder / "state.json").is_file() and "_data_files" in _json(folder / "state.json"):
        refuse("subset", subset, folder, [])
        refuse("split", split, folder, [])
        return _saved(folder)
    if (folder / "_delta_log").is_dir():
        problem = "is a Delta table, in which files may stand that are no part of it any more"
        raise unusable(folder, problem, "read it with deltalake, and write its rows as Parquet")
    files = _files(folder)
    card = _card(folder)
    if card:
        name = chosen("subset", subset, folder, list(card))
        splits = {each: _matching(folder, patterns) for each, patterns in card[name].items()}
        named = {file for subset in card.values() for each in subset.values() for file in _matching(folder, each)}
        _refuse_left_out(
            folder, [file for file in files if file not in named], "its card (README.md) names no split of"
        )
    else:
        refuse("subset", subset, folder, [])
        splits = _by_name(folder, files)
        name = None
    if not splits:
        return _parts(folder, files, files, row_keys, split)
    split = chosen("split", split, folder, list(splits))
    whole = sorted({*files, *(file for file in folder.rglob("[!.]*") if file.is_file())})
    source = _parts(folder, splits[split], whole, row_keys)
    return Source(source.rows, source.loader, source.identity | {"subset": name, "split": split})


def _files(folder: Path) -> list[Path]:
    """The files that hold rows, in order. Raises UserError for others that nobody would expect to be left out."""
    found = sorted(file for file in _walk(folder) if not _is_aside(file.relative_to(folder)))
    rows = [file for file in found if bare(file.name).endswith(SUFFIXES)]
    _refuse_left_out(folder, [file for file in found if file not in set(rows)], "there is no reading")
    _require_all_parts(folder, rows)
    if not rows:
        raise UserError(
            f"data.source {str(folder)!r}: the folder holds no file of rows", f"give files of {', '.join(SUFFIXES)}"
        )
    return rows


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, also behind links, each folder once. A folder that cannot be read is an error."""

    def fail(error: OSError) -> None:
        raise unusable(folder, f"cannot be read: {error}") from error

    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in names)


def _is_aside(path: Path) -> bool:
    return any(part[0] in "._" for part in path.parts[:-1]) or _ASIDE.fullmatch(path.name) is not None


def _refuse_left_out(folder: Path, files: list[Path], why: str) -> None:
    if files:
        names = ", ".join(repr(file.relative_to(folder).as_posix()) for file in files[:5])
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        problem = f"data.source {str(folder)!r}: {why} {names}{more}, so that their rows would be left out"
        raise UserError(problem, "move them to another folder, or give data.source one file")


def _require_all_parts(folder: Path, files: list[Path]) -> None:
    """Raise UserError where names say of how many parts a file is one, and others are not there; from 0 or from 1."""
    found: dict[tuple[str, int, str], set[int]] = {}
    for file in files:
        if named := _PART_OF.fullmatch(file.relative_to(folder).as_posix()):
            begin, number, parts, end = named.groups()
            found.setdefault((begin, int(parts), end), set()).add(int(number))
    for (begin, parts, end), numbers in found.items():
        missing = sorted({*range(parts)} - numbers) if 0 in numbers else sorted({*range(1, parts + 1)} - numbers)
        if missing:
            problem = f"data.source {str(folder)!r}: of the {parts} parts {begin}*{end} part {missing[0]} is not there"
            more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
            raise UserError(f"{problem}{more}", "fetch what is missing, or give the files that are to do other names")


def _parts(
    folder: Path, files: list[Path], whole: list[Path], row_keys: Collection[str], split: str | None = None
) -> Source:
    """The rows of `files`, one after the other; the identity is a digest of all that is in `whole`.

    `split` is one within the files, which all of them have.
    """
    opened = [(open_file(file, row_keys, split), _partition(file.relative_to(folder))) for file in files]
    if not all("split" in source.identity for source, _ in opened):
        refuse("split", split, folder, [])
    known = {file: source.identity["sha256"] for file, (source, _) in zip(files, opened, strict=True)}

    def held() -> Iterator[Held]:
        number = 1
        for source, columns in opened:
            for each in source.rows.held():
                parse = partial(_beside, columns, each.parse) if columns else each.parse
                yield replace(each, numbers=range(number, number + len(each.numbers)), parse=parse)
                number += len(each.numbers)

    loader = "+".join(sorted({source.loader for source, _ in opened}))
    identity: dict[str, str | None] = {"sha256": folder_digest(folder, whole, known)}
    return Source(Rows(held), loader, identity if split is None else opened[0][0].identity | identity)


def _beside(columns: Row, parse: Callable[[Any], Sequence[Row | Unreadable]], content: Any) -> list[Row | Unreadable]:
    return [columns | row if isinstance(row, dict) else row for row in parse(content)]


def _partition(path: Path) -> Row:
    """The columns that stand in the names of folders, as Hive and Spark write partitions."""
    pairs = [part.split("=", 1) for part in path.parts[:-1] if "=" in part]
    return {name: None if value == _NOT_A_VALUE else unquote(value) for name, value in pairs}


def _told_apart(split: str, files: list[Path]) -> dict[str, list[Path]]:
    """Files of a split; by more of their names where these say more than the split (train_prefs, train_sft)."""
    named: dict[str, list[Path]] = {}
    for file in files:
        name = re.sub(r"([-_.]?(\d+|of|part|shard))+$", "", file.name.partition(".")[0].lower())
        says = set(re.split(r"[^a-z]+", name)) & set(WORDS[split])
        named.setdefault(name if says else split, []).append(file)
    return named if len(named) > 1 else {split: files}


def _by_name(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that their path names; empty where none names one, or a partition does."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        path = file.relative_to(folder)
        words = {word for part in path.parts if "=" not in part for word in re.split(r"[^a-z]+", part.lower())}
        found = [split for split, names in WORDS.items() if not words.isdisjoint(names)]
        splits.setdefault(found[0] if len(found) == 1 else "", []).append(file)
    nameless = splits.pop("", [])
    if splits and nameless:
        _refuse_left_out(folder, nameless, f"beside {', '.join(splits)} no one split is named by")
    return {name: own for split, files in splits.items() for name, own in _told_apart(split, files).items()}


def _card(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The files' patterns by subset and split, where the data set's card names them."""
    try:
        _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        configs = yaml.safe_load(front).get("configs") or []
        return {
            str(each.get("config_name", "default")): _patterns(each["data_files"], each.get("data_dir"))
            for each in configs
            if each.get("data_files")
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError):
        return {}  # no card, or none that says so


def _patterns(given: Any, within: str | None) -> dict[str, list[str]]:
    """As the hub has them: one pattern or a list of them for train, or {split, path} each."""
    listed = given if isinstance(given, list) else [given]
    splits: dict[str, list[str]] = {}
    for each in listed:
        split, paths = (each["split"], each["path"]) if isinstance(each, dict) else ("train", each)
        paths = paths if isinstance(paths, list) else [paths]
        splits.setdefault(str(split), []).extend(f"{within}/{path}" if within else str(path) for path in paths)
    return splits


def _matching(folder: Path, patterns: list[str]) -> list[Path]:
    found = {file for pattern in patterns for file in folder.glob(pattern.removeprefix("./")) if file.is_file()}
    if not found:
        raise UserError(
            f"data.source {str(folder)!r}: no file is {' or '.join(patterns)}, as its card (README.md) says",
            "mend the card or the folder",
        )
    return sorted(found)


def _saved(folder: Path) -> Source:
    """A data set as the datasets library saves it: Arrow streams, named in their order by state.json."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        problem = "holds a selection of rows by indices, as old versions of datasets saved it"
        raise unusable(folder, problem, "open it with datasets.load_from_disk, and save its flatten_indices() anew")
    parts = [folder / str(each["filename"]) for each in state.get("_data_files", [])]
    return open_arrow(parts, folder)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unusable(file, f"cannot be read: {error}", "check that it may be read, or save the data anew") from error
    return value if isinstance(value, dict) else {}
