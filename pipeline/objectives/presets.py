"""The table of objectives: a method is a row. Imports no torch, so that a configuration is checked at once.

A row names one function of each kind, and the parameters a user may set with their defaults. The functions live in
rewards.py, margins.py and links.py, under the names used here; pipeline/objectives/objective.py composes them into

    loss = link(beta * H - margin)  on pairs routed to preference,    sft_weight * NLL(chosen)  on pairs routed to SFT
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import UserError

Parameters = Mapping[str, float | str]

# What a parameter may be: at least the first number, or more than it where the third says so; less than the second.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "beta": (0, math.inf, True),
    "gamma0": (0, math.inf, False),
    "tau": (0, math.inf, False),
    "label_smoothing": (0, 0.5, False),
    "sft_weight": (0, math.inf, False),
}


@dataclass(frozen=True)
class Preset:
    paper: str
    reward: str = "log-ratio"  # rewards.py
    margin: str = "none"  # margins.py
    link: str = "logistic"  # links.py
    parameters: Parameters = field(default_factory=dict)
    order: str = "shuffle"  # what the schedule does unless told otherwise
    routes: bool = False  # whether pairs routed to SFT are taken

    @property
    def needs_reference(self) -> bool:
        return self.reward == "log-ratio"


PRESETS: dict[str, Preset] = {
    # Rafailov et al. 2023, arXiv 2305.18290, eq. 7. beta multiplies the summed log-ratio.
    "dpo": Preset("arXiv 2305.18290", parameters={"beta": 0.1, "label_smoothing": 0.0}),
    # Meng et al. 2024, arXiv 2405.14734, eq. 6. beta multiplies the mean log-prob; gamma0 is the paper's gamma.
    "simpo": Preset("arXiv 2405.14734", reward="mean", margin="constant", parameters={"beta": 2.0, "gamma0": 1.0}),
    # Sun et al. 2025, arXiv 2506.03690 with DPO: the margin is centred, gamma_i - gamma0, so it averages to zero.
    # The authors publish no settings for it; these give margins between about -0.3 and +0.5 once gaps have spread.
    "gamma-dpo": Preset(
        "arXiv 2506.03690",
        margin="gamma-centred",
        parameters={"beta": 0.1, "gamma0": 1.0, "tau": 1.0, "label_smoothing": 0.0},
    ),
    # The same with SimPO; defaults are the authors' for Llama-3-8B-Instruct.
    "gamma-simpo": Preset(
        "arXiv 2506.03690", reward="mean", margin="gamma", parameters={"beta": 10.0, "gamma0": 4.0, "tau": 10.0}
    ),
    # arXiv 2602.00954: easy to hard, the hardest pairs to SFT on the chosen side with weight 1. `preference` is any row
    # above, whose parameters may be set beside it.
    "mixdpo": Preset(
        "arXiv 2602.00954", parameters={"preference": "dpo", "sft_weight": 1.0}, order="easy-to-hard", routes=True
    ),
}


def resolve(name: str, given: Parameters) -> tuple[Preset, dict[str, float | str]]:
    """The preset whose functions are used, and every parameter's value. Raises UserError; see check_parameters."""
    preset = _row(name, "objective.name")
    values = dict(preset.parameters)
    if preset.routes:
        inner = str(given.get("preference", values["preference"]))
        side = _row(inner, "objective.preference")
        if side.routes:
            raise UserError(
                f"objective.preference={inner} itself routes pairs", "choose a preset such as dpo or gamma-dpo"
            )
        preset, values = side, dict(side.parameters) | values
    for key, value in given.items():
        if key not in values:
            near = difflib.get_close_matches(key, values, n=1)
            takes = f"{name} takes {', '.join(sorted(values))}; objective={name} alone drops what the file sets"
            hint = f"did you mean objective.{near[0]}?" if near else takes
            raise UserError(f"objective.{key} is not a parameter of {name}", hint)
        wanted = str if isinstance(values[key], str) else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            problem = f"objective.{key}={value!r} is a {type(value).__name__}"
            raise UserError(problem, f"give a value like {values[key]!r}")
        values[key] = value
    return preset, values


def check_parameters(name: str, given: Mapping[str, Any]) -> None:
    """Raise UserError for an unknown name (the table is listed) or parameter, or a value out of range."""
    _, values = resolve(name, given)
    for key, (low, high, beyond) in _RANGES.items():
        value = float(values.get(key, 0.25))
        if not (low < value < high if beyond else low <= value < high):
            allowed = (f"more than {low}" if beyond else f"{low} or more") + (
                f", below {high}" if high < math.inf else ""
            )
            raise UserError(f"objective.{key}={value:g} is out of range", f"give {allowed}")


def _row(name: str, key: str) -> Preset:
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{key}={name!r} is not an objective", f"{hint}choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
