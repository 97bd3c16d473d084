"""A ROOT in an object store, against a real S3 server on this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileSystem

from tests.e2e.conftest import Line, free_ports
from tests.e2e.doors import door, made, only, refused

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

    assert "8 results made, 0 kept" in made("run", *on("one"))
    said = made("run", *on("two"), "--from", "schedule")
    assert "0 results made" in said
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
    told = refused("run", line.settings[0], f"resources.root={root}", f"resources.mirror={tmp_path}")
    assert "planted-key" not in told
