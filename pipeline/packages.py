"""Files that installed packages ship, named package://MODULE/PATH."""

import importlib.util
from pathlib import Path

from pipeline.errors import UserError

SCHEME = "package://"


def in_package(source: str, setting: str) -> Path:
    """Where such a file would be; the package is not imported. Raises UserError where there is no such package."""
    package, _, name = source.removeprefix(SCHEME).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        problem = f"{setting}={source}: package {package} is not installed"
        raise UserError(problem, f"pip install {package.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations))) / name
