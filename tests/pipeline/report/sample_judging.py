"""What a judge stage writes, as rows and manifest, of plausible shape, with hostile text in every place it could be."""

import json
import random
from collections.abc import Sequence
from typing import Any

from pipeline.report.judging import Asked, judged
from pipeline.report.outcomes import MODELS, Judged, Sample
from pipeline.report.samples import laid_out

Row = dict[str, Any]
BASELINE = "<b>gpt-4</b> & \"co\" onclick='window.pwned=7'"
CATEGORIES = ("helpful_base", "koala", "oasst", "selfinstruct", "vicuna", "<script>window.pwned = 8</script>")
_WORDS = ("the", "a", "river", "bread", "moon", "of", "in", "is", "was", "light", "old", "new", "and", "for", "tea")


def alpaca(questions: int, hostile: Sequence[str], words: int = 60) -> tuple[Judged, list[Sample]]:
    """Both models against a baseline, a preference each, 805 questions in the original; answers of `words` words."""
    draw = random.Random("alpaca")
    asked = [_words(draw, 3 + index % 40) for index in range(questions)]
    texts = {
        name: [_words(draw, draw.randint(words // 2, 3 * words // 2)) for _ in asked] for name in (*MODELS, "other")
    }
    texts["trained"][: len(hostile)] = hostile
    rows = {
        model: [
            response("alpaca_eval", str(i), question, text, {"dataset": CATEGORIES[i % len(CATEGORIES)]})
            for i, (question, text) in enumerate(zip(asked, texts[model], strict=True))
        ]
        for model in MODELS
    }
    baselines = [
        {"benchmark": "alpaca_eval", "question_id": str(i), "name": BASELINE, "response": text}
        for i, text in enumerate(texts["other"])
    ]
    games = [_preference(draw, model, i, hostile) for model in ("trained", "base") for i in range(questions)]
    figures = {
        **about("preference", dollars=4.2),
        "matches": [_match(games, model) for model in ("trained", "base")],
        "paired": {
            "questions": questions, "difference": {"value": 0.12, "low": 0.08, "high": 0.16},
            "higher": 3, "equal": 2, "lower": 1, "p_value": 0.00213,
        },
    }  # fmt: skip
    both = {"alpaca_eval": list(zip(rows["base"], rows["trained"], strict=True))}
    theirs = Asked.of({model: rows[model] for model in MODELS}, baselines)
    return judged(figures, theirs, games, [], 200, 0), laid_out(both, {}, games, [], baselines)


def talks(hostile: Sequence[str]) -> tuple[Judged, list[Sample]]:
    """Three questions of two turns, rated; the trained model's ratings could never be read."""
    rows: dict[Any, list[Row]] = {
        model: [
            response(
                "mt_bench", str(81 + i), f"Question {i}, turn {turn}?", f"{model} says {i}", {"category": name}, turn
            )
            for i, name in enumerate(("<b>math", "writing", "writing"))
            for turn in (1, 2)
        ]
        for model in MODELS
    }
    ratings = [
        {
            **{"benchmark": "mt_bench", "question_id": row["question_id"], "turn": row["turn"], "model": model},
            "outcome": "read" if model == "base" else "unparsable",
            "rating": float(2 + row["turn"] + 2 * place % 5) if model == "base" else None,
            "judgment": hostile[place % len(hostile)],
        }
        for model in MODELS
        for place, row in enumerate(rows[model])
    ]
    base = {"overall": {"value": 3.1, "low": 2.7, "high": 3.4}, "turns": {"1": 3.6, "2": 2.6}}
    none: Row = {"overall": None, "turns": {}, "categories": {}, "ratings": 0, "unparsable": 6, "missing": 0}
    models = {"base": {**base, "categories": {}, "ratings": 6, "unparsable": 0, "missing": 0}, "trained": none}
    figures = {**about("ratings"), "ratings": {"models": models, "difference": None}}
    figures["figures"] = [{"label": "turn 1 of base", "value": 3.6, "low": 3.0, "high": 4.1, "unit": ""}]
    both = {"mt_bench": list(zip(rows["base"], rows["trained"], strict=True))}
    return judged(figures, Asked.of(rows), [], ratings, 200, 0), laid_out(both, {}, [], ratings, [])


def about(method: str, **more: Any) -> Row:
    """A benchmark's `judged` of the judge's manifest, without what was judged."""
    tokens = {"prompt_tokens": 180_018, "completion_tokens": 3_404, "dollars": None}
    nothing: Row = {"matches": [], "paired": None, "ratings": None, "figures": [], "notes": []}
    return {"judge": "<i>judge</i>", "wording": "widemargin's own", "method": method, **tokens, **nothing, **more}


def response(benchmark: str, name: str, question: str, text: str, meta: Row, turn: int = 1) -> Row:
    """A row of tables.RESPONSES, as far as the page reads it."""
    return {
        **{"benchmark": benchmark, "question_id": name, "turn": turn, "response": text, "finish_reason": "stop"},
        "prompt": json.dumps([{"role": "user", "content": question}]),
        "meta": json.dumps(meta),
    }


def _preference(draw: random.Random, model: str, place: int, hostile: Sequence[str]) -> Row:
    outcome = "unparsable" if place % 50 == 7 else "missing" if place % 100 == 9 else "read"
    points = round(draw.betavariate(0.6, 0.8 if model == "trained" else 1.6), 3) if outcome == "read" else None
    said = hostile[place] if place < len(hostile) else _words(draw, 40)
    return {
        **{"benchmark": "alpaca_eval", "question_id": str(place), "model": model, "against": BASELINE},
        **{"model_first": place % 2 == 0, "outcome": outcome, "points": points, "times": 1, "judgment": said},
    }


def _match(games: Sequence[Row], model: str) -> Row:
    own = [game for game in games if game["model"] == model]
    points = [game["points"] for game in own if game["points"] is not None]
    mean = 100 * sum(points) / len(points)
    outcomes = [game["outcome"] for game in own]
    label = "length-controlled win rate"
    return {
        "model": model,
        "against": BASELINE,
        "summary": {
            "rate": {"value": mean, "low": mean - 3, "high": mean + 3},
            **{"questions": len(points), "games": len(own), "alike": 0, "first_shown": 56.1},
            **{outcome: outcomes.count(outcome) for outcome in ("read", "unparsable", "missing")},
        },
        "figures": [{"label": label, "value": mean - 5, "low": mean - 8, "high": mean - 2, "unit": "%"}],
        "notes": ["The coefficients are reconstructed from published results."],
    }


def _words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(_WORDS, k=count))
