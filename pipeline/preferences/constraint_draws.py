"""Drawing constraints: which kinds go together, which arguments they take, and which neighbours a constraint has."""

from collections import Counter
from random import Random

from pipeline.preferences.constraints import KINDS, Args, Constraint
from pipeline.preferences.topics import CALLS, CLOSINGS, KEYS, OPENERS, Topic

COUNTS = {
    "words": (3, 7),
    "sentences": (2, 3),
    "bullets": (2, 4),
    "numbered": (2, 4),
    "comma_list": (3, 5),
    "repeats": (2, 3),
}

LEEWAY = 4  # how many uses a kind may be ahead of the rarest one

SHAPES = {"words", "one_word", "sentences", "bullets", "numbered", "comma_list", "json"}
CASES = {"lower", "upper", "title"}
WRAPS = {"quotes", "brackets", "asterisks"}
ENDS = {"question", "exclamation", "closing"}
LEADS = {"begins", "repeats"}

# Kinds that one natural answer cannot meet together, or that would make a task no person would set.
_APART: dict[str, set[str]] = {
    "words": {"closing", "repeats"},
    "one_word": {"closing", "contains"} | LEADS,
    "bullets": WRAPS | ENDS | LEADS,
    "numbered": WRAPS | ENDS | LEADS,
    "comma_list": ENDS | LEADS,
    "json": WRAPS | ENDS | LEADS | {"upper", "title"},
    "closing": CASES,
    **{kind: ENDS for kind in WRAPS},
}


# The kinds a constraint may turn into when it is to be broken; where none are named, its own kind with other arguments.
_NEIGHBOURS: dict[str, tuple[str | None, ...]] = {
    "one_word": ("words",),
    "bullets": ("bullets", "numbered"),
    "numbered": ("numbered", "bullets"),
    # capitals cost more tokens and are twice as likely here: length must not tell chosen from rejected
    "lower": ("upper", "upper", "title", None),
    "upper": ("lower", "title", None),
    "title": ("upper", "upper", "lower", None),
    "quotes": ("brackets", "asterisks", None),
    "brackets": ("quotes", "asterisks", None),
    "asterisks": ("quotes", "brackets", None),
    "question": ("exclamation", None),
    "exclamation": (None,),
    "closing": ("closing", "closing", None),
    "begins": ("begins", "begins", None),
    "contains": ("contains", "contains", None),
    "excludes": ("contains",),
}


def compatible(a: str, b: str) -> bool:
    """Whether constraints of the two kinds may stand in one task."""
    same_group = any({a, b} <= group for group in (SHAPES, CASES, WRAPS | ENDS, LEADS))
    return a != b and not same_group and b not in _APART.get(a, ()) and a not in _APART.get(b, ())


def draw_kinds(usage: Counter[str], rng: Random) -> list[str]:
    """One to four kinds that go together, about two on average.

    `usage` counts the kinds so far. The rare ones come first and none runs far ahead, so all stay equally frequent.
    """
    size = rng.choices((1, 2, 3, 4), weights=(25, 42, 23, 10))[0]
    limit = min(usage[kind] for kind in KINDS) + LEEWAY
    kinds: list[str] = []
    while len(kinds) < size:
        fitting = [kind for kind in KINDS if usage[kind] < limit and all(compatible(kind, other) for other in kinds)]
        if not fitting:
            break
        rarest = sorted(fitting, key=lambda kind: (usage[kind], rng.random()))[:3]
        kinds.append(rng.choice(rarest))
    return kinds


def draw_args(kind: str, topic: Topic, split: str, rng: Random) -> Args:
    if kind in COUNTS:
        count = {"count": rng.randint(*COUNTS[kind])}
        return {"word": rng.choice(CALLS[split]), **count} if kind == "repeats" else count
    match kind:
        case "json":
            return {"keys": rng.sample(KEYS[split], 2)}
        case "closing":
            return {"sentence": rng.choice(CLOSINGS[split])}
        case "begins":
            return {"word": rng.choice(OPENERS[split])}
        case "contains":
            return {"word": rng.choice(topic.things)}
        case "excludes":
            return {"word": topic.noun}
    return {}


def neighbour(constraint: Constraint, topic: Topic, split: str, rng: Random) -> Constraint | None:
    """What may stand in the place of a constraint to break it by a small edit; None is to drop it."""
    kind = rng.choice(_NEIGHBOURS.get(constraint.kind, (constraint.kind,)))
    if kind is None:
        return None
    if constraint.kind == "one_word":
        return Constraint("words", {"count": 2})
    if kind != constraint.kind:
        return Constraint(kind, constraint.args)
    if kind in COUNTS:
        return Constraint(kind, constraint.args | {"count": constraint.args["count"] + rng.choice((-1, 1))})
    if kind == "json":
        return Constraint(kind, {"keys": [constraint.args["keys"][0], rng.choice(KEYS[split])]})
    return Constraint(kind, draw_args(kind, topic, split, rng))
