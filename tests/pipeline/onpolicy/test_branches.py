"""Where answers are cut: at ends of sentences alone, by the key alone; and what candidates are named by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.onpolicy.branches import cuts, sentence_ends
from pipeline.onpolicy.candidates import answered, candidate_id, seed_of, text_of
from pipeline.preferences.messages import said
from pipeline.preferences.tokenise import Tokeniser
from tests.pipeline.preferences.families import FAMILIES, tokenizer
from tests.pipeline.preferences.talks import CHATML

BYTES = ["It", "Ġcosts", "Ġ3", ".", "50", "Ġeuros", ".", "ĠSee", "Ġa", ".", "b", ".", 'Ġ"Yes', '!"', "ĠDone", "."]
PIECES = ["▁It", "▁is", "▁so", ".", "▁Why", "?", "<0x0A>", "▁e", ".", "g", ".", "▁that"]
LINES = ["One", "Ċ", "Two", ".Ċ", "Three", "Ġ", "four"]
token = st.sampled_from(["Ġa", "b", ".", "Ġ3", "!", "Ċ", '."', "?"])


def test_sentences_end_where_white_space_follows() -> None:
    assert [BYTES[:end][-2:] for end in sentence_ends(BYTES)] == [["Ġeuros", "."], ["b", "."], ['Ġ"Yes', '!"']]
    assert sentence_ends(PIECES) == [4, 6, 7, 11]
    assert sentence_ends(LINES) == [2, 4]
    assert sentence_ends(["a", "b"]) == sentence_ends(["."]) == sentence_ends([]) == []


@given(st.lists(token, max_size=60), st.integers(1, 8), st.integers())
def test_more_cuts_keep_the_fewer(tokens: list[str], count: int, seed: int) -> None:
    found = cuts(tokens, count, seed)
    assert found == sorted(set(found)) and set(found) <= set(sentence_ends(tokens))
    assert len(found) == min(count, len(sentence_ends(tokens)))
    assert set(cuts(tokens, count - 1, seed)) <= set(found)


def test_cuts_are_near_a_quarter_a_half_and_three_quarters() -> None:
    tokens = ["Ġa", "."] * 50
    tokens = [*tokens, "Ġa"]
    places = {cuts(tokens, 1, "seed", number)[0] for number in range(60)}
    assert places == {26, 50, 76}  # of 101 tokens, each second one of which ends a sentence


@pytest.mark.parametrize("family", FAMILIES)
def test_a_branch_says_what_all_of_its_tokens_say(family: str) -> None:
    """Wherever it is cut: a tokenizer that joins a space with the word after it takes it off a text's beginning."""
    tokeniser = Tokeniser(tokenizer(family, CHATML), 1, 1)
    ids = tokeniser.answer([{"role": "user", "content": "Name a colour."}], said("Blue. A banana. The sky is blue!"))
    assert isinstance(ids, list) and ids[-1] == tokeniser.end_id
    whole = tokeniser.text(ids[:-1])
    for place in range(len(ids)):
        before, after = ids[:place], ids[place:]
        assert text_of(tokeniser, after, True, prefix_ids=before) == whole
        assert text_of(tokeniser, after[:-1], False, prefix_ids=before) == whole
        at = whole.find("is", len(tokeniser.text(before)))
        assert text_of(tokeniser, after, True, "is", before) == (whole[:at] if at >= 0 else whole)


def test_names_and_seeds_depend_on_content_alone() -> None:
    assert candidate_id("p", [1, 2]) == candidate_id("p", (1, 2))
    assert len({candidate_id("p", [1, 2]), candidate_id("q", [1, 2]), candidate_id("p", [12])}) == 3
    seeds = {seed_of("model", 0, "p", sample) for sample in range(100)} | {seed_of("model", 1, "p", 0)}
    assert len(seeds) == 101 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("model", 0, "p", 1) == seed_of("model", 0, "p", 1) != seed_of("against", 0, "p", 1)


def test_a_candidate_says_all_that_its_table_holds() -> None:
    from pipeline.results import tables

    asked = {"prompt_id": "p", "prompt": "[]", "meta": "{}", "source": "", "split": None}
    row = answered(asked, "Blue.", [5, 2], answered_by="chosen", sample=0, finish_reason="data")
    assert row.keys() == set(tables.CANDIDATES.names) and (row["tokens"], row["logp"]) == (2, None)
