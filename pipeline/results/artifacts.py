"""What a result is: identified by a fingerprint, committed by a manifest, verified before it is used.

A fingerprint is the SHA-256 of what a result depends on: stage, stage version, the settings that change it, and the
fingerprints of its inputs. How many workers made it is not part of that. A folder with a manifest.json is complete.
Where results are, and how they are written: address.py.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.results.files import MANIFEST, file_digests
from pipeline.results.locks import in_use

if TYPE_CHECKING:
    from pipeline.results.store import Store

OLD = ".old"  # ends the name of a result that is being replaced


def canonical(value: Any) -> str:
    """JSON with one spelling a value. Raises TypeError for anything that has no such spelling, instead of guessing."""

    def check(item: Any) -> Any:
        if item is None or isinstance(item, str | bool | int):
            return item
        if isinstance(item, float):
            if not math.isfinite(item):
                raise TypeError(f"{item} has no canonical form")
            return int(item) if item.is_integer() and abs(item) < 2**53 else item  # 1 and 1.0 are one value
        if isinstance(item, list | tuple):
            return [check(inner) for inner in item]
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            return {key: check(inner) for key, inner in item.items()}
        raise TypeError(f"{item!r} ({type(item).__name__}) has no canonical form")

    return json.dumps(check(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(stage: str, version: int, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """SHA-256 (hex) of what a result depends on. `inputs` maps the role of an input to its fingerprint."""
    content = {"stage": stage, "version": version, "identity": identity, "inputs": inputs}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A committed result."""

    path: Path
    manifest: dict[str, Any]
    store: "Store | None" = None  # where files that are not here are fetched

    def verify(self, remedy: str | None = None, opened: Collection[str] = ("*",)) -> "Artifact":
        """Check the manifest and every file against their digests; raises UserError that names the first spoilt one.

        `remedy` is what to do then, where making the result again is not. `opened` are patterns of the files' names:
        what is never opened need not be looked at, nor fetched.
        """
        if self.manifest.get("digest") != manifest_digest(self.manifest):
            raise self._spoilt(MANIFEST, "is not as it was committed", remedy)
        entries = {
            name: entry
            for name, entry in self.manifest["outputs"].items()
            if any(fnmatchcase(name, pattern) for pattern in opened)
        }
        faults = self._faults(entries)
        if faults and self.store:
            for name in faults:
                self.store.fetch(f"{self.name}/{name}", self.path / name)
            faults = self._faults({name: entries[name] for name in faults})
        if faults:
            name = next(iter(faults))
            raise self._spoilt(name, faults[name], remedy)
        return self

    def _faults(self, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """What is wrong with which files, in their order; bytes are read only where the cheap checks pass."""
        faults: dict[str, str | None] = {name: _fault(self.path / name, entry) for name, entry in entries.items()}
        whole = [name for name, fault in faults.items() if not fault]
        for name, digest in zip(whole, file_digests([self.path / name for name in whole]), strict=True):
            if digest != entries[name]["sha256"]:
                faults[name] = "has other bytes than were committed"
        return {name: fault for name, fault in faults.items() if fault}

    @property
    def name(self) -> str:
        """<stage>/<label>-<fp12>: where it is below a ROOT."""
        return f"{self.path.parent.name}/{self.path.name.removesuffix(OLD)}"

    @contextlib.contextmanager
    def held(self) -> Iterator["Artifact"]:
        """Within it jobs.prune leaves the result where it is. Raises UserError where it is gone."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(in_use(self.path / MANIFEST))
            except FileNotFoundError:
                problem = f"{self.path} was removed while this command was about to use it"
                raise UserError(problem, "run the same command again: it makes what is missing") from None
            yield self

    def is_here(self) -> bool:
        """Whether every file is on this machine; what is in a store may still have to be fetched."""
        return all((self.path / name).is_file() for name in self.manifest["outputs"])

    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry["bytes"] for entry in self.manifest["outputs"].values())

    def _spoilt(self, name: str, fault: str, remedy: str | None) -> UserError:
        stage = self.path.parent.name
        again = f"rebuild it: python -m jobs.run --config FILE --force {stage} --until {stage}"
        if stage == "model":  # no stage of the line: whoever needs the converted model makes it
            again = f"remove {self.path}; the next stage that needs it makes it again"
        return UserError(f"{self.path / name} {fault}", remedy or again)


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a manifest says but this digest itself."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fault(file: Path, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a committed file that can be seen without reading it."""
    if not file.is_file():
        return "is missing"
    size = file.stat().st_size
    return None if size == entry["bytes"] else f"has {size} bytes, not {entry['bytes']}"
