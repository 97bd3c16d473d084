"""Which tokens of two completions differ: what an alignment of the one with the other replaces, inserts or deletes."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def changed(chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Of each completion's tokens whether it is changed. Exchanging the completions exchanges the answers.

    Without difflib's autojunk, by which a token that is frequent in a long completion matches nothing at first. Takes
    time that grows with the product of both lengths, where they are much alike.
    """
    sides = [*chosen_ids], [*rejected_ids]
    first, second = sorted(sides)  # the matcher prefers early matches in its first argument
    differs = [True] * len(first), [True] * len(second)
    for one, other, length in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
        differs[0][one : one + length] = differs[1][other : other + length] = [False] * length
    return differs if first == sides[0] else differs[::-1]
