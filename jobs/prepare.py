"""Read, check and tokenise the preference pairs: python -m jobs.prepare --config FILE [section.key=value ...]"""

import contextlib
import io
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main, provenance
from pipeline.errors import UserError
from pipeline.line.plan import VERSIONS, Plan
from pipeline.settings.config import EMBEDDED, Data, Model

if TYPE_CHECKING:
    from pipeline.compute.models import ModelSource
    from pipeline.preferences.tokenise import Tokeniser

Row = dict[str, Any]


def run(work: Work) -> Outcome:
    """Parts of pairs, and a ledger: what was dropped and why stands in dropped.parquet."""
    from pipeline.preferences.tokenise import Tokeniser, load_tokenizer
    from pipeline.results import tables

    data = work.config.data
    model = work.config.model
    base = base_model(work.plan)
    doing("opening the tokenizer")
    tokenizer = load_tokenizer(base, model.chat_template, trust_remote_code=model.trust_remote_code)
    doing("reading rows")
    rows, loader = open_rows(data)
    reader = Reader(Tokeniser(tokenizer, data.max_prompt_tokens, data.max_completion_tokens), data)
    pairs: Iterable[Row] = reader.pairs(rows)
    if data.limit is not None:
        pairs = limited(list(pairs), data.limit)
    counts = {}
    for number, part in enumerate(tables.parts(pairs, data.shard_pairs)):
        name = f"part-{number:05d}.parquet"
        counts[name] = tables.write(part, tables.PAIRS, work.folder / name)
        doing(f"{sum(counts.values())} pairs written")
    kept, dropped = reader.kept, len(reader.dropped)
    tables.write(reader.dropped, tables.DROPPED, work.folder / "dropped.parquet")
    reasons = dict(Counter(row["reason"] for row in reader.dropped).most_common())
    ledger = {"read": kept + dropped, "kept": kept, "dropped": reasons, "beyond_limit": kept - sum(counts.values())}
    refuse_losses(data, ledger, work.folder / "dropped.parquet")
    if dropped:
        say(f"prepare: {dropped} of {kept + dropped} rows dropped: {reasons}")
    return Outcome(
        counts,
        metrics={"loader": loader, "shapes": sorted(reader.shapes), "splits": dict(reader.splits)},
        ledger=ledger,
    )


def open_rows(data: Data) -> tuple[Iterable[tuple[int, Any]], str]:
    """Numbered rows as a user's own file would have them, and the name of what read them."""
    from pipeline.preferences import verifiable
    from pipeline.preferences.sources import open_source

    if data.source == EMBEDDED:
        made = (verifiable.pairs("train", data.pairs, data.seed), verifiable.pairs("dev", data.dev_pairs, data.seed))
        return enumerate(itertools.chain(*made)), EMBEDDED
    source = open_source(data.source, split=data.split, subset=data.subset, revision=data.revision)
    return source.rows, source.loader


class Reader:
    """Turns rows into rows of tables.PAIRS, and keeps account of every row that is not one."""

    def __init__(self, tokeniser: "Tokeniser", data: Data):
        self.tokeniser, self.data = tokeniser, data
        self.kept = 0
        self.dropped: list[Row] = []
        self.shapes: set[str] = set()
        self.columns: set[str] = set()
        self.splits: Counter[str] = Counter()

    def pairs(self, rows: Iterable[tuple[int, Any]]) -> Iterator[Row]:
        from pipeline.preferences.files import Unreadable
        from pipeline.preferences.normalise import Dropped, normalise, pair_id, plain, split_of
        from pipeline.preferences.shapes import require_shape, shape_of
        from pipeline.results.tables import messages_json

        def text_of(message: Row) -> str:
            return text if isinstance(text := plain(message), str) else messages_json([message])

        seen: set[str] = set()
        for number, row in rows:
            if shape := shape_of(row):
                self.shapes.add(shape)
            if not isinstance(row, Unreadable):
                self.columns.update(map(str, row))
            preference = normalise(row, seen, self.data.difficulty_column or "difficulty")
            tokens = preference if isinstance(preference, Dropped) else self.tokeniser.pair(preference)
            if isinstance(preference, Dropped) or isinstance(tokens, Dropped):
                self._drop(number, tokens, row)
                continue
            split = split_of(preference, self.data.dev_fraction)
            self.kept += 1
            self.splits[split] += 1
            yield {
                "pair_id": pair_id(preference),
                "prompt": messages_json(list(preference.prompt)),
                "chosen": text_of(preference.chosen),
                "rejected": text_of(preference.rejected),
                "prompt_ids": tokens.prompt_ids,
                "chosen_ids": tokens.chosen_ids,
                "rejected_ids": tokens.rejected_ids,
                "chosen_score": preference.chosen_score,
                "rejected_score": preference.rejected_score,
                "label_confidence": preference.label_confidence,
                "difficulty": preference.difficulty,
                "source": preference.source,
                "split": split,
            }
        if self.kept == 0:
            require_shape(self.shapes, self.columns)

    def _drop(self, number: int, why: Any, row: Any) -> None:
        content = ascii(getattr(row, "detail", row))[:4000]  # of any type, and perhaps of text that cannot be encoded
        self.dropped.append(
            {"row": number, "reason": why.reason, "detail": ascii(why.detail)[1:-1], "content": content}
        )


def limited(pairs: list[Row], limit: int) -> list[Row]:
    """`limit` train pairs, those of the lowest ids, whatever the order of rows; other splits in proportion."""
    by_split: dict[str, list[Row]] = {}
    for pair in sorted(pairs, key=lambda pair: pair["pair_id"]):
        by_split.setdefault(pair["split"], []).append(pair)
    share = min(1.0, limit / max(1, len(by_split.get("train", []))))
    return [pair for members in by_split.values() for pair in members[: round(share * len(members))]]


def refuse_losses(data: Data, ledger: Row, kept_aside: Path) -> None:
    """Raise UserError where nothing is left, or more rows were dropped than the user allows."""
    share = 1 - ledger["kept"] / max(1, ledger["read"])
    if ledger["kept"] == 0 or share > data.max_dropped:
        raise UserError(
            f"data.source={data.source}: {ledger['read'] - ledger['kept']} of {ledger['read']} rows were dropped "
            f"({share:.1%}, data.max_dropped allows {data.max_dropped:.1%}): {ledger['dropped']}",
            f"read them in {kept_aside}, mend the data, or raise data.max_dropped",
        )


def base_model(plan: Plan) -> Path:
    """The base model's folder."""
    return opened(plan, plan.model, plan.config.model, "model")


def opened(plan: Plan, source: "ModelSource", model: Model, setting: str) -> Path:
    """A model's folder, verified; a .gguf file is converted once, into an artifact of its own."""
    from pipeline.compute.cpu import give_back_memory
    from pipeline.compute.models import convert_gguf, locate
    from pipeline.results.files import DigestMemory

    doing(f"reading {source.path} in full")
    locate(model, DigestMemory(plan.steps["prepare"].address.root), verify=True, setting=setting)
    if not source.is_gguf:
        return source.path
    address = plan.converted(source)
    if artifact := address.find():
        return artifact.verify().path
    say(f"model: converting {source.path.name}")
    doing(f"converting {source.path.name}")
    started = time.perf_counter()
    with address.writing() as folder:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars of two libraries
            convert_gguf(source, folder)
        give_back_memory()
        facts = {"name": "model", "version": VERSIONS["model"], "identity": {"model": source.digest}, "inputs": {}}
        seconds = round(time.perf_counter() - started, 3)
        artifact = address.commit({**facts, "provenance": provenance(), "seconds": seconds}, {})
    say(f"model: done in {seconds:.1f} s")
    return artifact.path


if __name__ == "__main__":
    main("prepare")
