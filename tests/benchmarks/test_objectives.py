"""benchmarks.objectives on a tiny model: rows of every kind take their steps; how fast is not asked."""

from benchmarks.objectives import ROWS, run
from pipeline.objectives.presets import PRESETS

MODEL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}


def test_rows_of_every_kind_take_steps_beside_dpo() -> None:
    kinds = ["dpo", "wpo", "kto", "tis-dpo", "bmc", "fpo", "mixdpo", "bvpo, least-error", "gamma-dpo, solver=paper"]
    asked = {tuple(preset.needs) for preset in PRESETS.values() if preset.needs and set(preset.needs) - {"scores"}}
    assert asked - {("label_confidence",), ("sources",)} <= {tuple(PRESETS[ROWS[name]["name"]].needs) for name in kinds}
    job = {"model": MODEL, "rows": kinds, "steps": 1, "batch": 4, "tokens": [3, 4, 5]}
    ratios = run(job)["ratios"]
    assert list(ratios) == kinds and all(ratio > 0 for ratio in ratios.values())
