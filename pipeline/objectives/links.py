"""From z = gap - margin to a loss a pair. Each function: (z [B], parameters) -> [B]."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F


def logistic(z_B: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
    """-log sigmoid(z); with label_smoothing e, (1 - e) of it and e of its mirror image (conservative DPO)."""
    smoothing = parameters.get("label_smoothing", 0.0)
    return (1 - smoothing) * F.softplus(-z_B) + smoothing * F.softplus(z_B)


LINKS: dict[str, Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]] = {"logistic": logistic}
