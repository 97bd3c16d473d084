"""Give every candidate a score: python -m jobs.rate --config FILE [section.key=value ...]"""

from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError


def run(work: Work) -> Outcome:
    """Parts of tables.SCORES, by one rater."""
    raise UserError("stage rate cannot be made yet", "use pairs of your own: data.source=FILE")


if __name__ == "__main__":
    main("rate")
