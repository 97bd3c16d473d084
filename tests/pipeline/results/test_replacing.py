"""A result is replaced by a committed one alone: forced runs killed, refused, out of room, in real processes."""

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.results.address import FORCED, Address, leftovers
from pipeline.results.artifacts import Artifact
from pipeline.results.files import MANIFEST

FP = "0123456789abcdef" * 4
REPOSITORY = Path(__file__).parents[3]
# Writes `content` into a file a line and commits; at the step that it is told to die at, it is killed as by kill -9.
CHILD = """
import os, signal, sys
from pathlib import Path
from pipeline.results import address
from pipeline.results.address import Address
from pipeline.results.files import write_aside

root, label, content, die_at = sys.argv[1:]
def step(name):
    if name == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

rename, rmtree, unlink = Path.rename, address.shutil.rmtree, Path.unlink
renames = []
def renamed(self, target):
    rename(self, target)
    renames.append(target)
    step(f"rename {len(renames)}")
    return target
def removed(*arguments, **named):
    step("remove")
    rmtree(*arguments, **named)
    step("removed")
def unlinked(self, missing_ok=False):
    unlink(self, missing_ok=missing_ok)
    if self.name == "manifest.json" and ".partial" not in str(self):
        step("unlink")

place = Address(Path(root), "train", label, "FINGERPRINT")
with place.writing(anew=True) as folder:
    for number, line in enumerate(content.split()):
        if not (folder / str(number)).exists():
            write_aside(folder / str(number), line)
        step(f"part {number}")
    Path.rename, address.shutil.rmtree, Path.unlink = renamed, removed, unlinked
    place.commit({"rows": 0}, {})
""".replace("FINGERPRINT", FP)


def address(root: Path, label: str = "dpo") -> Address:
    return Address(root, "train", label, FP)


def committed(place: Address, *lines: str) -> Artifact:
    with place.writing() as folder:
        for number, text in enumerate(lines):
            (folder / str(number)).write_text(text)
        return place.commit({"rows": 0}, {})


def forced(root: Path, content: str, die_at: str = "never", label: str = "dpo") -> int:
    command = [sys.executable, "-c", CHILD, str(root), label, content, die_at]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


def content(artifact: Artifact | None) -> str:
    """What a found result holds, verified."""
    assert artifact is not None
    return " ".join((artifact.verify().path / name).read_text() for name in artifact.manifest["outputs"])


# Of another label, the result that is replaced is not moved aside; until it is gone, either may be found.
OLD, EITHER, NEW = {"a b"}, {"a b", "c d"}, {"c d"}
KILLS = [
    *(("dpo", "part 0", OLD), ("dpo", "part 1", OLD), ("dpo", "rename 1", OLD), ("dpo", "rename 2", NEW)),
    *(("dpo", "unlink", NEW), ("dpo", "remove", NEW), ("dpo", "removed", NEW)),
    *(("other", "part 1", OLD), ("other", "rename 1", EITHER), ("other", "unlink", NEW), ("other", "removed", NEW)),
]


@pytest.mark.parametrize(("label", "die_at", "may_be"), KILLS)
def test_a_killed_forced_run_loses_nothing(tmp_path: Path, label: str, die_at: str, may_be: set[str]) -> None:
    """Wherever it is killed a whole result is found, the old one until the new one is; the same command ends it."""
    committed(address(tmp_path), "a", "b")
    assert forced(tmp_path, "c d", die_at, label) == -signal.SIGKILL
    assert content(address(tmp_path).find()) in may_be
    assert forced(tmp_path, "c d", label=label) == 0
    assert content(address(tmp_path).find()) == "c d"
    assert [path.name for path in (tmp_path / "train").iterdir()] == [f"{label}-{FP[:12]}"]  # no lock, no leftover


def test_what_a_forced_run_finished_is_gone_on_with(tmp_path: Path) -> None:
    """By a forced run; what another run left is cleared by it."""
    place = address(tmp_path)
    with contextlib.suppress(KeyboardInterrupt), place.writing() as folder:
        (folder / "0").write_text("of a run that was not forced")
        raise KeyboardInterrupt
    assert forced(tmp_path, "c d", "part 0") == -signal.SIGKILL
    assert (place.partial / "0").read_text() == "c" and (place.partial / FORCED).exists()
    assert forced(tmp_path, "e f") == 0
    assert content(place.find()) == "c f"
    assert forced(tmp_path, "g h") == 0  # forced again, after it was done
    assert content(place.find()) == "g h"


@contextlib.contextmanager
def failing(error: BaseException, place: Address) -> Iterator[None]:
    with pytest.raises(type(error)), place.writing(anew=True) as folder:
        (folder / "0").write_text("new")
        yield
        raise error


@pytest.mark.parametrize("error", [UserError("too many actors", "lower them"), KeyboardInterrupt(), RuntimeError("x")])
def test_a_forced_run_that_ends_early_leaves_the_old_result(tmp_path: Path, error: BaseException) -> None:
    place = address(tmp_path)
    old = committed(place, "a", "b")
    with failing(error, place):
        assert place.find() == old
    assert place.find() == old and content(old) == "a b"
    assert list(leftovers(tmp_path)) == [place.partial]


def test_a_forced_run_that_finishes_nothing_leaves_nothing(tmp_path: Path) -> None:
    old = committed(address(tmp_path), "a")
    with pytest.raises(UserError), address(tmp_path).writing(anew=True):
        raise UserError("no key", "export it")
    assert list((tmp_path / "train").iterdir()) == [old.path]


def test_a_full_disk_leaves_the_old_result(small_disk: Path) -> None:
    place = address(small_disk)
    old = committed(place, "a", "b")
    with pytest.raises(OSError), place.writing(anew=True) as folder:
        (folder / "0").write_bytes(b"0" * (8 << 20))
    assert place.find() == old and content(old) == "a b"
    shutil.rmtree(place.partial)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"0" * free)
    assert forced(small_disk, "c d") != 0  # where not even a small file can be written
    assert content(place.find()) == "a b"
    (small_disk / "filler").unlink()
    assert forced(small_disk, "c d") == 0 and content(place.find()) == "c d"


def test_what_a_run_of_another_label_finished_is_used(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), address(tmp_path).writing() as folder:
        (folder / "0").write_text("a")
        raise KeyboardInterrupt
    with address(tmp_path, "renamed").writing() as folder:
        assert (folder / "0").read_text() == "a" and not address(tmp_path).partial.exists()


def test_no_lock_is_held_twice_and_none_is_left(tmp_path: Path) -> None:
    """Eight processes that take and give back one lock as fast as they can: never two at a time."""
    code = """
import sys, time
from pathlib import Path
from pipeline.results.locks import exclusive
root, taken = Path(sys.argv[1]), 0
while taken < 60:
    try:
        with exclusive(root / "lock"):
            (root / "inside").touch(exist_ok=False)
            (root / "inside").unlink()
            taken += 1
    except BlockingIOError:
        time.sleep(0.0005)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(8)]
    assert [process.wait(timeout=120) for process in running] == [0] * 8
    assert list(tmp_path.iterdir()) == []


def test_a_copy_below_another_root(tmp_path: Path) -> None:
    old = committed(address(tmp_path / "one"), "a", "b")
    copy = address(tmp_path / "two").copy(old)
    assert copy.manifest == old.manifest and content(address(tmp_path / "two").find()) == "a b"
    assert forced(tmp_path / "one", "c d") == 0
    new = address(tmp_path / "one").find()
    assert new is not None and content(address(tmp_path / "two").copy(new)) == "c d"
    spoilt = address(tmp_path / "two").path
    (spoilt / "0").write_text("x")  # of the copy: what it was copied from is sound
    with pytest.raises(UserError, match="has other bytes than were committed") as caught:
        address(tmp_path / "two").copy(new)
    assert caught.value.remedy == f"remove {spoilt}, then fetch it again"
    shutil.rmtree(spoilt)
    assert content(address(tmp_path / "two").copy(new)) == "c d"
    assert content(address(tmp_path / "two").find()) == "c d"


def test_stale_is_of_what_is_alike(tmp_path: Path) -> None:
    other = Address(tmp_path, "train", "dpo", "f" * 64)
    committed(other, "a")
    assert address(tmp_path).status() == "stale"
    assert address(tmp_path).status(lambda manifest: manifest["rows"] == 1) == "missing"
    assert address(tmp_path, "orpo").status() == "missing"
    (other.path / MANIFEST).write_text("[1")
    assert address(tmp_path).status() == "missing"
