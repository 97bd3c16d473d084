"""Prepare by several workers, killed on the way: what is written is what one process writes, byte by byte."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Head
from tests.e2e.doors import made, only
from tests.e2e.running import actors, finish, start, until

pytestmark = pytest.mark.e2e

BLOCKS = "prepare/*.partial/blocks/block-*.arrow"


def rows(count: int) -> list[dict[str, Any]]:
    """Pairs of which every seventh is a copy of one far away, some with scores, and every hundredth none."""
    found: list[dict[str, Any]] = []
    for number in range(count):
        row: dict[str, Any] = {"prompt": f"Name colour {number}.", "chosen": "Red.", "rejected": f"Seven {number}."}
        if number % 7 == 6:
            row = found[number * 31 % (number - 3)] | {"chosen_score": number % 3, "rejected_score": -1}
        found.append(row if number % 100 else {"prompt": "Name."})
    return found


@pytest.fixture(scope="module")
def settings(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    file = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(9_000)))  # four blocks and a part
    given = (f"model.source={tiny}", f"data.source={file}", "data.shard_pairs=700", "data.max_dropped=0.3")
    return (*given, "resources.log_seconds=1")


@pytest.fixture(scope="module")
def calm(settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process, undisturbed."""
    root = tmp_path_factory.mktemp("calm")
    made("prepare", *settings, f"resources.root={root}", "resources.prepare_workers=1")
    return only(root, "prepare")


def same(one: Path, other: Path) -> bool:
    files = [{file.name: file.read_bytes() for file in sorted(folder.glob("*.parquet"))} for folder in (one, other)]
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, other)]
    return files[0] == files[1] and all(manifests[0][key] == manifests[1][key] for key in ("ledger", "metrics"))


def test_a_driver_and_then_a_worker_killed_and_three_workers_write_what_one_does(
    settings: tuple[str, ...], calm: Path, head: Head, tmp_path: Path
) -> None:
    given = (*settings, f"resources.root={tmp_path}")
    driver = start(head, "prepare", *given, "resources.prepare_workers=1")
    until(lambda: list(tmp_path.glob(BLOCKS)), driver)
    driver.kill()
    driver.wait()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob(BLOCKS)}
    assert 0 < len(kept) < 5
    driver = start(head, "prepare", *given, "resources.prepare_workers=3")
    until(lambda: actors(head.pid, "ray::_call"), driver)
    actors(head.pid, "ray::_call")[0].kill()
    untouched = {file: file.stat().st_mtime_ns for file in kept}
    finish(driver)
    assert kept == untouched and same(calm, only(tmp_path, "prepare"))
    assert len(pq.read_table(calm / "dropped.parquet")) > 1000 and not list(tmp_path.glob("prepare/*/blocks"))
