import json
from dataclasses import asdict

import pytest

from pipeline.evaluation.benchmarks.verifiable import CONSTANTS, baselines, benchmark, compare, judge, summarise
from pipeline.preferences.constraints import Constraint
from pipeline.preferences.verifiable import Question


def question(name, *constraints):
    return Question(name, [{"role": "user", "content": name}], constraints, tuple(c.kind for c in constraints))


LOWER, UPPER, ASKS = Constraint("lower", {}), Constraint("upper", {}), Constraint("question", {})
ASKED = [question("q1", LOWER, ASKS), question("q2", LOWER), question("q3", UPPER, ASKS)]


def answers(*texts):
    return [
        judge(asked, text, tokens=len(text), finish_reason="stop") for asked, text in zip(ASKED, texts, strict=True)
    ]


def test_summary_by_hand():
    judged = answers("is it?", "It is.", "is it?")
    summary = summarise(judged, resamples=500)
    assert summary.prompts == 3
    assert summary.share_met.value == pytest.approx((1 + 0 + 0.5) / 3)
    assert summary.wholly_met.value == pytest.approx(1 / 3)
    assert 0 <= summary.share_met.low < summary.share_met.value < summary.share_met.high <= 1
    assert summary.profile.distinct == pytest.approx(2 / 3)
    assert summary.profile.characters == summary.tokens == 6
    assert summary.profile.truncated == 0
    assert summary.kinds == {"lower": 0.5, "question": 1.0, "upper": 0.0}
    assert json.loads(json.dumps(asdict(summary)))["share_met"]["value"] == summary.share_met.value


def test_thoughts_are_none_of_the_answer():
    """What is kept to be read is the whole."""
    thinking = judge(ASKED[0], "<think>\nSo, LOWER case.\n</think>\n\nis it?", 9, "stop")
    assert thinking.met == (True, True) and thinking.text.startswith("<think>")


def test_answers_that_were_cut_off_are_counted():
    assert (
        summarise([judge(ASKED[0], "it is and it is", 32, "length"), *answers("a", "b", "c")[1:]]).profile.truncated
        == 1
    )


def test_compare_matches_answers_by_question():
    trained, base = answers("is it?", "it is", "It is."), answers("It is.", "it was", "IS IT?")
    result = compare(trained, base[::-1])
    assert (result.wins, result.ties, result.losses) == (1, 1, 1)
    assert result.rate.value == 0.5
    with pytest.raises(ValueError, match="same questions"):
        compare(trained, base[:2])
    with pytest.raises(ValueError, match="same questions"):
        compare([*trained, trained[0]], base)


def test_the_empty_answer_gets_nothing_and_the_best_constant_is_found():
    empty, best = baselines(ASKED, ["hm?", "Oh"])
    assert (empty.share_met, empty.wholly_met) == (0, 0)
    assert best.share_met == pytest.approx((1 + 1 + 0.5) / 3) and best.wholly_met == pytest.approx(2 / 3)
    alone = max(summarise(answers(*[text] * 3), resamples=10).share_met.value for text in CONSTANTS)
    assert best.share_met >= alone


def test_the_benchmark_is_large_enough_and_no_constant_answer_does_well():
    asked = benchmark()
    assert len(asked) >= 160
    assert baselines(asked)[1].share_met < 0.25
