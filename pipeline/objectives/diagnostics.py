"""What a step says of its objective: quantiles of gaps and margins, who pulls, and Theorem 3.1's view of a margin."""

import torch

WEAK = 0.05  # a gradient weight below this hardly moves the policy
QUANTILES = (0.1, 0.5, 0.9)


def effective_noise_rate(shift_B: torch.Tensor, gap_B: torch.Tensor) -> torch.Tensor:
    """The label-noise rate at which robust DPO has the loss of a margin moved by `shift` (arXiv 2506.03690, Thm 3.1).

    To first order in d = shift, with m = gap: rDPO's e / (1 - 2e) = y = -d / (m (1 + exp(m))), so e = y / (1 + 2y).
    NaN where that says nothing: |d| > 0.2 |m|, or e outside [0, 1/2). `gap` is measured from the member's own margin.
    """
    d_B, m_B = shift_B.double(), gap_B.double()
    y_B = -d_B * torch.sigmoid(-m_B) / m_B
    rate_B = y_B / (1 + 2 * y_B)
    valid_B = (d_B.abs() <= 0.2 * m_B.abs()) & (rate_B >= 0) & (rate_B < 0.5)
    return torch.where(valid_B, rate_B, torch.nan)


def accuracy(gaps_B: torch.Tensor) -> torch.Tensor:
    """1 where the chosen side is ahead, 0 where it is behind, and at a gap of exactly 0 one half, as a coin would."""
    return (gaps_B.double().sign() + 1) / 2


def diagnose(
    gaps_B: torch.Tensor, margins_B: torch.Tensor, shifts_B: torch.Tensor, weights_B: torch.Tensor
) -> dict[str, float | None]:
    """Figures of a step's preference pairs; None for all where there are none, for the noise rate without gamma-PO."""
    figures: dict[str, float | None] = {
        "accuracy": _mean(accuracy(gaps_B)),
        "gap": _mean(gaps_B),
        "margin": _mean(margins_B),
        "weight": _mean(weights_B),
        "weak_share": _mean((weights_B < WEAK).double()),
    }
    shares = torch.tensor(QUANTILES, dtype=torch.float64, device=gaps_B.device)
    for name, values_B in (("gap", gaps_B), ("margin", margins_B)):
        at = torch.quantile(values_B.double(), shares).tolist() if len(values_B) else [None] * len(shares)
        figures |= {f"{name}_q{round(100 * share)}": value for share, value in zip(QUANTILES, at, strict=True)}
    moved = len(shifts_B) > 0 and bool((shifts_B != 0).any())
    rates_B = effective_noise_rate(shifts_B, gaps_B - (margins_B - shifts_B)) if moved else shifts_B[:0]
    figures["noise_rate"] = _mean(rates_B[~rates_B.isnan()])
    figures["noise_rate_null"] = _mean(rates_B.isnan().double())
    return figures


def _mean(values: torch.Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
