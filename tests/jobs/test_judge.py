"""What the judge stage says of replies, and refuses; through the door see tests/e2e/test_asked.py and test_judge.py."""

import pytest

from jobs.common.contests import opened, refuse, remarks
from pipeline.errors import UserError
from pipeline.evaluation.judging.asking import Reply
from pipeline.evaluation.judging.contest import Contest
from pipeline.evaluation.judging.words import words
from pipeline.settings.evaluation import Judge

COLD, WARM = Reply("[[A>B]]"), Reply("[[A>B]]", without=("max_tokens", "temperature"))


def test_what_is_said_of_replies() -> None:
    assert remarks("games", [COLD] * 3) == []
    assert remarks("games", [COLD, WARM, WARM]) == [
        "2 of the 3 replies are at the judge's own temperature: it takes no other"
    ]
    cut = Reply("<think>[[A>B]]", cut=True), Reply("", thoughts="hm", cut=True), Reply("A is", cut=True)
    assert remarks("ratings", [COLD, *cut]) == [
        "3 of the 4 replies were cut short",
        "2 of the 4 replies ended within the judge's thoughts: judge.max_tokens gives them room",
    ]


def test_what_is_said_of_preferences() -> None:
    """One token is all they take, so that its end is nothing to speak of; another word than m or M first is."""
    plain = Reply("m", first={"m": -0.1, "The": -3.0}, cut=True)
    assert remarks("preference", [plain] * 2) == []
    (said,) = remarks("preference", [plain, Reply("Okay", first={"Okay": -0.1, "m": -5.0}, cut=True)])
    assert said.startswith("1 of the 2 replies have another likeliest first word than m or M")
    thought = Reply("<think>hm", cut=True)
    assert remarks("preference", [plain, thought])[0] == "1 of the 2 replies were cut short"


def test_replies_together_show_whether_the_prompt_opened_thoughts() -> None:
    """A preference's first token is one then, and what was cut holds no verdict."""
    closing = [Reply("hm [[2]]</think>[[9]]"), Reply("hm</think>[[8]]")]
    games, (missing, token) = opened(
        [[*closing, Reply("hm [[2]]", cut=True)], [Reply(None, "late"), Reply("Okay", cut=True)]]
    )
    assert games == [*closing, Reply("<think>hm [[2]]", cut=True)] and games[2].wordless
    assert missing == Reply(None, "late") and token.thinks
    assert opened([[COLD, Reply("</think> is in A. [[A>B]]")], [Reply("m")]])[0][0] == COLD


def test_where_no_verdict_came_no_share_helps() -> None:
    contest = Contest("mine", "games", words("mine", "games", None), 64)
    late = Reply(None, "late")
    refuse(contest, [COLD, late], Judge(max_missing=0.5), "mend it")
    for replies, remedy in (
        ([COLD, late, late], "mend it; or raise judge.max_missing, which keeps the others"),
        ([late, late], "mend it"),
    ):
        with pytest.raises(UserError) as told:
            refuse(contest, replies, Judge(max_missing=0.5), "mend it")
        assert told.value.remedy == remedy and "verdicts on mine are missing" in told.value.problem
