"""What some objectives ask of tokens: python -m jobs.weigh --config FILE [section.key=value ...]

weigh:base        each token's log-prob under the reference
weigh:positive    the same under a model that was trained on the labels; it is a run of the line, made here first
weigh:negative    the same under one that was trained on the labels the other way round
weigh             a weight for each token, made of what these two say
weigh:mismatched  log-probs of each prompt of a step with an answer to another one, under the reference
"""

import shutil

from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main
from jobs.reference import parts_of, scored
from pipeline.errors import UserError
from pipeline.line.contrast import SIDES

OPENED = {"train": ("model/*",), "prepare": ("part-*",)}
ASKED = "asked"  # a folder of what is scored, where that is no table of another stage


def run(work: Work) -> Outcome:
    """Parts of tables.TOKEN_VALUES, or of tables.REFERENCE for mismatched answers."""
    which = work.step.name.partition(":")[2]
    if which == "mismatched":
        return mismatched(work)
    if not which:
        return weights(work)
    trained = work.inputs["model"].path if "model" in work.inputs else None
    return scored(work, parts_of(work.inputs["pairs"].path), trained=trained, by_token=True)


def weights(work: Work) -> Outcome:
    """A weight for each token of either side."""
    from pipeline.results import tables
    from pipeline.training.weighing import Figures, weigh_part

    schedule = tables.read(work.inputs["schedule"].path, tables.SCHEDULE, ["pair_id", "flipped"])
    flipped = set(schedule.filter(schedule["flipped"])["pair_id"].to_pylist())
    positive, negative = (work.inputs[side].path for side in SIDES)
    rows, figures = {}, Figures()
    for part in sorted(path.name for path in positive.glob("part-*.parquet")):
        doing(f"weighing the tokens of {part}")
        files = positive / part, negative / part, work.folder / part
        rows[part] = weigh_part(*files, flipped, work.config.weigh, figures)
    said = figures.said()
    chosen, rejected = (said["log_ratio"][role] for role in ("chosen", "rejected"))
    say(f"weigh: log pi+ - log pi- of a token is {chosen:.3f} in chosen answers and {rejected:.3f} in rejected ones")
    return Outcome(rows, metrics=said)


def mismatched(work: Work) -> Outcome:
    """Sums of the answers that the schedule's steps compare with, a row a position."""
    from actors.training import EPOCH
    from jobs.common.epoch import joined
    from jobs.common.models import reference_model
    from pipeline.compute.limits import positions, read_config
    from pipeline.training.epoch import Epoch
    from pipeline.training.join import join
    from pipeline.training.mismatched import write_asked

    doing("joining pairs, reference and schedule")
    config, asked, epoch = work.config, work.folder / ASKED, work.folder / EPOCH
    shutil.rmtree(asked, ignore_errors=True)
    join(**joined(work), folder=epoch)
    limit = positions(read_config(reference_model(work.plan)))
    counts = write_asked(Epoch(epoch, config.train.batch_size), asked, config.data.shard_pairs, limit)
    if not counts["asked"]:
        problem = f"no pair can be compared with another one of its step: {dict(counts)}"
        raise UserError(problem, "raise train.batch_size, or choose another objective, such as apo-zero")
    if left := {reason: count for reason, count in counts.items() if reason != "asked"}:
        say(f"{work.step.name}: {sum(left.values())} pairs are compared with no other: {left}")
    outcome = scored(work, parts_of(asked))
    shutil.rmtree(asked)
    shutil.rmtree(epoch)
    outcome.ledger = {"compared": counts["asked"], "left_out": left}
    return outcome


if __name__ == "__main__":
    main("weigh")
