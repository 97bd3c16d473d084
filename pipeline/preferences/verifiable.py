"""Verifiable tasks: the embedded preference pairs and the questions of the benchmark `verifiable`.

A task is an opening about a topic and one to four constraints. A pair's scores are the shares of constraints its two
answers meet, by the rules of constraints.py. Everything is drawn from streams keyed by split, seed and index: a longer
list begins with the shorter one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences.answers import Material, compose, material
from pipeline.preferences.constraint_draws import draw_args, draw_kinds, neighbour
from pipeline.preferences.constraints import Constraint, met, share_met
from pipeline.preferences.topics import SPLITS, TOPICS, Topic
from pipeline.preferences.wordings import OPENINGS, WORDINGS

VERSION = 1  # part of the identity of all that is made from these tasks; raised when a task or an answer changes

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
ATTEMPTS = 60  # draws before a task is given up for the next one; hardly ever more than a few are needed

# The shares of pairs whose two answers score alike, and whose chosen answer is itself not perfect.
EQUAL_SHARE, FLAWED_SHARE = 0.2, 0.12


@dataclass(frozen=True)
class Question:
    """A task as a model sees it (`messages`), and what a judge needs: constraints and their wordings."""

    question_id: str
    messages: list[dict[str, str]]
    constraints: tuple[Constraint, ...]
    wordings: tuple[str, ...]

    @property
    def meta(self) -> dict[str, Any]:
        """What a table keeps of the question beside its id and messages, JSON-able; `restore` is the way back."""
        return {
            "constraints": [constraint.to_json() for constraint in self.constraints],
            "wordings": list(self.wordings),
        }

    @staticmethod
    def restore(question_id: str, messages: list[dict[str, str]], meta: dict[str, Any]) -> "Question":
        return Question(
            question_id, messages, tuple(map(Constraint.from_json, meta["constraints"])), tuple(meta["wordings"])
        )


@dataclass(frozen=True)
class _Task:
    """A drawn task; `index` keys the random streams of its answers."""

    index: int
    split: str
    topic: Topic
    constraints: tuple[Constraint, ...]
    opening: str
    wordings: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return " ".join((self.opening, *self.wordings))


def questions(split: str, count: int, seed: int = 0) -> list[Question]:
    """The first `count` tasks of a split, without answers. `question_id` digests prompt and constraints."""
    return [
        Question(_digest(task), [_message("user", task.prompt)], task.constraints, task.wordings)
        for task in islice(_tasks(split, seed), count)
    ]


def pairs(split: str, count: int, seed: int, thoughts: bool = False) -> Iterator[dict[str, Any]]:
    """`count` preference pairs in the form of a user's own rows; every prompt occurs once in a split.

    Beside prompt, chosen, rejected (chat messages) and the two scores, a row says its split, its constraints (JSON) and
    its source: verifiable/equal, /narrow (margin below 0.5), /middle (below 0.75) or /wide. With `thoughts` each answer
    has some of its own: the constraints that it goes on to meet, so that those of a worse one forget what it breaks.
    """
    made = ((task, _answers(task, seed)) for task in _tasks(split, seed))
    rows = (_row(task, *answers, thoughts) for task, answers in made if answers)
    return islice(rows, count)


def _tasks(split: str, seed: int) -> Iterator[_Task]:
    """Tasks with different prompts, without end."""
    if split not in SPLITS:
        raise UserError(
            f"split {split!r} is not one of the verifiable tasks' splits", f"use one of {', '.join(SPLITS)}"
        )
    usage: Counter[str] = Counter()
    seen: set[str] = set()
    index = 0
    while True:
        rng = Random(f"{split}/{seed}/{index}")
        draws = (_draw(index, split, usage, rng) for _ in range(ATTEMPTS))
        task = next((task for task in draws if task and task.prompt not in seen), None)
        if task is None:
            raise UserError(f"split {split!r} has no more than {index} different verifiable tasks", "ask for fewer")
        seen.add(task.prompt)
        usage.update(constraint.kind for constraint in task.constraints)
        yield task
        index += 1


def _draw(index: int, split: str, usage: Counter[str], rng: Random) -> _Task | None:
    """One task, or None where its constraints proved impossible together (a thing to name in three words, say)."""
    topic = rng.choice(TOPICS[split])
    kinds = draw_kinds(usage, rng)
    constraints = tuple(Constraint(kind, draw_args(kind, topic, split, rng)) for kind in kinds)
    answer = compose(material(topic, constraints, rng), constraints)
    if answer is None or share_met(constraints, answer) < 1:
        return None
    opening = rng.choice(OPENINGS[split]).format(noun=topic.noun)
    wordings = tuple(_wording(constraint, rng.choice(WORDINGS[constraint.kind][split])) for constraint in constraints)
    return _Task(index, split, topic, constraints, opening, wordings)


def _wording(constraint: Constraint, template: str) -> str:
    words = dict(constraint.args)
    if "count" in words:
        words |= {"n": words["count"], "number": NUMBERS[words["count"]]}
    if "keys" in words:
        words["first"], words["second"] = words["keys"]
    return template.format(**words)


def _answers(task: _Task, seed: int) -> tuple[str, str] | None:
    """(chosen, rejected): a text and a small edit of it, or two equally good texts; None where none were found."""
    rng = Random(f"{task.split}/{seed}/{task.index}/answers")
    size = len(task.constraints)
    equal, flawed = rng.random() < EQUAL_SHARE, size > 1 and rng.random() < FLAWED_SHARE
    kept = int(flawed)  # constraints that the chosen answer breaks
    broken = (
        kept if equal else min(rng.randint(kept + 1, size), rng.randint(kept + 1, size))
    )  # small edits are more frequent
    for _ in range(ATTEMPTS):
        words = material(task.topic, task.constraints, rng)
        other_words = material(task.topic, task.constraints, rng) if equal else words
        order = rng.sample(range(size), size)
        edits = [neighbour(constraint, task.topic, task.split, rng) for constraint in task.constraints]
        chosen = _edited(task, words, edits, order[:kept])
        rejected = _edited(task, other_words, edits, order[:broken])
        if chosen and rejected and chosen != rejected:
            return chosen, rejected
    return None


def _edited(task: _Task, words: Material, edits: Sequence[Constraint | None], broken: Sequence[int]) -> str | None:
    """An answer that breaks exactly the constraints at the places `broken`; None where the edits yield none."""
    wanted = [edits[i] if i in broken else constraint for i, constraint in enumerate(task.constraints)]
    text = compose(words, [constraint for constraint in wanted if constraint])
    exact = text and all(met(constraint, text) == (i not in broken) for i, constraint in enumerate(task.constraints))
    return text if exact else None


def _row(task: _Task, chosen: str, rejected: str, thoughts: bool = False) -> dict[str, Any]:
    chosen_score, rejected_score = (share_met(task.constraints, text) for text in (chosen, rejected))
    margin = chosen_score - rejected_score
    margin_class = "equal" if margin == 0 else "narrow" if margin < 0.5 else "middle" if margin < 0.75 else "wide"
    return {
        "prompt": [_message("user", task.prompt)],
        "chosen": [_answer(task, chosen, thoughts)],
        "rejected": [_answer(task, rejected, thoughts)],
        "chosen_score": chosen_score,
        "rejected_score": rejected_score,
        "source": f"verifiable/{margin_class}",
        "split": task.split,
        "constraints": [constraint.to_json() for constraint in task.constraints],
    }


def _answer(task: _Task, text: str, thoughts: bool) -> dict[str, str]:
    said = zip(task.constraints, task.wordings, strict=True)
    minded = " ".join(wording for constraint, wording in said if met(constraint, text))
    return _message("assistant", text) | ({"reasoning_content": minded or "Anything will do."} if thoughts else {})


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _digest(task: _Task) -> str:
    content = [task.prompt, [constraint.to_json() for constraint in task.constraints]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
