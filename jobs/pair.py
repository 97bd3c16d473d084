"""Choose which candidates make a pair: python -m jobs.pair --config FILE [section.key=value ...]"""

from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError
from pipeline.settings.onpolicy import Pair

OPENED = {"sample": ("part-*",), "rate": ("part-*",)}


def run(work: Work) -> Outcome:
    """A table of pairs, and one of the prompts that have none, with the reason."""
    from pipeline.onpolicy.choosing_blocks import NONE, PAIRS, pair_all

    candidates = sorted(work.inputs["candidates"].path.glob("part-*.parquet"))
    raters = [role for role in work.inputs if role != "candidates"]
    scores = [sorted(work.inputs[role].path.glob("part-*.parquet")) for role in raters]
    pair = Pair(**work.config.pair.read_of(work.config.sample))
    doing("pairing answers")
    counts = pair_all(candidates, scores, work.config.rate, pair, work.folder)
    reasons = dict(counts.reasons.most_common())
    if not counts.pairs:
        raise UserError(
            f"pair.rule={pair.rule}: none of {counts.prompts} prompts has a pair: {reasons}",
            "sample more answers or hotter (sample.n, sample.temperature), or loosen what pair says of their reason",
        )
    say(f"pair: {counts.pairs} pairs of {counts.paired} prompts; {counts.reasons.total()} have none: {reasons}")
    found = {"candidates": counts.candidates, "different": counts.different, "cut": counts.cut}
    metrics = {**found, "unrated": counts.unrated, "bins": dict(counts.bins)}
    ledger = {"prompts": counts.prompts, "paired": counts.paired, "unpaired": reasons}
    ledger |= {"pairs": counts.pairs, "beyond_cap": counts.beyond_cap}
    return Outcome({PAIRS: counts.pairs, NONE: counts.reasons.total()}, metrics=metrics, ledger=ledger)


if __name__ == "__main__":
    main("pair")
