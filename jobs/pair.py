"""Choose which candidates make a pair: python -m jobs.pair --config FILE [section.key=value ...]"""

from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError


def run(work: Work) -> Outcome:
    """Parts of tables.SELECTED, and of tables.UNPAIRED in unpaired.parquet."""
    raise UserError("stage pair cannot be made yet", "use pairs of your own: data.source=FILE")


if __name__ == "__main__":
    main("pair")
