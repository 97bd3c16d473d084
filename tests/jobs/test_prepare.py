"""What prepare does before it reads a pair, and the account that it keeps of rows."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.common.account import metrics, refuse_losses, refuse_suspects, tell
from jobs.common.models import base_model
from jobs.common.stage import Work
from jobs.prepare import run
from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.prepare.account import Account
from pipeline.results import tables
from pipeline.settings.config import validate
from pipeline.settings.inputs import Data
from tests.pipeline.prepare.small import GOOD, Made, prepared, tokeniser


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Made]:
    numbers = iter(range(99))
    return lambda rows, **data: prepared(rows, tmp_path / f"read-{next(numbers)}", **data)


def found(made: Made) -> dict[str, Any]:
    return metrics(made.account, made.preparation.normaliser)


def refuse(made: Made) -> None:
    refuse_suspects(made.account, made.preparation.data, made.preparation.look.repeats)


def say(made: Made) -> None:
    tell(made.account, found(made), made.preparation.data)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "<|im_start|>user\nHi.", "chosen": "Yes.", "rejected": "No."}, "pairs spell control tokens"),
        ({"prompt": "Hi.", "chosen": "Yes.<|im_end|>", "rejected": "No."}, "pairs spell control tokens"),
        (
            {"prompt": "[INST] Hi. [/INST]", "chosen": "Yes.", "rejected": "No."},
            "pairs spell control tokens",
        ),  # another's
        ({"prompt": "Say.", "chosen": "Red.", "rejected": "Say. Seven."}, "pairs have an answer that begins with its"),
        (
            {"prompt": "Say.", "chosen": "Say. Red.", "rejected": "Say.\nSeven."},
            "pairs have an answer that begins with its prompt",
        ),
    ],
)
def test_texts_that_look_rendered_are_counted_and_beyond_a_share_refused(
    read: Callable[..., Made], row: dict[str, str], said: str
) -> None:
    def wrong(count: int) -> list[dict[str, str]]:
        return [{**row, "chosen": f"{row['chosen']} {i}"} for i in range(count)]

    few = read([*GOOD[8:], *wrong(8)])
    refuse(few)
    assert 8 in (found(few)["spelled_control_tokens"], found(few)["repeated_prompts"])
    many = [*GOOD[9:], *wrong(9)]
    with pytest.raises(UserError, match=f"9 of 40 {said}") as caught:
        refuse(read(many))
    assert "data.max_suspect=1" in caught.value.remedy
    refuse(read(many, max_suspect=1.0))


def test_losses_are_told_with_a_row_of_each_reason(read: Callable[..., Made]) -> None:
    bad = [{**GOOD[0], "split": "held-out"}, {**GOOD[1], "split": "held-back"}, {**GOOD[2], "rejected": "Red."}]
    made = read([*GOOD[3:5], *bad])
    with pytest.raises(UserError) as caught:
        refuse_losses(made.account, made.preparation.data, Path("dropped.parquet"))
    assert "3 of 5 rows" in caught.value.problem and "{'bad-split': 2, 'equal-completions': 1}" in caught.value.problem
    assert "bad-split: row 3: split is 'held-out', not train, dev or test" in caught.value.remedy
    assert "equal-completions: row 5: 'Red.'" in caught.value.remedy and "held-back" not in caught.value.remedy


def test_what_was_found_is_said_once(read: Callable[..., Made], capsys: pytest.CaptureFixture[str]) -> None:
    message = {"role": "user", "content": "Hi.", "weight": 2}
    row = {"prompt": [message], "rejected": "No.", "id": 1, "system_prompt": "Be brief.", "chosen-rating": 3}
    say(read([{**row, "chosen": f"Red {i}."} for i in range(3)]))
    said = capsys.readouterr().out
    assert said.count("rows are messages") == said.count("columns not used: chosen-rating, id, system_prompt") == 1
    assert said.count("data.columns={system: system_prompt, chosen_score: chosen-rating} would read") == 1
    assert said.count("message keys not used: weight") == 1


def told(read: Callable[..., Made], capsys: pytest.CaptureFixture[str], rows: list[Any], **data: Any) -> str:
    say(read(rows, **data))
    return capsys.readouterr().out


def test_scores_that_data_columns_leaves_behind_are_said(
    read: Callable[..., Made], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "other": f"Blue {i}.", "chosen_score": 9, "rejected_score": 2} for i, row in enumerate(GOOD[:3])]
    notice = "data.columns gives other answers, and not their scores: name these, too, or give null"
    assert notice in told(read, capsys, rows, columns={"chosen": "other"})
    for columns in ({}, {"chosen": "other", "chosen_score": None}, {"prompt": "other"}):
        assert notice not in told(read, capsys, rows, columns=columns)
    bare = [{key: value for key, value in row.items() if "score" not in key} for row in rows]
    assert notice not in told(read, capsys, bare, columns={"chosen": "other"})


def test_scores_that_say_the_opposite_of_the_labels_are_said(
    read: Callable[..., Made], capsys: pytest.CaptureFixture[str]
) -> None:
    def scored(against: int) -> list[Any]:
        return [{**row, "chosen_score": 1, "rejected_score": 2 * (i < against)} for i, row in enumerate(GOOD[:4])]

    assert "of 4 pairs with scores 3 have the lower one on the chosen side" in told(read, capsys, scored(3))
    assert "lower one" not in told(read, capsys, scored(2))


def test_suspects_below_the_share_are_said(read: Callable[..., Made], capsys: pytest.CaptureFixture[str]) -> None:
    assert "begin" not in (said := told(read, capsys, GOOD)) and "spell" not in said
    repeats = {"prompt": "Say.", "chosen": "Say. Red.", "rejected": "Seven."}
    spells = {"prompt": "Hi.", "chosen": "Yes.<|im_end|>", "rejected": "No."}
    said = told(read, capsys, [*GOOD, repeats, spells, {**spells, "rejected": "Never."}])
    assert "prepare: 1 pairs have an answer that begins with its prompt\n" in said
    assert "prepare: 2 pairs spell control tokens, which stay plain text\n" in said
    both = [{**row, "chosen": f"{row['prompt']} Red.", "rejected": f"{row['prompt']} No."} for row in GOOD]
    assert "every answer begins with its prompt, which was taken off" in told(read, capsys, both)


def test_of_copies_the_door_writes_the_one_that_says_more(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    tokeniser().tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": len(tokeniser().tokenizer)}
    (folder / "config.json").write_text(json.dumps(config))
    scored = [{**row, "chosen_score": 9, "rejected_score": 2, "split": "dev"} for row in GOOD[:2]]
    other = {**scored[0], "chosen_score": 8}
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*GOOD[:5], *scored, other]))
    data = {"source": str(source), "max_dropped": 0.5, "shard_pairs": 2}
    plan = make_plan(validate({"model": {"source": str(folder)}, "data": data, "resources": {"root": str(tmp_path)}}))
    (out := tmp_path / "out").mkdir()
    made = run(Work(plan, plan.steps["prepare"], {}, out))
    pairs = tables.read(out, tables.PAIRS).to_pylist()
    assert [(pair["chosen_score"], pair["split"]) for pair in pairs] == [(None, "train")] * 3 + [(9.0, "dev")] * 2
    dropped = pq.read_table(out / "dropped.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in dropped] == [
        (1, "duplicate"),
        (2, "duplicate"),
        (8, "contradicting-duplicate"),
    ]
    assert (made.ledger["rows"], made.ledger["kept"], list(made.rows.values())) == (8, 5, [2, 2, 1])
    assert made.metrics["splits"] == {"train": 3, "dev": 2} and made.metrics["lacking"]["scores"]["of"] == 3
    assert made.scratch == ("blocks",)  # which go once the parts are committed


def test_a_model_that_changed_since_the_plan_is_not_used(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Whether its bytes changed or the little that is used of a file, and not where nothing did that counts."""
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    given = {"model": {"source": str(folder)}, "resources": {"root": str(tmp_path / "root")}}
    plan = make_plan(validate(given))
    (folder / "README.txt").write_text("words")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2], "temperature": 0.7}))
    assert base_model(plan) == folder
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    with pytest.raises(UserError, match="changed since this run was planned"):
        base_model(plan)
    plan = make_plan(validate(given))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="changed since this run was planned"):
        base_model(plan)


@pytest.mark.parametrize("found", [{"quant_method": "gptq"}, {"quant_method": "mxfp4"}])
def test_a_plan_refuses_quantised_weights_to_train_and_takes_them_to_judge(
    tiny_model: Callable[[str], Path], tmp_path: Path, found: dict[str, str]
) -> None:
    plain, folder = tiny_model("Llama"), shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": found}
    (folder / "config.json").write_text(json.dumps(config))
    root = {"root": str(tmp_path / "root")}
    with pytest.raises(UserError, match=f"is quantised .*{found['quant_method']}"):
        make_plan(validate({"model": {"source": str(folder)}, "resources": root}))
    judged = {"model": {"source": str(plain)}, "judge": {"local": {"source": str(folder)}}, "resources": root}
    assert (judge := make_plan(validate(judged)).judge) and judge.path == folder


@pytest.mark.parametrize(("read", "dropped", "share"), [(100, 5, 0.05), (100, 29, 0.29), (20, 1, 0.05), (3, 0, 0.0)])
def test_as_many_may_be_dropped_as_is_written(read: int, dropped: int, share: float) -> None:
    data = Data(source="x.jsonl", max_dropped=share)

    def account(dropped: int) -> Account:
        return Account(kept=read - dropped, dropped=Counter(bad=dropped), examples={"bad": "row 1"})

    refuse_losses(account(dropped), data, Path("x"))
    with pytest.raises(UserError, match=f"{dropped + 1} of {read} rows were dropped") as told:
        refuse_losses(account(dropped + 1), data, Path("x"))
    assert "or raise data.max_dropped" in told.value.remedy


@pytest.mark.parametrize("allowed", [0.05, 1.0])
def test_where_nothing_is_left_no_share_helps(allowed: float) -> None:
    account = Account(dropped=Counter({"bad-role": 5}), examples={"bad-role": "row 1: 'x'"})
    with pytest.raises(UserError, match=r"5 of 5 rows were dropped \(100.0%, which leaves nothing\)") as told:
        refuse_losses(account, Data(source="x.jsonl", max_dropped=allowed), Path("x"))
    assert "max_dropped" not in str(told.value) and "mend the data; all are in x, such as" in told.value.remedy
