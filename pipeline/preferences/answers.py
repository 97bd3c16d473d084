"""Answers to verifiable tasks, put together from a topic's words so that they meet given constraints.

The same material and nearly the same constraints give nearly the same text. That is how minimal pairs are made: the
rejected answer is composed to a set of constraints in which one was exchanged for a neighbour (three words for four,
brackets for quotation marks), so it is a good answer to a slightly different task, and only the prompt can tell which
of the two is better.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from pipeline.preferences.constraints import Args, Constraint
from pipeline.preferences.topics import Topic


@dataclass(frozen=True)
class Material:
    """A topic's words in the order in which an answer will use them.

    `subjects` are one short and one long name. Predicates with a "{thing}" serve answers that must mention one.
    """

    topic: Topic
    subjects: tuple[str, ...]
    adjectives: tuple[str, ...]
    things: tuple[str, ...]
    predicates: tuple[str, ...]
    predicates_with: tuple[str, ...]


def material(topic: Topic, constraints: Sequence[Constraint], rng: Random) -> Material:
    """Shuffle a topic's words for one task. A task that asks for a question gets predicates fit for one."""
    kinds = {constraint.kind for constraint in constraints}
    a, b, c, d, e = adjectives = rng.sample(topic.adjectives, 5)
    predicates = [f"is {a}", f"is very {b}", f"is {c} and {d}", f"is both {c} and {d}"]
    predicates_with = [f"is {a} with {{thing}}", f"is {d} and {e} with {{thing}}"]
    if "question" not in kinds:
        predicates += topic.habits
        predicates_with += ["has {thing}", "always has {thing}", f"is {d} and has {{thing}}"]
    subjects = [topic.pronoun, f"this {topic.category}" if "excludes" in kinds else f"the {topic.noun}"]
    things = rng.sample(topic.things, 5)
    for shuffled in (subjects, predicates, predicates_with):
        rng.shuffle(shuffled)
    return Material(topic, *map(tuple, (subjects, adjectives, things, predicates, predicates_with)))


def compose(material: Material, constraints: Sequence[Constraint]) -> str | None:
    """An answer made to meet the constraints, or None where the material has no fitting words."""
    plan = {constraint.kind: constraint.args for constraint in constraints}
    wanted = [constraint.args["word"] for constraint in constraints if constraint.kind == "contains"]
    text: str | None
    if "json" in plan:
        text = _json(material, plan["json"]["keys"], wanted, lower="lower" in plan)
    elif shape := next((shape for shape in ("bullets", "numbered", "comma_list") if shape in plan), None):
        text = _list(shape, _items(material.things, plan[shape]["count"], wanted))
    elif "one_word" in plan:
        text = (wanted or material.adjectives)[0].capitalize() + _mark(plan)
    elif plan.get("words") == {"count": 2}:
        text = (f"The {wanted[0]}" if wanted else f"Very {material.adjectives[0]}") + _mark(plan)
    else:
        text = _prose(material, plan, wanted)
    return None if text is None else _wrap(_case(text, plan), plan)


def _mark(plan: dict[str, Args]) -> str:
    return "?" if "question" in plan else "!" if "exclamation" in plan else "."


def _json(material: Material, keys: Sequence[str], wanted: Sequence[str], lower: bool) -> str:
    values = [*wanted, *material.adjectives][: len(keys)]
    return json.dumps({key: value if lower else value.capitalize() for key, value in zip(keys, values, strict=True)})


def _items(things: Sequence[str], count: int, wanted: Sequence[str]) -> list[str]:
    """`count` things, the wanted ones in the last places."""
    others = [thing for thing in things if thing not in wanted]
    return [*others[: count - len(wanted)], *wanted]


def _list(shape: str, items: Sequence[str]) -> str:
    if shape == "comma_list":
        return ", ".join(items).capitalize()
    return "\n".join(
        f"{f'{i}.' if shape == 'numbered' else '-'} {item.capitalize()}" for i, item in enumerate(items, start=1)
    )


def _prose(material: Material, plan: dict[str, Args], wanted: Sequence[str]) -> str | None:
    """One or more sentences: a lead-in, a subject, a predicate."""
    lead = [plan["begins"]["word"].lower()] if "begins" in plan else []
    if "repeats" in plan:
        lead = [plan["repeats"]["word"]] * plan["repeats"]["count"]
    closing = [plan["closing"]["sentence"]] if "closing" in plan else []
    count = plan.get("sentences", {"count": 1 + len(closing)})["count"] - len(closing)
    length = plan["words"]["count"] - len(lead) if "words" in plan else None
    clauses = [
        clause for clause in _clauses(material, wanted) if length is None or len(" ".join(clause).split()) == length
    ]
    if count < 1 or not clauses:
        return None
    first = clauses[0]
    said = {"both", *material.adjectives} & {"both", *first[1].split()}  # sentences that follow bring new adjectives
    later = [
        (material.topic.pronoun, text)
        for text in material.predicates
        if text != first[1] and not said & set(text.split())
    ]
    texts = []
    for i, (subject, predicate) in enumerate([first, *later][:count]):
        asks = "question" in plan and i == count - 1
        clause = f"is {subject} {predicate.removeprefix('is ')}" if asks else f"{subject} {predicate}"
        sentence = ", ".join([*lead, clause] if i == 0 else [clause])
        texts.append(sentence[0].upper() + sentence[1:] + (_mark(plan) if i == count - 1 else "."))
    return " ".join(texts + closing)


def _clauses(material: Material, wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every (subject, predicate) that mentions the wanted words: the noun as the subject, a thing in the predicate."""
    noun = material.topic.noun
    things = [word for word in wanted if word != noun]
    predicates = [text.format(thing=things[0]) for text in material.predicates_with] if things else material.predicates
    subjects = (f"the {noun}",) if noun in wanted else material.subjects
    return ((subject, predicate) for predicate in predicates for subject in subjects)


def _case(text: str, plan: dict[str, Args]) -> str:
    if "title" in plan:
        return " ".join(word[:1].upper() + word[1:].lower() for word in text.split(" "))
    return text.upper() if "upper" in plan else text.lower() if "lower" in plan else text


def _wrap(text: str, plan: dict[str, Args]) -> str:
    for kind, (opening, closing) in {"quotes": ('"', '"'), "brackets": ("[", "]"), "asterisks": ("*", "*")}.items():
        if kind in plan:
            return f"{opening}{text}{closing}"
    return text
