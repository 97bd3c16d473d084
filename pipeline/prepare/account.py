"""The account of a source: every row of it is a pair that is kept, or dropped for a reason."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.preferences.messages import Dropped
from pipeline.prepare.blocks import Findings, facts, read
from pipeline.prepare.copies import SPLITS, VALUES, Copies, Found, Records, codes, is_kept
from pipeline.results.files import aside
from pipeline.results.tables import DROPPED

_GROUP = 4096  # dropped rows that are written together
_READ = ["row", "pair_id", "reason", "detail", "split", "own_split", "spelled", "remarks", *VALUES]


@dataclass
class Account:
    """What a source holds, all blocks together."""

    rows: int = 0
    pairs: int = 0  # different ones, usable or not
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[str, str] = field(default_factory=dict)  # by reason, what was wrong with its first row
    splits: Counter[str] = field(default_factory=Counter)  # of the pairs that are kept
    spelled: int = 0
    scored: int = 0
    against: int = 0  # of these, pairs whose chosen side has the lower score
    remarks: Counter[str] = field(default_factory=Counter)  # on the chat template
    standing_remarks: set[str] = field(default_factory=set)  # the same, said once
    shapes: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)  # read beside those that are always read
    seen: set[str] = field(default_factory=set)  # columns that held anything
    message_keys: set[str] = field(default_factory=set)
    ties: int = 0
    repeated: int = 0
    contradicting: Found = field(default_factory=Found)  # see Copies
    shared_prompts: Found = field(default_factory=Found)  # in more than one split

    @property
    def read(self) -> int:
        """A row that holds no pair counts as one: more than rows where a row makes several pairs."""
        return self.kept + self.dropped.total()

    def add(self, rows: int, found: Findings) -> None:
        self.rows += rows
        for name in ("shapes", "columns", "message_keys", "seen"):
            getattr(self, name).update(getattr(found, name))
        self.standing_remarks.update(found.remarks)
        self.ties += found.ties
        self.repeated += found.repeated


def settle(blocks: Sequence[Path], copies: Copies, file: Path) -> Account:
    """Go through all blocks in order, count, and write the dropped rows into `file`."""
    account = Account(pairs=copies.pairs, contradicting=copies.contradicting)
    start, waiting = 0, list[dict[str, Any]]()
    with aside(file) as beside, pq.ParquetWriter(beside, DROPPED, compression="zstd") as writer:
        for path in blocks:
            made, findings = facts(path)
            account.add(made.span[0], findings)
            outcomes = read(path, _READ)
            duplicates = copies.within(start, outcomes.num_rows)
            start += outcomes.num_rows
            kept = is_kept(outcomes, duplicates)
            _count(account, outcomes, kept, duplicates)
            waiting += _dropped(path, outcomes, kept, duplicates, account)
            if len(waiting) >= _GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, schema=DROPPED))
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, schema=DROPPED))
    return account


def _count(account: Account, outcomes: pa.Table, kept: Any, duplicates: Records) -> None:
    """Add what is counted of pairs: of those kept, and of some that are dropped, but never twice of one pair."""
    pairs = outcomes.filter(kept)
    account.kept += pairs.num_rows
    account.splits.update(pairs["split"].to_pylist())
    account.scored += pairs.num_rows - pairs["chosen_score"].null_count
    account.against += pc.sum(pc.less(pairs["chosen_score"], pairs["rejected_score"])).as_py() or 0
    once = np.ones(outcomes.num_rows, bool)
    once[duplicates["place"]] = False
    different = outcomes.select(["spelled", "remarks"]).filter(once)
    account.spelled += pc.sum(different["spelled"]).as_py() or 0
    for remarks in different["remarks"].drop_null().to_pylist():
        account.remarks.update(json.loads(remarks))


def _dropped(path: Path, outcomes: pa.Table, kept: Any, duplicates: Records, account: Account) -> list[dict[str, Any]]:
    """Rows of DROPPED."""
    if kept.all():
        return []
    copies = dict(zip(duplicates["place"].tolist(), duplicates, strict=True))
    places = np.flatnonzero(~kept)
    rows = outcomes.append_column("content", read(path, ["content"])["content"]).take(places)
    found = []
    for place, row, split in zip(places.tolist(), rows.to_pylist(), codes(rows["own_split"]), strict=True):
        if place in copies:
            why = _duplicate(row, split, copies[place])
            row |= {"reason": why.reason, "detail": why.detail}
        account.dropped[row["reason"]] += 1
        account.examples.setdefault(row["reason"], f"row {row['row']}: {row['detail']}")
        found.append({name: row[name] for name in DROPPED.names})
    return found


def _duplicate(row: dict[str, Any], split: int, kept: Any) -> Dropped:
    """Why a copy of a pair is dropped, `kept` being what the one says that is kept."""
    best = [None if np.isnan(value) else float(value) for value in kept["values"]]
    own = [row[name] for name in VALUES]
    said = {
        "scores": (None if best[0] is None else tuple(best[:2]), None if own[0] is None else tuple(own[:2])),
        "label_confidence": (best[2], own[2]),
        "difficulty": (best[3], own[3]),
        "split": tuple(None if code < 0 else SPLITS[code] for code in (kept["split"], split)),
    }
    differ = [f"{name} {one} and {two}" for name, (one, two) in said.items() if None not in (one, two) and one != two]
    if differ:
        return Dropped("contradicting-duplicate", f"pair {row['pair_id']} has {', '.join(differ)}")
    return Dropped("duplicate", f"pair {row['pair_id']}")
