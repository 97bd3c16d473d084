"""The learning rate of a step."""

import math

from pipeline.settings.training import Train


def learning_rate(step: int, steps: int, settings: Train) -> float:
    """The learning rate of a step: linear warm-up, then constant, or falling to zero after the last step.

    It falls along a line or a cosine, or (wsd: warm-up, stable, decay) along a line over the last `decay_fraction`.
    """
    warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = 1 - (step - warmup) / max(1, steps - warmup)
    shape = {
        "constant": 1.0,
        "linear": left,
        "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))),
        "wsd": min(1.0, (steps - step) / (settings.decay_fraction * steps)),
    }
    return settings.learning_rate * shape[settings.lr_schedule]
