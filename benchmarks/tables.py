"""Pairs as the tables that stages write, so that what is measured reads what a run reads."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pairs import IDS, Row
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables

PART = "part-00000.parquet"
# Of every pair: what only some methods need, and what no step reads.
_KNOWN = {"chosen_score": 2.0, "rejected_score": 1.0, "label_confidence": 0.8, "difficulty": None}
_TEXTS = dict.fromkeys(("prompt", "chosen", "rejected", "source"), "")


def write_pairs(pairs: Sequence[Row], file: Path) -> None:
    """A part of the pairs table, all of split train."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tables.write([{**_TEXTS, **_KNOWN, **pair, "split": "train"} for pair in pairs], tables.PAIRS, file)


def write_reference(pairs: Sequence[Row], sums: Sequence[Sequence[float]], file: Path) -> None:
    """The log-prob sums (chosen, rejected) of these pairs, as if they had been scored."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {
            "pair_id": pair["pair_id"],
            "tokens_digest": tokens_digest(*(pair[name] for name in IDS)),
            "chosen_logps": chosen,
            "rejected_logps": rejected,
            "chosen_tokens": len(pair["chosen_ids"]),
            "rejected_tokens": len(pair["rejected_ids"]),
        }
        for pair, (chosen, rejected) in zip(pairs, sums, strict=True)
    ]
    tables.write(rows, tables.REFERENCE, file)


def write_schedule(pairs: Sequence[Row], file: Path, sft: Collection[int] = ()) -> None:
    """The pairs in the order they came in; those at the positions `sft` are routed there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {
            "position": i,
            "pair_id": pair["pair_id"],
            "difficulty": None,
            "route": "sft" if i in sft else "preference",
            "flipped": False,
        }
        for i, pair in enumerate(pairs)
    ]
    tables.write(rows, tables.SCHEDULE, file)
