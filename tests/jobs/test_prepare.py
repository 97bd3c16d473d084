"""Rows lost: how many may be, to the row."""

from pathlib import Path

import pytest

from jobs.prepare import refuse_losses
from pipeline.errors import UserError
from pipeline.settings.config import Data


@pytest.mark.parametrize(("read", "dropped", "share"), [(100, 5, 0.05), (100, 29, 0.29), (20, 1, 0.05), (3, 0, 0.0)])
def test_as_many_may_be_dropped_as_is_written(read: int, dropped: int, share: float) -> None:
    data = Data(source="x.jsonl", max_dropped=share)
    refuse_losses(data, {"read": read, "kept": read - dropped, "dropped": {}}, Path("x"))
    with pytest.raises(UserError, match=f"{dropped + 1} of {read} rows were dropped"):
        refuse_losses(data, {"read": read, "kept": read - dropped - 1, "dropped": {}}, Path("x"))
