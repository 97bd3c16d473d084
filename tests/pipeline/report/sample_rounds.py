"""Rounds of plausible figures, with hostile names planted, as a configuration could hold them."""

import random
from typing import Any

from pipeline.report.rounds import Reward, Round, RoundsData
from pipeline.statistics import Interval, WinRate, wilson
from tests.pipeline.report.sample_report import HOSTILE

RULES = {"count": 3, "start": "previous", "reference": "base", "prompts": "split", "mix": "all", "until": "report"}


def sample_rounds(count: int = 3, answers: bool = True, **rules: Any) -> RoundsData:
    """Each longer and better than the one before; with `answers` the models are asked and judged."""
    draw = random.Random("rounds")
    return RoundsData(
        title="Rounds: does it go on?",
        config={"name": "rounds", "rounds": RULES, "note": HOSTILE[0]},
        provenance={"git commit": "3f1c2d9a", "note": HOSTILE[1]},
        rules=RULES | rules,
        rounds=[_round(draw, number, answers) for number in range(1, count + 1)],
    )


def _round(draw: random.Random, number: int, answers: bool) -> Round:
    reward = 0.5 + 0.08 * number + draw.gauss(0, 0.01)
    rate = 0.5 + 0.07 * number
    asked: dict[str, Any] = {
        "win_rate": WinRate(round(160 * rate), 20, 140 - round(160 * rate), Interval(rate, rate - 0.05, rate + 0.05)),
        "share_met": Interval(reward, reward - 0.04, reward + 0.04),
        "judged": {HOSTILE[2]: Interval(rate + 0.02, rate - 0.08, rate + 0.11)},
        "answer_tokens": 30.0 + 5 * number,
        "report": f"artifacts/report/rounds-round{number}-0123456789ab/report.html",
    }
    return Round(
        number,
        "the base model" if number == 1 else f"the model of round {number - 1}",
        prompts=128,
        answers=512,
        tokens=120.0 * 1.4**number,
        cut=0.1 + 0.05 * number,
        pairs=140 + number,
        earlier=(number - 1) * 138,
        paired=0.8 - 0.05 * number,
        chosen_tokens=130.0 * 1.4**number,
        rejected_tokens=110.0 * 1.4**number,
        longer=0.55 + 0.05 * number,
        rewards={
            "rules": Reward(reward, reward + 0.2, reward - 0.2),
            HOSTILE[0]: Reward(-3 + number, None if number == 2 else -2.5 + number, -4.0 + number),
        },
        accuracy=wilson(0.6 + 0.05 * number, 9),
        seconds=930.0 + 10 * number,
        **(asked if answers else {}),
    )
