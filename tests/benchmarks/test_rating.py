"""benchmarks.rating on a tiny model: both sides do the work that is compared; how fast is not asked."""

from pathlib import Path

from benchmarks import rating, side_ours
from benchmarks.scale_prepare import write_model, write_rows


def test_both_sides_are_told_enough_to_score_and_rate_every_pair(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    write_rows(tmp_path / "pairs.jsonl", 3)
    folder = tmp_path / "reward"
    folder.mkdir()
    job = rating.job_of(tmp_path / "model", tmp_path / "pairs.jsonl", 2, 1, 1, str(folder))
    rating.make_reward_model(job)
    rated, scored = rating.rate(job), side_ours.run(job)
    assert rated["unrated"] == 0 and list(map(len, scored["logps"])) == [2, 2, 2]
    assert rated["seconds"] > 0 and scored["seconds"] > 0
