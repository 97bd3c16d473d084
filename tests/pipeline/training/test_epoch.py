"""The scheduled examples on four pairs written by hand: what a step holds, what a flip exchanges, what is left out."""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.compute.layout import Tokens
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables
from pipeline.settings.training import Schedule
from pipeline.training.epoch import Epoch, Example
from pipeline.training.epoch_files import ABOUT, TOKENS, VALUES, Line, More
from pipeline.training.join import join, room
from tests.pipeline.training.restated_schedule import Candidate, scheduled_rows

# Score margins: a 0.1, b 0.4, c -0.2, d 0.8; e is held out and has nothing but its texts.
SCORES = {"a": (0.6, 0.5), "b": (0.9, 0.5), "c": (0.1, 0.3), "d": (0.9, 0.1), "e": (None, None)}
CONFIDENCE = {"a": 0.75, "b": None, "c": 0.25, "d": 1.0, "e": None}

SOURCES = {"a": "web", "b": "staff", "c": "web", "d": "", "e": "staff"}


def commit(folder: Path, rows: list[dict[str, Any]], schema: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tables.write(rows, schema, folder / "part-00000.parquet")
    return folder


@pytest.fixture
def epoch(tmp_path: Path) -> Any:
    """Epoch over a schedule with the given settings; pair number i has 1 + i chosen and 2 + i rejected tokens."""
    pairs: list[dict[str, Any]] = []
    reference: list[dict[str, Any]] = []
    for i, (pair_id, (chosen_score, rejected_score)) in enumerate(SCORES.items()):
        texts = dict.fromkeys(("prompt", "chosen", "rejected"), "") | {"source": SOURCES[pair_id]}
        ids = {"prompt_ids": [9], "chosen_ids": [i] * (1 + i), "rejected_ids": [50 + i] * (2 + i)}
        scores = {"chosen_score": chosen_score, "rejected_score": rejected_score}
        split = "dev" if pair_id == "e" else "train"
        pairs.append({**texts, **ids, **scores, "pair_id": pair_id, "split": split})
        pairs[-1]["label_confidence"] = CONFIDENCE[pair_id]
        counts = {"chosen_tokens": 1 + i, "rejected_tokens": 2 + i}
        logps = {"chosen_logps": -1.0 - i, "rejected_logps": -2.0 - i}
        digest = tokens_digest(*ids.values())
        reference.append({"pair_id": pair_id, "tokens_digest": digest, **counts, **logps})
    commit(tmp_path / "pairs", pairs, tables.PAIRS)
    commit(tmp_path / "ref", reference, tables.REFERENCE)

    def make(batch_size: int = 2, **settings: Any) -> Epoch:
        candidates = [Candidate(pair_id, *scores) for pair_id, scores in SCORES.items() if pair_id != "e"]
        rows = scheduled_rows(candidates, Schedule(**settings))
        commit(tmp_path / "schedule", rows, tables.SCHEDULE)
        return Epoch(joined(tmp_path), batch_size)

    return make


def joined(folder: Path, made_of: dict[str, str] | None = None, more: More = More()) -> Path:  # noqa: B008 - frozen
    """What `commit` wrote into these folders, as it is read."""
    return join(folder / "pairs", folder / "ref", folder / "schedule", folder / "epoch", made_of, more=more)


def plain(example: Example) -> Example:
    """Without where it lies."""
    return replace(example, start=0, number=0, tokens_digest=b"")


def lists(epoch: Epoch, example: Example) -> Tokens:
    return Tokens(*(list(part) for part in epoch.tokens(example)))


def ids(examples: list[Example]) -> str:
    return "".join(example.pair_id for example in examples)


def test_an_example_by_hand(epoch: Any) -> None:
    made = epoch(order="easy-to-hard")
    b = made.step(0)[1]
    assert lists(made, b) == Tokens([9], [1, 1], [51, 51, 51]) and b.packed == 6
    assert b.tokens_digest.hex() == tokens_digest([9], [1, 1], [51, 51, 51])
    assert plain(b) == Example(
        position=1,
        pair_id="b",
        route="preference",
        flipped=False,
        prompt=1,
        counts=(2, 3),
        reference=(-2.0, -3.0),
        untrained=(-2.0, -3.0),
        scores=(0.9, 0.5),
        label_confidence=None,
        difficulty=-(0.9 - 0.5),
        source=1,
    )
    assert made.sources == ["web", "staff", ""]
    found = {each.pair_id: made.sources[each.source] for k in range(2) for each in made.step(k)}
    assert found == {pair_id: source for pair_id, source in SOURCES.items() if pair_id != "e"}
    assert [made.sources[each.source] for each in made.held_out([0])] == ["staff"]


def test_a_flip_exchanges_completions_log_probs_and_counts_and_nothing_else(epoch: Any) -> None:
    clean, noisy = epoch(4, order="easy-to-hard"), epoch(4, order="easy-to-hard", flip_fraction=1.0)
    for right, wrong in zip(clean.step(0), noisy.step(0), strict=True):
        assert wrong.flipped and not right.flipped
        prompt, chosen, rejected = lists(clean, right)
        assert lists(noisy, wrong) == Tokens(prompt, rejected, chosen)
        assert wrong.reference == right.reference[::-1] and wrong.counts == right.counts[::-1]
        for name in ("position", "pair_id", "route", "scores", "label_confidence", "difficulty"):
            assert getattr(wrong, name) == getattr(right, name), name
    assert (wrong.pair_id, wrong.scores, wrong.label_confidence) == ("c", (0.1, 0.3), 0.25)


def test_a_flipped_sft_pair_trains_what_the_noisy_label_chose(epoch: Any) -> None:
    made = epoch(order="hard-to-easy", sft_percentile=25, flip_fraction=1.0)
    c = made.step(0)[0]
    assert (c.pair_id, c.route, c.packed) == ("c", "sft", 5) and lists(made, c) == Tokens([9], [52] * 4, [])
    assert c.reference == (-4.0, -3.0) and c.counts == (4, 3) and c.scores == (0.1, 0.3)


def test_dropped_pairs_are_never_examples(epoch: Any) -> None:
    kept = epoch(order="easy-to-hard", drop_percentile=25, epochs=2)  # without c
    assert kept.steps == 3 and [ids(kept.step(k)) for k in range(kept.steps)] == ["db", "ad", "ba"]
    assert [example.position for k in range(3) for example in kept.step(k)] == list(range(6))
    assert kept.step(3) == [] and ids(kept.preference_examples(9)) == "dba"
    uneven = epoch(order="easy-to-hard", drop_percentile=25, sft_percentile=25)
    assert uneven.steps == 2 and ids(uneven.step(1)) == "a"
    assert ids(uneven.preference_examples(9)) == "db" and ids(uneven.preference_examples(1)) == "d"


def test_the_first_preference_pair_without_a_column(epoch: Any) -> None:
    assert epoch(order="easy-to-hard").first_without("label_confidence") == "b"  # e lacks it too, and is held out
    assert epoch(order="easy-to-hard").first_without("chosen_score") is None
    unseen = epoch(order="easy-to-hard", drop_percentile=50, drop="easiest")  # without d and b
    assert unseen.first_without("label_confidence") is None


def test_held_out_pairs_are_neither_flipped_nor_routed_nor_difficult(epoch: Any) -> None:
    made = epoch(order="easy-to-hard", sft_percentile=100, flip_fraction=1.0)
    assert made.held_out_pairs == 1
    (e,) = made.held_out([0])
    assert [e.packed] == made.held_out_sizes() and e.position == 0
    assert (e.pair_id, e.route, e.flipped, e.difficulty) == ("e", "preference", False, None)
    assert e.scores == (None, None) and e.label_confidence is None
    assert lists(made, e) == Tokens([9], [4] * 5, [54] * 6) and e.reference == (-5.0, -6.0)


def test_held_out_pairs_are_in_the_order_of_their_ids(epoch: Any, tmp_path: Path) -> None:
    epoch()
    rows = tables.read(tmp_path / "pairs", tables.PAIRS).to_pylist()
    commit(tmp_path / "pairs", [row | {"split": "dev"} for row in reversed(rows)], tables.PAIRS)
    commit(tmp_path / "schedule", [], tables.SCHEDULE)
    made = Epoch(joined(tmp_path), 2)
    assert made.steps == 0 and made.step(0) == [] and made.preference_examples(9) == []
    assert ids(made.held_out(range(5))) == "abcde" and made.held_out_sizes() == [4, 6, 8, 10, 12]
    assert ids(made.held_out([3, 0])) == "da" and [each.position for each in made.held_out([3, 0])] == [3, 0]


@pytest.mark.parametrize("beside", [True, False])
def test_tables_in_several_parts(epoch: Any, tmp_path: Path, beside: bool) -> None:
    """The reference of a part lies in the part beside it, in another order; or somewhere else."""
    whole = epoch(4, order="easy-to-hard")
    cached = tables.read(tmp_path / "ref", tables.REFERENCE)
    table = tables.read(tmp_path / "pairs", tables.PAIRS)
    (tmp_path / "pairs" / "part-00000.parquet").unlink()
    for part, (start, stop) in enumerate(((0, 2), (2, 3), (3, 5))):
        rows = table.slice(start, stop - start).to_pylist()
        tables.write(rows, tables.PAIRS, tmp_path / "pairs" / f"part-{part:05}.parquet")
        if beside:
            scored = cached.slice(start, stop - start).to_pylist()[::-1]
            tables.write(scored, tables.REFERENCE, tmp_path / "ref" / f"part-{part:05}.parquet")
    parts = Epoch(joined(tmp_path), 4)
    assert parts.step(0) == whole.step(0) and parts.held_out([0]) == whole.held_out([0])
    assert [lists(parts, each) for each in parts.step(0)] == [lists(whole, each) for each in whole.step(0)]


def test_cached_log_probs_of_other_tokens_are_refused(epoch: Any, tmp_path: Path) -> None:
    made = epoch(4, order="easy-to-hard")
    rows = tables.read(tmp_path / "ref", tables.REFERENCE).to_pylist()
    rows[1]["tokens_digest"] = rows[2]["tokens_digest"]
    commit(tmp_path / "ref", rows, tables.REFERENCE)
    with pytest.raises(UserError, match=r"pair b: the cached reference is of other tokens.*\n.*--force reference"):
        joined(tmp_path)
    assert ids(made.step(0)) == "dbac" and not (tmp_path / "epoch").exists()


def test_a_scheduled_pair_that_is_nowhere_else_is_named(epoch: Any, tmp_path: Path) -> None:
    made = epoch(order="easy-to-hard")
    commit(tmp_path / "ref", [], tables.REFERENCE)
    with pytest.raises(UserError, match="pair d is scheduled but is not in the reference table"):
        joined(tmp_path)
    commit(tmp_path / "pairs", [], tables.PAIRS)
    with pytest.raises(UserError, match="pair d is scheduled but is not in the pairs table"):
        joined(tmp_path)
    assert ids(made.step(0)) == "db"


def test_a_held_out_pair_without_a_reference_is_named(epoch: Any, tmp_path: Path) -> None:
    epoch()
    commit(tmp_path / "ref", tables.read(tmp_path / "ref", tables.REFERENCE).to_pylist()[:4], tables.REFERENCE)
    with pytest.raises(UserError, match="pair e is scheduled but is not in the reference table"):
        joined(tmp_path)


def test_what_a_killed_run_left_is_used_where_it_is_whole_and_of_the_same(epoch: Any, tmp_path: Path) -> None:
    epoch()

    def written(**made_of: str) -> int:
        return (joined(tmp_path, made_of) / ABOUT).stat().st_mtime_ns

    first = written(pairs="1", schedule="2")
    assert written(pairs="1", schedule="2") == first
    other = written(pairs="1", schedule="3")
    assert other > first
    for name in ("scheduled", "held_out", "once"):  # a byte of a row, or of its end
        file = tmp_path / "epoch" / name
        spoilt = bytearray(file.read_bytes())
        spoilt[-1] ^= 1
        file.write_bytes(spoilt)
        assert written(pairs="1", schedule="3") > other
    os.truncate(tmp_path / "epoch" / TOKENS, 12)
    assert written(pairs="1", schedule="3") > other
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("epoch")] == ["epoch"]


def test_tokens_that_are_not_as_written_are_never_trained(epoch: Any, tmp_path: Path) -> None:
    """A table of the right size, as a disk may leave it after a power cut."""
    made = epoch(4, order="easy-to-hard")
    d, b, *_ = made.step(0)
    with open(tmp_path / "epoch" / TOKENS, "r+b") as file:
        file.seek(4 * (b.start + 2))
        file.write(b"\0\0\0\0")
    assert made.tokens(d)
    with pytest.raises(
        UserError, match=r"pair b: its token ids in .*epoch.* are not as they were written\n.*remove .*"
    ):
        made.tokens(b)


def test_a_disk_that_is_full_while_the_epoch_is_written(epoch: Any, tmp_path: Path, small_disk: Path) -> None:
    """Nothing of it is left in the way, and once there is room it is written."""
    epoch(4, order="easy-to-hard")
    pairs, reference, schedule = (tmp_path / name for name in ("pairs", "ref", "schedule"))
    rows = tables.read(pairs, tables.PAIRS).to_pylist()
    for row in rows:
        row["prompt_ids"] = list(range(100_000))
    cached = tables.read(reference, tables.REFERENCE).to_pylist()
    for row, scored in zip(rows, cached, strict=True):
        scored["tokens_digest"] = tokens_digest(*(row[f"{name}_ids"] for name in ("prompt", "chosen", "rejected")))
    commit(pairs, rows, tables.PAIRS)
    commit(reference, cached, tables.REFERENCE)
    free = shutil.disk_usage(small_disk).free
    needed = room(Line(pairs, reference, schedule))
    assert needed < free
    (small_disk / "filler").write_bytes(b"0" * (free - needed // 2))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        join(pairs, reference, schedule, small_disk / "epoch")
    assert [file.name for file in small_disk.iterdir()] == ["filler"]
    (small_disk / "filler").write_bytes(b"0" * (free - needed - 32_768))  # its blocks
    made = Epoch(join(pairs, reference, schedule, small_disk / "epoch"), 4)
    assert [len(made.tokens(example).prompt) for example in made.step(0)] == [100_000] * 4


def test_the_table_on_disk(epoch: Any, tmp_path: Path) -> None:
    """What it is made of is in it, and its room was known before."""
    epoch()
    folder = joined(tmp_path, {"pairs": "1"})
    about = json.loads((folder / ABOUT).read_text())
    assert about["made_of"] == {"pairs": "1"} and about["lacking"]["label_confidence"] == "b"
    files = [ABOUT, "held_out", "once", "scheduled", "tokens", "values"]
    assert sorted(file.name for file in folder.iterdir()) == files
    kept = sum(file.stat().st_size for file in folder.iterdir() if file.name != ABOUT)
    assert kept < room(Line(*(tmp_path / name for name in ("pairs", "ref", "schedule"))))
    ids = (folder / TOKENS).read_bytes()[: 4 * (3 + 1 + 1 + 2)]  # of a, the first in the pairs table
    assert hashlib.sha256(ids).hexdigest() == tokens_digest([9], [0], [50, 50])


def valued(folder: Path, **columns: Any) -> More:
    """Columns of numbers a token: `reference` is -k of the k-th, others as given."""
    digests = {row["pair_id"]: row for row in tables.read(folder / "ref", tables.REFERENCE).to_pylist()}
    for name, number in columns.items():
        rows = [
            {"pair_id": pair_id, "tokens_digest": row["tokens_digest"]}
            | {side: [number * k for k in range(1, 1 + row[f"{side}_tokens"])] for side in ("chosen", "rejected")}
            for pair_id, row in digests.items()
        ]
        commit(folder / name, rows, tables.TOKEN_VALUES)
    return More({name: (folder / name, "part-*.parquet") for name in columns})


def test_values_of_tokens_are_those_of_the_sides_as_they_are_trained(epoch: Any, tmp_path: Path) -> None:
    epoch(order="easy-to-hard", sft_percentile=25, flip_fraction=1.0)
    more = valued(tmp_path, reference=-1.0, contrast=0.5)
    made = Epoch(joined(tmp_path, more=more), 4)
    _, b, _, c = made.step(0)
    found = {name: [side.tolist() for side in sides] for name, sides in made.token_values(b).items()}
    assert found == {"reference": [[-1, -2, -3], [-1, -2]], "contrast": [[0.5, 1, 1.5], [0.5, 1]]}
    assert b.reference == (-6.0, -3.0)  # of their own tokens, not of the table of sums
    assert c.route == "sft" and made.token_values(c)["contrast"][1].tolist() == []
    (e,) = made.held_out([0])
    assert [len(side) for side in made.token_values(e)["reference"]] == [5, 6]
    plain = Epoch(joined(tmp_path), 4)
    assert plain.columns == ()


def test_values_of_other_tokens_or_not_as_written_are_refused(epoch: Any, tmp_path: Path) -> None:
    epoch(order="easy-to-hard")
    more = valued(tmp_path, reference=-1.0)
    made = Epoch(joined(tmp_path, more=more), 4)
    d, b, *_ = made.step(0)
    with open(tmp_path / "epoch" / VALUES, "r+b") as file:
        file.seek(4 * (b.values + 1))
        file.write(b"\1\0\0\0")
    assert made.token_values(d)
    with pytest.raises(UserError, match=r"pair b: its token values in .*epoch.* are not as they were written"):
        made.token_values(b)
    rows = tables.read(tmp_path / "reference", tables.TOKEN_VALUES).to_pylist()
    rows[3]["tokens_digest"] = rows[0]["tokens_digest"]
    commit(tmp_path / "reference", rows, tables.TOKEN_VALUES)
    with pytest.raises(UserError, match=r"pair d: its token values \(reference\) are of other tokens\n.*--force weigh"):
        joined(tmp_path, more=more)


def test_log_probs_of_other_pairs_answers_are_found_by_position(epoch: Any, tmp_path: Path) -> None:
    epoch(order="easy-to-hard", epochs=2)
    scored = {"tokens_digest": "", "rejected_logps": 0.0, "chosen_tokens": 1, "rejected_tokens": 0}
    rows = [{"pair_id": str(place), "chosen_logps": -10.0 - place} | scored for place in (7, 0, 2)]
    commit(tmp_path / "mismatched", rows, tables.REFERENCE)
    made = Epoch(joined(tmp_path, more=More(mismatched=tmp_path / "mismatched")), 4)
    found = [example.mismatched for k in range(2) for example in made.step(k)]
    assert found == [-10.0, None, -12.0, None, None, None, None, -17.0]
    assert made.held_out([0])[0].mismatched is None


def test_values_beside_other_parts(epoch: Any, tmp_path: Path) -> None:
    """Of pairs in several parts, values in one; found by id."""
    epoch(4, order="easy-to-hard")
    table = tables.read(tmp_path / "pairs", tables.PAIRS)
    for part, (start, stop) in enumerate(((0, 2), (2, 5))):
        rows = table.slice(start, stop - start).to_pylist()
        tables.write(rows, tables.PAIRS, tmp_path / "pairs" / f"part-{part:05}.parquet")
    more = valued(tmp_path, reference=-1.0)
    made = Epoch(joined(tmp_path, more=more), 4)
    assert [len(made.token_values(each)["reference"][0]) for each in made.step(0)] == [4, 2, 1, 3]
