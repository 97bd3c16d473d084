"""What a judge's words mean, read as each benchmark's authors read them. None is a verdict of its own: unparsable.

Only the judge's words come here, never an answer's: a label that an answer plants is not in them unless the judge
repeats it, and then its own verdict stands last. Its thoughts are set aside first: what breaks off within them is none.
"""

import math
import random
import re
from collections.abc import Mapping

from pipeline.evaluation.benchmarks.thoughts import spoken

# Arena-Hard's labels for games in which the model is B; the mirrored spellings are accepted too.
_MODEL_IS_B = {"A>>B": (0.0, 3), "A>B": (0.0, 1), "A=B": (0.5, 1), "B>A": (1.0, 1), "B>>A": (1.0, 3)}
_MIRRORED = {"B<<A": "A>>B", "B<A": "A>B", "B=A": "A=B", "A<B": "B>A", "A<<B": "B>>A"}

_DOUBLE, _SINGLE = re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]")
_RATING = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


def arena_label(judgment: str) -> str | None:
    """Arena-Hard v2.0: the last label in double brackets, or else in single ones, whatever its case."""
    text = (spoken(judgment) or "").upper()
    found = _DOUBLE.findall(text) or _SINGLE.findall(text)
    return found[-1] if found else None


def arena_labels_v01(judgment: str) -> set[str]:
    """Arena-Hard v0.1: the labels in double brackets. One is the verdict, several are none, and without any the judge
    is asked to go on."""
    return {label for label in _DOUBLE.findall(spoken(judgment) or "") if label}


def arena_label_v01(judgment: str) -> str | None:
    """Arena-Hard v0.1: a label in double brackets; labels that contradict each other are none."""
    found = arena_labels_v01(judgment)
    return found.pop() if len(found) == 1 else None


def arena_game(label: str | None, model_is_a: bool) -> tuple[float, int] | None:
    """(points of the model: 1, 1/2 or 0; how often the game counts), or None for what is no label."""
    label = _MIRRORED.get(label or "", label)
    if label not in _MODEL_IS_B:
        return None
    points, times = _MODEL_IS_B[label]
    return (1 - points if model_is_a else points), times


SCALE = (1.0, 10.0)  # of ratings


def rating(judgment: str) -> float | None:
    """MT-Bench: the first number in double brackets, or else in single ones; the original checks no range."""
    words = spoken(judgment) or ""
    for pattern in _RATING:
        if found := pattern.search(words):
            return float(found.group(1))
    return None


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether AlpacaEval shows the model's answer first: decided by the instruction, so alike for all models."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]


def preference(logprobs: Mapping[str, float], switched: bool) -> float | None:
    """AlpacaEval's preference, 1 (baseline) to 2 (model), from the first token's log-probs of `m` and `M`.

    `m` is the answer shown first. A token that is absent has probability 0; None where both are.
    """
    first, second = (logprobs.get(name, -math.inf) for name in ("m", "M"))
    likelier = max(first, second)
    if not likelier > -math.inf:
        return None
    of_first, of_second = math.exp(first - likelier), math.exp(second - likelier)
    shown = 2 - of_first / (of_first + of_second)
    return 3 - shown if switched else shown
