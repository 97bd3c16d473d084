"""The cards of the page: each question with the answers to it, and what rules and judge said of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.judging import category, question, verdicts
from pipeline.report.outcomes import MODELS, Answer, Rule, Sample

Row = Mapping[str, Any]


def laid_out(
    answered: Mapping[str, Sequence[tuple[Row, Row]]],
    rules: Mapping[tuple[str, str], Sequence[Rule]],
    games: Sequence[Row],
    ratings: Sequence[Row],
    baselines: Sequence[Row],
) -> list[Sample]:
    """A card a question and turn, in the order given.

    `answered` has by benchmark the rows of tables.RESPONSES of base and trained model, question by question; `rules`
    are by model and question id, and are about the embedded tasks alone.
    """
    judged = verdicts(games, ratings)
    others: dict[tuple[str, str], dict[str, str]] = {}
    for row in baselines:
        others.setdefault((row["benchmark"], row["question_id"]), {})[row["name"]] = row["response"]
    found = []
    for benchmark, rows in answered.items():
        for both in rows:
            base = both[0]
            name, turn = base["question_id"], base["turn"]
            answers = {
                model: Answer(row["response"], row["finish_reason"], rules.get((model, name), []))
                for model, row in zip(MODELS, both, strict=True)
            }
            found.append(
                Sample(
                    question(base),
                    answers,
                    benchmark,
                    category(base),
                    turn,
                    baselines=others.get((benchmark, name), {}) if turn == 1 else {},
                    verdicts=judged.get((benchmark, name, turn), []),
                )
            )
    return found
