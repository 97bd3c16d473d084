"""Results in an object store: a ROOT that is a URL, such as s3://bucket/runs.

Stages work in a folder of this machine, the mirror, laid out as a ROOT is. What is committed there is copied up, the
manifest last: without it, what lies in the store is no result. What another machine made is found by its manifest, and
its files come down when they are about to be used. Finished files of a result that is not finished are kept in the
store, too, under its unfinished folder's name, so that another machine goes on with them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from pipeline.errors import UserError
from pipeline.results.files import MANIFEST, aside

_BESIDE = "new."  # begins the name of a result that is there twice, while its own name is made free


class Store:
    """The results below a URL that pyarrow's file systems know. Paths are relative to it: <stage>/<folder>/<file>.

    Raises UserError, here and in every method, where the store cannot be reached.
    """

    def __init__(self, url: str):
        if "@" in url.partition("://")[2].partition("/")[0]:
            problem = "resources.root holds a name and a key, which would stand in every manifest"
            raise UserError(
                problem, "give them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self.url = url
        with self._reached():
            self.files, self.base = FileSystem.from_uri(url)
        self._require_bucket()

    def mirror(self, below: Path) -> Path:
        """Where on this machine the store is worked on."""
        return below / hashlib.sha256(self.url.encode()).hexdigest()[:12]

    def find(self, stage: str, ending: str) -> list[str]:
        """The folders of a stage, by name, that end so and hold a manifest."""
        with self._reached():
            found = self.files.get_file_info(FileSelector(f"{self.base}/{stage}", allow_not_found=True))
            names = sorted(each.base_name for each in found if each.base_name.endswith(ending))
        return [name for name in names if self.has(f"{stage}/{name}/{MANIFEST}")]

    def listing(self) -> list[tuple[str, int, float]]:
        """(path, bytes, seconds since 1970 of the last change) of every file."""
        with self._reached():
            found = self.files.get_file_info(FileSelector(self.base, recursive=True, allow_not_found=True))
        files = (each for each in found if each.type == FileType.File)
        return [(each.path.removeprefix(f"{self.base}/"), each.size, (each.mtime_ns or 0) / 1e9) for each in files]

    def read(self, path: str) -> bytes:
        with self._reached(), self.files.open_input_stream(f"{self.base}/{path}") as file:
            return bytes(file.read())

    def has(self, path: str) -> bool:
        with self._reached():
            return bool(self.files.get_file_info(f"{self.base}/{path}").type == FileType.File)

    def fetch(self, path: str, file: Path) -> None:
        """Bring one file down, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._reached(), aside(file) as beside:
            copy_files(f"{self.base}/{path}", str(beside), self.files, LocalFileSystem())

    def put(self, file: Path, path: str) -> None:
        """Copy one file up, which is there whole or not at all."""
        target = f"{self.base}/{path}"
        with self._reached():
            self.files.create_dir(target.rpartition("/")[0], recursive=True)
            copy_files(str(file), target, LocalFileSystem(), self.files)

    def publish(self, folder: Path, path: str) -> None:
        """Copy a committed folder up; it is a result from the moment that its manifest is there."""
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)
        for file in (*files, folder / MANIFEST):
            self.put(file, f"{path}/{file.relative_to(folder).as_posix()}")

    def unfinished(self, stage: str, ending: str) -> list[str]:
        """The files in folders of a stage whose names end so."""
        with self._reached():
            found = self.files.get_file_info(FileSelector(f"{self.base}/{stage}", allow_not_found=True))
            folders = [each.path for each in found if each.base_name.endswith(ending)]
            inside = [each for path in folders for each in self.files.get_file_info(FileSelector(path, recursive=True))]
        return [each.path.removeprefix(f"{self.base}/") for each in inside if each.type == FileType.File]

    def drop(self, path: str) -> None:
        """Take a file or folder of what is not finished away, where it is there."""
        with self._reached():
            remove = {FileType.Directory: self.files.delete_dir, FileType.File: self.files.delete_file}
            if found := remove.get(self.files.get_file_info(f"{self.base}/{path}").type):
                found(f"{self.base}/{path}")

    def replace(self, folder: Path, path: str, ending: str) -> None:
        """Publish a committed folder in place of the stage's results whose names end so: one is whole at any time."""
        stage, name = path.split("/")
        earlier = set(self.find(stage, ending))
        if name in earlier:  # its files are about to be overwritten, one by one
            self.publish(folder, f"{stage}/{_BESIDE}{name}")
            self.remove(path)
            earlier.add(f"{_BESIDE}{name}")
        self.publish(folder, path)
        for other in earlier - {name}:
            self.remove(f"{stage}/{other}")

    def address(self, path: str) -> str:
        """The URL of a result or a file, without the options that follow a question mark."""
        return f"{self.url.partition('?')[0].rstrip('/')}/{path}"

    def _require_bucket(self) -> None:
        """Raise UserError where there is no such bucket, in which nothing can be found."""
        bucket = self.base.partition("/")[0]
        if "allow_bucket_creation=true" in self.url or self.files.type_name not in ("s3", "gcs", "abfs"):
            return
        with self._reached():
            if self.files.get_file_info(bucket).type == FileType.NotFound:
                raise ValueError(f"there is no bucket {bucket}")

    def remove(self, path: str) -> None:
        """Take a result away, its manifest first."""
        with self._reached():
            if self.has(f"{path}/{MANIFEST}"):
                self.files.delete_file(f"{self.base}/{path}/{MANIFEST}")
                self.files.delete_dir(f"{self.base}/{path}")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())[:300]
            remedy = "check the bucket, the credentials in the environment and the network"
            raise UserError(f"resources.root={self.url} cannot be used ({why})", remedy) from None
