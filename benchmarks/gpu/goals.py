"""What the figures say of the goals of docs/performance.md, a row each; what is not there is "not measured"."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Figures = Sequence[dict[str, Any]]
UNKNOWN = "not measured"


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def table(figures: Figures) -> str:
    """Goals and what was measured, as a Markdown table, headed by the GPU."""
    gpu = next((row["gpu"] for row in figures if "gpu" in row), "no GPU: a rehearsal, whose figures say nothing")
    rows = [f"| {goal} | {wanted} | {_found(measure, figures)} |" for goal, wanted, measure in GOALS]
    return "\n".join((f"| {gpu} | goal | measured |", "|---|---|---|", *rows))


def _found(measure: Callable[[Figures], str], figures: Figures) -> str:
    try:
        return measure(figures)
    except LookupError:
        return UNKNOWN


def _of(figures: Figures, **wanted: Any) -> list[dict[str, Any]]:
    """The figures that did not fail and have these values. Raises LookupError where there are none."""
    known = [row for row in figures if "failed" not in row]
    if found := [row for row in known if all(row.get(name) == value for name, value in wanted.items())]:
        return found
    raise LookupError(wanted)


def _peak(figures: Figures) -> float:
    """The fastest bfloat16 product, TFLOP/s."""
    return max(row["tflops"] for row in _of(figures, part="machine", dtype="bfloat16"))


def agreement(figures: Figures, dtype: str) -> str:
    """The worst family; in bfloat16 as a multiple of eager's own error."""
    rows = _of(figures, part="agree", dtype=dtype)
    kinds = ("packed", "chunks", "checkpointed")

    def worst(row: dict[str, Any]) -> float:
        found = max(row[f"{kind}_gradient"] for kind in kinds if f"{kind}_gradient" in row)
        return float(found if dtype == "float32" else found / row["eager_gradient"])

    row = max(rows, key=worst)
    return f"{worst(row):.2g} ({row['family']}; {len(rows)} families)"


def utilisation(figures: Figures, shape: str, again: bool) -> str:
    """Model FLOP/s of the best budget over the measured peak; of 8B with its 32 layers by the slope over layers."""
    rows = _of(figures, part=shape, checkpointed=again, lora=False)
    if shape == "8b":
        few, many = (_of(rows, layers=layers)[0] for layers in (2, 6))
        rest = (32 - few["layers"]) / (many["layers"] - few["layers"])
        seconds, flops = (few[name] + rest * (many[name] - few[name]) for name in ("seconds", "model_tflop_a_step"))
        return f"{flops / seconds / _peak(figures):.2f}"
    row = max(rows, key=lambda row: row["model_tflops"])
    return f"{row['model_tflops'] / _peak(figures):.2f} (packs of {row['budget']:,})"


def against_padded(figures: Figures) -> str:
    ours, *peers = (_of(figures, part="padded", side=side)[0] for side in _SIDES)
    best = max(peers, key=lambda row: row["pairs_a_second"])
    memory = f", {ours['peak_gib'] / best['peak_gib']:.2f} of its memory" if ours["peak_gib"] else ""
    return f"{ours['pairs_a_second'] / best['pairs_a_second']:.2f} times the pairs/s{memory} ({best['side']})"


_SIDES = ("ours", "padded, 2 pairs at once", "padded, 8 pairs at once")


def reference_pass(figures: Figures) -> str:
    row = _of(figures, part="8b", what="reference pass")[0]
    return f"{row['useful_tflops'] / _peak(figures):.2f}"


def busy(figures: Figures) -> str:
    return f"{_of(figures, part='pieces', piece='profiled step')[0]['busy_share']:.2f}"


GOALS: tuple[tuple[str, str, Callable[[Figures], str]], ...] = (
    ("gradients, 15 families, float32: ‖Δ‖/‖g‖", "< 1e-4", lambda f: agreement(f, "float32")),
    ("the same in bfloat16, over eager's own error", "≤ 1.5", lambda f: agreement(f, "bfloat16")),
    ("8B shape, train step, bfloat16, MFU", "≥ 0.55", lambda f: utilisation(f, "8b", False)),
    ("the same, activations computed again", "≥ 0.50", lambda f: utilisation(f, "8b", True)),
    ("1B shape, train step, MFU", "≥ 0.45", lambda f: utilisation(f, "1b", False)),
    ("against padded transformers on the same pairs", "≥ 1.8 times the pairs/s, ≤ 0.6 of its memory", against_padded),
    ("reference pass, 8B, share of peak", "≥ 0.60", reference_pass),
    ("device busy in a profiled step", "≥ 0.95", busy),
)
