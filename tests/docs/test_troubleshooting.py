"""What docs/troubleshooting.md quotes, some code says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
FILLED = "\N{HORIZONTAL ELLIPSIS}"


def said(tree: ast.AST) -> Iterator[str]:
    """The strings of a file, with a mark for each value that is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else FILLED for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_message_that_is_quoted_exists() -> None:
    quoted = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    files = [file for package in ("pipeline", "actors", "jobs") for file in (ROOT / package).rglob("*.py")]
    strings = [text for file in files for text in said(ast.parse(file.read_text()))]
    assert len(quoted) > 25 and len(quoted) == PAGE.count("\n| `")
    unknown = [message for message in quoted if not any(message in text for text in strings)]
    assert not unknown


def test_settings_that_are_named_exist() -> None:
    from pipeline.settings.config import RunConfig
    from pipeline.settings.faults import paths

    known = {*paths(RunConfig)}
    for page in ("troubleshooting.md", "cluster.md"):
        text = (ROOT / "docs" / page).read_text()
        sections = "resources|data|train|model|judge|generate|sample|schedule"
        named = set(re.findall(rf"\b(?:{sections})\.[a-z_]+\b(?!\.py|\.json|/)", text))
        assert not {name for name in named if name not in known and not name.endswith((".parquet", ".md"))}
