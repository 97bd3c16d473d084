"""Token weights of a part of pairs, made of what two contrastive models say of its tokens."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.objectives.contrast import token_weights
from pipeline.results import tables
from pipeline.settings.weigh import Weigh

ROLES = ("chosen", "rejected")


@dataclass
class Figures:
    """Sums over all tokens of answers that are trained as chosen, and of those that are trained as rejected."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    ratios: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ROLES, 0.0))  # log pi+ - log pi-
    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ROLES, 0.0))
    least: float = np.inf
    largest: float = -np.inf

    def add(self, role: str, ratio_n: Any, weight_n: Any) -> None:
        self.tokens[role] += len(weight_n)
        self.ratios[role] += float(ratio_n.sum())
        self.weights[role] += float(weight_n.sum())
        self.least = min(self.least, float(weight_n.min()))
        self.largest = max(self.largest, float(weight_n.max()))

    def said(self) -> dict[str, Any]:
        """Means a token by role, and the extremes of weights."""
        means = {
            name: {role: sums[role] / max(1, self.tokens[role]) for role in ROLES}
            for name, sums in (("log_ratio", self.ratios), ("weight", self.weights))
        }
        return {**means, "least": self.least, "largest": self.largest}


def weigh_part(positive: Path, negative: Path, to: Path, flipped: Set[str], settings: Weigh, figures: Figures) -> int:
    """Write the weights of the pairs whose log-probs are in two files of one name; returns how many pairs.

    A side is weighed as what it is trained as: those of the pairs `flipped`, by id, the other way round. Raises
    UserError where the two are not of the same tokens.
    """
    one, other = (tables.read(file.parent, tables.TOKEN_VALUES, pattern=file.name) for file in (positive, negative))
    if not one["tokens_digest"].equals(other["tokens_digest"]):
        problem = f"{positive.name}: the two contrastive models have scored other tokens than each other"
        raise UserError(problem, "make them anew: python -m jobs.run --force weigh")
    return tables.write(_rows(one, other, flipped, settings, figures), tables.TOKEN_VALUES, to)


def _rows(
    positive: pa.Table, negative: pa.Table, flipped: Set[str], settings: Weigh, figures: Figures
) -> Iterator[dict[str, Any]]:
    clip = settings.clip or (0.0, 0.0)  # which ranks have no use for
    for one, other in zip(positive.to_pylist(), negative.to_pylist(), strict=True):
        row = {name: one[name] for name in ("pair_id", "tokens_digest")}
        for side in ROLES:
            role = side if one["pair_id"] not in flipped else ROLES[1 - ROLES.index(side)]
            plus_n, minus_n = np.array(one[side]), np.array(other[side])
            row[side] = token_weights(
                settings.transform, plus_n, minus_n, settings.span, clip, chosen=role == "chosen"
            ).astype(np.float32)
            figures.add(role, plus_n - minus_n, row[side])
        yield row
