"""Pairs that are longer than they may be: dropped, or cut where that is asked for."""

from collections import Counter

from pipeline.preferences.lengths import Lengths, Sides
from pipeline.preferences.messages import Dropped, said
from pipeline.preferences.normalise import Preference
from pipeline.preferences.tokenise import TokenisedPair, Tokeniser
from tests.pipeline.preferences.families import tokenizer
from tests.pipeline.preferences.talks import ASK, CHATML

BOS, END = 1, 2
PAIR: Sides = ([BOS, 5, 6, 7], [8, 9, 10, END], [11, END])


def fit(lengths: Lengths, sides: Sides = PAIR, begin: int | None = BOS) -> tuple[Sides | str, list[str]]:
    notes: Counter[str] = Counter()
    found = lengths.fit(sides, begin, notes)
    return found.reason if isinstance(found, Dropped) else found, [note.split(" (")[0] for note in notes]


def test_what_is_longer_is_dropped() -> None:
    assert fit(Lengths(4, 4)) == (PAIR, [])
    assert fit(Lengths(3, 4))[0] == "prompt-too-long"
    assert fit(Lengths(4, 3))[0] == "completion-too-long"


def test_of_a_long_prompt_the_end_is_kept_after_its_first_token() -> None:
    cut = ["a prompt is cut to its end"]
    assert fit(Lengths(3, 4, keep_end=True)) == (([BOS, 6, 7], *PAIR[1:]), cut)
    assert fit(Lengths(3, 4, keep_end=True), begin=None) == (([5, 6, 7], *PAIR[1:]), cut)
    assert fit(Lengths(1, 4, keep_end=True)) == (([7], *PAIR[1:]), cut)
    assert fit(Lengths(4, 4, keep_end=True)) == (PAIR, [])


def test_both_answers_are_cut_to_the_shorter_before_their_length_is_looked_at() -> None:
    cut = ["a pair's longer answer is cut to the length of the shorter"]
    assert fit(Lengths(4, 2, equal=True)) == (([BOS, 5, 6, 7], [8, 9], [11, END]), cut)
    assert fit(Lengths(4, 2, equal=True), (PAIR[0], PAIR[2], PAIR[1])) == ((PAIR[0], [11, END], [8, 9]), cut)
    assert fit(Lengths(4, 1, equal=True))[0] == "completion-too-long"
    assert fit(Lengths(4, 2, equal=True), (PAIR[0], [8, END], [9, END])) == ((PAIR[0], [8, END], [9, END]), [])


def test_a_tokeniser_cuts_and_says_how_often() -> None:
    pair = Preference((ASK,), said("Blue."), said("A banana. Red is a colour."))
    whole = Tokeniser(tokenizer("byte-level", CHATML), 100, 100)
    cut = Tokeniser(tokenizer("byte-level", CHATML), 4, 100, equal=True, keep_end=True)
    uncut, short = whole.pair(pair), cut.pair(pair)
    assert isinstance(uncut, TokenisedPair) and isinstance(short, TokenisedPair)
    assert short.chosen_ids == uncut.chosen_ids and short.chosen_ids[-1] == whole.end_id
    assert short.rejected_ids == uncut.rejected_ids[: len(uncut.chosen_ids)]
    assert short.prompt_ids == uncut.prompt_ids[-4:]
    assert sorted(cut.notes.values()) == [1, 1]
