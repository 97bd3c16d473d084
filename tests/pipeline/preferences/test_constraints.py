import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preferences.constraints import KINDS, Constraint, met, share_met

# kind, arguments, texts that meet it, texts that do not
CASES = [
    (
        "words",
        {"count": 3},
        ["It is calm.", "  It's  very calm \n", "- it is calm"],
        ["It is very calm.", "calm", "a - b"],
    ),
    ("one_word", {}, ["Calm", "*calm!*", " 7 "], ["Very calm", "...", "!"]),
    (
        "sentences",
        {"count": 2},
        ["It is calm. Is it?", '"A b. C d!"', "One.\nTwo.", "It cost 1.5 pounds. Wow."],
        ["It is calm. Is it", "A b.", "A. B. C."],
    ),
    (
        "bullets",
        {"count": 2},
        ["- a\n- b", "- a b\n\n  - c\n"],
        ["- a", "- a\n- b\n- c", "Here:\n- a\n- b", "* a\n* b", "- a\n-"],
    ),
    (
        "numbered",
        {"count": 2},
        ["1. a\n2. b", "1) a\n2) b"],
        ["1. a\n3. b", "1. a", "1. a 2. b", "- a\n- b", "2. a\n1. b"],
    ),
    (
        "comma_list",
        {"count": 3},
        ["a, b, c", "[Red roofs, old, b.]", "a,b,c"],
        ["a, b", "a, b, c, d", "a, b,", "a\nb, c, d", "a, b, c!"],
    ),
    (
        "json",
        {"keys": ["a", "b"]},
        ['{"b": 1, "a": "x"}', ' {"a": [], "b": {}}\n'],
        ['{"a": 1}', '["a", "b"]', "{'a': 1, 'b': 2}", '{"a": 1, "b": 2, "c": 3}', 'So: {"a": 1, "b": 2}'],
    ),
    ("lower", {}, ["it is calm.", "été 3"], ["It is calm.", "123", "IT"]),
    ("upper", {}, ["IT IS CALM!", "A 1"], ["IT IS CALm", "42"]),
    ("title", {}, ["It Is Calm.", '"Old (And Grey)"', "- Boats\n- Nets"], ["It is Calm", "IT IS CALM", "it", "A"]),
    ("quotes", {}, ['"Calm."', "“Calm.”", ' "A b" '], ['"a" and "b"', "'calm'", '"calm', '""', '"calm".']),
    ("brackets", {}, ["[calm]"], ["[a] [b]", "(calm)", "[]", "[calm].", "[[calm]]"]),
    ("asterisks", {}, ["*calm*"], ["**calm**", "* calm", "*a* *b*"]),
    ("question", {}, ["Is it?", "Is it calm? \n"], ["It is.", "Is it? Yes.", '"Is it?"', "?"]),
    ("exclamation", {}, ["Calm!"], ["Calm.", "Calm! Yes", "!"]),
    (
        "closing",
        {"sentence": "The end."},
        ["It is calm. The end.", "The end.\n"],
        ["The end. Yes.", "It is calm. the end.", "The end"],
    ),
    (
        "begins",
        {"word": "Today"},
        ["Today, it is calm.", '"today it is"', "- TODAY"],
        ["It is calm today.", "Todays", "It"],
    ),
    (
        "repeats",
        {"word": "wow", "count": 2},
        ["Wow, wow, calm.", "wow it is WOW"],
        ["wow", "wow wow wow", "wowwow wow"],
    ),
    ("contains", {"word": "sea"}, ["The sea is calm", "SEA!"], ["The seal", "seas", "calm"]),
    ("excludes", {"word": "sea"}, ["The seal", "calm"], ["The sea is calm", "SEA!"]),
]


def test_every_kind_has_cases():
    assert {case[0] for case in CASES} == set(KINDS)


@pytest.mark.parametrize(("kind", "args", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_rules_by_hand(kind, args, good, bad):
    constraint = Constraint(kind, args)
    assert [text for text in good if not met(constraint, text)] == []
    assert [text for text in bad if met(constraint, text)] == []


@pytest.mark.parametrize(("kind", "args"), [case[:2] for case in CASES], ids=[case[0] for case in CASES])
@given(text=st.text(alphabet=st.sampled_from(" \n\t.,!?-*\"[]{}'"), max_size=12))
def test_a_text_without_a_word_meets_nothing(kind, args, text):
    assert not met(Constraint(kind, args), text)


@given(text=st.text(alphabet='aB1 .,!?-*"[]{}:\n', max_size=30))
def test_antagonists_are_never_met_together(text):
    def count(*kinds):
        return sum(met(Constraint(kind, {}), text) for kind in kinds)

    assert count("lower", "upper", "title") <= 1
    assert count("quotes", "brackets", "asterisks", "question", "exclamation") <= 1
    lists = [Constraint(kind, {"count": n}) for kind in ("bullets", "numbered") for n in (2, 3, 4)]
    assert sum(met(constraint, text) for constraint in lists) <= 1


def test_share_met_counts_constraints():
    constraints = [Constraint("lower", {}), Constraint("words", {"count": 2}), Constraint("question", {})]
    assert share_met(constraints, "very calm") == 2 / 3
    assert share_met(constraints, "") == 0


def test_json_and_back():
    constraint = Constraint("json", {"keys": ["a", "b"]})
    assert Constraint.from_json(constraint.to_json()) == constraint
