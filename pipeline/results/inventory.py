"""All that lies below a ROOT, whoever made it: committed results, unfinished ones, ones that were replaced, and the
curves that trackers keep in files.

What is removed is removed under the locks of those who write and use it, its manifest first. A folder that is not named
as results are is never looked at, and never touched.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.results.address import PARTIAL, unpublished
from pipeline.results.artifacts import OLD
from pipeline.results.files import MANIFEST
from pipeline.results.locks import exclusive, unused

if TYPE_CHECKING:
    from pipeline.results.store import Store

_NAME = re.compile(rf"(?P<label>.+)-(?P<fingerprint>[0-9a-f]{{12}})(?P<end>{re.escape(PARTIAL)}|{re.escape(OLD)})?")
Kind = Literal["committed", "unfinished", "replaced", "curves"]
TRACKING = "tracking"  # a folder in a ROOT, where trackers that write files keep the curves of trainings
_RUN = re.compile(r".*-(?P<fingerprint>[0-9a-f]{12})([0-9a-f]{52})?")  # a folder of TensorBoard's or W&B's


@dataclass(frozen=True)
class Result:
    """One folder of results, or of a training's curves. `size` is in bytes, `written` in seconds since 1970."""

    stage: str
    name: str  # of its folder
    fingerprint: str  # its first 12 digits
    kind: Kind
    size: int
    written: float
    manifest: Mapping[str, Any] = field(default_factory=dict)  # of a committed one
    here: Path | None = None  # None: in the store alone
    stored: bool = False

    @property
    def address(self) -> str:
        return f"{self.stage}/{self.name}"

    @property
    def inputs(self) -> dict[str, str]:
        """What it was made from, by role: the first digits of fingerprints."""
        return {role: each["fingerprint"][:12] for role, each in self.manifest.get("inputs", {}).items()}


def inventory(root: Path, store: "Store | None" = None) -> list[Result]:
    """Every result below `root`, and in the store that it is the mirror of, by stage and name."""
    found = {each.address: each for each in (*_here(root), *_curves(root))}
    for each in _stored(store) if store else ():
        ours = found.get(each.address)
        found[each.address] = each if ours is None else _both(ours, each)
    return [found[address] for address in sorted(found)]


def _both(ours: Result, theirs: Result) -> Result:
    """A result that is here, in part perhaps, and in the store."""
    size, written = max(ours.size, theirs.size), max(ours.written, theirs.written)
    manifest = theirs.manifest or ours.manifest
    return Result(ours.stage, ours.name, ours.fingerprint, ours.kind, size, written, manifest, ours.here, stored=True)


def _here(root: Path) -> Iterator[Result]:
    for folder in sorted(root.glob("*/*")):
        named = _NAME.fullmatch(folder.name)
        if named is None or not folder.is_dir() or folder.is_symlink():
            continue
        size, written = _facts(folder)
        manifest = _manifest(folder / MANIFEST)
        successor = named["end"] == OLD and (folder.with_suffix("") / MANIFEST).is_file()
        if kind := _kind(named["end"], manifest is not None, successor):
            yield Result(
                folder.parent.name, folder.name, named["fingerprint"], kind, size, written, manifest or {}, folder
            )


def _curves(root: Path) -> Iterator[Result]:
    """What trackers have of trainings, each under the fingerprint of its training."""
    folder = root / TRACKING
    runs = {run: named["fingerprint"] for run in folder.glob("*/*") if (named := _RUN.fullmatch(run.name))}
    runs |= {file.parents[1]: file.read_text("utf-8")[:12] for file in folder.glob("mlruns/*/*/tags/fingerprint")}
    for run, fingerprint in sorted(runs.items()):
        if run.is_dir() and not run.is_symlink():
            yield Result(str(run.parent.relative_to(root)), run.name, fingerprint, "curves", *_facts(run), here=run)


def _facts(folder: Path) -> tuple[int, float]:
    """Bytes of a folder's files, and when one of them was last written to."""
    facts = [file.stat() for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return sum(fact.st_size for fact in facts), max((fact.st_mtime for fact in facts), default=folder.stat().st_mtime)


def _kind(end: str | None, whole: bool, successor: bool = False) -> Kind | None:
    """What a folder is by the end of its name; None for one that only looks like a result."""
    if end == PARTIAL:
        return "unfinished"
    return "replaced" if successor else "committed" if whole else None


def _manifest(file: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_bytes())
        return known if isinstance(known, dict) and "fingerprint" in known else None
    return None


def _stored(store: "Store") -> Iterator[Result]:
    files: dict[str, list[tuple[int, float]]] = {}
    whole = set()
    for path, size, written in store.listing():
        stage, _, rest = path.partition("/")
        name, _, file = rest.partition("/")
        if file:
            files.setdefault(f"{stage}/{name}", []).append((size, written))
        if file == MANIFEST:
            whole.add(f"{stage}/{name}")
    for address, facts in files.items():
        stage, _, name = address.partition("/")
        if (named := _NAME.fullmatch(name)) and (kind := _kind(named["end"], address in whole)):
            sizes, times = zip(*facts, strict=True)
            manifest = json.loads(store.read(f"{address}/{MANIFEST}")) if kind == "committed" else {}
            yield Result(stage, name, named["fingerprint"], kind, sum(sizes), max(times), manifest, stored=True)


def needed(results: Iterable[Result], wanted: Iterable[str]) -> set[str]:
    """Fingerprints, their first digits, of what is kept for the sake of `wanted` ones.

    A ranking is kept with the training that it ranks, and then all that it was made from.
    """
    keep, committed = {each[:12] for each in wanted}, [each for each in results if each.kind == "committed"]
    for each in committed:
        if each.stage == "rank" and each.inputs.get("trained") in keep:
            keep |= {each.fingerprint, *each.inputs.values()}
    return keep


def made_from(results: Iterable[Result], one: Result) -> set[str]:
    """The same of a result and all that it was made from, directly or not."""
    by_fingerprint = {each.fingerprint: each for each in results if each.kind == "committed"}
    found, left = set[str](), [one.fingerprint]
    while left:
        fingerprint = left.pop()
        if fingerprint not in found:
            found.add(fingerprint)
            left += by_fingerprint[fingerprint].inputs.values() if fingerprint in by_fingerprint else ()
    return found


def remove(result: Result, root: Path, store: "Store | None" = None) -> bool:
    """Remove a result here and in the store. False, and nothing is touched, where one makes it or is in use of it."""
    stage = root / ("train" if result.kind == "curves" else result.stage)  # whoever trains writes them
    stage.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(stage / f".{result.fingerprint}.lock"))
            if result.here and (result.here / MANIFEST).is_file():
                held.enter_context(unused(result.here / MANIFEST))
        except OSError:  # held by another process; or by a file system that has no locks, where none can tell
            return False
        if result.here:
            (result.here / MANIFEST).unlink(missing_ok=True)  # first: what is half removed is no result
            shutil.rmtree(result.here, ignore_errors=True)
        if store and result.stored:
            store.remove(result.address) if result.kind == "committed" else store.drop(result.address)
        if result.kind == "committed":
            unpublished(stage, result.fingerprint).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        stage.rmdir()  # where it was the last one
    return True
