"""Sample the model's own answers to prompts: python -m jobs.sample --config FILE [section.key=value ...]"""

from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError


def run(work: Work) -> Outcome:
    """Parts of tables.CANDIDATES."""
    raise UserError("stage sample cannot be made yet", "use pairs of your own: data.source=FILE")


if __name__ == "__main__":
    main("sample")
