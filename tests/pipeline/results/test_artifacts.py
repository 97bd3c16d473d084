"""Identity, commit, look-up, locks, and every way a committed result can be spoilt."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.results import address as results_address
from pipeline.results.address import Address
from pipeline.results.artifacts import Artifact, canonical, fingerprint
from pipeline.results.files import MANIFEST, DigestMemory, aside, file_digest
from pipeline.results.locks import unused
from pipeline.results.store import Store

FP = "0123456789abcdef" * 4
ROOT = Path(__file__).parents[3]


def address(root: Path, label: str = "pairs", digest: str = FP) -> Address:
    return Address(root, "prepare", label, digest)


def committed(place: Address) -> Artifact:
    with place.writing() as folder:
        (folder / "part-00000.parquet").write_bytes(b"some bytes")
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "config.json").write_text("{}")
        return place.commit({"rows": 3}, {"part-00000.parquet": 3})


@pytest.mark.parametrize("value", [{1}, {"a": Path("x")}, math.nan, [math.inf], {1: "a"}, b"x", object()])
def test_canonical_refuses_what_has_no_one_spelling(value: Any) -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        canonical(value)


def test_canonical_by_hand() -> None:
    assert canonical({"b": [1.0, 2, 0.5, -0.0], "a": (True, None, "é")}) == '{"a":[true,null,"é"],"b":[1,2,0.5,0]}'
    assert canonical(1) == canonical(1.0) != canonical(True) != canonical("1")


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()))
def test_canonical_forgets_the_order_of_keys_and_nothing_else(value: dict[str, Any]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)
    assert json.loads(canonical(value)) == value


def test_fingerprint_depends_on_every_part() -> None:
    parts: tuple[str, int, dict[str, Any], dict[str, str]] = ("train", 1, {"a": 1}, {"pairs": "x"})
    others: list[tuple[Any, ...]] = [
        ("schedule", *parts[1:]),
        ("train", 2, *parts[2:]),
        (*parts[:2], {"a": 2}, parts[3]),
        (*parts[:2], {"b": 1}, parts[3]),
        (*parts[:3], {"pairs": "y"}),
        (*parts[:3], {"reference": "x"}),
    ]
    assert len({fingerprint(*parts), *(fingerprint(*other) for other in others)}) == 7
    assert fingerprint(*parts) == fingerprint("train", 1, {"a": 1.0}, {"pairs": "x"})


def test_commit_writes_what_find_reads(tmp_path: Path) -> None:
    place = address(tmp_path)
    assert place.find() is None and place.status() == "missing"
    artifact = committed(place)
    found = place.find()
    assert found == artifact and place.status() == "committed" and not place.partial.exists()
    assert artifact.path.name == "pairs-0123456789ab"
    entry = artifact.manifest["outputs"]["part-00000.parquet"]
    assert entry == {"rows": 3, "bytes": 10, "sha256": file_digest(artifact.path / "part-00000.parquet")}
    assert set(artifact.manifest["outputs"]) == {"part-00000.parquet", "model/config.json"}
    assert artifact.verify() is artifact


def test_a_label_is_for_reading_only(tmp_path: Path) -> None:
    artifact = committed(address(tmp_path))
    renamed = address(tmp_path, label="other")
    assert renamed.find() == artifact and renamed.status() == "committed"
    near = address(tmp_path, digest=FP[:12] + "f" * 52)  # the same twelve digits, another result
    assert near.find() is None


def test_partial_and_stale(tmp_path: Path) -> None:
    committed(address(tmp_path, digest="f" * 64))
    place = address(tmp_path)
    assert place.status() == "stale"
    with place.writing():
        assert place.status() == "partial"
    assert place.find() is None


def test_what_a_killed_run_left_is_kept_or_removed(tmp_path: Path) -> None:
    place = address(tmp_path)
    with place.writing() as folder:
        (folder / "part-00000.parquet").write_bytes(b"finished")
        (folder / "part-00001.parquet.tmp").write_bytes(b"half")
        (folder / MANIFEST).write_text("{}")  # killed between the manifest and the rename
    with place.writing() as folder:
        assert (folder / "part-00000.parquet").read_bytes() == b"finished"
        artifact = place.commit({}, {})
    assert sorted(file.name for file in artifact.path.iterdir()) == [MANIFEST, "part-00000.parquet"]
    assert set(artifact.manifest["outputs"]) == {"part-00000.parquet"}
    artifact.verify()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    place = address(tmp_path)
    code = (
        "import sys; from pathlib import Path; from pipeline.results.address import Address\n"
        f"with Address(Path(sys.argv[1]), 'prepare', 'pairs', '{FP}').writing(): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with place.writing():
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and "another process is making pairs-0123456789ab of stage prepare" in second.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.write_bytes(b"Some bytes"), "has other bytes than were committed"),
        (lambda file: file.write_bytes(b"some"), "has 4 bytes, not 10"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_a_spoilt_file_is_named(tmp_path: Path, spoil: Callable[[Path], Any], says: str) -> None:
    artifact = committed(address(tmp_path))
    spoil(artifact.path / "part-00000.parquet")
    with pytest.raises(UserError) as caught:
        artifact.verify()
    assert f"part-00000.parquet {says}" in caught.value.problem and "--force prepare" in caught.value.remedy


def test_of_several_spoilt_files_the_first_is_named_if_it_is_opened(tmp_path: Path) -> None:
    with address(tmp_path).writing() as folder:
        (folder / "model").mkdir()
        for name in ("a.parquet", "b.parquet", "model/weights"):
            (folder / name).write_bytes(name.encode() * 1000)
        artifact = address(tmp_path).commit({}, {})
    (artifact.path / "model" / "weights").unlink()
    (artifact.path / "b.parquet").write_bytes(b"B.parquet" * 1000)
    with pytest.raises(UserError, match=r"b\.parquet has other bytes"):
        artifact.verify()
    with pytest.raises(UserError, match="weights is missing"):
        artifact.verify(opened=("a.parquet", "model/*"))
    assert artifact.verify(opened=("a.*",)) is artifact and artifact.verify(opened=()) is artifact
    path = artifact.path / MANIFEST
    path.write_text(path.read_text().replace('"rows": null', '"rows": 4'))
    found = address(tmp_path).find()
    assert found is not None
    with pytest.raises(UserError, match="is not as it was committed"):
        found.verify(opened=())  # the manifest is always read


def test_an_edited_manifest_is_named(tmp_path: Path) -> None:
    """Any value in it, as what follows is computed from some, and people read the others."""
    place = address(tmp_path)
    path = committed(place).path / MANIFEST
    path.write_text(path.read_text().replace('"rows": 3', '"rows": 4'))
    found = place.find()
    assert found is not None
    with pytest.raises(UserError, match="is not as it was committed"):
        found.verify()


def test_an_unreadable_manifest_is_one_error(tmp_path: Path) -> None:
    artifact = committed(address(tmp_path))
    (artifact.path / MANIFEST).write_bytes(b'{"stage": "pre')
    with pytest.raises(UserError, match="is not readable JSON"):
        address(tmp_path).find()


def test_committing_again_replaces(tmp_path: Path) -> None:
    committed(address(tmp_path))
    with address(tmp_path).writing():
        artifact = address(tmp_path).commit({"rows": 0}, {})
    assert artifact.manifest["outputs"] == {} and address(tmp_path).find() == artifact


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "prepare").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write .*\n.*resources.root"), address(tmp_path).writing():
        pass


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first, facts = DigestMemory(tmp_path).digest(file), file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # same size, mtime and inode: taken on trust by a plan
    assert DigestMemory(tmp_path).digest(file) == first
    with pytest.raises(UserError, match="weights changed since this run was planned"):
        DigestMemory(tmp_path).digest(file, verify=True)
    assert DigestMemory(tmp_path).digest(file, verify=True) == file_digest(file) != first
    file.write_bytes(b"three")
    assert DigestMemory(tmp_path).digest(file) == file_digest(file)


def test_a_broken_memory_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    (tmp_path / ".digests.json").write_text("[1")
    assert DigestMemory(tmp_path).digest(file) == file_digest(file)
    (tmp_path / ".digests.json").write_text("[1]")
    assert DigestMemory(tmp_path).digest(file) == file_digest(file)


def test_what_a_killed_run_goes_on_from_is_there_until_the_result_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digesting a large model takes minutes; a kill in the midst of it must not cost the training."""
    place, digests = address(tmp_path), results_address.file_digests
    seen: list[str] = []

    def killed(files: Any) -> Any:
        seen.extend(file.name for file in files)
        raise KeyboardInterrupt

    def commit() -> Artifact:
        with place.writing() as folder:
            (folder / "weights").write_text("w")
            (folder / "ray" / "step-1").mkdir(parents=True, exist_ok=True)
            (folder / "ray" / "step-1" / "shard").write_text("s")
            (folder / "note.txt").write_text("n")
            return place.commit({"rows": 0}, {}, scratch=("ray", "note.txt", "none"))

    monkeypatch.setattr(results_address, "file_digests", killed)
    with pytest.raises(KeyboardInterrupt):
        commit()
    assert seen == ["weights"] and place.find() is None
    assert (place.partial / "ray" / "step-1" / "shard").read_text() == "s"
    assert (place.partial / "note.txt").exists()
    monkeypatch.setattr(results_address, "file_digests", digests)
    made = commit()
    assert list(made.verify().manifest["outputs"]) == ["weights"]
    assert sorted(path.name for path in made.path.iterdir()) == [MANIFEST, "weights"]
    assert not place.partial.exists()


@pytest.mark.parametrize("at", [1, 2])
def test_a_result_is_found_while_another_process_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At 1 the old one is put aside after it is seen; at 2 the new one comes after the first look, and the old goes."""
    place = address(tmp_path)
    made = committed(place)
    old = made.path.with_name(made.path.name + ".old")
    beside, looks = Address._beside, []
    if at == 2:
        made.path.rename(old)

    def look(self: Address, ending: str = "") -> list[Path]:
        looks.append(ending)
        if at == 2 and len(looks) == 2:
            old.rename(made.path)
        seen = beside(self, ending)
        if at == 1 and len(looks) == 1:
            made.path.rename(old)
        return seen

    monkeypatch.setattr(Address, "_beside", look)
    found = place.find()
    assert found is not None and found.manifest == made.manifest


def test_two_at_once_write_one_file_each_aside(tmp_path: Path) -> None:
    """Two threads, or processes of two machines that have one number: neither writes into the other's file."""
    file = tmp_path / "table"
    with aside(file) as one:
        one.write_text("one, which is longer")
        with aside(file) as other:
            other.write_text("other")
        assert file.read_text() == "other"
    assert file.read_text() == "one, which is longer" and [path.name for path in tmp_path.iterdir()] == ["table"]


def test_what_a_run_holds_stays_held_when_it_is_looked_for_again(tmp_path: Path) -> None:
    """Of a result in a store, whose files are not all here: jobs.prune looks at the lock of the manifest's file."""
    store = Store((tmp_path / "store").as_uri())
    committed(Address(tmp_path / "one", "prepare", "pairs", FP, store))
    place = Address(tmp_path / "other", "prepare", "pairs", FP, store)
    found = place.find()
    assert found is not None and not found.is_here()
    with found.held():
        assert place.find() == found
        with pytest.raises(BlockingIOError), unused(found.path / MANIFEST):
            pass
    with Address(tmp_path / "one", "prepare", "pairs", FP, store).writing(anew=True) as folder:
        (folder / "part-00000.parquet").write_bytes(b"other")
        anew = Address(tmp_path / "one", "prepare", "pairs", FP, store).commit({"rows": 1}, {})
    again = place.find()
    assert again is not None and again.manifest == anew.manifest
    assert (again.verify().path / "part-00000.parquet").read_bytes() == b"other"
    store.remove(again.name)
    (again.path / "part-00000.parquet").unlink()
    assert place.find() is None
