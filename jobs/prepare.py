"""Read, check and tokenise the preference pairs: python -m jobs.prepare --config FILE [section.key=value ...]"""

import contextlib
import io
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main, provenance
from pipeline.errors import UserError
from pipeline.line.plan import VERSIONS, Plan
from pipeline.settings.config import EMBEDDED, Data, Model
from pipeline.statistics import share_of

if TYPE_CHECKING:
    from pipeline.compute.limits import Limits
    from pipeline.compute.models import ModelSource
    from pipeline.preferences.files import Rows
    from pipeline.preferences.normalise import Preference
    from pipeline.preferences.tokenise import Tokeniser

Row = dict[str, Any]
# What the templates of other models than the one trained begin and end turns with.
TURNS = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "[/INST]",
    "<\uff5cUser\uff5c>",
)


def run(work: Work) -> Outcome:
    """Parts of pairs, and a ledger: what was dropped and why stands in dropped.parquet."""
    from pipeline.compute.limits import Limits
    from pipeline.preferences.tokenise import open_tokeniser
    from pipeline.results import tables

    data = work.config.data
    model = work.config.model
    folder = base_model(work.plan)
    doing("opening the tokenizer")
    tokeniser = open_tokeniser(folder, data.max_prompt_tokens, data.max_completion_tokens, **model.rendering)
    limits = Limits.of(folder)
    limits.require(tokeniser)
    doing("reading rows")
    rows, loader = open_rows(data)
    reader = Reader(tokeniser, limits, data, rows)
    pairs: Iterable[Row] = reader.pairs()
    if data.limit is not None:
        pairs = limited(list(pairs), data.limit)
    counts, lacking = {}, dict[str, Row]()
    for number, part in enumerate(tables.parts(count_lacking(pairs, lacking), data.shard_pairs)):
        name = f"part-{number:05d}.parquet"
        counts[name] = tables.write(part, tables.PAIRS, work.folder / name)
        doing(f"{sum(counts.values())} pairs written")
    kept, dropped = reader.kept, len(reader.dropped)
    tables.write(reader.dropped, tables.DROPPED, work.folder / "dropped.parquet")
    reasons = dict(Counter(row["reason"] for row in reader.dropped).most_common())
    # A row that holds no pair counts as one: read is kept and dropped together, and more than rows where a row is
    # a list of completions that make several pairs.
    ledger = {"rows": reader.rows_read, "read": kept + dropped, "kept": kept, "dropped": reasons}
    ledger["beyond_limit"] = kept - sum(counts.values())
    reader.refuse_suspects()
    refuse_losses(data, ledger, work.folder / "dropped.parquet", reader.examples())
    if dropped:
        say(f"prepare: {dropped} of {kept + dropped} rows dropped: {reasons}")
    if data.source != EMBEDDED:
        reader.tell()
    for remark, count in tokeniser.remarks().items():
        say(f"prepare: {remark}" + (f" ({count} times)" if count > 1 else ""))
    found = {"end_of_turn": tokeniser.end, "template": tokeniser.remarks(), "lacking": lacking}
    return Outcome(counts, metrics={"loader": loader, **reader.metrics(), **found}, ledger=ledger)


def open_rows(data: Data) -> tuple["Rows", str]:
    """Numbered rows as a user's own file would have them, and the name of what read them."""
    from pipeline.preferences import verifiable
    from pipeline.preferences.files import Rows
    from pipeline.preferences.sources import open_source

    if data.source == EMBEDDED:

        def made() -> Iterator[tuple[int, Row]]:
            parts = (("train", data.pairs), ("dev", data.dev_pairs))
            return enumerate(itertools.chain(*(verifiable.pairs(*part, data.seed) for part in parts)))

        return Rows(made), EMBEDDED
    source = open_source(
        data.source, split=data.split, subset=data.subset, revision=data.revision, columns=data.columns.values()
    )
    return source.rows, source.loader


class Reader:
    """Turns rows into rows of tables.PAIRS, and keeps account of every row that is not one.

    Raises UserError where the first rows show that the source is not what was meant; see Normaliser.
    """

    def __init__(self, tokeniser: "Tokeniser", limits: "Limits", data: Data, rows: "Rows"):
        from pipeline.preferences.normalise import Normaliser

        self.tokeniser, self.limits, self.data, self.rows = tokeniser, limits, data, rows
        self.normaliser = Normaliser(rows, data.columns, data.difficulty_column, data.pairing)
        self.rows_read = self.kept = self.spelled = self.scored = 0
        self.dropped: list[Row] = []
        self.splits: Counter[str] = Counter()

    def pairs(self) -> Iterator[Row]:
        from pipeline.preferences.messages import Dropped
        from pipeline.preferences.normalise import pair_id, split_of
        from pipeline.results.tables import messages_json

        for number, row in self.rows:
            self.rows_read += 1
            for preference in self.normaliser.read(row):
                tokens = preference if isinstance(preference, Dropped) else self.tokeniser.pair(preference)
                tokens = tokens if isinstance(tokens, Dropped) else self.limits.check(tokens) or tokens
                if not isinstance(preference, Dropped):
                    self.spelled += self._spells(preference)
                if isinstance(preference, Dropped) or isinstance(tokens, Dropped):
                    self._drop(number, tokens, row)
                    continue
                split = split_of(preference, self.data.dev_fraction)
                self.kept += 1
                self.splits[split] += 1
                self.scored += preference.chosen_score is not None
                yield {
                    "row": number,
                    "pair_id": pair_id(preference),
                    "prompt": messages_json(list(preference.prompt)),
                    "chosen": _shown(preference.chosen),
                    "rejected": _shown(preference.rejected),
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

    def _spells(self, preference: "Preference") -> bool:
        """Whether a text of the pair looks rendered already: it spells a control token, or begins a turn."""
        texts = [message["content"] for message in (*preference.prompt, preference.chosen, preference.rejected)]
        return any(self.tokeniser.encode.spells(text) or any(mark in text for mark in TURNS) for text in texts)

    def _drop(self, number: int, why: Any, row: Any) -> None:
        content = ascii(getattr(row, "detail", row))[:4000]  # of any type, and perhaps of text that cannot be encoded
        self.dropped.append(
            {"row": number, "reason": why.reason, "detail": ascii(why.detail)[1:-1], "content": content}
        )

    def examples(self) -> dict[str, str]:
        """By reason, what was wrong with the first row that was dropped for it."""
        return {row["reason"]: f"row {row['row']}: {row['detail']}" for row in reversed(self.dropped)}

    def refuse_suspects(self) -> None:
        """Raise UserError where more texts than the user allows look as if they were rendered, or joined, before."""
        repeated = 0 if self.normaliser.repeats else self.normaliser.repeated
        found = (
            (self.spelled, "spell control tokens of chat templates", "give messages, or texts without a template's"),
            (repeated, "have an answer that begins with its prompt", "leave the prompt out of chosen and rejected"),
        )
        pairs = len(self.normaliser.ids)
        for count, what, remedy in found:
            if count > self.data.max_suspect * pairs:
                problem = f"data.source={self.data.source}: {count} of {pairs} pairs {what}"
                raise UserError(problem, f"{remedy}; data.max_suspect=1 trains on them as they are")

    def metrics(self) -> dict[str, Any]:
        """What was found by looking, for the manifest."""
        found = self.normaliser
        return {
            "shapes": sorted(found.notes.shapes),
            "splits": dict(self.splits),
            "columns_not_used": [_name(each) for each in found.unused],
            "message_keys_not_used": sorted(map(_name, found.notes.message_keys)),
            "ties": found.notes.ties,
            "spelled_control_tokens": self.spelled,
            "repeated_prompts": found.repeated,
            "repeated_prompts_taken_off": found.repeats,
        }

    def tell(self) -> None:
        """Say once what was read, and what was not."""
        from pipeline.preferences.columns import hint

        found = self.metrics()
        say(f"prepare: rows are {', '.join(found['shapes'])}")
        for what in ("columns_not_used", "message_keys_not_used"):
            if found[what]:
                say(f"prepare: {what.replace('_', ' ')}: {', '.join(found[what])}")
        if near := hint(found["columns_not_used"]):
            say(f"prepare: data.columns={near} would read some of them")
        if found["repeated_prompts_taken_off"]:
            say("prepare: every answer begins with its prompt, which was taken off")
        elif found["repeated_prompts"]:
            say(f"prepare: {found['repeated_prompts']} pairs have an answer that begins with its prompt")
        if found["spelled_control_tokens"]:
            say(f"prepare: {found['spelled_control_tokens']} pairs spell control tokens, which stay plain text")
        moved = {"chosen", "rejected"} & self.data.columns.keys()
        if moved and not {"chosen_score", "rejected_score"} & self.data.columns.keys() and self.scored:
            say("prepare: data.columns gives other answers, and not their scores: name these, too, or give null")


def _name(column: str) -> str:
    """A column's name, which may hold what UTF-8 cannot spell."""
    return column.encode(errors="backslashreplace").decode() or "(without a name)"


def _shown(message: Row) -> str:
    """A completion for reading: its text, or the whole message where it is more."""
    from pipeline.preferences.messages import plain
    from pipeline.results.tables import messages_json

    return text if isinstance(text := plain(message), str) else messages_json([message])


def count_lacking(pairs: Iterable[Row], lacking: dict[str, Row]) -> Iterator[Row]:
    """The same pairs, without the number of their row.

    `lacking` then says of each column that some train pairs have not got: how many, of how many, and the first's row.
    """
    held = {"scores": "chosen_score", "label_confidence": "label_confidence", "difficulty": "difficulty"}
    train = 0
    for pair in pairs:
        row = pair.pop("row")
        if pair["split"] == "train":
            train += 1
            for name in (name for name, column in held.items() if pair[column] is None):
                lacking.setdefault(name, {"pairs": 0, "row": row})["pairs"] += 1
        yield pair
    for one in lacking.values():
        one["of"] = train


def limited(pairs: list[Row], limit: int) -> list[Row]:
    """`limit` train pairs, those of the lowest ids, whatever the order of rows; other splits in proportion."""
    by_split: dict[str, list[Row]] = {}
    for pair in sorted(pairs, key=lambda pair: pair["pair_id"]):
        by_split.setdefault(pair["split"], []).append(pair)
    share = min(1.0, limit / max(1, len(by_split.get("train", []))))
    return [pair for members in by_split.values() for pair in members[: round(share * len(members))]]


def refuse_losses(data: Data, ledger: Row, kept_aside: Path, examples: Mapping[str, str]) -> None:
    """Raise UserError, with an example a reason, where nothing is left, or more was dropped than the user allows."""
    read, dropped = ledger["read"], ledger["read"] - ledger["kept"]
    if ledger["kept"] == 0 or dropped > share_of(read, data.max_dropped):
        raise UserError(
            f"data.source={data.source}: {dropped} of {read} rows were dropped ({dropped / max(1, read):.1%}, "
            f"data.max_dropped allows {data.max_dropped:.1%}): {ledger['dropped']}",
            f"mend the data or raise data.max_dropped; all are in {kept_aside}, such as\n"
            + "\n".join(f"    {reason}: {example}{_remedy(reason)}" for reason, example in examples.items()),
        )


def _remedy(reason: str) -> str:
    """What may be done about the model's side of a reason."""
    remedies = {
        "open-thoughts": "model.template_arguments={enable_thinking: false} where the template reads it; else answers "
        "with thoughts, or model.chat_template=FILE without",
        "template-leaves-out": "model.chat_template=FILE that writes it, or data.columns={NAME: null} leaves it unread",
        "generation-prompt": "model.chat_template=FILE that renders both alike",
        "template-refused": "model.chat_template=FILE that takes such messages",
        "seam": "take the white space off the beginnings of answers",
    }
    return f" ({remedies[reason]})" if reason in remedies else ""


def base_model(plan: Plan) -> Path:
    """The base model's folder."""
    return opened(plan, plan.model, plan.config.model, "model")


def opened(plan: Plan, source: "ModelSource", model: Model, setting: str) -> Path:
    """A model's folder, verified; a .gguf file is converted once, into an artifact of its own."""
    from pipeline.compute.cpu import give_back_memory
    from pipeline.compute.models import convert_gguf, locate
    from pipeline.results.files import DigestMemory

    doing(f"reading {source.path} in full")
    found = locate(model, DigestMemory(plan.steps["prepare"].address.root), verify=True, setting=setting)
    if found.digest != source.digest:
        raise UserError(
            f"{source.path} changed since this run was planned",
            "run the same command again: it plans with what is there",
        )
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
