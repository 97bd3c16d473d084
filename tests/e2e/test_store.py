"""A ROOT in an object store, against a real S3 server on this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileSystem

from pipeline.results.address import FORCED, Address
from pipeline.results.store import Store
from tests.e2e.conftest import Head, Line, free_ports
from tests.e2e.doors import REPOSITORY, door, made, only, refused
from tests.e2e.running import Calm, same_parts, same_training, start, until

pytestmark = pytest.mark.e2e

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "planted-key"}


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket."""
    (port,) = free_ports(1)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        place = f"endpoint_override=127.0.0.1%3A{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        files, base = FileSystem.from_uri(f"s3://bucket/runs?{place}")
        files.create_dir(base)
        yield f"s3://bucket/runs?{place}"
    finally:
        server.kill()
        server.wait()


def test_the_whole_line(line: Line, url: str, tmp_path: Path) -> None:
    """Made here with the same bytes as in a folder, found from elsewhere; what lost its manifest on the way up is no
    result; no key is written down."""

    def on(machine: str) -> tuple[str, ...]:
        return (line.settings[0], f"resources.root={url}", f"resources.mirror={tmp_path / machine}")

    said = made("run", *on("one"))
    assert "8 results made, 0 kept" in said
    page = re.search(r"report: (s3://bucket/runs/report/\S+/report.html), and here (\S+)\n", said)
    assert page and Path(page[2]).is_file()
    said = made("run", *on("two"), "--from", "schedule")
    assert "0 results made" in said
    assert f"report: {page[1]}, not here: python -m jobs.fetch brings it\n" in said
    assert page[1].removesuffix("/report.html") in made("status", *on("two")).splitlines()[8]
    fetched(on("two"), tmp_path / "fetched")
    made("report", *on("two"), "--force")  # which reads what the other machine made
    (one, two) = ((tmp_path / machine / next(os.walk(tmp_path / machine))[1][0]) for machine in ("one", "two"))
    assert digests(one) == digests(line.root)
    for stage in ("prepare", "reference", "schedule", "train"):
        assert (only(one, stage) / "manifest.json").read_bytes() == (only(two, stage) / "manifest.json").read_bytes()

    files, base = FileSystem.from_uri(url)
    (manifest,) = (
        info.path
        for info in files.get_file_info(FileSelector(f"{base}/schedule", recursive=True))
        if info.base_name == "manifest.json"
    )
    files.delete_file(manifest)  # as a crash on the way up leaves it
    assert "make  schedule" in door("run", *on("three"), "--dry-run").stdout
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()


def fetched(given: tuple[str, ...], folder: Path) -> None:
    """Report and model come down, and are kept where they are; what is not there is named."""
    for _ in range(2):
        said = made("fetch", *given, "--to", str(folder))
        report, model = only(folder, "report") / "report.html", only(folder, "train") / "model"
        assert f"report: {report}\n" in said and f"trained model: {model}\n" in said
    assert report.is_file() and (model / "model.safetensors").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["report", "train"]
    told = refused("fetch", *given, "objective.tau=9", "--stage", "train", "--to", str(folder))
    assert "train: not there yet" in told and "python -m jobs.run makes what is missing" in told


def test_a_result_in_a_store_is_replaced_by_a_whole_one(url: str, tmp_path: Path) -> None:
    """Killed on the way up of a forced run, wherever: another machine finds a whole result, and then the new one."""
    code = """
import os, signal, sys
from pathlib import Path
from pipeline.results import store
from pipeline.results.address import Address
url, root, content, calls = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
made = [0]
def counted(call):
    def calling(*arguments, **named):
        if made[0] == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        made[0] += 1
        return call(*arguments, **named)
    return calling
place = Address(root, "train", "dpo", "0123456789abcdef" * 4, store.Store(url))
if content == "find":
    found = place.find().verify()
    print((found.path / "a").read_text() + (found.path / "b").read_text())
    sys.exit()
with place.writing(anew=True) as folder:
    (folder / "a").write_text(content)
    (folder / "b").write_text(content)
    store.copy_files = counted(store.copy_files)
    store.Store.remove = counted(store.Store.remove)
    place.commit({"rows": 0}, {})
print(made[0])
"""

    def run(machine: str, content: str, calls: int = -1) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code, url, str(tmp_path / machine), content, str(calls)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert run("one", "0 ").stdout == "3\n"  # files that were copied
    assert run("one", "1 ").stdout == "8\n"  # twice, with the old one and then the other copy removed
    before = "1 1 \n"
    for calls in (0, 2, 3, 4, 7):
        new = f"new-{calls} "
        assert run("one", new, calls).returncode == -signal.SIGKILL
        assert run(f"other-{calls}", "find").stdout in (before, before := f"{new}{new}\n")
        assert run("one", "find").stdout == before  # which brings it up
        assert run(f"third-{calls}", "find").stdout == before
    files, base = FileSystem.from_uri(url)
    left = [info.base_name for info in files.get_file_info(FileSelector(f"{base}/train")) if info.base_name != ""]
    assert left == ["dpo-0123456789ab"]


@pytest.mark.parametrize("stage", ["reference", "train"])
def test_another_machine_goes_on(scored: Calm, trained: Calm, head: Head, url: str, tmp_path: Path, stage: str) -> None:
    """Killed on one machine; another, which shares no disk with it, has its finished parts, or its checkpoint."""
    calm, before = (scored, ["prepare"]) if stage == "reference" else (trained, ["prepare", "reference", "schedule"])
    files, base = FileSystem.from_uri(url)
    for folder in (only(calm.root, each) for each in before):  # as another run left them
        Store(url).publish(folder, f"{folder.parent.name}/{folder.name}")

    def on(machine: str) -> tuple[str, ...]:
        root = (f"resources.root={url}", f"resources.mirror={tmp_path / machine}")
        return (calm.settings[0], *root, *calm.settings[2:])

    def kept() -> list[str]:
        selector = FileSelector(f"{base}/{stage}", recursive=True, allow_not_found=True)
        return [info.path for info in files.get_file_info(selector) if ".partial" in info.path]

    driver = start(head, stage, *on("one"))
    wanted = "/part-" if stage == "reference" else "checkpoint_manager_snapshot.json"
    until(lambda: len([path for path in kept() if wanted in path]) >= (3 if stage == "reference" else 1), driver)
    driver.kill()
    driver.communicate()
    assert "partial" in made("status", *on("two"))
    said = made(stage, *on("two"), environment=head.environment)
    found = re.search(r"(\d+) of \d+ (parts are finished already|steps are in a checkpoint) and kept", said)
    assert found and int(found[1]) >= (3 if stage == "reference" else 8), said
    (two,) = (tmp_path / "two").iterdir()
    assert (same_parts if stage == "reference" else same_training)(only(calm.root, stage), only(two, stage))
    assert not kept()


def test_unfinished_files_of_a_forced_run(url: str, tmp_path: Path) -> None:
    """Begun anew, whatever another machine had finished before; gone on with by another forced run."""

    def place(machine: str) -> Address:
        return Address(tmp_path / machine, "reference", machine, "0123456789abcdef" * 4, Store(url))

    def finish(machine: str, name: str, anew: bool) -> list[str]:
        """What is there when it begins; then a part is finished."""
        with place(machine).writing(anew) as folder:
            found = sorted(file.name for file in folder.iterdir() if file.name != FORCED)
            (folder / name).write_text(machine)
            place(machine).keep({name: folder / name})
            return found

    assert finish("one", "a", anew=False) == []
    assert finish("two", "b", anew=False) == ["a"]
    assert finish("three", "c", anew=True) == []
    assert finish("four", "d", anew=True) == ["c"]
    assert finish("five", "e", anew=False) == ["c", "d"]
    with place("six").writing() as folder:
        assert (folder / "c").read_text() == "three"
        place("six").commit({"rows": 0}, {})
    assert place("seven").status() == "committed" and not place("seven").kept()


def test_a_bucket_that_is_not_there(line: Line, url: str, tmp_path: Path) -> None:
    gone = url.replace("s3://bucket/", "s3://other/").replace("&allow_bucket_creation=true", "")
    for door_, more in (("status", ()), ("run", ("--dry-run",)), ("fetch", ("--to", str(tmp_path / "to")))):
        told = refused(door_, line.settings[0], f"resources.root={gone}", f"resources.mirror={tmp_path}", *more)
        assert "there is no bucket other" in told


def digests(root: Path) -> dict[tuple[str, str], str]:
    """By result and file, of all that holds no time of the day and no seconds."""
    manifests = [json.loads(file.read_text(encoding="utf-8")) for file in root.glob("*/*/manifest.json")]
    assert len(manifests) == 8
    return {
        (manifest["name"], file): entry["sha256"]
        for manifest in manifests
        for file, entry in manifest["outputs"].items()
        if file not in ("steps.parquet", "report.html")
    }


def test_a_store_that_is_not_there(line: Line, url: str, tmp_path: Path) -> None:
    (closed,) = free_ports(1)
    gone = url.replace(url.split("%3A")[1].split("&")[0], str(closed))
    told = refused("run", line.settings[0], f"resources.root={gone}", f"resources.mirror={tmp_path}")
    assert "cannot be used" in told


@pytest.mark.parametrize("root", ["s3://name:planted-key@bucket/runs", "nothing://bucket/runs"])
def test_a_root_that_cannot_be_one(line: Line, root: str, tmp_path: Path) -> None:
    done = door("run", line.settings[0], f"resources.root={root}", f"resources.mirror={tmp_path}")
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert "planted-key" not in done.stdout + done.stderr
