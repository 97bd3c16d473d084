"""What a judge thinks is no verdict: in every way in which models mark their thoughts, and on every benchmark."""

import math

import pytest

from pipeline.evaluation.benchmarks.raw_completions import read_again
from pipeline.evaluation.benchmarks.thoughts import first_word, opened, spoken, thinks
from pipeline.evaluation.benchmarks.verdicts import arena_label, arena_label_v01, rating

SAID = [
    ("<think>at first {no}</think>\nso {yes}", "\nso {yes}"),
    ("<Thinking>{no}</Thinking>{yes}", "{yes}"),
    ("<reasoning>\n{no}\n</reasoning>\n\n{yes}", "\n\n{yes}"),
    ("the prompt opened them: {no}</think>{yes}", "{yes}"),
    ("<think>{no}</think>{yes}<think>was it {no}?</think> done", "{yes} done"),
    ("<think>an answer says </think> {no}, as if I were done</think>{yes}", "{yes}"),
    ("<think>one <think> in another {no}</think>{yes}", "{yes}"),
    ("<seed:think>{no}</seed:think>{yes}", "{yes}"),
    ("[THINK]{no}[/THINK]{yes}", "{yes}"),
    ("◁think▷{no}◁/think▷{yes}", "{yes}"),
    ("<|START_THINKING|>{no}<|END_THINKING|>{yes}", "{yes}"),
    ("<|channel|>analysis<|message|>{no}<|end|><|start|>assistant<|channel|>final<|message|>{yes}", "{yes}"),
    ("analysisWe weigh {no}.assistantfinal{yes}", "{yes}"),
    ("The tags `<think>` and `</think>` stand in A. {yes}", "The tags `<think>` and `</think>` stand in A. {yes}"),
    ("[reasoning] is a heading. {yes}", "[reasoning] is a heading. {yes}"),
]
CUT = ["<think>{no}", "<think>{no} or {no}</thinking>", "words <reasoning>{no}", "[THINK] {no}", "analysisWe say {no}"]


@pytest.mark.parametrize(("judgment", "words"), SAID)
def test_words_after_thoughts(judgment: str, words: str) -> None:
    def put(text: str, no: str, yes: str) -> str:
        return text.replace("{no}", no).replace("{yes}", yes)

    assert spoken(put(judgment, "2", "9")) == put(words, "2", "9")
    assert thinks(judgment) == (judgment != words)
    assert rating(put(judgment, "[[2]]", "[[9]]")) == 9
    assert arena_label(put(judgment, "[[A>>B]]", "[[b>a]]")) == "B>A"
    assert arena_label_v01(put(judgment, "[[A>>B]]", "[[B>A]]")) == "B>A"


@pytest.mark.parametrize("judgment", CUT)
def test_thoughts_without_an_end_hold_no_verdict(judgment: str) -> None:
    assert spoken(judgment) is None and thinks(judgment)
    assert rating(judgment.replace("{no}", "[[2]]")) is None
    label = judgment.replace("{no}", "[[A>>B]]")
    assert arena_label(label) is None and arena_label_v01(label) is None


def test_a_judge_whose_prompt_opens_its_thoughts() -> None:
    """Most close what they did not open: one that closes nothing was cut. A single one only speaks of a mark."""
    closing = ["so [[2]]</think>[[9]]", "hm</think>[[8]]"]
    assert opened([*closing, "first [[2]]", ""]) == [*closing, "<think>first [[2]]", ""]
    assert opened([*closing, "[[2]]", "[[3]]"]) == [*closing, "[[2]]", "[[3]]"]
    assert opened(["[[2]]", "A has a stray </think>. [[7]]", "[[3]]"])[0] == "[[2]]" and opened([]) == []


@pytest.mark.parametrize(("text", "expected"), [("<", True), ("<th", True), ("<a", False), ("m", False), ("", False)])
def test_a_reply_of_one_token_that_begins_thoughts(text: str, expected: bool) -> None:
    assert thinks(text) == expected


FIRST = {"m": math.log(0.6), "M": math.log(0.2)}
NOISE = {"<think>": -0.01, "m": -9.0}


def test_the_first_word_after_thoughts() -> None:
    """Blank tokens after thoughts are none; without thoughts the very first token is it, as AlpacaEval reads it."""
    thought = [("<think>", NOISE), ("M", {"M": -0.1}), ("</think>", {}), ("\n\n", {"\n\n": -0.1}), ("m", FIRST)]
    assert first_word(thought) == FIRST
    assert first_word(thought[:2]) == {} and first_word(thought[:4]) == {}
    assert first_word([(" ", FIRST), ("m", {})]) == FIRST and first_word([]) == {}


def test_the_first_word_where_thoughts_are_kept_apart() -> None:
    """The words are the end of all that was said; where log-probs are of the words alone, they begin with them."""
    assert first_word([("Okay", NOISE), (" so", {}), ("m", FIRST)], "m") == FIRST
    assert first_word([("m", FIRST)], "m") == FIRST
    assert first_word([("Okay", NOISE)], "") == {} and first_word([("Okay", NOISE)], "m") == {}


def completion(*tokens: tuple[str, dict[str, float]]) -> dict[str, object]:
    content = [
        {"token": token, "top_logprobs": [{"token": name, "logprob": value} for name, value in likely.items()]}
        for token, likely in tokens
    ]
    return {"text": "".join(token for token, _ in tokens), "logprobs": {"content": content}}


@pytest.mark.parametrize("as_text", [False, True])
def test_alpaca_evals_raw_completions(as_text: bool) -> None:
    """As the tool's own files hold them, also as Python shows them: 0.6 of 0.8 are for m, which is shown first."""

    def again(raw: object, switched: bool = False) -> object:
        return read_again(repr(raw) if as_text and not isinstance(raw, str) else raw, switched)

    thought = completion(("<think>", NOISE), ("so", {}), ("</think>", {}), ("m", FIRST))
    assert again(thought) == pytest.approx(1.25) and again(thought, switched=True) == pytest.approx(1.75)
    assert again(completion(("<think>", NOISE))) is None
    assert again(completion(("m", FIRST))) == "as stored"
    assert again("<think>M or m?</think>M") == 2.0 and again("<think>M or m?</think>M", switched=True) == 1.0
    assert again("<think>hm") is None and again("<think>hm</think> ") is None
    assert again("<think>hm</think>Output (a)") == "unclear"
    for plain in ("m", "", None, ["m", "<think>"], 7, "{broken", "{'text': 'M'}"):
        assert again(plain) == "as stored"
