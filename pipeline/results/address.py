"""Where results live: ROOT/<stage>/<label>-<fp12>/, written aside, committed by a rename, found by fingerprint.

Work in progress lives beside it in a folder whose name ends in `.partial`, and keeps its finished shards when killed;
where results are kept in a store, they are copied there as they are finished, and another machine goes on with them.
What is made again stays where it is until then.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.results.artifacts import OLD, Artifact, manifest_digest
from pipeline.results.files import ASIDE, MANIFEST, file_digests, write_aside
from pipeline.results.locks import exclusive

if TYPE_CHECKING:
    from pipeline.results.store import Store

PARTIAL = ".partial"  # ends the name of a folder that is being written, or was when a run was killed
HELD = "another process is making"  # begins what is said of a result that is being written
NOWHERE = "cannot write"  # and of one that no file can be made for
FORCED = ".forced"  # a file in a partial folder: it was begun by a forced run


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
    def _ending(self) -> str:
        return f"-{self.fingerprint[:12]}"

    @property
    def path(self) -> Path:
        return self.root / self.stage / f"{self.label}{self._ending}"

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + PARTIAL)

    def find(self) -> Artifact | None:
        """The committed result, or None. A label is for reading only: another one finds the same result."""
        found = self._find_here()
        if not self.store:
            return found
        if found and found.is_here():
            if self._unpublished.exists() or not self.store.has(f"{found.name}/{MANIFEST}"):
                self._publish(found, self.store)  # killed before all of it was there
            return found
        # What lies here is a manifest at most, and the result may have been made again elsewhere since.
        names = self.store.find(self.stage, self._ending)
        if found and found.path.name not in names:
            (found.path / MANIFEST).unlink()
        for name in names:
            stored, here = f"{self.stage}/{name}/{MANIFEST}", self.path.with_name(name) / MANIFEST
            if not here.is_file() or here.read_bytes() != self.store.read(stored):  # or else who holds it would not
                self.store.fetch(stored, here)
        return self._find_here()

    def _find_here(self) -> Artifact | None:
        for ending in ("", OLD, ""):  # it may be replaced between two looks
            for path in self._beside(ending):
                try:
                    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except (json.JSONDecodeError, UnicodeDecodeError):
                    raise UserError(
                        f"{path / MANIFEST} is not readable JSON", f"remove {path}, then run this command again"
                    ) from None
                if isinstance(manifest, dict) and manifest.get("fingerprint") == self.fingerprint:
                    return Artifact(path, manifest, self.store)
        return None

    def status(self, alike: Callable[[Mapping[str, Any]], bool] = lambda manifest: True) -> str:
        """committed | partial | stale | missing.

        Stale: only results with other settings or inputs are there, of this label and with a manifest that is `alike`.
        """
        if self.find():
            return "committed"
        if self._beside(PARTIAL) or self.kept():
            return "partial"
        return "stale" if any(alike(manifest) for manifest in self._others()) else "missing"

    def _others(self) -> Iterator[Mapping[str, Any]]:
        """The manifests of what is committed under this label."""
        for file in self.path.parent.glob(f"{self.label}-*/{MANIFEST}"):
            with contextlib.suppress(OSError, ValueError):
                known = json.loads(file.read_bytes())
                if isinstance(known, dict) and file.parent.suffix not in (PARTIAL, OLD):
                    yield known

    @contextlib.contextmanager
    def writing(self, anew: bool = False) -> Iterator[Path]:
        """The `.partial` folder, held by this process alone; what an earlier, killed run finished is still in it.

        `anew` (--force): a committed result is made again. It stays where it is until `commit`. What a run left that
        was not forced is cleared; what a forced one left, which FORCED in the folder tells, is gone on with.

        Raises UserError where another process holds it, or nothing can be written there.
        """
        folder = self.path.parent
        with contextlib.ExitStack() as held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(exclusive(folder / f".{self.fingerprint[:12]}.lock"))  # whatever its label
                self._open_partial(anew)
                if self.store:
                    self._go_on_with(self.store, anew)
            except BlockingIOError:
                problem = f"{HELD} {self.path.name} of stage {self.stage}"
                raise UserError(problem, "wait for it, then run this command again") from None
            except OSError as error:
                remedy = "set resources.root to a folder with room that you may write"
                raise UserError(f"{NOWHERE} {self.partial} ({error.strerror})", remedy) from None
            try:
                yield self.partial
            finally:
                self._drop_if_empty()

    def _open_partial(self, anew: bool) -> None:
        for other in self._beside(PARTIAL):
            if other != self.partial and not self.partial.exists():
                other.rename(self.partial)  # begun under another label
        if anew and self.partial.exists() and not (self.partial / FORCED).exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(exist_ok=True)
        if anew:
            (self.partial / FORCED).touch()

    def _go_on_with(self, store: "Store", anew: bool) -> None:
        """Bring what another machine finished of this result, as `_open_partial` takes what was finished here."""
        kept = self.kept()
        if anew and FORCED not in kept:
            self.forget()
            self.keep({FORCED: self.partial / FORCED})
            return
        for name in sorted(kept, key=lambda name: -name.count("/")):  # a list stands above what it lists
            if not (self.partial / name).exists():
                store.fetch(kept[name], self.partial / name)

    def kept(self) -> dict[str, str]:
        """The files that the store has of this result while it is not finished: where, by their names in the folder."""
        found = self.store.unfinished(self.stage, f"{self._ending}{PARTIAL}") if self.store else ()
        return {path.split("/", maxsplit=2)[2]: path for path in found}

    def keep(self, files: Mapping[str, Path]) -> None:
        """Keep finished files in the store, under these names in the unfinished folder."""
        for name, file in files.items():
            if self.store:
                self.store.put(file, f"{self.stage}/{self.partial.name}/{name}")

    def forget(self, within: str = "") -> None:
        """Take away from the store what it has of this result while it is not finished, or a file or folder in that."""
        for folder in {path.removesuffix(f"/{name}") for name, path in self.kept().items()}:
            if self.store:
                self.store.drop(f"{folder}/{within}".rstrip("/"))

    def _drop_if_empty(self) -> None:
        """Where nothing was finished, nothing is partial."""
        if self.partial.is_dir() and {file.name for file in self.partial.iterdir()} <= {FORCED}:
            shutil.rmtree(self.partial)

    def copy(self, artifact: Artifact) -> Artifact:
        """Make a committed result one of this address, too, with its manifest; kept where it is here already."""
        if (found := self.find()) and found.manifest == artifact.manifest:
            return found.verify(remedy=f"remove {found.path}, then fetch it again")
        with self.writing(anew=True) as folder:
            for name in artifact.manifest["outputs"]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.path / name, folder / name)
            shutil.copyfile(artifact.path / MANIFEST, folder / MANIFEST)
            self._replace()
        return Artifact(self.path, artifact.manifest).verify()

    def commit(
        self, manifest: Mapping[str, Any], row_counts: Mapping[str, int], scratch: Collection[str] = ()
    ) -> Artifact:
        """Digest what is in the partial folder, write the manifest last, rename: from here on it is found.

        An earlier result, under this label or another, goes when the new one is there, and never before: where a kill
        comes between, either is found whole. `row_counts` are the rows of its Parquet files, by name. `scratch` are
        files and folders that are no part of the result, and that a killed run goes on from: they go once the rest is
        digested, which takes minutes where it is large, and found. Call it inside `writing()`.
        """
        own = [path for path in self.partial.iterdir() if path.name not in (FORCED, *scratch)]
        files = sorted(file for path in own for file in (path, *path.rglob("*")) if file.is_file())
        leftovers = [file for file in files if file == self.partial / MANIFEST or file.suffix == ASIDE]
        for leftover in leftovers:
            leftover.unlink()  # of a run killed while it wrote
            files.remove(leftover)
        outputs = {
            (name := str(file.relative_to(self.partial))): {
                "rows": row_counts.get(name),
                "bytes": file.stat().st_size,
                "sha256": digest,
            }
            for file, digest in zip(files, file_digests(files), strict=True)
        }
        full = {"stage": self.stage, "fingerprint": self.fingerprint, **manifest, "outputs": outputs}
        full = json.loads(json.dumps(full))  # as whoever reads it back has it
        full["digest"] = manifest_digest(full)
        write_aside(self.partial / MANIFEST, json.dumps(full, indent=2, ensure_ascii=False) + "\n")
        if self.store:
            self._unpublished.touch()
        self._replace(scratch)
        made = Artifact(self.path, full, self.store)
        if self.store:
            self._publish(made, self.store)
        return made

    @property
    def _unpublished(self) -> Path:
        """A file that is there while what is committed here is not yet in the store, or only in part."""
        return unpublished(self.path.parent, self.fingerprint)

    def _publish(self, made: Artifact, store: "Store") -> None:
        store.replace(made.path, made.name, self._ending)
        self.forget()
        self._unpublished.unlink(missing_ok=True)

    def _replace(self, scratch: Collection[str] = ()) -> None:
        """Put the partial folder, which has its manifest, in the place of what is there; then remove that, and what
        was scratch.
        """
        if (self.path / MANIFEST).is_file():
            for earlier in self._beside(OLD):
                _remove(earlier)  # of a run that was killed before it did
            self.path.rename(self.path.with_name(self.path.name + OLD))
        elif self.path.exists():  # the remains of a folder that lost its manifest
            shutil.rmtree(self.path)
        self.partial.rename(self.path)
        (self.path / FORCED).unlink(missing_ok=True)
        for name in scratch:
            if (self.path / name).exists():
                self.partial.mkdir(exist_ok=True)
                (self.path / name).rename(self.partial / name)
        for other in (*self._beside(), *self._beside(OLD), *self._beside(PARTIAL)):
            if other != self.path:
                _remove(other)

    def _beside(self, ending: str = "") -> list[Path]:
        """The folders of this fingerprint, whatever their label, whose names end so."""
        return sorted(self.path.parent.glob(f"*{self._ending}{ending}"))


def unpublished(stage: Path, fingerprint: str) -> Path:
    return stage / f".{fingerprint[:12]}.unpublished"


def _remove(folder: Path) -> None:
    """The manifest first, so that a half-removed folder is not taken for a result."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def leftovers(root: Path) -> dict[Path, Path]:
    """What runs left in a ROOT that were killed: partial folders, and results whose successor is there; each with the
    file of its lock, which may be there, too."""
    replaced = (path for path in root.glob(f"*/*{OLD}") if (path.with_suffix("") / MANIFEST).is_file())
    found = sorted((*root.glob(f"*/*{PARTIAL}"), *replaced))
    return {folder: folder.with_name(f".{folder.stem[-12:]}.lock") for folder in found}
