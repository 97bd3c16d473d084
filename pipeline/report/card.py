"""The card of what is published, README.md: what the hub reads of it, and what a person should.

It holds no path of this machine: of a model or data that lies in a folder its digest is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True)
class Figure:
    name: str
    said: str  # with its interval


@dataclass(frozen=True)
class Card:
    """What a card is made of. `metadata` is for the hub, the rest for reading."""

    title: str
    about: str
    metadata: Mapping[str, Any]
    figures: Sequence[Figure] = ()
    warnings: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    usage: str = ""


def render(card: Card) -> str:
    """The text of README.md; the same card gives the same text."""
    head = yaml.safe_dump(dict(card.metadata), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---\n", f"# {_line(card.title)}\n", f"{card.about}\n"]
    if card.usage:
        parts.append(f"```python\n{card.usage}\n```\n")
    if card.figures:
        rows = "\n".join(f"| {_line(each.name)} | {_line(each.said)} |" for each in card.figures)
        parts.append(f"## Figures\n\n| | |\n|---|---|\n{rows}\n")
    if card.warnings:
        listed = "\n".join(f"- {_line(each)}" for each in card.warnings)
        parts.append(f"## Before trusting the figures\n\n{listed}\n")
    if card.settings:
        written = yaml.safe_dump(dict(card.settings), sort_keys=False, allow_unicode=True)
        parts.append(f"## Settings\n\n```yaml\n{written}```\n")
    if card.facts:
        listed = "\n".join(f"- {name}: {_line(said)}" for name, said in card.facts.items())
        parts.append(f"## Where it is from\n\n{listed}\n")
    return "\n".join(parts)


def _line(text: str) -> str:
    """A text that stays on its line, and in its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def share(found: Mapping[str, float]) -> str:
    """A share with its interval, in percent."""
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % (95 % interval {low:.1f} to {high:.1f} %)"
