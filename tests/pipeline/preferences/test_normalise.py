"""Normalising: all shapes give one form, and whatever else a row holds ends in the ledger with its reason."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.preferences.messages import Dropped, said
from pipeline.preferences.normalise import Normaliser, Preference, split_of
from pipeline.preferences.rows import Unreadable
from pipeline.preferences.shapes import SHAPES, shape_of
from pipeline.preferences.sources import open_source

PAIRS_FILE = Path(__file__).parents[4] / "shared" / "data" / "pairs" / "alpaca_margin_pairs.jsonl"

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "2+2?"}
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}
PLAIN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}


def normalise(row: Any, **settings: Any) -> Preference | Dropped:
    """What a row of one pair becomes, without a look at others."""
    reader = Normaliser([], **settings)
    (outcome,) = reader.read(row)
    return outcome


def reason(**changes: object) -> str:
    outcome = normalise({**PLAIN, **changes})
    return outcome.reason if isinstance(outcome, Dropped) else "accepted"


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (PLAIN, "plain"),
        ({"prompt": [ASK], "chosen": "4", "rejected": "5"}, "messages"),
        ({"prompt": [ASK], "chosen": [FOUR], "rejected": [FIVE]}, "messages"),
        ({"prompt": "2+2?", "chosen": [FOUR], "rejected": [FIVE]}, "messages"),
        ({"prompt": [{**ASK, "id": "extra keys do not matter"}], "chosen": [FOUR], "rejected": "5"}, "messages"),
        ({"prompt": "2+2?", "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]}, "conversation"),
        ({"prompt": [ASK], "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]}, "conversation"),
        ({"chosen": [ASK, FOUR], "rejected": [ASK, FIVE]}, "conversation"),
        ({"prompt": None, "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]}, "conversation"),
    ],
)
def test_every_shape_gives_the_same_pair(row, shape):
    assert shape_of(row) == shape
    assert normalise(row) == Preference((ASK,), said("4"), said("5"))


def test_a_conversation_keeps_its_system_message_and_earlier_turns():
    prompt = [SYSTEM, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, ASK]
    row = {"prompt": "2+2?", "chosen": [*prompt, FOUR], "rejected": [*prompt, FIVE]}
    assert normalise(row) == Preference(tuple(prompt), said("4"), said("5"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": None}, "missing-prompt"),
        ({"chosen": None}, "missing-chosen"),
        ({"rejected": None}, "missing-rejected"),
        ({"prompt": None, "chosen": [FOUR], "rejected": [FIVE]}, "missing-prompt"),
        ({"prompt": 7}, "wrong-type"),
        ({"rejected": {"text": "5"}}, "wrong-type"),
        ({"prompt": ["2+2?"]}, "wrong-type"),
        ({"prompt": [{"role": "user", "content": None}]}, "wrong-type"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": 4}]}]}, "wrong-type"),
        ({"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "media"),
        ({"prompt": " \n"}, "empty-prompt"),
        ({"prompt": []}, "empty-prompt"),
        ({"prompt": [ASK, {"role": "user", "content": ""}]}, "empty-prompt"),
        ({"chosen": "\t"}, "empty-completion"),
        ({"rejected": []}, "empty-completion"),
        ({"rejected": "4"}, "equal-completions"),
        ({"chosen": [ASK, FOUR], "rejected": [ASK, FOUR]}, "equal-completions"),
        ({"chosen": [ASK, FOUR], "rejected": [SYSTEM, ASK, FIVE]}, "prompts-differ"),
        ({"chosen": [ASK, FOUR], "rejected": [FIVE]}, "prompts-differ"),
        ({"prompt": "3+3?", "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]}, "prompts-differ"),
        ({"prompt": [SYSTEM, ASK], "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]}, "prompts-differ"),
        ({"prompt": [{"role": "narrator", "content": "4"}]}, "bad-role"),
        ({"prompt": [{"role": ["user"], "content": "4"}]}, "bad-role"),
        ({"prompt": [ASK, FOUR]}, "bad-role"),
        ({"prompt": [SYSTEM]}, "bad-role"),
        ({"chosen": [ASK]}, "bad-role"),
        ({"chosen": [ASK, ASK], "rejected": [ASK, FIVE]}, "bad-role"),
        ({"chosen": "\ud800"}, "bad-text"),
        ({"prompt": [{"role": "user", "content": "a\udfff"}]}, "bad-text"),
        ({"source": "\ud800"}, "bad-text"),
        ({"split": "train_prefs"}, "bad-split"),
        ({"split": ["train"]}, "bad-split"),
        ({"label_confidence": 1.01}, "bad-confidence"),
        ({"label_confidence": "nan"}, "bad-confidence"),
        ({"label_confidence": -0.01}, "bad-confidence"),
        ({"difficulty": "hard"}, "bad-difficulty"),
        ({"difficulty": math.inf}, "bad-difficulty"),
        ({"difficulty": True}, "bad-difficulty"),
        ({"chosen_score": 1.0}, "bad-score"),
        ({"chosen_score": math.nan, "rejected_score": 0.0}, "bad-score"),
        ({"score_chosen": 1.0, "score_rejected": -math.inf}, "bad-score"),
        ({"chosen_score": "high", "rejected_score": "low"}, "bad-score"),
        ({"chosen_score": True, "rejected_score": False}, "bad-score"),
        ({"chosen_score": 10**400, "rejected_score": 0}, "bad-score"),
        ({"chosen_score": [1], "rejected_score": [0]}, "bad-score"),
        ({"chosen_score": 9, "rejected_score": 2, "score_chosen": 1, "score_rejected": 0}, "two-scores"),
        ({"chosen": "4\0", "source": 3, "unknown": object()}, "accepted"),
    ],
)
def test_reasons(changes, expected):
    assert reason(**changes) == expected


@pytest.mark.parametrize(
    ("columns", "scores"),
    [
        ({"chosen_score": 9, "rejected_score": 2.5}, (9.0, 2.5)),
        ({"score_chosen": "8.5", "score_rejected": Decimal("1.25")}, (8.5, 1.25)),
        ({"chosen_score": 1, "rejected_score": 2}, (1.0, 2.0)),  # the label order is the user's
        ({"chosen_score": None, "rejected_score": None, "score_chosen": 1, "score_rejected": 0}, (1.0, 0.0)),
        ({"chosen_score": None, "rejected_score": None}, (None, None)),
        ({"chosen_score": 9, "rejected_score": "2", "score_chosen": 9.0, "score_rejected": 2}, (9.0, 2.0)),
        ({}, (None, None)),
    ],
)
def test_scores(columns, scores):
    pair = normalise({**PLAIN, **columns})
    assert isinstance(pair, Preference) and (pair.chosen_score, pair.rejected_score) == scores


def test_split_source_confidence_and_difficulty_are_carried():
    pair = normalise({**PLAIN, "split": "validation", "source": "exam", "label_confidence": 1, "difficulty": "-2.5"})
    assert pair == Preference(
        (ASK,), said("4"), said("5"), label_confidence=1.0, difficulty=-2.5, source="exam", split="dev"
    )


def test_difficulty_is_read_from_the_column_that_is_named():
    row = {**PLAIN, "difficulty": "hard", "ppl": 3}
    assert normalise(row, difficulty_column="ppl") == Preference((ASK,), said("4"), said("5"), difficulty=3.0)
    assert normalise(row, difficulty_column="loss") == Preference((ASK,), said("4"), said("5"))  # null in this row
    bad = normalise({**PLAIN, "ppl": "nan"}, difficulty_column="ppl")
    assert bad == Dropped("bad-difficulty", "ppl is nan")


def test_an_unreadable_row_is_dropped():
    assert normalise(Unreadable("broken at 3")) == Dropped("unreadable-row", "broken at 3")


def test_details_are_short_and_can_be_printed():
    for changes in ({"chosen": "x" * 9999 + "\ud800"}, {"split": "s" * 9999}, {"rejected": "4", "chosen": "4"}):
        outcome = normalise({**PLAIN, **changes})
        assert isinstance(outcome, Dropped) and len(outcome.detail.encode()) < 300


def test_a_source_without_any_accepted_shape_is_an_error_that_says_what_is_accepted():
    row = {"question": "2+2?", "answer": "4"}
    assert shape_of(row) is None
    with pytest.raises(UserError) as caught:
        Normaliser([(1, row)])
    assert "'answer', 'question'" in caught.value.problem
    assert all(shape.wording in caught.value.remedy for shape in SHAPES.values())
    assert Normaliser([(1, row), (2, PLAIN)]).first == Preference((ASK,), said("4"), said("5"))


def test_pair_id_is_of_the_texts_alone():
    pair = Preference((ASK,), said("4"), said("5"))
    reordered = dict(reversed(ASK.items()))
    assert pair.pair_id == Preference((reordered,), said("4"), said("5"), 1.0, 0.0, 0.5, 2.0, "exam", "test").pair_id
    others = [
        Preference((ASK,), said("5"), said("4")),
        Preference((SYSTEM, ASK), said("4"), said("5")),
        Preference((ASK,), said("4"), said("55")),
    ]
    assert len({each.pair_id for each in (pair, *others)}) == 4
    assert pair.mirrored_id == others[0].pair_id and others[0].mirrored_id == pair.pair_id
    assert {each.prompt_id for each in (pair, others[0], others[2])} == {pair.prompt_id} != {others[1].prompt_id}
    # Fixed for ever: artifacts are addressed by it. sha256 of [[{"content":"2+2?","role":"user"}],"4","5"].
    assert pair.pair_id == "d2338b1bbce4177460663e4f06d289ee"


def test_split_is_the_rows_own_or_drawn_from_the_prompt():
    def drawn(i: int, fraction: float, chosen: str = "a") -> str:
        return split_of(Preference(({"role": "user", "content": f"question {i}"},), said(chosen), said("b")), fraction)

    dev = [i for i in range(2000) if drawn(i, 0.1) == "dev"]
    assert 150 < len(dev) < 250  # 200 expected, standard deviation 13
    assert [i for i in range(2000) if drawn(i, 0.1, chosen="c") == "dev"] == dev
    assert {i for i in dev if drawn(i, 0.2) == "dev"} == set(dev)  # a larger share only adds
    assert {drawn(i, 0.0) for i in range(99)} == {"train"} and {drawn(i, 1.0) for i in range(99)} == {"dev"}
    assert split_of(Preference((ASK,), said("4"), said("5"), split="test"), 1.0) == "test"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
beside = {name: anything for name in ("tool_calls", "name", "reasoning_content", "thinking", "from", "value", "id")}
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]) | anything, "content": anything}, optional=beside
)
messages = st.lists(message, max_size=3)
value = anything | messages | messages.map(json.dumps) | st.text(max_size=3)
value |= st.sampled_from(
    ["\n\nHuman: a\n\nAssistant: b", "Human: a\nAssistant:", "[{'role': 'user'", '{"from": "gpt"}']
)
numbers = ["chosen_score", "rejected_score", "label_confidence", "difficulty"]
columns = ["prompt", "chosen", "rejected", *numbers, "split", "source"]
columns += ["system", "history", "tools", "answers", "completions", "scores", "ranks", "conversations", "images"]


@given(st.fixed_dictionaries({}, optional={name: value for name in columns}) | st.dictionaries(st.text(), anything))
@example({"prompt": "q", "chosen": "a", "rejected": "b", "chosen_score": "1_0", "rejected_score": "٣"})
@example({"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]})
def test_any_row_ends_as_a_pair_or_in_the_ledger(row):
    outcome = normalise(row)
    if isinstance(outcome, Dropped):
        assert outcome.reason and outcome.detail.encode() is not None
    else:
        assert outcome.chosen != outcome.rejected and outcome.prompt[-1]["role"] == "user"
        assert json.dumps(list(outcome.prompt), ensure_ascii=False).encode() and len(outcome.pair_id) == 32


rows_of_one_source = st.lists(st.fixed_dictionaries({}, optional={name: value for name in columns}), max_size=4)


@given(rows_of_one_source, st.sampled_from(["best-worst", "all", "adjacent"]))
def test_any_source_is_refused_in_words_or_every_row_accounted_for(rows, pairing):
    try:
        reader = Normaliser(enumerate(rows), pairing=pairing)
    except UserError as error:
        assert error.problem.startswith("data.source") or "no row of data.source" in error.problem
        return
    for row in rows:
        outcomes = reader.read(row)
        assert outcomes and all(isinstance(each, Dropped) or len(each.pair_id) == 32 for each in outcomes)
    assert set(reader.unused) <= {name for row in rows for name in row}


@pytest.mark.skipif(not PAIRS_FILE.exists(), reason="needs the real pairs in ../shared/data/pairs")
def test_all_real_pairs_are_accepted():
    source = open_source(str(PAIRS_FILE))
    reader = Normaliser(source.rows)
    outcomes = [outcome for _, row in source.rows for outcome in reader.read(row)]
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Preference)]
    assert len(accepted) == len(outcomes) == len({pair.pair_id for pair in accepted}) == 3100
    assert reader.unused == ["dataset", "id"]
    assert {preference.split for preference in accepted} <= {"train", "dev", "test"}
