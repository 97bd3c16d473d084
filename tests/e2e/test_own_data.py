"""A user's own pairs through the prepare door: the accepted shapes, and the account of what was dropped."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.doors import REPOSITORY, made, only, refused, rows

pytestmark = pytest.mark.e2e

PAIRS = REPOSITORY.parent / "shared" / "data" / "pairs" / "alpaca_margin_pairs.jsonl"


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def written(path: Path, given: list[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in given), encoding="utf-8")
    return path


def prepared(root: Path) -> tuple[Path, dict[str, Any]]:
    folder = only(root, "prepare")
    return folder, json.loads((folder / "manifest.json").read_text())


SHAPES: dict[str, dict[str, Any]] = {
    "strings": {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."},
    "messages": {
        "prompt": [say("user", "Name a colour.")],
        "chosen": [say("assistant", "Red.")],
        "rejected": [say("assistant", "Seven.")],
    },
    "conversations": {
        "prompt": "Name a colour.",
        "chosen": [say("user", "Name a colour."), say("assistant", "Red.")],
        "rejected": [say("user", "Name a colour."), say("assistant", "Seven.")],
        "score_chosen": 9.0,
        "score_rejected": 2.0,
    },
}


def test_one_pair_in_three_shapes_becomes_the_same_tokens(tiny: Path, tmp_path: Path) -> None:
    tokens = []
    for shape, row in SHAPES.items():
        file = written(tmp_path / f"{shape}.jsonl", [row])
        root = tmp_path / shape
        made("prepare", f"model.source={tiny}", f"resources.root={root}", f"data.source={file}")
        folder, manifest = prepared(root)
        table = pq.read_table(folder / "part-00000.parquet").to_pylist()
        assert manifest["ledger"]["kept"] == len(table) == 1
        tokens.append([table[0][name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")])
        if "score_chosen" in row:
            assert (table[0]["chosen_score"], table[0]["rejected_score"]) == (9.0, 2.0)
    assert tokens[0] == tokens[1] == tokens[2]
    assert tokens[0][1] != tokens[0][2]


def test_ranked_completions_make_several_pairs_a_row_and_the_ledger_balances(tiny: Path, tmp_path: Path) -> None:
    given: list[Any] = [
        {"prompt": f"\n\nHuman: Name colour {i}.\n\nAssistant: ", "turns": 1}
        | {"answers": [{"answer": text, "rank": rank} for rank, text in enumerate(["Red.", "Blue.", "Seven."], 1)]}
        for i in range(4)
    ]
    given[1]["answers"][1]["rank"] = 1  # a tie: two pairs, not three
    given[2]["answers"] = given[2]["answers"][:1]
    given[3]["answers"][2]["answer"] = "Red."  # the same as the first: neither the best nor the worst
    file = written(tmp_path / "nectar.jsonl", [*given, "{no row"])
    settings = (f"model.source={tiny}", f"resources.root={tmp_path / 'root'}", f"data.source={file}")
    said = made("prepare", *settings, "data.pairing=all", "data.max_dropped=0.5")
    assert "columns not used: turns" in said and "rows are ranked, ranked by rank, transcripts" in said
    folder, manifest = prepared(tmp_path / "root")
    ledger, found = manifest["ledger"], manifest["metrics"]
    assert (ledger["rows"], ledger["read"], ledger["kept"]) == (5, 8, 5)
    assert ledger["dropped"] == {"one-completion": 1, "ranked-twice": 1, "unreadable-row": 1}
    assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"]
    assert (found["ties"], found["columns_not_used"]) == (1, ["turns"])
    margins = [row["chosen_score"] - row["rejected_score"] for row in rows(folder)]
    assert len(margins) == 5 and min(margins) > 0


def test_a_folder_of_odd_name_and_mixed_kinds_with_columns_of_ones_own(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Größe [v2] *"
    folder.mkdir()
    one, two = ({"question": f"Name colour {i}.", "win": "Red.", "lose": "Seven."} for i in range(2))
    written(folder / "a b.jsonl", [one])
    pq.write_table(pa.Table.from_pylist([two]), folder / "b.parquet")
    settings = (f"model.source={tiny}", f"resources.root={tmp_path / 'root'}", f"data.source={folder}")
    assert "data.columns={prompt: question, chosen: win, rejected: lose}" in refused("prepare", *settings)
    made("prepare", *settings, "data.columns={prompt: question, chosen: win, rejected: lose}")
    _, manifest = prepared(tmp_path / "root")
    assert (manifest["rows"], manifest["metrics"]["loader"]) == (2, "jsonl+parquet")
    assert manifest["config"]["data"]["columns"]["prompt"] == "question"


def test_dropped_rows_are_counted_and_kept_aside(tiny: Path, tmp_path: Path) -> None:
    good = [{"prompt": f"Name colour {i}.", "chosen": "Red.", "rejected": "Seven."} for i in range(8)]
    bad = [{"prompt": "Same.", "chosen": "Yes.", "rejected": "Yes."}, "{not json", good[0]]
    settings = (f"model.source={tiny}", f"data.source={written(tmp_path / 'pairs.jsonl', good + bad)}")
    told = refused("prepare", *settings, f"resources.root={tmp_path / 'strict'}")
    assert "3 of 11 rows" in told and "data.max_dropped" in told
    made("prepare", *settings, f"resources.root={tmp_path / 'root'}", "data.max_dropped=0.5")
    folder, manifest = prepared(tmp_path / "root")
    assert (manifest["ledger"]["read"], manifest["ledger"]["kept"]) == (11, 8)
    dropped = pq.read_table(folder / "dropped.parquet").to_pylist()
    assert [row["row"] for row in dropped] == [9, 10, 11]  # lines of the file
    assert sum(manifest["ledger"]["dropped"].values()) == len({row["reason"] for row in dropped}) == 3


def test_the_hardest_by_a_column_of_ones_own_are_left_out(tiny: Path, tmp_path: Path) -> None:
    given = [{"prompt": f"Name colour {i}.", "chosen": "Red.", "rejected": "Seven.", "loss": i} for i in range(8)]
    bad = {**given[0], "prompt": "Name.", "loss": "high"}
    asked_for = ("schedule.difficulty=column", "schedule.drop_percentile=50", "data.max_dropped=0.2")

    def settings(rows: list[Any], name: str) -> tuple[str, ...]:
        file = written(tmp_path / f"{name}.jsonl", rows)
        return (*asked_for, f"model.source={tiny}", f"data.source={file}", f"resources.root={tmp_path / name}")

    whole = settings([*given, bad], "whole")
    assert "data.difficulty_column" in refused("prepare", *whole, "data.difficulty_column=perplexity")
    made("prepare", *whole, "data.difficulty_column=loss")
    pairs, manifest = prepared(tmp_path / "whole")
    assert manifest["ledger"]["dropped"] == {"bad-difficulty": 1}
    made("schedule", *whole, "data.difficulty_column=loss")
    scheduled = only(tmp_path / "whole", "schedule")
    found = rows(scheduled, ["pair_id", "difficulty", "route"])
    assert [row["route"] for row in found] == ["preference"] * 4 + ["drop"] * 4
    assert [row["difficulty"] for row in found[4:]] == [7, 6, 5, 4]
    prompts = {row["pair_id"]: json.loads(row["prompt"])[0]["content"] for row in rows(pairs, ["pair_id", "prompt"])}
    assert all(prompts[row["pair_id"]] == f"Name colour {row['difficulty']:.0f}." for row in found)
    figures = json.loads((scheduled / "manifest.json").read_text())["metrics"]
    assert (figures["preference"], figures["drop"]) == (4, 4)

    partial = settings([*given, {"prompt": "Name.", "chosen": "Red.", "rejected": "Seven."}], "partial")
    made("prepare", *partial, "data.difficulty_column=loss")
    told = refused("schedule", *partial, "data.difficulty_column=loss")
    assert "which 1 of 9 train pairs lack (such as row 9 of " in told and "data.difficulty_column" in told


def test_a_file_of_thousands_is_limited_by_content(tiny: Path, tmp_path: Path) -> None:
    if not PAIRS.exists():
        pytest.skip(f"{PAIRS} is not on this machine")
    settings = (f"model.source={tiny}", f"resources.root={tmp_path}", f"data.source={PAIRS}", "data.limit=64")
    made("prepare", *settings)
    folder, manifest = prepared(tmp_path)
    assert manifest["ledger"]["read"] > 3000
    kept = rows(folder, ["pair_id", "split"])
    assert len({row["pair_id"] for row in kept}) == len(kept) == manifest["rows"]
    assert sum(row["split"] == "train" for row in kept) == 64


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no rows"),
        ([{"question": "a", "good": "b", "bad": "c"}], "question"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], "1 of 1 rows"),
        ([{"prompt": "word " * 900, "chosen": "b", "rejected": "c"}], "1 of 1 rows"),
        ([{"prompt": "<|im_start|>user\nHi.", "chosen": "b", "rejected": "c"}], "1 of 1 pairs spell control tokens"),
    ],
    ids=["empty", "unknown-shape", "all-bad", "prompt-too-long", "rendered"],
)
def test_data_that_gives_no_pair_is_refused(tiny: Path, tmp_path: Path, given: list[Any], said: str) -> None:
    file = written(tmp_path / "pairs.jsonl", given)
    told = refused("prepare", f"model.source={tiny}", f"resources.root={tmp_path / 'root'}", f"data.source={file}")
    assert said in told
