"""What docker/Dockerfile makes, in a folder: the files that it copies, and an environment of its lock alone.

The packages are links to those of this environment, which the same script has installed from the same lock.
"""

import json
import os
import shutil
import subprocess
import venv
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def instructions() -> list[list[str]]:
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def copied() -> list[str]:
    return [each.rstrip("/") for word, *sources in instructions() if word == "COPY" for each in sources[:-1]]


def locked(name: str) -> dict[str, str]:
    """The versions in a file of requirements/, by package."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}


def laid_out(folder: Path) -> Path:
    """The working directory of such an image, with its environment in ../venv."""
    app = folder / "app"
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, app / source, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(folder / "venv", symlinks=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    for name in {*locked("cpu"), *locked("owners"), "torch"}:
        package = metadata.distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
            if top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))).absolute())
    return app


def command(app: Path, config: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """The image's own command, of another configuration, in nothing but its environment."""
    python, *door, _ = json.loads(" ".join(instructions()[-1][1:]))
    folder = app.parent / "venv" / "bin"
    return subprocess.run(
        [str(folder / python), *door, config, *settings],
        cwd=app,
        env={"PATH": f"{folder}:{os.defpath}", "HOME": str(app.parent)},
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
