"""What the tests of plans share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.settings.config import RunConfig


@pytest.fixture
def plan(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """The plan of a small MixDPO run, with some settings of some sections changed."""
    monkeypatch.chdir(tmp_path)  # where a changed root is made

    def make(**sections: dict[str, Any]) -> Plan:
        base: dict[str, dict[str, Any]] = {
            "model": {"source": str(tiny_model("Llama"))},
            "sample": {},
            "rate": {},
            "pair": {},
            "bridge": {},
            "weigh": {},
            "data": {},
            "schedule": {},
            "objective": {"name": "mixdpo", "preference": "gamma-dpo"},
            "train": {},
            "generate": {},
            "judge": {},
            "features": {},
            "reference": {},
            "resources": {"root": str(tmp_path / "runs")},
        }
        if sections.get("objective", {}).get("name", "mixdpo") != "mixdpo":
            base["objective"] = {}  # another has other parameters
        raw = {name: settings | sections.get(name, {}) for name, settings in base.items()}
        return make_plan(RunConfig.model_validate(raw | {"streams": sections.get("streams", {})}))

    return make
