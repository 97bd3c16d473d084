"""From z = gap - margin to a loss a pair. Each function of LINKS: (z [B], PairBatch, parameters, state) -> [B].

Those of UNARY look at each side by itself: (z_w [B], z_l [B], PairBatch, parameters, state) -> [B], where z is a side's
log-ratio to the reference, scaled. There the gap is z_w - z_l, and no margin applies.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.memories import Reliability
from pipeline.objectives.presets import Values
from pipeline.objectives.state import State


def logistic(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """-log sigmoid(z) (arXiv 2305.18290, eq. 7)."""
    return F.softplus(-z_B)


def smoothed(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """cDPO: the label is right with probability 1 - e (E. Mitchell, "A note on DPO with noisy preferences", 2023)."""
    e = parameters.number("label_smoothing")
    return (1 - e) * F.softplus(-z_B) + e * F.softplus(z_B)


def robust(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """rDPO: unbiased under labels flipped with probability e < 1/2 (arXiv 2403.00409)."""
    e = parameters.number("label_smoothing")
    return ((1 - e) * F.softplus(-z_B) - e * F.softplus(z_B)) / (1 - 2 * e)


def soft(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """cDPO with a label of its own for each pair, p = P(chosen is preferred) (arXiv 2409.06691)."""
    (p_B,) = batch.need("label_confidence")
    return _mixed(z_B, p_B)


def hinge(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """max(0, -z): nothing is asked of a gap that has its margin (RSO, arXiv 2309.06657)."""
    return F.relu(-z_B)


def squared(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """z squared: the margin is a target, not a bound (arXiv 2310.12036, eq. 17)."""
    return z_B.square()


def focal(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """FocalPO: -sigmoid(z)^g log sigmoid(z), less weight on misranked pairs (arXiv 2501.06645)."""
    return torch.exp(-parameters.number("focus") * F.softplus(-z_B)) * F.softplus(-z_B)


def soft_scores(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """MMPO: cDPO with P(chosen is preferred) = sigmoid(steepness (s_w - s_l)), of the scores."""
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    p_B = torch.sigmoid(parameters.number("steepness") * (chosen_B - rejected_B))
    return _mixed(z_B, p_B)


def trusted(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """RE-PO: cDPO with P(the label is right), by its gap and how often its source's labels were; see memories.py."""
    assert isinstance(state.memory, Reliability)  # Objective.gaps looks at it
    return _mixed(z_B, state.memory.of(z_B, batch))


def logistic_or_arctan(z_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """RainbowPO: -log F(z), F the logistic or the Cauchy distribution, as `curve` says (arXiv 2410.04203)."""
    if parameters.word("curve") == "logistic":
        return F.softplus(-z_B)
    # atan2(1, -z) is pi / 2 + atan(z), without the digits that the sum loses where z is far below 0.
    return math.log(math.pi) - torch.atan2(torch.ones_like(z_B), -z_B).log()


def nca(w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """NCA for pairs: -log sigmoid(z_w) - 1/2 log sigmoid(-z_w) - 1/2 log sigmoid(-z_l) (arXiv 2402.05369)."""
    return F.softplus(-w_B) + (F.softplus(w_B) + F.softplus(l_B)) / 2


def apo_zero(w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """1 - sigmoid(z_w) + sigmoid(z_l): chosen up, rejected down (arXiv 2408.06266, eq. 7)."""
    return torch.sigmoid(-w_B) + torch.sigmoid(l_B)


def apo_down(w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """sigmoid(z_w) + 1 - sigmoid(z_w - z_l): both down, rejected further (arXiv 2408.06266, eq. 8)."""
    return torch.sigmoid(w_B) + torch.sigmoid(l_B - w_B)


def bco(w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """BCO: a classifier of z - d, d the mean reward of both sides in the steps before (arXiv 2404.04656)."""
    shift = parameters.number("beta") * ((state.moments and state.moments.mean) or 0.0)
    return F.softplus(shift - w_B) + F.softplus(l_B - shift)


def sppo(w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """SPPO's regression on (P - 1/2) / beta, P the label's confidence: its `sppo_single` (arXiv 2405.00675)."""
    (p_B,) = batch.need("label_confidence")
    target_B = (p_B - 0.5) / parameters.number("beta")
    return ((w_B - target_B).square() + (l_B + target_B).square()) / 2


def sppo_hard(w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """The same with P = 1, twice, as TRL has it."""
    target = 0.5 / parameters.number("beta")
    return (w_B - target).square() + (l_B + target).square()


def calibrated(
    w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State
) -> torch.Tensor:
    """Cal-DPO: l(z_w - z_l), and half of the squared distances of both to +-1 / (2 beta) (arXiv 2412.14516)."""
    return F.softplus(l_B - w_B) + sppo_hard(w_B, l_B, batch, parameters, state) / 2


def kto(w_B: torch.Tensor, l_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """KTO of a pair: L_D (1 - sigmoid(z_w - z)) + L_U (1 - sigmoid(z - z_l)), z the step's KL, scaled (2402.01306)."""
    (kl_B,) = batch.need("step_kl")
    z_B = parameters.number("beta") * kl_B
    desirable, undesirable = parameters.number("desirable_weight"), parameters.number("undesirable_weight")
    return desirable * torch.sigmoid(z_B - w_B) + undesirable * torch.sigmoid(l_B - z_B)


def _mixed(z_B: torch.Tensor, p_B: torch.Tensor) -> torch.Tensor:
    return p_B * F.softplus(-z_B) + (1 - p_B) * F.softplus(z_B)


LINKS: dict[str, Callable[[torch.Tensor, PairBatch, Values, State], torch.Tensor]] = {
    "logistic": logistic,
    "smoothed": smoothed,
    "robust": robust,
    "soft": soft,
    "hinge": hinge,
    "squared": squared,
    "focal": focal,
    "soft-scores": soft_scores,
    "trusted": trusted,
    "logistic-or-arctan": logistic_or_arctan,
}
UNARY: dict[str, Callable[[torch.Tensor, torch.Tensor, PairBatch, Values, State], torch.Tensor]] = {
    "nca": nca,
    "apo-zero": apo_zero,
    "apo-down": apo_down,
    "bco": bco,
    "sppo": sppo,
    "sppo-hard": sppo_hard,
    "calibrated": calibrated,
    "kto": kto,
}
