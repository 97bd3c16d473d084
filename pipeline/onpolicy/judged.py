"""A judge as a rater: each answer at the end of its conversation, rated from 1 to 10 as in MT-Bench."""

import json
from collections.abc import Sequence

from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.evaluation.judging.ratings import Turn, read_rating
from pipeline.evaluation.judging.words import words
from pipeline.onpolicy.ratings import Row, Verdict

MAX_TOKENS = 2048  # of a reply, thoughts and all, where judge.max_tokens does not say
WORDS = words("candidates", "ratings", None)  # our own


def requests(rows: Sequence[Row], max_tokens: int | None) -> list[Request]:
    """What a judge is asked of each candidate."""
    return [_turn(row).request(WORDS, max_tokens or MAX_TOKENS) for row in rows]


def verdict(row: Row, reply: Reply) -> Verdict:
    """The rating in a judge's words; none where they hold none, or it did not answer."""
    rated = read_rating(_turn(row), reply)
    detail = {"judgment": rated.judgment}
    if rated.outcome != "read":
        detail |= {"why": rated.outcome, "detail": rated.judgment[:200]}
    return Verdict(rated.rating, detail, reply.prompt_tokens + reply.completion_tokens)


def _turn(row: Row) -> Turn:
    return Turn("", row["candidate_id"], 1, None, tuple(json.loads(row["prompt"])), row["response"], ())
