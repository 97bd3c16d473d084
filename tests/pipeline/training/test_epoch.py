"""The scheduled examples on four pairs written by hand: what a step holds, what a flip exchanges, what is left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.compute.layout import Tokens
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables
from pipeline.settings.config import Schedule
from pipeline.training.epoch import Epoch, Example
from tests.pipeline.training.restated_schedule import Candidate, scheduled_rows

# Score margins: a 0.1, b 0.4, c -0.2, d 0.8; e is held out and has nothing but its texts.
SCORES = {"a": (0.6, 0.5), "b": (0.9, 0.5), "c": (0.1, 0.3), "d": (0.9, 0.1), "e": (None, None)}
CONFIDENCE = {"a": 0.75, "b": None, "c": 0.25, "d": 1.0, "e": None}


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
        texts = dict.fromkeys(("prompt", "chosen", "rejected", "source"), "")
        ids = {"prompt_ids": [9], "chosen_ids": [i] * (1 + i), "rejected_ids": [50 + i] * (2 + i)}
        scores = {"chosen_score": chosen_score, "rejected_score": rejected_score}
        split = "dev" if pair_id == "e" else "train"
        pairs.append({**texts, **ids, **scores, "pair_id": pair_id, "split": split})
        pairs[-1]["label_confidence"] = CONFIDENCE[pair_id]
        counts = {"chosen_tokens": 1 + i, "rejected_tokens": 2 + i}
        logps = {"chosen_logps": -1.0 - i, "rejected_logps": -2.0 - i}
        digest = tokens_digest(*ids.values())
        reference.append({"pair_id": pair_id, "tokens_digest": digest, **counts, **logps})
    folders = commit(tmp_path / "pairs", pairs, tables.PAIRS), commit(tmp_path / "ref", reference, tables.REFERENCE)

    def make(batch_size: int = 2, **settings: Any) -> Epoch:
        candidates = [Candidate(pair_id, *scores) for pair_id, scores in SCORES.items() if pair_id != "e"]
        rows = scheduled_rows(candidates, Schedule(**settings))
        return Epoch(*folders, commit(tmp_path / "schedule", rows, tables.SCHEDULE), batch_size)

    return make


def plain(example: Example) -> Example:
    """With lists for tokens: views of a table have no equality of their own."""
    return replace(example, tokens=lists(example))


def lists(example: Example) -> Tokens:
    return Tokens(*(list(part) for part in example.tokens))


def ids(examples: list[Example]) -> str:
    return "".join(example.pair_id for example in examples)


def test_an_example_by_hand(epoch: Any) -> None:
    assert plain(epoch(order="easy-to-hard").step(0)[1]) == Example(
        position=1,
        pair_id="b",
        route="preference",
        flipped=False,
        tokens=Tokens([9], [1, 1], [51, 51, 51]),
        reference=(-2.0, -3.0),
        counts=(2, 3),
        scores=(0.9, 0.5),
        label_confidence=None,
        difficulty=-(0.9 - 0.5),
    )


def test_a_flip_exchanges_completions_log_probs_and_counts_and_nothing_else(epoch: Any) -> None:
    for right, wrong in zip(
        epoch(4, order="easy-to-hard").step(0), epoch(4, order="easy-to-hard", flip_fraction=1.0).step(0), strict=True
    ):
        assert wrong.flipped and not right.flipped
        prompt, chosen, rejected = lists(right)
        assert lists(wrong) == Tokens(prompt, rejected, chosen)
        assert wrong.reference == right.reference[::-1] and wrong.counts == right.counts[::-1]
        for name in ("position", "pair_id", "route", "scores", "label_confidence", "difficulty"):
            assert getattr(wrong, name) == getattr(right, name), name
    assert (wrong.pair_id, wrong.scores, wrong.label_confidence) == ("c", (0.1, 0.3), 0.25)


def test_a_flipped_sft_pair_trains_what_the_noisy_label_chose(epoch: Any) -> None:
    c = epoch(order="hard-to-easy", sft_percentile=25, flip_fraction=1.0).step(0)[0]
    assert (c.pair_id, c.route) == ("c", "sft") and lists(c) == Tokens([9], [52] * 4, [])
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
    (e,) = epoch(order="easy-to-hard", sft_percentile=100, flip_fraction=1.0).dev()
    assert (e.pair_id, e.route, e.flipped, e.difficulty) == ("e", "preference", False, None)
    assert e.scores == (None, None) and e.label_confidence is None
    assert lists(e) == Tokens([9], [4] * 5, [54] * 6) and e.reference == (-5.0, -6.0)


def test_tokens_are_views_of_the_tables(epoch: Any, tmp_path: Path) -> None:
    """Also of tables in several parts; nothing is copied a step."""
    whole = epoch(4, order="easy-to-hard")
    table = tables.read(tmp_path / "pairs", tables.PAIRS)
    (tmp_path / "pairs" / "part-00000.parquet").unlink()
    for part, (start, stop) in enumerate(((0, 2), (2, 3), (3, 5))):
        rows = table.slice(start, stop - start).to_pylist()
        tables.write(rows, tables.PAIRS, tmp_path / "pairs" / f"part-{part:05}.parquet")
    parts = Epoch(tmp_path / "pairs", tmp_path / "ref", tmp_path / "schedule", 4)
    assert [plain(example) for example in parts.step(0)] == [plain(example) for example in whole.step(0)]
    seen: list[Any] = [part for example in parts.step(0) for part in example.tokens]
    assert seen and not any(part.flags.owndata for part in seen)


def test_cached_log_probs_of_other_tokens_are_refused(epoch: Any, tmp_path: Path) -> None:
    made = epoch(4, order="easy-to-hard")
    rows = tables.read(tmp_path / "ref", tables.REFERENCE).to_pylist()
    rows[1]["tokens_digest"] = rows[2]["tokens_digest"]
    commit(tmp_path / "ref", rows, tables.REFERENCE)
    with pytest.raises(UserError, match=r"pair b: the cached reference is of other tokens.*\n.*--force reference"):
        Epoch(tmp_path / "pairs", tmp_path / "ref", tmp_path / "schedule", 4).step(0)
    assert ids(made.step(0)) == "dbac"


def test_a_scheduled_pair_that_is_nowhere_else_is_named(epoch: Any, tmp_path: Path) -> None:
    made = epoch(order="easy-to-hard")
    commit(tmp_path / "ref", [], tables.REFERENCE)
    with pytest.raises(UserError, match="pair d is scheduled but is not in the reference table"):
        Epoch(tmp_path / "pairs", tmp_path / "ref", tmp_path / "schedule", 2)
    assert ids(made.step(0)) == "db"
