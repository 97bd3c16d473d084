"""Have rejected answers rewritten towards chosen ones: python -m jobs.bridge --config FILE [section.key=value ...]"""

from typing import TYPE_CHECKING

from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError

if TYPE_CHECKING:
    from jobs.common.ask_judge import ModelJudge

OPENED = {"pair": ("part-*",)}
LEFT = "unbridged.parquet"


def run(work: Work) -> Outcome:
    """Parts of pairs whose chosen side is an edit, and the pairs that have none, with the reason."""
    from jobs.common.contests import opened
    from jobs.prepare import open_rows, require_same
    from pipeline.onpolicy import bridging
    from pipeline.onpolicy.selected import selected_pairs
    from pipeline.results import tables

    data, settings = work.config.data, work.config.bridge
    doing("reading rows")
    selected = list(work.inputs.values())
    if selected:  # whose rows have no such column
        data = data.model_copy(update={"difficulty_column": None})
    source = selected_pairs([each.path for each in selected]) if selected else open_rows(data)
    require_same(source, work.step.identity["pairs"]["content"], data)
    found = bridging.read_pairs(source, data)
    if not found.edited:
        problem = f"data.source={data.source} holds no train pair that could be edited"
        raise UserError(problem, "give pairs of plain text, or leave bridge out")
    asked = [bridging.request(pair, settings.max_tokens) for _, pair in found.edited]
    (replies,) = opened([editor(work).ask(asked)])
    made = bridging.edits(found, replies, settings.max_growth)
    require_edits(work, made.dropped, len(found.edited))
    parts = {}
    for number, rows in enumerate(tables.parts(made.rows, data.shard_pairs)):
        name = f"part-{number:05d}.parquet"
        parts[name] = tables.write(rows, tables.BRIDGED, work.folder / name)
    tables.write([*found.dropped, *made.dropped], tables.DROPPED, work.folder / LEFT)
    reasons, lost = dict(made.reasons.most_common()), len(made.dropped)
    say(f"bridge: {len(found.edited) - lost} of {len(found.edited)} pairs have an edit; {lost} have none: {reasons}")
    metrics = {"copied": made.copied, "examples": list(bridging.some(made.rows))}
    ledger = {"pairs": len(found.edited), "edited": len(found.edited) - lost, "without_edit": reasons}
    ledger |= {"held_out": len(found.kept), "beyond_limit": found.beyond_limit, "dropped": len(found.dropped)}
    tokens = sum(reply.prompt_tokens + reply.completion_tokens for reply in replies)
    return Outcome(parts, tokens=tokens, metrics=metrics, ledger=ledger)


def editor(work: Work) -> "ModelJudge":
    """Who edits: what has been replied is kept as a judge's is."""
    from jobs.common.ask_judge import AtEndpoint, Here

    settings = work.config.bridge
    if settings.judge is not None:
        return AtEndpoint(work, settings.judge)
    assert settings.local is not None and work.plan.editor is not None
    return Here(work, work.plan.editor, settings.local, "bridge.local")


def require_edits(work: Work, dropped: list[dict[str, str]], asked: int) -> None:
    """Raise UserError, with an example a reason, where more pairs have no edit than the user allows."""
    if len(dropped) <= work.config.bridge.max_lost * asked and len(dropped) < asked:
        return
    examples = {row["reason"]: f"row {row['row']}: {row['detail']}" for row in reversed(dropped)}
    told = "; ".join(f"{reason}: {example}" for reason, example in examples.items())
    raise UserError(
        f"{work.config.bridge.by} gives {len(dropped)} of {asked} pairs no edit",
        f"give another editor, or mend what is at fault ({told}); bridge.max_lost={work.config.bridge.max_lost:g} is "
        "the share allowed",
    )


if __name__ == "__main__":
    main("bridge")
