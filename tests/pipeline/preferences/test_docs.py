"""docs/data.md and the code name the same reasons, shapes and columns."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.preferences.columns import NAMES
from pipeline.preferences.shapes import SHAPES

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def reasons(text: str) -> Iterator[str]:
    """The slugs that a module gives to a dropped row."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Unusable", "Dropped", "number"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and re.fullmatch(r"[a-z]+(-[a-z]+)*", str(argument.value)):
                    yield str(argument.value)
                elif isinstance(argument, ast.JoinedStr) and ast.unparse(argument) == "f'missing-{name}'":
                    yield from ("missing-prompt", "missing-chosen", "missing-rejected")


def section(title: str) -> str:
    return DOCUMENT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_reason_is_in_the_table_and_no_other() -> None:
    columns = {"label_confidence"}  # an argument of number, too
    files = [ROOT / "pipeline" / "compute" / "limits.py", ROOT / "pipeline" / "prepare" / "account.py"]
    files += (ROOT / "pipeline" / "preferences").glob("*.py")
    given = {each for file in files for each in reasons(file.read_text())}
    first_cells = [line.split("|")[1] for line in section("What is counted out").splitlines() if line.startswith("| `")]
    assert given - columns == {slug for cell in first_cells for slug in re.findall(r"`([\w-]+)`", cell)}
    assert {"unreadable-row", "bad-split", "bad-score", "prompt-too-long"} <= given


def test_every_shape_and_column_is_named() -> None:
    for shape in (*SHAPES, "ranked"):
        assert f"| `{shape}` |" in section("Shapes of row")
    for column in set(NAMES) - {"images", "audio", "videos", "prompt", "chosen", "rejected"}:
        assert f"`{column}`" in section("Columns")
