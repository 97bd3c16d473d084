"""Target margins: what a gap must exceed. Each function: (gaps [B], parameters, state) -> [B], never differentiated.

A new margin is a function here, a name in MARGINS and a row in presets.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipeline.objectives.gamma import GammaState, NoState

State = GammaState | NoState


def none(gaps_B: torch.Tensor, parameters: Mapping[str, Any], state: State) -> torch.Tensor:
    return torch.zeros_like(gaps_B)


def constant(gaps_B: torch.Tensor, parameters: Mapping[str, Any], state: State) -> torch.Tensor:
    """SimPO's gamma (arXiv 2405.14734, eq. 6)."""
    return torch.full_like(gaps_B, parameters["gamma0"])


def gamma(gaps_B: torch.Tensor, parameters: Mapping[str, Any], state: State) -> torch.Tensor:
    """gamma_i of gamma-PO (arXiv 2506.03690)."""
    assert isinstance(state, GammaState)
    return state.margins(gaps_B)


def gamma_centred(gaps_B: torch.Tensor, parameters: Mapping[str, Any], state: State) -> torch.Tensor:
    """gamma_i - gamma0, for objectives whose own margin is 0: it averages to zero."""
    return gamma(gaps_B, parameters, state) - parameters["gamma0"]


MARGINS: dict[str, Callable[[torch.Tensor, Mapping[str, Any], State], torch.Tensor]] = {
    "none": none,
    "constant": constant,
    "gamma": gamma,
    "gamma-centred": gamma_centred,
}
STATEFUL = {"gamma", "gamma-centred"}
