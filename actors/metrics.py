"""What Prometheus finds at a node's metrics endpoint, as ray_NAME: what stages do, from where they do it.

What is counted before Ray is there waits for it. A process reports every ten seconds (metrics_report_interval_ms of
Ray's). What is counted stays with its node; a gauge goes soon after the process that set it.
"""

import sys
from collections.abc import Mapping
from typing import Any

STEP_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0)
# Name: kind, tags, what it is.
METRICS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "widemargin_stage_tokens": ("Counter", ("stage",), "Tokens that a stage has gone through"),
    "widemargin_stage_pairs": ("Counter", ("stage",), "Pairs of a stage that are done; where it has none, its rows"),
    "widemargin_dropped_rows": ("Counter", ("reason",), "Rows of the data that are no pairs, by reason"),
    "widemargin_step_seconds": ("Histogram", (), "Seconds of an optimiser step"),
    "widemargin_step": ("Gauge", (), "Optimiser steps done"),
    "widemargin_loss": ("Gauge", (), "Mean loss of the newest step"),
    "widemargin_gap": ("Gauge", (), "Mean scaled reward gap of the newest step's preference pairs"),
}
_RECORD = {"Counter": "inc", "Gauge": "set", "Histogram": "observe"}

_waiting: list[tuple[str, float, dict[str, str]]] = []
_open: dict[str, Any] = {}


def record(name: str, value: float | None, **tags: str) -> None:
    """Count, set or observe, by the metric's kind. Nothing where there is no value."""
    if value is None or (METRICS[name][0] == "Counter" and not value):
        return
    _waiting.append((name, float(value), tags))
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        report()


def report() -> None:
    """Hand to Ray what waits; it must be there."""
    while _waiting:
        name, value, tags = _waiting.pop(0)
        if name not in _open:
            _open[name] = _opened(name)
        getattr(_open[name], _RECORD[METRICS[name][0]])(value, tags=tags)


def _opened(name: str) -> Any:
    from ray.util import metrics

    kind, tags, about = METRICS[name]
    more = {"boundaries": list(STEP_SECONDS)} if kind == "Histogram" else {}
    return getattr(metrics, kind)(name, description=about, tag_keys=tags, **more)


def stepped(step: Mapping[str, Any]) -> None:
    """A row of tables.STEPS, by the first train worker."""
    record("widemargin_stage_tokens", step["tokens"], stage="train")
    record("widemargin_stage_pairs", step["preference_pairs"] + step["sft_pairs"], stage="train")
    record("widemargin_step_seconds", step["seconds"])
    record("widemargin_step", step["step"] + 1)
    record("widemargin_loss", step["loss"])
    record("widemargin_gap", step["gap"])


def made(stage: str, rows: float, tokens: float) -> None:
    """A part of a stage's result."""
    record("widemargin_stage_pairs", rows, stage=stage)
    record("widemargin_stage_tokens", tokens, stage=stage)


def dropped(reasons: Mapping[str, int]) -> None:
    for reason, count in reasons.items():
        record("widemargin_dropped_rows", count, reason=reason)
