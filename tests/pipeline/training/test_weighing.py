"""Token weights of a part of pairs: each side as it is trained, and what is said of all of them."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.settings.weigh import Weigh
from pipeline.training.weighing import Figures, weigh_part

# log pi+ and log pi- of two pairs; the tokens' log-ratios are 1, 0, -1 and 0.5, -0.5 of either.
ROWS = {"positive": ([-1.0, -2.0, -3.0], [-1.0, -1.5]), "negative": ([-2.0, -2.0, -2.0], [-1.5, -1.0])}


def written(folder: Path, digests: dict[str, str] | None = None, **rows: Any) -> list[Path]:
    files = []
    for side, (chosen, rejected) in (ROWS | rows).items():
        (folder / side).mkdir()
        files.append(folder / side / "part-00000.parquet")
        digest = (digests or {}).get(side, "same")
        row = {"tokens_digest": digest, "chosen": chosen, "rejected": rejected}
        tables.write([{"pair_id": pair} | row for pair in "ab"], tables.TOKEN_VALUES, files[-1])
    return files


def test_a_flipped_pairs_sides_are_weighed_as_what_they_are_trained_as(tmp_path: Path) -> None:
    figures, to = Figures(), tmp_path / "part-00000.parquet"
    positive, negative = written(tmp_path)
    assert weigh_part(positive, negative, to, {"b"}, Weigh(), figures) == 2
    a, b = tables.read(tmp_path, tables.TOKEN_VALUES).to_pylist()
    assert a["chosen"] == pytest.approx([1.3, 1.0, 0.7]) and a["rejected"] == pytest.approx([0.7, 1.3])
    assert b["chosen"] == pytest.approx([0.7, 1.0, 1.3]) and b["rejected"] == pytest.approx([1.3, 0.7])
    assert (a["pair_id"], a["tokens_digest"]) == ("a", "same")
    said = figures.said()
    assert said["weight"] == pytest.approx({"chosen": 1.0, "rejected": 1.0})
    assert said["log_ratio"] == pytest.approx({"chosen": 0.0, "rejected": 0.0})
    assert (said["least"], said["largest"]) == pytest.approx((0.7, 1.3))


def test_the_settings_are_those_of_the_section(tmp_path: Path) -> None:
    given = Weigh(transform="published", clip=(-1, 0.5))
    positive, negative = written(tmp_path)
    weigh_part(positive, negative, tmp_path / "part-00000.parquet", set(), given, Figures())
    a, _ = tables.read(tmp_path, tables.TOKEN_VALUES).to_pylist()
    assert a["chosen"] == pytest.approx([1.6487213, 1.0, 0.3678794])
    assert a["rejected"] == pytest.approx([0.6065307, 1.6487213])


def test_models_that_have_scored_other_tokens_are_refused(tmp_path: Path) -> None:
    positive, negative = written(tmp_path, {"negative": "another template"})
    with pytest.raises(UserError, match=r"other tokens than each other\n.*--force weigh"):
        weigh_part(positive, negative, tmp_path / "part-00000.parquet", set(), Weigh(), Figures())
    assert not (tmp_path / "part-00000.parquet").exists()
