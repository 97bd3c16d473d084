"""Opening the doors as a user does: python -m jobs.<stage> from the repository root."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parents[2]


def command(stage: str, *arguments: str, config: str = "configs/smoke.yaml") -> list[str]:
    """Of several settings of one key the last is given: what tests share stands first, and a door takes one."""
    last = {argument.partition("=")[0]: number for number, argument in enumerate(arguments) if "=" in argument}
    kept = [each for number, each in enumerate(arguments) if last.get(each.partition("=")[0], number) == number]
    return [sys.executable, "-m", f"jobs.{stage}", "--config", config, *kept]


def door(
    stage: str, *arguments: str, environment: dict[str, str] | None = None, config: str = "configs/smoke.yaml"
) -> subprocess.CompletedProcess[str]:
    """`environment` is added to this process's own; without RAY_ADDRESS in it a door starts its own Ray."""
    return subprocess.run(
        command(stage, *arguments, config=config),
        cwd=REPOSITORY,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def made(
    stage: str, *arguments: str, environment: dict[str, str] | None = None, config: str = "configs/smoke.yaml"
) -> str:
    """What a door that must succeed says. Only our own lines may be among it."""
    done = door(stage, *arguments, environment=environment, config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def refused(
    stage: str, *arguments: str, environment: dict[str, str] | None = None, config: str = "configs/smoke.yaml"
) -> str:
    """What a door says that must refuse its input: a problem and a remedy, and no traceback."""
    done = door(stage, *arguments, environment=environment, config=config)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "\n  remedy: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def only(root: Path, stage: str, label: str = "*") -> Path:
    """The folder of the one committed result of a stage."""
    (folder,) = (path.parent for path in (root / stage).glob(f"{label}/manifest.json"))
    return folder


def rows(folder: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a result's parts, in the order of the parts."""
    return pq.read_table(sorted(folder.glob("part-*.parquet")), columns=columns).to_pylist()
