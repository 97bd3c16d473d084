"""Pairs edited by a judge at an endpoint, on their way into prepare: what becomes of each, and what is asked once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.common.stage import make
from pipeline.errors import UserError
from pipeline.evaluation.judging.asking import Reply
from pipeline.line.check import faults
from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.onpolicy.bridging import edit, read_pairs, request
from pipeline.preferences.messages import Dropped, said
from pipeline.preferences.normalise import Preference
from pipeline.preferences.rows import Rows, Source
from pipeline.results import tables
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import Data
from tests.judge_server import Answer, JudgeServer, judge_server

PAIR = Preference(({"role": "user", "content": "2+2?"},), said("It is 4."), said("It is 5."))
# The rejected answer of a row, and what its editor says.
REPLIES = {
    "It is 5.": Answer("<think>five is wrong</think>It is 4 now"),
    "Red": Answer("Red"),
    "Seven": Answer("x" * 400),
    "Wet": Answer("so wet", finish_reason="length"),
    "Cold": Answer(status=400),
    "Dark": Answer("<think>hm"),
    "Old": Answer("It is new."),
}
ROWS = [
    {
        "prompt": f"{number}: how?",
        "chosen": "It is 4." if number == 0 else "It is new.",
        "rejected": rejected,
        "split": "train",
    }
    for number, rejected in enumerate(REPLIES)
] + [{"prompt": "held out", "chosen": "a", "rejected": "b", "split": "dev", "chosen_score": 2, "rejected_score": 1}]


def script(asked: str, _: int) -> Answer:
    weak = asked.partition("[Weak answer]\n")[2].partition("\n\n[Better")[0]
    return REPLIES[weak]


@pytest.fixture
def plan(byte_model: Path, tmp_path: Path) -> Callable[..., Plan]:
    def planned(judge: JudgeServer | None, rows: list[Any] = ROWS, **sections: Any) -> Plan:
        file = tmp_path / "pairs.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        endpoint = {"judge_endpoint": {"url": judge.url, "retries": 0}} if judge else {}
        given: dict[str, Any] = {
            "model": {"source": str(byte_model), "dtype": "float32"},
            "data": {"source": str(file), "max_dropped": 1, **sections.pop("data", {})},
            "bridge": {"judge": "editor", "max_lost": 0.9, **sections.pop("bridge", {})},
            "objective": {"name": "dpo"},
            "resources": {"root": str(tmp_path / "runs"), **endpoint},
        }
        return make_plan(RunConfig.model_validate(given | sections))

    return planned


def test_what_becomes_of_each_pair(plan: Callable[..., Plan]) -> None:
    with judge_server(script) as judge:
        made = plan(judge, data={"changed_tokens": True})
        assert list(made.steps)[:2] == ["bridge", "prepare"] and not faults(made, made.of("bridge", "prepare"))
        bridged = make(made, made.steps["bridge"])
        assert len(judge.bodies) == len(REPLIES) and {body["model"] for body in judge.bodies} == {"editor"}
        assert {body["max_tokens"] for body in judge.bodies} == {1024}
    ledger = bridged.manifest["ledger"]
    reasons = {"unchanged": 1, "grown": 1, "cut": 1, "no-reply": 1, "empty-edit": 1}
    assert ledger == {
        "pairs": 7,
        "edited": 2,
        "without_edit": reasons,
        "held_out": 1,
        "beyond_limit": 0,
        "dropped": 0,
    }
    assert bridged.manifest["metrics"]["copied"] == 1
    lost = tables.read(bridged.path, tables.DROPPED, pattern="unbridged.parquet").to_pylist()
    assert {row["reason"] for row in lost} == set(reasons) and all(row["detail"] for row in lost)
    rows = tables.read(make(made, made.steps["prepare"]).path, tables.PAIRS).to_pylist()
    found = {(row["chosen"], row["rejected"], row["source"], row["split"], row["chosen_score"]) for row in rows}
    assert found == {
        ("It is 4 now", "It is 5.", "bridged", "train", None),
        ("It is new.", "Old", "bridged", "train", None),
        ("a", "b", "", "dev", 2.0),
    }
    prepared = made.steps["prepare"].address.find()
    assert prepared is not None and prepared.manifest["metrics"]["loader"] == "bridged"
    (first,) = (row for row in rows if row["rejected"] == "It is 5.")
    values = tables.read(prepared.path, tables.TOKEN_VALUES, pattern="changed-*.parquet").to_pylist()
    (differs,) = (row for row in values if row["pair_id"] == first["pair_id"])
    # A byte a token: of "It is 5." the 5 and the full stop, but neither "It is " nor the end of the turn.
    assert [place for place, is_changed in enumerate(differs["rejected"]) if is_changed] == [6, 7]


def test_what_was_replied_is_asked_once(plan: Callable[..., Plan]) -> None:
    """Where too few pairs have an edit, or another bound is set; what is not answered is asked again."""
    with judge_server(script) as judge:
        with pytest.raises(UserError, match=r"editor gives 5 of 7 pairs no edit\n.*unchanged: row 2.*max_lost=0\.5"):
            make(strict := plan(judge, bridge={"max_lost": 0.5}), strict.steps["bridge"])
        assert len(judge.bodies) == 7
        loose = plan(judge, bridge={"max_growth": 100})
        assert make(loose, loose.steps["bridge"]).manifest["ledger"]["edited"] == 3
        assert len(judge.bodies) == 8 and judge.asked.most_common(1)[0][0].count("Cold")


def test_identities(plan: Callable[..., Plan]) -> None:
    def anew(before: Plan, after: Plan) -> list[str]:
        names = [name for name in after.steps if name in before.steps]
        return [n for n in names if before.steps[n].address.fingerprint != after.steps[n].address.fingerprint][:1]

    base = plan(None)
    assert anew(base, plan(None, bridge={"judge": "another"})) == ["bridge"]
    assert anew(base, plan(None, bridge={"max_growth": 2})) == ["bridge"]
    assert anew(base, plan(None, data={"max_completion_tokens": 100})) == ["prepare"]
    assert anew(base, plan(None, data={"limit": 3})) == ["bridge"]
    assert anew(base, plan(None, bridge={"max_lost": 0.1})) == []
    assert "bridge" not in plan(None, bridge={"judge": None}).steps
    with pytest.raises(UserError, match="needs scores, which"):
        plan(None, objective={"name": "odpo"})
    with pytest.raises(UserError, match="two editors"):
        plan(None, bridge={"local": {"source": "x"}})


def test_a_limit_is_of_pairs_that_are_edited(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(20)] * 2
    rows.append({"prompt": "p", "chosen": "same", "rejected": "same"})
    source = Source(Rows.of(lambda: enumerate(rows, 1)), "jsonl", {})
    every, some = (read_pairs(source, Data(source="x", limit=limit, dev_fraction=0.3)) for limit in (None, 5))
    assert len(some.edited) == 5 and some.beyond_limit == len(every.edited) - 5
    assert len(every.edited) + len(every.kept) == 20 and some.kept == every.kept
    lowest = sorted(pair.pair_id for _, pair in every.edited)[:5]
    assert sorted(pair.pair_id for _, pair in some.edited) == lowest
    assert [row["reason"] for row in every.dropped] == ["duplicate"] * 20 + ["equal-completions"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(" It is 4!\n"), "It is 4!"),
        (Reply("It is 5. "), "unchanged"),
        (Reply("It is 4."), "It is 4."),  # the chosen one itself: no bridge, but a pair
        (Reply(None, "status 500"), "no-reply"),
        (Reply("It", cut=True), "cut"),
        (Reply("  "), "empty-edit"),
        (Reply("123456789012"), "123456789012"),
        (Reply("1234567890123"), "grown"),
        (Reply("No."), "shrunk"),
        (Reply("[Better answer]\nIt is 4."), "echo"),
    ],
)
def test_an_edit_by_hand(reply: Reply, expected: str) -> None:
    found = edit(PAIR, reply, 1.5)
    assert (found.reason if isinstance(found, Dropped) else found) == expected


def test_what_is_asked_holds_all_of_the_pair() -> None:
    prompt = [("system", "Be brief."), ("user", "{x} and 2+2?")]
    long = replace(PAIR, prompt=tuple({"role": role, "content": text} for role, text in prompt))
    (message,) = request(long, 64).messages
    for text in ("system: Be brief.", "user: {x} and 2+2?", "It is 4.", "It is 5."):
        assert text in message["content"]
