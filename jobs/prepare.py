"""Read, check and tokenise the preference pairs: python -m jobs.prepare --config FILE [section.key=value ...]"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jobs.common.account import ledger_of, metrics, refuse_losses, refuse_suspects, tell, tell_ledger
from jobs.common.models import base_model
from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError
from pipeline.settings.inputs import EMBEDDED, SAMPLED, Data
from pipeline.settings.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.preferences.rows import Source
    from pipeline.prepare.preparation import Preparation, Spread
    from pipeline.prepare.reader import Reader, Spec

OPENED = {"pair": ("part-*",), "bridge": ("part-*",)}
Row = dict[str, Any]
SMALL = 8  # blocks: what is no more than that is done here before Ray would have started


def run(work: Work) -> Outcome:
    """Parts of pairs, and a ledger: what was dropped and why stands in dropped.parquet."""
    from actors import metrics as seen
    from pipeline.onpolicy.bridging import SOURCE as BRIDGED
    from pipeline.onpolicy.selected import origins, selected_pairs, within_limit
    from pipeline.prepare.parts import lacking
    from pipeline.prepare.preparation import BLOCKS, DROPPED, Preparation
    from pipeline.prepare.reader import Spec

    data, selected = work.config.data, list(work.inputs.values())
    if selected:  # whose rows have names of their own
        data = data.model_copy(update={"columns": {}, "difficulty_column": None})
    spec = Spec.of(base_model(work.plan), work.config.model, data)
    doing("opening the tokenizer")
    reader = spec.open()
    doing("reading rows")
    loader = BRIDGED if work.config.bridge.by else SAMPLED
    source = selected_pairs([each.path for each in selected], loader) if selected else open_rows(data)
    require_same(source, work.step.identity["data"]["content"], data)
    preparation = Preparation(source.rows, data, work.folder, own=bool(selected))
    with hands(preparation, spec, reader, work.config.resources) as here:
        for rows in preparation.read(here.make, here.spread):
            doing(f"{rows:,} rows read")
        doing("looking for copies of pairs")
        copies, account = preparation.settle()
        refuse_suspects(account, data, preparation.look.repeats or bool(selected))
        joined = origins(selected, work.folder / DROPPED) if data.earlier else []
        refuse_losses(account, data, work.folder / DROPPED, repeated=sum(each.repeated for each in joined[1:]))
        seen.dropped(account.dropped)
        seen.made("prepare", account.kept, 0)
        doing("writing pairs")
        parts = preparation.write(copies, here.spread, [each.first for each in joined])
        written = sorted(parts, key=lambda each: each.number)
    counts = {name: rows for each in written for name, rows in each.rows.items()}
    ledger = ledger_of(account, sum(counts.values()))
    if joined:
        ledger["joined"] = [asdict(each) for each in within_limit(joined, [each.joined for each in written])]
    tell_ledger(ledger)
    found = metrics(account, preparation.normaliser)
    if data.source != EMBEDDED:
        tell(account, found, data)
    remarks = reader.remarks(account)
    for remark, count in remarks.items():
        say(f"prepare: {remark}" + (f" ({count} times)" if count > 1 else ""))
    template = {"end_of_turn": reader.tokeniser.end, "template": remarks}
    facts = {"loader": source.loader, **found, **template, "lacking": lacking(written)}
    return Outcome(counts, metrics=facts, ledger=ledger, scratch=(BLOCKS,))


@dataclass(frozen=True)
class Hands:
    """Who makes blocks, and who calls for them."""

    make: "Callable[[Any], Any]"
    spread: "Spread" = map


@contextlib.contextmanager
def hands(preparation: "Preparation", spec: "Spec", reader: "Reader", resources: Resources) -> Iterator[Hands]:
    """This process where the source is small, or nobody else is there; otherwise tasks on a Ray cluster."""
    asked = resources.prepare_workers
    if asked == 1 or preparation.blocks.within(SMALL if asked is None else 1):
        yield Hands(reader.make)
        return
    from actors.cluster import connected, nodes_ahead, places
    from actors.preparing import make, spread
    from jobs.common.pool import in_a_thread

    if asked is None and (nodes := nodes_ahead()) is not None and places({"num_cpus": 1.0, "num_gpus": 0.0}, nodes) < 2:
        yield Hands(reader.make)
        return
    doing("starting or joining Ray")
    with connected():
        doing("reading rows")
        tasks = spread(asked, resources.max_failures)
        yield Hands(make(spec), lambda function, jobs: in_a_thread(tasks(function, jobs)))


def require_same(source: "Source", planned: Any, data: Data) -> None:
    """Raise UserError where the source is another than the one that was planned with."""
    if source.identity and source.identity != planned:  # none of what is made here
        raise UserError(
            f"data.source={data.source} changed since this run was planned",
            "run the same command again: it plans with what is there",
        )


def open_rows(data: Data) -> "Source":
    """The source; the embedded tasks as a user's own file would have them."""
    from pipeline.preferences import verifiable
    from pipeline.preferences.rows import Rows, Source
    from pipeline.preferences.sources import open_source

    if data.source == EMBEDDED:

        def made() -> Iterator[tuple[int, Row]]:
            parts = (("train", data.pairs), ("dev", data.dev_pairs))
            return enumerate(itertools.chain(*(verifiable.pairs(*part, data.seed, data.thoughts) for part in parts)))

        return Source(Rows.of(made), EMBEDDED, {})
    return open_source(
        data.source, split=data.split, subset=data.subset, revision=data.revision, columns=data.columns.values()
    )


if __name__ == "__main__":
    main("prepare")
