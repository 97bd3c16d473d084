"""What of a model's generation_config.json is written beside the model that is trained from it. Needs no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.compute.limits import read_json

FILE = "generation_config.json"

# Values without effect where nothing is sampled, or there are no beams, and what they may be even so: transformers
# refuses to save others.
_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0}
_SAMPLING |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
_BEAMS = {"early_stopping": False, "length_penalty": 1.0}
_DEFAULTS: Mapping[str, Any] = {**_SAMPLING, **_BEAMS, "do_sample": False, "num_beams": 1}
# The ends are in the model's digest, and extended by the template's in the export; the rest is of whoever saved it.
_ASIDE = ("eos_token_id", "transformers_version", "_from_model_config")


def idle(values: Mapping[str, Any]) -> list[str]:
    """The names of values that have no effect, and that transformers would save none of it with."""
    neutral = ({} if values.get("do_sample") else _SAMPLING) | ({} if (values.get("num_beams") or 1) > 1 else _BEAMS)
    return [name for name, plain in neutral.items() if values.get(name) not in (None, plain)]


def exported(folder: Path) -> str:
    """What the export takes over from a model's generation_config.json beside the ends, as JSON; empty for nothing.

    Two files that mean the same are one: without a value, or with the one that stands for none.
    """
    values = read_json(folder / FILE)
    aside = {*_ASIDE, *idle(values)}
    kept = {
        name: value
        for name, value in values.items()
        if name not in aside and value is not None and (name not in _DEFAULTS or value != _DEFAULTS[name])
    }
    return json.dumps(kept, sort_keys=True) if kept else ""
