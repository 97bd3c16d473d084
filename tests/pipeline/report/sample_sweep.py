"""A sweep of plausible size and shape, with hostile method names planted, as a configuration could hold them."""

import random
from collections.abc import Sequence
from typing import Any

from pipeline.report.sweep import Estimate, Method, SweepData, Trial
from pipeline.statistics import Interval
from tests.pipeline.report.sample_report import HOSTILE

METHODS = ("dpo", "rdpo", "gamma-dpo", "mixdpo", "selective-dpo", HOSTILE[0])


def sample_sweep(methods: Sequence[str] = METHODS, answers: bool = True, seeds: int = 2, trials: int = 6) -> SweepData:
    """Six trials a method; of the third method one failed and one stopped early, and one of its final runs failed."""
    draw = random.Random("sweep")
    made = [_trial(draw, place, method, number) for place, method in enumerate(methods) for number in range(trials)]
    return SweepData(
        title="Label noise, all methods tuned alike",
        config={"name": "bench-noise", "sweep": {"trials": trials, "methods": list(methods)}},
        provenance={"git commit": "3f1c2d9a", "note": HOSTILE[1]},
        choose_by="win_rate" if answers else "accuracy",
        sampler="random",
        against=methods[0] if methods else "dpo",
        seeds=list(range(seeds)),
        held_out_pairs=64,
        questions=160 if answers else 0,
        scales={"train.learning_rate": "log", "objective.tau": "linear", "train.lora": "category"},
        methods=[_method(draw, place, method, made, answers, seeds) for place, method in enumerate(methods)],
        trials=made,
    )


def _trial(draw: random.Random, place: int, method: str, number: int) -> Trial:
    settings: dict[str, Any] = {
        "train.learning_rate": float(f"{10 ** draw.uniform(-5, -3.5):.4g}"),
        "objective.tau": draw.uniform(0, 8),
    }
    settings |= {"train.lora": draw.choice([None, {"rank": 8}])}
    if (place, number) == (2, 1):
        return Trial(method, number, settings, None, "failed", f"step 3: loss is not finite {HOSTILE[0]}")
    outcome = "stopped" if (place, number) == (2, 2) else "whole"
    return Trial(method, number, settings, draw.uniform(0.5, 0.9), outcome, steps=32, seconds=draw.uniform(100, 160))


def _method(draw: random.Random, place: int, method: str, trials: Sequence[Trial], answers: bool, seeds: int) -> Method:
    def estimate(value: float, questions: bool = True) -> Estimate:
        over = Interval(value, value - 0.2, value + 0.2) if seeds > 1 else None
        return Estimate(value, Interval(value, value - 0.04, value + 0.04) if questions else None, over)

    own = [trial for trial in trials if trial.method == method and trial.outcome == "whole"]
    best = max(own, key=lambda trial: trial.figure or 0.0)
    rate = draw.uniform(0.5, 0.9)
    return Method(
        method,
        trial=best.number,
        settings=best.settings,
        figure=best.figure,
        win_rate=estimate(rate) if answers else None,
        share_met=rate - 0.3 if answers else None,
        accuracy=estimate(draw.uniform(0.5, 0.9)),
        beyond=estimate(rate - 0.7, answers) if place else None,
        chosen_change=draw.gauss(4, 6),
        rejected_change=draw.gauss(-12, 6),
        lost=[f"{method}-seed1: worker died"] if place == 2 else [],
        trial_steps=192,
        trial_seconds=800.0,
        final_steps=64,
        final_seconds=260.0,
    )
