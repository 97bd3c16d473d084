"""What is counted before Ray is there; what nodes show of it afterwards is in tests/e2e/test_nodes.py."""

import pytest

from actors import metrics


def test_what_is_counted_before_ray_is_there_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_waiting", [])
    metrics.dropped({"seam": 2, "no-rejected": 0})
    metrics.made("prepare", 10, 0)
    metrics.stepped(
        {"step": 4, "loss": 0.5, "gap": None, "tokens": 7, "seconds": 0.25, "preference_pairs": 3, "sft_pairs": 1}
    )
    assert metrics._waiting == [
        ("widemargin_dropped_rows", 2.0, {"reason": "seam"}),
        ("widemargin_stage_pairs", 10.0, {"stage": "prepare"}),
        ("widemargin_stage_tokens", 7.0, {"stage": "train"}),
        ("widemargin_stage_pairs", 4.0, {"stage": "train"}),
        ("widemargin_step_seconds", 0.25, {}),
        ("widemargin_step", 5.0, {}),
        ("widemargin_loss", 0.5, {}),
    ]
