"""Shapes of row as people have them: each is seen by looking and gives the pair that its plain form gives."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.preferences.messages import Dropped, said
from pipeline.preferences.normalise import Normaliser, Outcome, Preference
from pipeline.preferences.sources import open_source

CASES = Path(__file__).parents[4] / "shared" / "cases" / "data"

ASK = {"role": "user", "content": "Name a colour."}
BLUE, BANANA = said("Blue."), said("A banana.")
PAIR = Preference((ASK,), BLUE, BANANA)
SIDES = {"chosen": "Blue.", "rejected": "A banana."}
PIRATE = {"role": "system", "content": "Answer like a pirate."}
EARLIER = [{"role": "user", "content": "Hi."}, said("Hello.")]
CALL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def read(*rows: Any, **settings: Any) -> tuple[list[Outcome], Normaliser]:
    numbered = list(enumerate(rows, 1))
    reader = Normaliser(numbered, **settings)
    return [outcome for _, row in numbered for outcome in reader.read(row)], reader


def only(row: Any, **settings: Any) -> Outcome:
    (outcome,), _ = read(row, **settings)
    return outcome


def reason(row: Any) -> str:
    (outcome,) = Normaliser([]).read(row)
    return outcome.reason if isinstance(outcome, Dropped) else "accepted"


def human(*turns: str) -> str:
    roles = ("Human", "Assistant") * len(turns)
    return "".join(f"\n\n{role}: {text}" for role, text in zip(roles, turns, strict=False))


def gpt(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


def messages(answer: str) -> list[dict[str, str]]:
    return [ASK, said(answer)]


@pytest.mark.parametrize(
    ("row", "shapes"),
    [
        # transcripts, alone and beside a prompt, in one text or in messages
        ({"chosen": human("Name a colour.", "Blue."), "rejected": human("Name a colour.", "A banana.")}, "transcripts"),
        (
            {
                "prompt": human("Name a colour.") + "\n\nAssistant:",
                "chosen": human("Name a colour.", "Blue."),
                "rejected": human("Name a colour.", "A banana."),
            },
            "transcripts",
        ),
        ({"prompt": human("Name a colour.") + "\n\nAssistant: ", **SIDES}, "messages transcripts"),
        ({"instruction": "Name a colour.", "input": "", **SIDES}, "plain"),
        ({"instruction": "Name a colour.", **{k: [said(v)] for k, v in SIDES.items()}}, "messages"),
        (
            {
                "messages": [{"role": "user", "from": "human", "value": "Name a colour.", "content": None}],
                "chosen": {"from": "gpt", "value": "Blue.", "content": "Blue."},
                "rejected": "A banana.",
            },
            "messages sharegpt",
        ),
        ({"prompt": "Human: Name a colour.\nAssistant:", **SIDES}, "messages transcripts"),
        (
            {
                "prompt": "Name a colour.",
                "chosen": human("Name a colour.", "Blue.").lstrip(),
                "rejected": human("Name a colour.", "A banana.") + "\n",
            },
            "transcripts",
        ),
        # ShareGPT
        (
            {
                "conversations": [gpt("human", "Name a colour.")],
                "chosen": gpt("gpt", "Blue."),
                "rejected": gpt("gpt", "A banana."),
            },
            "messages sharegpt",
        ),
        (
            {
                "chosen": [gpt("human", "Name a colour."), gpt("gpt", "Blue.")],
                "rejected": [gpt("human", "Name a colour."), gpt("gpt", "A banana.")],
            },
            "conversation sharegpt",
        ),
        ({"messages": [ASK], **SIDES}, "messages"),
        ({"prompt": ASK, "chosen": BLUE, "rejected": BANANA}, "messages"),
        # JSON in texts, and what pandas makes of messages
        (
            {"prompt": "Name a colour.", **{k: json.dumps(messages(v)) for k, v in SIDES.items()}},
            "conversation json-text",
        ),
        ({"prompt": json.dumps([ASK]), **{k: str([said(v)]) for k, v in SIDES.items()}}, "json-text messages"),
        ({"prompt": f" {json.dumps(ASK)}\n", **SIDES}, "json-text messages"),
        # parts of text
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "Name a "}, {"text": "colour."}]}],
                "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Blue.", "image_url": None}]}],
                "rejected": [{"role": "assistant", "content": ["A banana."]}],
            },
            "content-parts messages",
        ),
        # what Arrow makes of rows of several kinds
        (
            {
                "prompt": [{**ASK, "tool_calls": None, "name": None, "reasoning_content": None, "id": None}],
                "chosen": [{**BLUE, "tool_calls": [], "thinking": ""}],
                "rejected": [{**BANANA, "tool_calls": None}],
                "tools": None,
                "images": [],
                "system": "",
                "history": [],
            },
            "messages",
        ),
    ],
)
def test_shapes_that_hold_the_plain_pair(row: dict[str, Any], shapes: str) -> None:
    (outcome,), reader = read(row)
    assert outcome == PAIR
    assert sorted(reader.notes.shapes) == shapes.split()
    assert not reader.notes.message_keys


@pytest.mark.parametrize(
    ("columns", "start"),
    [
        ({"system": PIRATE["content"]}, [PIRATE]),
        ({"history": [["Hi.", "Hello."]]}, EARLIER),
        ({"history": json.dumps([["Hi.", "Hello."]])}, EARLIER),
        ({"history": [gpt("human", "Hi."), gpt("gpt", "Hello.")]}, EARLIER),
        ({"history": EARLIER, "system": PIRATE["content"]}, [PIRATE, *EARLIER]),
        ({"prompt": [PIRATE, ASK], "history": [("Hi.", "Hello.")][:0], "system": PIRATE["content"]}, [PIRATE]),
        ({"prompt": [PIRATE, ASK], "history": [["Hi.", "Hello."]]}, [PIRATE, *EARLIER]),
        ({"prompt": human("Hi.", "Hello.", "Name a colour.") + "\n\nAssistant:", "system": "\n"}, EARLIER),
        ({"prompt": "\n\nSystem: Answer like a pirate." + human("Name a colour.") + "\n\nAssistant:"}, [PIRATE]),
        (
            {
                "prompt": None,
                **{k: "System: Answer like a pirate." + human(ASK["content"], v) for k, v in SIDES.items()},
            },
            [PIRATE],
        ),
    ],
)
def test_what_comes_before_the_prompt(columns: dict[str, Any], start: list[Any]) -> None:
    assert only({"prompt": "Name a colour.", **SIDES, **columns}) == Preference((*start, ASK), BLUE, BANANA)


@pytest.mark.parametrize(
    ("message", "read_as"),
    [
        ({"tool_calls": [CALL]}, {"tool_calls": [CALL]}),
        ({"content": None, "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL]}),
        ({"content": "", "tool_calls": json.dumps([CALL])}, {"content": "", "tool_calls": [CALL]}),
        (
            {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": '{"town": "Oslo"}'}}]},
            {"tool_calls": [CALL]},
        ),
        (
            {
                "tool_calls": [
                    {**CALL, "id": None, "function": {**CALL["function"], "arguments": {"town": "Oslo", "at": None}}}
                ]
            },
            {"tool_calls": [CALL]},
        ),
        ({"function_call": CALL["function"]}, {"tool_calls": [CALL]}),
        ({"tool_calls": [CALL["function"]]}, {"tool_calls": [CALL]}),
        ({"reasoning_content": "hm"}, {"reasoning_content": "hm"}),
        ({"thinking": "hm"}, {"reasoning_content": "hm"}),
        ({"reasoning": "hm", "reasoning_content": "hm", "thought": None}, {"reasoning_content": "hm"}),
        ({"name": "bot", "tool_call_id": ""}, {"name": "bot"}),
    ],
)
def test_what_a_message_has_beside_its_text(message: dict[str, Any], read_as: dict[str, Any]) -> None:
    chosen = {"role": "assistant", "content": "Blue.", **message}
    outcome = only({"prompt": "Name a colour.", "chosen": [chosen], "rejected": "A banana."})
    assert isinstance(outcome, Preference)
    assert outcome.chosen == {**BLUE, **read_as}


def test_a_call_in_sharegpt_and_what_it_gave() -> None:
    speech = [gpt("human", "Weather?"), gpt("function_call", json.dumps(CALL["function"])), gpt("observation", "rain")]
    row = {"conversations": speech, "chosen": gpt("gpt", "It rains."), "rejected": gpt("gpt", "No idea.")}
    outcome = only({**row, "tools": json.dumps([TOOL["function"]])})
    assert isinstance(outcome, Preference)
    spelled = [*speech[:1], speech[1] | {"role": "assistant"}, *speech[2:]]
    assert only({**row, "conversations": spelled, "tools": json.dumps([TOOL["function"]])}) == outcome
    called, result = outcome.prompt[1:]
    assert called == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert (result, outcome.tools) == ({"role": "tool", "content": "rain"}, (TOOL["function"],))


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)], TOOL, [{**TOOL, "strict": None}]])
def test_tools_are_a_list_of_functions(tools: Any) -> None:
    outcome = only({"prompt": "Name a colour.", **SIDES, "tools": tools})
    assert isinstance(outcome, Preference) and outcome.tools == (TOOL,)


def test_pairs_may_differ_in_a_call_or_a_thought_alone() -> None:
    for key, chosen, rejected in (
        ("tool_calls", [CALL], [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Rome"}}}]),
        ("reasoning_content", "two and two", "a guess"),
    ):
        row = {"prompt": [ASK], "chosen": [{**BLUE, key: chosen}], "rejected": [{**BLUE, key: rejected}]}
        assert isinstance(only(row), Preference)
        assert reason({**row, "rejected": row["chosen"]}) == "equal-completions"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "x", "chosen": human("x", "a"), "rejected": "b"}, "prompts-differ"),
        ({"chosen": human("x", "a"), "rejected": human("y", "b")}, "prompts-differ"),
        ({"prompt": "z", "chosen": human("x", "a"), "rejected": human("x", "b")}, "prompts-differ"),
        ({"chosen": human("x", "a", "y"), "rejected": human("x", "b", "y")}, "prompts-differ"),
        ({"chosen": human("x", "a", "y"), "rejected": human("x", "a", "z")}, "bad-role"),
        ({"chosen": human("x", ""), "rejected": human("x", "b")}, "empty-completion"),
        ({"chosen": human("x", "a"), "rejected": human("x", " \n")}, "empty-completion"),
        (
            {"prompt": "x", "chosen": human("x", "a", "y", "b"), "rejected": human("x", "a", "y", "")},
            "empty-completion",
        ),
        ({s: human("x", "a\n\nSystem: Windows", "y", s) for s in SIDES}, "bad-role"),
        ({"prompt": human("x", "a\n\nSystem: Be brief.", "y") + "\n\nAssistant:", **SIDES}, "bad-role"),
        ({"prompt": "x", "chosen": {"from": "gpt", "value": "a", "content": "b"}, "rejected": "c"}, "two-contents"),
        ({"prompt": [{"from": ["human"], "value": "x"}], **SIDES}, "bad-role"),
        ({"prompt": "x", "chosen": {"from": "human", "role": "assistant", "value": "a"}, "rejected": "c"}, "bad-role"),
        ({"instruction": "x", "input": ["y"], **SIDES}, "wrong-type"),
        ({"instruction": "x", "prompt": "z", **SIDES}, "accepted"),
        ({"prompt": "x", "chosen": [BLUE, ASK, BLUE], "rejected": [BLUE, ASK, BANANA]}, "several-turns"),
        ({"prompt": [ASK], "chosen": [BLUE, ASK, BLUE], "rejected": [BANANA]}, "several-turns"),
        ({"prompt": "x", "chosen": "[{'role': 'assistant', 'content': ", "rejected": "b"}, "broken-json"),
        ({"prompt": '[{"role": "user", "content"', **SIDES}, "broken-json"),
        ({"prompt": "x", "chosen": '{"role": "admin", "content": 1}', "rejected": '["role"]'}, "accepted"),
        ({"prompt": "x", "chosen": "[1, 2]", "rejected": "{}"}, "accepted"),
        ({"prompt": [PIRATE, ASK], "system": "Be brief.", **SIDES}, "two-systems"),
        ({"prompt": "x", "system": ["a"], **SIDES}, "wrong-type"),
        ({"prompt": "x", "history": "yesterday", **SIDES}, "bad-history"),
        ({"prompt": "x", "history": [["a", None]], **SIDES}, "bad-history"),
        ({"prompt": "x", "tools": "weather", **SIDES}, "bad-tools"),
        ({"prompt": "x", "tools": [3], **SIDES}, "bad-tools"),
        ({"prompt": "x", "tools": 3.5, **SIDES}, "bad-tools"),
        ({"prompt": "x", "chosen": [{**BLUE, "tool_calls": [{"id": "c1"}]}], "rejected": "b"}, "bad-call"),
        ({"prompt": "x", "chosen": [{**BLUE, "tool_calls": "weather"}], "rejected": "b"}, "bad-call"),
        ({"prompt": "x", "chosen": [{**BLUE, "thinking": "a", "reasoning": "b"}], "rejected": "b"}, "two-thoughts"),
        ({"prompt": "x", "images": ["cat.png"], **SIDES}, "media"),
        ({"prompt": "x", "photo": {"bytes": b"\x89PNG", "path": None}, **SIDES}, "media"),
        ({"prompt": "x", "sound": [{"bytes": None, "path": "a.wav"}], **SIDES}, "media"),
        ({"prompt": "x", "photo": {"bytes": None, "path": None}, **SIDES}, "accepted"),
        ({"prompt": [{"role": "user", "content": [{"type": "input_audio"}]}], **SIDES}, "media"),
        ({"prompt": "x", "answers": ["a", "b"]}, "bad-ranking"),
        ({"prompt": "x", "answers": ["a", "b"], "scores": [1]}, "bad-ranking"),
        ({"prompt": "x", "answers": ["a", "b"], "scores": [1, None]}, "bad-ranking"),
        ({"prompt": "x", "answers": [{"answer": "a", "rank": 1}, {"answer": "b"}]}, "bad-ranking"),
        ({"prompt": "x", "answers": [{"answer": "a", "rank": 1}]}, "one-completion"),
        ({"prompt": "x", "answers": [{"answer": t, "rank": 1} for t in "ab"]}, "tied-scores"),
        ({"answers": [{"answer": t, "rank": r} for r, t in enumerate("ab")]}, "missing-prompt"),
        ({"prompt": "x", **SIDES, "split": "held-out"}, "bad-split"),
    ],
)
def test_reasons(row: dict[str, Any], expected: str) -> None:
    assert reason(row) == expected


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ("val", "dev"),
        ("eval", "dev"),
        ("Validation", "dev"),
        ("training", "train"),
        ("TRAIN", "train"),
        ("testing ", "test"),
    ],
)
def test_names_of_splits(given: str, split: str) -> None:
    outcome = only({"prompt": "x", **SIDES, "split": given})
    assert isinstance(outcome, Preference) and outcome.split == split


RATED = [("b", 5.0), ("d", 1.0), ("a", 9.0), ("c", 5.0)]
FORMS: dict[str, dict[str, Any]] = {
    "objects": {"answers": [{"answer": text, "rank": -score, "model": "m"} for text, score in RATED]},
    "lists": {"responses": [text for text, _ in RATED], "scores": [score for _, score in RATED]},
    "ultrafeedback": {"completions": [{"response": text, "overall_score": str(score)} for text, score in RATED]},
    "messages": {"completions": [{**said(text), "score": score} for text, score in RATED]},
    "json": {"answers": json.dumps([{"text": text, "rating": score} for text, score in RATED])},
    "ranks": {"responses": json.dumps([text for text, _ in RATED]), "ranks": [2, 4, 1, 2]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("pairing", "expected", "ties"),
    [("best-worst", ["ad"], 0), ("adjacent", ["ab", "cd"], 1), ("all", ["ab", "ac", "ad", "bd", "cd"], 1)],
)
def test_pairs_of_ranked_completions(form: str, pairing: str, expected: list[str], ties: int) -> None:
    prompt = {"instruction" if form == "ultrafeedback" else "prompt": "Name a colour."}
    pairs, reader = read({**prompt, **FORMS[form]}, pairing=pairing)
    assert all(isinstance(pair, Preference) for pair in pairs)
    found = [pair for pair in pairs if isinstance(pair, Preference)]
    assert [pair.chosen["content"] + pair.rejected["content"] for pair in found] == expected
    assert all((pair.chosen_score or 0) > (pair.rejected_score or 0) for pair in found)
    assert reader.notes.ties == ties and not reader.unused
    assert reader.notes.message_keys == ({"answers.model"} if form == "objects" else set())


@pytest.mark.parametrize("pairing", ["best-worst", "adjacent", "all"])
def test_completions_that_are_alike_are_one(pairing: str) -> None:
    """Ranked alike they are one answer, and else left out, as it would be better and worse than the others at once."""

    def row(*scores: int) -> dict[str, Any]:
        return {"prompt": "x", "answers": [*"abc", "b"], "scores": [*scores]}

    def made(given: dict[str, Any]) -> list[str]:
        outcomes, reader = read(given, pairing=pairing)
        assert not reader.notes.ties
        return [
            each.reason if isinstance(each, Dropped) else each.chosen["content"] + each.rejected["content"]
            for each in outcomes
        ]

    of_three = {"best-worst": ["ac"], "adjacent": ["ab", "bc"], "all": ["ab", "ac", "bc"]}[pairing]
    assert made(row(9, 5, 1, 5)) == of_three
    assert made(row(9, 5, 1, 6)) == made(row(9, 10, 1, 0)) == ["ac", "ranked-twice"]
    both = {"prompt": "x", "answers": [*"abab"], "ranks": [1, 2, 2, 1]}
    assert made(both) == ["ranked-twice"]
    (told,), _ = read(both, pairing=pairing)
    assert isinstance(told, Dropped) and told.detail == "one answer has the ranks 1 and 2: 'a'"
    assert made({"prompt": "x", "answers": [*"aab"], "ranks": [1, 2, 3]}) == ["ranked-twice"]
    assert made({"prompt": "x", "answers": [*"aa"], "ranks": [1, 1]}) == ["one-completion"]
    calls = [{**said(""), "tool_calls": [CALL]}, {**said(""), "tool_calls": [CALL]}, said("b")]
    assert made({"prompt": "x", "answers": calls, "scores": [1, 2, 3]}) == ["ranked-twice"]


BESIDE = {"answers": ["a", "b"], "scores": [1, 2]}
SCORED = {"chosen_score": 9, "rejected_score": 2}


def rated(score: str, *values: float, **more: float) -> dict[str, Any]:
    items = [{"response": f"{value} {value}", score: value, **more} for value in values]
    return {"prompt": f"x {score} {values}", "completions": items}


@pytest.mark.parametrize(
    ("rows", "scale", "reasons"),
    [
        ([rated("overall_score", 1, 2)] * 2 + [rated("fine-grained_score", 1, 2)], "overall_score", ["other-scale"]),
        ([rated("fine-grained_score", 1, 2)], "fine-grained_score", []),
        ([rated("fine-grained_score", 1, 2), rated("fine-grained_score", 5, 2)], "fine-grained_score", []),
        # the one that most have, wherever they stand
        ([rated("rank", 1, 2), rated("score", 1, 2), rated("score", 3, 2)], "score", ["other-scale"]),
        # a list beside
        ([rated("rating", 1, 2)] * 2 + [{"prompt": "y", **BESIDE}], "rating", ["other-scale"]),
        # pairs with scores of their own
        ([rated("rank", 1, 2)] * 2 + [{"prompt": "y", **SIDES, **SCORED}], "rank", ["other-scale"]),
        ([rated("rank", 1, 2), {"prompt": "y", **SIDES}], "rank", []),
    ],
)  # fmt: skip
def test_all_scores_of_a_source_are_of_one_scale(rows: list[dict[str, Any]], scale: str, reasons: list[str]) -> None:
    outcomes, reader = read(*rows)
    dropped = [each.reason for each in outcomes if isinstance(each, Dropped) and each.reason != "duplicate"]
    assert (reader.scale, dropped) == (scale, reasons)
    assert {shape for shape in reader.notes.shapes if shape.startswith("ranked by")} == {f"ranked by {scale}"}


def test_a_row_that_is_ranked_by_nothing_is_told_as_that() -> None:
    half = rated("score", 1, 2)
    del half["completions"][1]["score"]
    outcomes, _ = read(rated("score", 1, 2), half)
    assert isinstance(outcomes[1], Dropped) and outcomes[1].reason == "bad-ranking"


@pytest.mark.parametrize(
    ("completions", "reason", "said"),
    [
        ([], "one-completion", "completions is []"),
        ("[]", "one-completion", "completions is '[]'"),
        (
            [{"response": None, "score": 1}, {"response": "b", "score": 2}],
            "empty-completion",
            "completions 1 of 2 is {'",
        ),
        ([{"text": "a", "rank": 1}, {}], "empty-completion", "completions 2 of 2 is {}"),
        ([{"text": "a", "rank": 1}, None], "empty-completion", "completions 2 of 2 is None"),
        ([{"text": "a", "rank": 1}, {"text": [], "rank": 2}], "empty-completion", "completions 2 of 2 is {'"),
        ([{"text": "a", "rank": 1}, {"text": "", "rank": 2}], "empty-completion", "rejected is ''"),
        ([{"said": "a", "rank": 1}, {"said": "b", "rank": 2}], "bad-ranking", "or output in it, but said, rank"),
    ],
)
def test_a_ranked_row_without_answers_is_told_as_that(completions: Any, reason: str, said: str) -> None:
    outcome = only({"prompt": "x", "completions": completions})
    assert isinstance(outcome, Dropped) and outcome.reason == reason and said in outcome.detail
    if completions and reason == "empty-completion" and "score" not in str(completions):  # and as a list beside
        texts = [each and each.get("text") for each in completions]
        beside = only({"prompt": "x", "completions": texts, "ranks": [1, 2]})
        assert isinstance(beside, Dropped) and beside.reason == reason


def test_what_completions_are_not_ranked_by_is_named() -> None:
    """A rank that says the opposite of the score, and a second text."""
    both = [{"text": "a", "rank": 1, "score": 2, "output": "x"}, {"output": "b", "rank": 2, "score": 9}]
    outcomes, reader = read({"prompt": "x", "completions": both})
    assert outcomes == [Preference(({"role": "user", "content": "x"},), said("b"), said("a"), 9, 2)]
    assert reader.notes.message_keys == {"completions.rank"}
    _, reader = read({"prompt": "x", "completions": [both[0], both[1] | {"text": "b"}]})
    assert reader.notes.message_keys == {"completions.rank", "completions.output"}


def test_a_row_far_behind_is_ranked_as_those_before() -> None:
    """By what all its completions have, too, though another comes first in a row alone."""
    both = rated("overall_score", 1, 2, **{"fine-grained_score": 0}) | {"prompt": "last"}
    both["completions"][1]["fine-grained_score"] = -1.0
    outcomes, _ = read(*({**rated("fine-grained_score", 1, 2), "prompt": f"x {n}"} for n in range(100)), both)
    last = outcomes[-1]
    assert isinstance(last, Preference) and (last.chosen, last.chosen_score) == (said("1 1"), 0.0)
    named, reader = read(both, {**rated("fine-grained_score", 1, 2)}, columns={"scores": "overall_score"})
    assert isinstance(named[0], Preference) and named[0].chosen == said("2 2") and reader.scale == "scores"
    assert isinstance(named[1], Dropped) and named[1].reason == "other-scale"


def test_an_instruction_and_what_it_is_about() -> None:
    row = {"instruction": "Name the colour of this.", "input": "The sky.", **SIDES}
    (outcome,), reader = read(row)
    asked = {"role": "user", "content": "Name the colour of this.\n\nThe sky."}
    assert outcome == Preference((asked,), BLUE, BANANA) and not reader.unused
    assert reader.notes.shapes == {"instruction-input", "plain"}
    columns = {"instruction": "Task", "input": "About"}
    (outcome,), reader = read({"Task": row["instruction"], "About": row["input"], **SIDES}, columns=columns)
    assert outcome == Preference((asked,), BLUE, BANANA) and not reader.unused
    (outcome,), reader = read(row, columns={"prompt": "instruction"})
    assert isinstance(outcome, Preference) and outcome.prompt[0]["content"] == row["instruction"]
    assert reader.unused == ["input"]


@pytest.mark.parametrize(
    ("columns", "scores", "unused"),
    [
        ({}, (9.0, 2.0), []),
        ({"chosen_score": None}, (None, None), ["chosen_score", "rejected_score"]),
        ({"rejected_score": None}, (None, None), ["chosen_score", "rejected_score"]),
        ({"chosen_score": "a", "rejected_score": "b"}, (4.0, 3.0), ["chosen_score", "rejected_score"]),
    ],
)
def test_scores_are_read_and_left_unread_in_pairs(
    columns: dict[str, str | None], scores: tuple[float | None, ...], unused: list[str]
) -> None:
    row = {"prompt": "Name a colour.", **SIDES, **SCORED, "a": 4, "b": 3}
    (outcome,), reader = read(row, columns=columns)
    assert isinstance(outcome, Preference) and (outcome.chosen_score, outcome.rejected_score) == scores
    assert [name for name in reader.unused if len(name) > 1] == unused


def test_of_two_spellings_of_scores_the_one_that_is_meant_can_be_said() -> None:
    two = {"score_chosen": 1, "score_rejected": 0}
    row = {"prompt": "Name a colour.", **SIDES, **SCORED, **two}
    assert reason(row) == "two-scores"
    for column, scores in (("chosen_score", (1.0, 0.0)), ("score_rejected", (9.0, 2.0))):
        (outcome,), _ = read(row, columns={column: None})
        assert isinstance(outcome, Preference) and (outcome.chosen_score, outcome.rejected_score) == scores
    (outcome,), _ = read(
        {"prompt": "Name a colour.", **SIDES, **two, "a": 4, "b": 3},
        columns={"chosen_score": "a", "rejected_score": "b"},
    )
    assert isinstance(outcome, Preference) and outcome.chosen_score == 4.0
    with pytest.raises(
        UserError, match=r"leaves chosen_score unread, and reads rejected_score: b.*\n.*give null for chosen_score and"
    ):
        Normaliser([], columns={"chosen_score": None, "rejected_score": "b"})


def test_the_score_of_a_completion_may_be_named() -> None:
    items = [{"response": text, "overall_score": score, "fine": -score} for text, score in RATED]
    outcome = only({"prompt": "x", "completions": items}, columns={"scores": "fine"})
    assert isinstance(outcome, Preference) and outcome.chosen == said("d") and outcome.chosen_score == -1.0
    with pytest.raises(UserError, match=r"data.columns.scores=fines.*\n.*did you mean fine\?"):
        only({"prompt": "x", "completions": items}, columns={"scores": "fines"})


def test_columns_by_other_names() -> None:
    row = {
        "question": "Name a colour.",
        "response_j": "Blue.",
        "response_k": "A banana.",
        "how": "Answer like a pirate.",
    }
    columns = {"prompt": "question", "chosen": "response_j", "rejected": "response_k", "system": "how"}
    (outcome,), reader = read({**row, "system": "no", "id": 7, "empty": None}, columns=columns)
    assert outcome == Preference((PIRATE, ASK), BLUE, BANANA)
    assert reader.unused == ["id", "system"]
    (outcome,), reader = read({"prompt": "Name a colour.", **SIDES, "system": "x"}, columns={"system": None})
    assert (outcome, reader.unused) == (PAIR, ["system"])
    picture = {"bytes": b"", "path": "x.png"}
    (outcome,), reader = read({"prompt": "Name a colour.", **SIDES, "picture": picture}, columns={"picture": None})
    assert (outcome, reader.unused) == (PAIR, ["picture"])


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        (
            {"question": "a", "response_j": "b", "response_k": "c"},
            {},
            "{prompt: question, chosen: response_j, rejected: ",
        ),
        ({"prompt": "a", "accepted": "b", "rejected_answer": "c"}, {}, "{chosen: accepted, rejected: rejected_answer}"),
        ({"Instruction": "a", "chosen": "b", "rejected": "c"}, {}, "{prompt: Instruction}"),
        (
            {"Instruction": "a", "Input": "d", "better": "b", "worse": "c"},
            {},
            "{instruction: Instruction, input: Input, chosen: better, rejected: worse}",
        ),
        ({"instruction": "a", "input": "d", "win": "b", "lose": "c"}, {}, "{chosen: win, rejected: lose}"),
        (
            {"prompt": b"a", "chosen": b"b", "rejected": b"c"},
            {},
            "'chosen', 'prompt', 'rejected' hold bytes, not texts",
        ),
        ({"prompt": "a", "completions": [b"a", b"b"], "scores": [1, 2]}, {}, "'completions' hold bytes, not texts"),
        ({"text": "a"}, {}, "map them with data.columns"),
        ({"prompt": "a", **SIDES}, {"columns": {"prompt": "promt"}}, "did you mean prompt"),
        ({"prompt": "a", **SIDES}, {"columns": {"promt": "prompt"}}, "did you mean prompt"),
        ({"prompt": "a", **SIDES, "hardness": 1}, {"difficulty_column": "hardnes"}, "did you mean hardness"),
        ({"prompt": "a", "image": {"bytes": b"", "path": "x"}, **SIDES}, {}, "the column image holds"),
        ({"question": "a", "candidates": [{"chosen_by": 1}]}, {}, "'candidates', 'question'"),
        ({"prompt": "a", **SIDES, "picture": 1}, {"columns": {"pictures": None}}, "did you mean picture"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(row: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(row, **settings)
    assert said in str(caught.value)


def test_what_is_not_used_is_named() -> None:
    speech = {"prompt": [{**ASK, "value": 3}], "chosen": gpt("gpt", "Blue."), "rejected": "A banana."}
    assert read(speech)[1].notes.message_keys == {"value"}  # which is content in ShareGPT's form alone
    row = {"prompt": [{**ASK, "lang": "en"}], "chosen": [{**BLUE, "id": 3}], "rejected": "A banana.", "margin": 2}
    (outcome,), reader = read(row)
    assert outcome == PAIR
    assert (reader.unused, reader.notes.message_keys) == (["margin"], {"lang", "id"})


def test_a_prompt_that_all_answers_begin_with_is_taken_off() -> None:
    rows = [{"prompt": f"Say {n}.", "chosen": f"Say {n}. Yes.", "rejected": f" Say {n}.\nNo."} for n in range(3)]
    pairs, reader = read(*rows)
    assert [(pair.chosen, pair.rejected) for pair in pairs if isinstance(pair, Preference)] == [
        (said("Yes."), said("No."))
    ] * 3
    assert reader.repeats and reader.repeated == 3
    # one that does not, among the first: all stay as they are, and are counted
    pairs, reader = read(*rows, {"prompt": "Say 3.", **SIDES})
    assert (reader.repeats, reader.repeated) == (False, 3)
    assert isinstance(pairs[0], Preference) and pairs[0].chosen == said("Say 0. Yes.")
    # one that does not, far behind: counted out
    many = [{"prompt": f"Say {n}.", "chosen": f"Say {n}. Yes.", "rejected": f"Say {n}. No."} for n in range(100)]
    pairs, reader = read(*many, {"prompt": "Say more.", **SIDES})
    assert isinstance(pairs[100], Dropped) and pairs[100].reason == "prompt-not-repeated"
    # one that is no pair for another reason says nothing of the others
    alike = {"prompt": "Say 9.", "chosen": "Say 9. Yes.", "rejected": "Say 9. Yes."}
    assert read(*rows, alike)[1].repeats
    # a word that only begins alike
    pairs, reader = read({"prompt": "A", "chosen": "Apple.", "rejected": "Avocado."})
    assert not reader.repeats


@pytest.mark.skipif(not CASES.exists(), reason="needs the cases in ../shared")
@pytest.mark.parametrize("case", ["04_json_strings", "05_hh_transcripts_with_prompt", "07_content_parts", "15_plain"])
def test_cases_that_hold_the_plain_pair(case: str) -> None:
    rows = open_source(str(CASES / f"{case}.jsonl")).rows
    assert [each for _, row in rows for each in Normaliser(rows).read(row)] == [PAIR]


@pytest.mark.skipif(not CASES.exists(), reason="needs the cases in ../shared")
def test_cases_that_hold_more() -> None:
    def case(name: str) -> Outcome:
        rows = open_source(str(CASES / f"{name}.jsonl")).rows
        ((_, row),) = rows
        (outcome,) = Normaliser(rows).read(row)
        return outcome

    pirate = case("03_system_column")
    assert isinstance(pirate, Preference) and pirate.prompt == (PIRATE, ASK)
    nectar = case("13b_nectar")
    assert nectar == Preference((ASK,), BLUE, BANANA, -1.0, -7.0)
    turns = case("10_multi_turn_completions")
    assert isinstance(turns, Dropped) and turns.reason == "several-turns"
    beside, differ = case("01a_tool_calls_beside_text"), case("01b_tool_calls_differ_only_in_call")
    for pair in (beside, differ):
        assert isinstance(pair, Preference) and len(pair.tools) == 1
        assert pair.chosen["tool_calls"][0]["function"] == CALL["function"]
    history = case("01e_tool_turn_in_history")
    assert isinstance(history, Preference)
    assert [message["role"] for message in history.prompt] == ["user", "assistant", "tool", "user"]
    assert history.prompt[1]["tool_calls"][0]["function"] == CALL["function"]
    thoughts = case("02_reasoning_content")
    assert isinstance(thoughts, Preference) and thoughts.chosen["reasoning_content"] == "two and two make four"
    with pytest.raises(UserError, match=r"the column images holds \['cat.png'\]"):
        case("08_images_column")
