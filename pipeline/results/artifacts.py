"""Where results live: ROOT/<stage>/<label>-<fp12>/, written aside, committed by a manifest, found by fingerprint.

A fingerprint is the SHA-256 of what a result depends on: stage, stage version, the settings that change it, and the
fingerprints of its inputs. How many workers made it is not part of that. A folder with a manifest.json is complete.
Work in progress lives beside it in a folder whose name ends in `.partial`, and keeps its finished shards when killed.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.results.files import ASIDE, MANIFEST, file_digest, write_aside

if TYPE_CHECKING:
    from pipeline.results.store import Store


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

    def verify(self) -> "Artifact":
        """Check the manifest and every file against their digests; raises UserError that names the first spoilt one."""
        if self.manifest.get("digest") != manifest_digest(self.manifest):
            raise self._spoilt(MANIFEST, "is not as it was committed")
        for name, entry in self.manifest["outputs"].items():
            if self.store and not (self.path / name).is_file():
                self.store.fetch(f"{self.path.parent.name}/{self.path.name}/{name}", self.path / name)
            if fault := _fault(self.path / name, entry):
                raise self._spoilt(name, fault)
        return self

    def _spoilt(self, name: str, fault: str) -> UserError:
        stage = self.path.parent.name
        remedy = f"rebuild it: python -m jobs.run --config FILE --force {stage} --until {stage}"
        if stage == "model":  # no stage of the line: whoever needs the converted model makes it
            remedy = f"remove {self.path}; the next stage that needs it makes it again"
        return UserError(f"{self.path / name} {fault}", remedy)


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a manifest says but this digest itself."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fault(file: Path, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a committed file, if anything; its bytes are read only where the cheap checks pass."""
    if not file.is_file():
        return "is missing"
    if file.stat().st_size != entry["bytes"]:
        return f"has {file.stat().st_size} bytes, not {entry['bytes']}"
    return None if file_digest(file) == entry["sha256"] else "has other bytes than were committed"


@dataclass(frozen=True)
class Address:
    """Where one result of one stage is, or will be."""

    root: Path
    stage: str
    label: str
    fingerprint: str
    store: "Store | None" = None  # what is committed below `root` is kept here too

    def beside(self, stage: str, label: str, fingerprint: str) -> "Address":
        """The address of another result below the same root."""
        return Address(self.root, stage, label, fingerprint, self.store)

    @property
    def path(self) -> Path:
        return self.root / self.stage / f"{self.label}-{self.fingerprint[:12]}"

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    def find(self) -> Artifact | None:
        """The committed result, or None. A label is for reading only: another one finds the same result."""
        found = self._find_here()
        if not self.store:
            return found
        if not found:
            for name in self.store.find(self.stage, f"-{self.fingerprint[:12]}"):
                self.store.fetch(f"{self.stage}/{name}/{MANIFEST}", self.path.with_name(name) / MANIFEST)
            return self._find_here()
        if not self.store.has(f"{self.stage}/{found.path.name}/{MANIFEST}"):  # killed before all of it was there
            self.store.publish(found.path, f"{self.stage}/{found.path.name}")
        return found

    def _find_here(self) -> Artifact | None:
        folder = self.path.parent
        for path in sorted(folder.glob(f"*-{self.fingerprint[:12]}")) if folder.is_dir() else []:
            if (path / MANIFEST).is_file():
                try:
                    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
                except (json.JSONDecodeError, UnicodeDecodeError):
                    raise UserError(
                        f"{path / MANIFEST} is not readable JSON", f"remove {path}, then run {self.stage} again"
                    ) from None
                if isinstance(manifest, dict) and manifest.get("fingerprint") == self.fingerprint:
                    return Artifact(path, manifest, self.store)
        return None

    def status(self) -> str:
        """committed | partial | stale | missing. Stale: only results with other settings or inputs are there."""
        if self.find():
            return "committed"
        if self.partial.is_dir():
            return "partial"
        folder = self.path.parent
        others = folder.is_dir() and any((path / MANIFEST).is_file() for path in folder.glob(f"{self.label}-*"))
        return "stale" if others else "missing"

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """The `.partial` folder, held by this process alone; what an earlier, killed run finished is still in it.

        Raises UserError where another process holds it, or nothing can be written there.
        """
        # Beside the folder, for the folder is renamed at commit. It stays: to remove a lock file is to race for it.
        lock_file = self.path.with_name(self.path.name + ".lock")
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            lock = open(lock_file, "w")  # noqa: SIM115 - closed by the `with` below
        except OSError as error:
            remedy = "set resources.root to a folder with room that you may write"
            raise UserError(f"cannot write {self.partial} ({error.strerror})", remedy) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problem = f"another process is making {self.path.name} of stage {self.stage}"
                raise UserError(problem, "wait for it, then run this command again") from None
            self.partial.mkdir(exist_ok=True)  # whoever held the lock a moment ago may have committed it
            try:
                yield self.partial
            finally:
                if self.partial.is_dir() and not any(self.partial.iterdir()):
                    self.partial.rmdir()  # nothing was finished: nothing is partial

    def commit(self, manifest: Mapping[str, Any], row_counts: Mapping[str, int]) -> Artifact:
        """Digest what is in the partial folder, write the manifest last, rename: from here on it is found.

        `row_counts` are the rows of its Parquet files, by name. Call it inside `writing()`.
        """
        for leftover in (self.partial / MANIFEST, *self.partial.rglob(f"*{ASIDE}")):
            leftover.unlink(missing_ok=True)  # of a run killed while it wrote
        outputs = {
            str(file.relative_to(self.partial)): {
                "rows": row_counts.get(str(file.relative_to(self.partial))),
                "bytes": file.stat().st_size,
                "sha256": file_digest(file),
            }
            for file in sorted(self.partial.rglob("*"))
            if file.is_file()
        }
        full = {"stage": self.stage, "fingerprint": self.fingerprint, **manifest, "outputs": outputs}
        full = json.loads(json.dumps(full))  # as whoever reads it back has it
        full["digest"] = manifest_digest(full)
        write_aside(self.partial / MANIFEST, json.dumps(full, indent=2, ensure_ascii=False) + "\n")
        if self.path.exists():  # --force, or the remains of a folder that lost its manifest
            shutil.rmtree(self.path)
        self.partial.rename(self.path)
        if self.store:
            self.store.publish(self.path, f"{self.stage}/{self.path.name}")
        return Artifact(self.path, full, self.store)

    def discard(self) -> None:
        """Remove the committed result and any partial one (--force)."""
        if artifact := self.find():
            if self.store:
                self.store.remove(f"{self.stage}/{artifact.path.name}")
            (artifact.path / MANIFEST).unlink()  # first, so that a half-removed folder is not taken for a result
            shutil.rmtree(artifact.path)
        if self.partial.exists():
            with self.writing():
                shutil.rmtree(self.partial)
