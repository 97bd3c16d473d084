"""What a user of the mathematics alone needs: `from pipeline.objectives import build, PairBatch`.

Looked up when first used, so that a configuration is checked against the table of presets without importing torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.objectives.batch import Output, PairBatch
    from pipeline.objectives.objective import Objective, build

__all__ = ["Objective", "Output", "PairBatch", "build"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.objectives import batch, objective

    return getattr(batch if name in ("Output", "PairBatch") else objective, name)
