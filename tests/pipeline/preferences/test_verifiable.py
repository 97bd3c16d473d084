import json
import re
from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.verifiable import CONSTANTS
from pipeline.preferences.constraint_draws import compatible
from pipeline.preferences.constraints import KINDS, Constraint, met, share_met
from pipeline.preferences.topics import CALLS, CLOSINGS, KEYS, OPENERS, SPLITS, TOPICS
from pipeline.preferences.verifiable import Question, pairs, questions
from pipeline.preferences.wordings import OPENINGS, WORDINGS


@pytest.fixture(scope="module")
def rows():
    return {
        "train": list(pairs("train", 1000, 0)),
        "dev": list(pairs("dev", 300, 0)),
        "test": list(pairs("test", 300, 0)),
    }


def text(row, side):
    (message,) = row[side]
    return message["content"]


def constraints(row):
    return [Constraint.from_json(value) for value in row["constraints"]]


def disjoint(sets):
    return all(not set(a) & set(b) for a, b in combinations(sets, 2))


def test_splits_share_no_wording():
    templates = {
        split: [*OPENINGS[split], *(text for kind in WORDINGS.values() for text in kind[split])] for split in SPLITS
    }
    assert set(WORDINGS) == set(KINDS)
    assert disjoint(templates.values())


def test_splits_share_no_words_that_tasks_are_about_or_ask_for():
    topic_words = {split: {word for t in TOPICS[split] for word in (t.noun, *t.things)} for split in SPLITS}
    assert disjoint(topic_words.values())
    assert disjoint([habit for topic in TOPICS[split] for habit in topic.habits] for split in SPLITS)
    for given_words in (OPENERS, CALLS, CLOSINGS, KEYS):
        assert disjoint(given_words.values())


def test_the_word_tables_are_well_formed():
    for split in SPLITS:
        assert len({topic.noun for topic in TOPICS[split]}) == len(TOPICS[split])
        for topic in TOPICS[split]:
            assert len(set(topic.adjectives)) == 5 and len(set(topic.things)) == 5 and len(topic.habits) == 3, (
                topic.noun
            )
            # an answer that must avoid the noun, or mention one thing, may use any habit
            habit_words = set(" ".join(topic.habits).split())
            assert not habit_words & {topic.noun, *topic.things}, topic.noun


def test_a_longer_list_begins_with_the_shorter_one():
    assert list(pairs("train", 100, 3)) == list(pairs("train", 200, 3))[:100]
    assert questions("dev", 20) == questions("dev", 50)[:20]
    assert list(pairs("train", 20, 3)) != list(pairs("train", 20, 4))


def test_scores_are_what_the_rules_say(rows):
    for row in (row for split in SPLITS for row in rows[split]):
        assert row["chosen_score"] == share_met(constraints(row), text(row, "chosen"))
        assert row["rejected_score"] == share_met(constraints(row), text(row, "rejected"))
        assert row["chosen_score"] >= row["rejected_score"]
        assert text(row, "chosen") != text(row, "rejected")
        assert max(len(text(row, "chosen")), len(text(row, "rejected"))) < 130


def test_margins_are_spread(rows):
    margins = [row["chosen_score"] - row["rejected_score"] for row in rows["train"]]
    shares = {margin: count / 1000 for margin, count in Counter(round(margin, 2) for margin in margins).items()}
    assert 0.15 < shares[0] < 0.25
    assert set(shares) >= {0.25, 0.33, 0.5, 0.67, 0.75, 1} and max(shares.values()) < 0.4
    assert fmean(row["chosen_score"] == 1 for row in rows["train"]) >= 0.85
    assert 1.8 < fmean(len(row["constraints"]) for row in rows["train"]) < 2.3


@pytest.mark.parametrize("split", SPLITS)
def test_length_does_not_tell_which_answer_is_chosen(rows, split):
    for length in (len, lambda text: len(text.split())):
        lengths = [(length(text(row, "chosen")), length(text(row, "rejected"))) for row in rows[split]]
        unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
        assert 0.4 < fmean(unequal) < 0.6


def test_marks_and_letter_case_do_not_tell_either(rows):
    """A rejected answer is a good answer to a neighbouring task, so no feature of the text alone gives it away."""
    uneven = [row for row in rows["train"] if row["chosen_score"] > row["rejected_score"]]
    for kind in ("lower", "upper", "quotes", "brackets", "asterisks", "exclamation"):
        found = [
            side for row in uneven for side in ("chosen", "rejected") if met(Constraint(kind, {}), text(row, side))
        ]
        assert 0.3 < found.count("chosen") / len(found) < 0.8, kind


@pytest.mark.parametrize("split", SPLITS)
def test_kinds_are_equally_frequent_and_go_together(split):
    asked = questions(split, 160)
    counts = Counter(constraint.kind for question in asked for constraint in question.constraints)
    assert set(counts) == set(KINDS) and max(counts.values()) <= 1.35 * min(counts.values())
    for question in asked:
        kinds = [constraint.kind for constraint in question.constraints]
        assert 1 <= len(kinds) <= 4
        assert all(compatible(a, b) and compatible(b, a) for a, b in combinations(kinds, 2))


def crafted(split):
    """Constant answers by someone who knows the rules and all words a split asks for."""
    things = [thing for topic in TOPICS[split] for thing in topic.things][:10]
    calls = ", ".join(f"{word} {word}" for word in CALLS[split][:4])
    for opener in (word.lower() for word in OPENERS[split]):
        yield from (f"{opener}?", f"{opener.upper()}!", f"*{opener}*", f"{opener}, {calls}, {' '.join(things)}. is it?")
        yield from (
            f"- {opener} {calls} {' '.join(things)}.\n- is it?",
            f"1. {opener} {calls} {' '.join(things)}.\n2. is it?",
        )


@pytest.mark.parametrize("split", SPLITS)
def test_no_constant_answer_meets_more_than_a_quarter_of_the_constraints(rows, split):
    pool = {*CONSTANTS, *crafted(split), *(text(row, "chosen") for some in rows.values() for row in some)}
    asked = questions(split, 160)
    wanted = Counter(json.dumps(c.to_json(), sort_keys=True) for question in asked for c in question.constraints)
    unique = [(Constraint.from_json(json.loads(key)), count) for key, count in wanted.items()]
    shares = {answer: sum(count for c, count in unique if met(c, answer)) / wanted.total() for answer in pool}
    best = max(shares, key=lambda answer: shares[answer])
    assert shares[best] <= 0.25, best
    assert shares[best] >= 0.15  # a pool without any cunning answer would prove nothing


def test_prompts_say_what_the_constraints_are():
    for question in questions("test", 160):
        (message,) = question.messages
        prompt = message["content"]
        assert not re.search(r"[{}]", prompt)
        for constraint, wording in zip(question.constraints, question.wordings, strict=True):
            assert wording in prompt
            for value in constraint.args.values():
                for named in value if isinstance(value, list) else [value]:
                    assert isinstance(named, int) or f'"{named}"' in wording


def test_five_thousand_different_prompts():
    rows = list(pairs("train", 5000, 0))
    assert len({text(row, "prompt") for row in rows}) == 5000


def test_questions_come_back_from_a_table():
    asked = questions("test", 160)
    assert len({question.question_id for question in asked}) == 160
    for question in asked[:20]:
        meta = json.loads(json.dumps(question.meta))
        assert Question.restore(question.question_id, question.messages, meta) == question


def test_an_unknown_split_is_the_users_error():
    with pytest.raises(UserError, match="'validation'"):
        questions("validation", 1)


def test_thoughts_name_what_the_answer_goes_on_to_meet() -> None:
    """The pairs are the same ones; of a worse answer the thoughts forget what it breaks."""
    bare, thinking = (list(pairs("train", 40, 3, thoughts)) for thoughts in (False, True))
    forgot = 0
    for row, with_thoughts in zip(bare, thinking, strict=True):
        asked = row["prompt"][0]["content"]
        for side in ("chosen", "rejected"):
            (message,), (same,) = with_thoughts[side], row[side]
            thoughts = message.pop("reasoning_content")
            assert message == same and (thoughts in asked or len(row["constraints"]) > 1 or "Anything" in thoughts)
            with_thoughts[f"{side}_thoughts"] = thoughts
        forgot += len(with_thoughts.pop("rejected_thoughts")) < len(with_thoughts.pop("chosen_thoughts"))
        assert with_thoughts == row
    assert forgot > 10
