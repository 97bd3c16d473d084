"""From z = gap - margin to a loss a pair. Each function: (z [B], PairBatch, parameters) -> [B]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.presets import Values


def logistic(z_B: torch.Tensor, batch: PairBatch, parameters: Values) -> torch.Tensor:
    """-log sigmoid(z) (arXiv 2305.18290, eq. 7)."""
    return F.softplus(-z_B)


def smoothed(z_B: torch.Tensor, batch: PairBatch, parameters: Values) -> torch.Tensor:
    """cDPO: the label is right with probability 1 - e (E. Mitchell, "A note on DPO with noisy preferences", 2023)."""
    e = parameters.number("label_smoothing")
    return (1 - e) * F.softplus(-z_B) + e * F.softplus(z_B)


def robust(z_B: torch.Tensor, batch: PairBatch, parameters: Values) -> torch.Tensor:
    """rDPO: unbiased under labels flipped with probability e < 1/2 (arXiv 2403.00409)."""
    e = parameters.number("label_smoothing")
    return ((1 - e) * F.softplus(-z_B) - e * F.softplus(z_B)) / (1 - 2 * e)


def soft(z_B: torch.Tensor, batch: PairBatch, parameters: Values) -> torch.Tensor:
    """cDPO with a label of its own for each pair, p = P(chosen is preferred) (arXiv 2409.06691)."""
    (p_B,) = batch.need("label_confidence")
    return p_B * F.softplus(-z_B) + (1 - p_B) * F.softplus(z_B)


def hinge(z_B: torch.Tensor, batch: PairBatch, parameters: Values) -> torch.Tensor:
    """max(0, -z): nothing is asked of a gap that has its margin (RSO, arXiv 2309.06657)."""
    return F.relu(-z_B)


def squared(z_B: torch.Tensor, batch: PairBatch, parameters: Values) -> torch.Tensor:
    """z squared: the margin is a target, not a bound (arXiv 2310.12036, eq. 17)."""
    return z_B.square()


def focal(z_B: torch.Tensor, batch: PairBatch, parameters: Values) -> torch.Tensor:
    """FocalPO: -sigmoid(z)^g log sigmoid(z), less weight on misranked pairs (arXiv 2501.06645)."""
    return torch.exp(-parameters.number("focus") * F.softplus(-z_B)) * F.softplus(-z_B)


LINKS: dict[str, Callable[[torch.Tensor, PairBatch, Values], torch.Tensor]] = {
    "logistic": logistic,
    "smoothed": smoothed,
    "robust": robust,
    "soft": soft,
    "hinge": hinge,
    "squared": squared,
    "focal": focal,
}
