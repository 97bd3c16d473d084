"""The schema of every table that crosses a stage: one source of truth, enforced when a part is written."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.results.files import aside

ROW_GROUP = 100_000  # rows

_ids = pa.list_(pa.int32())


def _schema(*columns: tuple[str, pa.DataType], optional: Sequence[str] = ()) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=name in optional) for name, kind in columns])


# Made by sample; read by rate, pair and report. An answer to a prompt, as it was sampled or as the data have it.
CANDIDATES = _schema(
    ("prompt_id", pa.string()),  # digest of the prompt's messages
    ("candidate_id", pa.string()),  # digest of prompt_id and response_ids: answers alike have one
    ("answered_by", pa.string()),  # model | against, as in `sample`; chosen | rejected of the data
    ("sample", pa.int32()),  # of an answerer's answers to the prompt, from 0; of a branch, among its siblings
    ("prompt", pa.string()),  # chat messages, as JSON
    ("meta", pa.string()),  # what rules need of the prompt, as JSON
    ("response", pa.string()),
    ("response_ids", _ids),  # as sampled, with the end token where one ended it
    ("tokens", pa.int32()),
    ("finish_reason", pa.string()),  # stop | length | data
    ("seed", pa.int64()),  # null of the data's, as the next
    ("logp", pa.float64()),  # of response_ids under who sampled them, at temperature 1; sum in nats
    ("parent", pa.string()),  # of a branch: candidate_id of the answer that its beginning was taken from
    ("prefix_tokens", pa.int32()),  # of response_ids, that stand in the parent, too; null without one
    ("source", pa.string()),  # of the prompt, as the data name it
    ("split", pa.string()),  # train | dev | test, where the data say so
    optional=("seed", "logp", "parent", "prefix_tokens", "split"),
)

# Made by rate, one artifact a rater; read by pair and report. One row a candidate_id of a part.
SCORES = _schema(
    ("prompt_id", pa.string()),
    ("candidate_id", pa.string()),
    ("rater", pa.string()),
    ("score", pa.float64()),  # higher is better; null: no verdict
    ("detail", pa.string()),  # what the score is made of, as JSON: heads, rules, a judge's words, why there is none
    ("rated_tokens", pa.int32()),  # that the rater read of prompt and answer
    optional=("score",),
)

# Made by pair; read by prepare and report. One row a pair: two candidates of a prompt.
SELECTED = _schema(
    ("prompt_id", pa.string()),
    ("chosen_id", pa.string()),  # candidate_id
    ("rejected_id", pa.string()),
    ("prompt", pa.string()),  # these three as in CANDIDATES
    ("chosen", pa.string()),
    ("rejected", pa.string()),
    ("chosen_score", pa.float64()),  # of all raters together; null where none is asked, as the next
    ("rejected_score", pa.float64()),
    ("margin", pa.float64()),
    ("label_confidence", pa.float64()),  # P(chosen is preferred), null without pair.confidence_temperature
    ("rule", pa.string()),
    ("bin", pa.string()),  # high | middle | low, by thirds of the widest margin of the prompt
    ("chosen_tokens", pa.int32()),
    ("rejected_tokens", pa.int32()),
    ("shared_prefix_tokens", pa.int32()),  # that both answers begin with
    ("source", pa.string()),
    ("split", pa.string()),
    optional=("chosen_score", "rejected_score", "margin", "label_confidence", "bin", "split"),
)

# Made by bridge; read by prepare. One row a pair: of train pairs the chosen side is an edit of the rejected one.
BRIDGED = _schema(
    ("prompt", pa.string()),  # chat messages, as JSON
    ("chosen", pa.string()),
    ("rejected", pa.string()),
    ("chosen_score", pa.float64()),  # null of edits, as the next
    ("rejected_score", pa.float64()),
    ("label_confidence", pa.float64()),  # null: an edit's is not known
    ("source", pa.string()),
    ("split", pa.string()),
    optional=("chosen_score", "rejected_score", "label_confidence", "split"),
)

# Made by pair, beside SELECTED: one row a prompt of which no pair was made.
UNPAIRED = _schema(
    ("prompt_id", pa.string()),
    ("reason", pa.string()),  # one of REASONS of onpolicy/choosing.py
    ("detail", pa.string()),
)

# Made by prepare; read by reference, schedule, train and report. A completion ends with EOS, unless it is cut to the
# length of the other.
# Messages and texts are kept for reading; what is computed on are the token ids.
PAIRS = _schema(
    ("pair_id", pa.string()),  # digest of the normalised pair's content
    ("prompt", pa.string()),  # chat messages, as JSON
    ("chosen", pa.string()),
    ("rejected", pa.string()),
    ("prompt_ids", _ids),
    ("chosen_ids", _ids),
    ("rejected_ids", _ids),
    ("chosen_score", pa.float64()),
    ("rejected_score", pa.float64()),
    ("label_confidence", pa.float64()),  # P(chosen is preferred), null if unknown
    ("difficulty", pa.float64()),  # the data's own measure, larger is harder; null if unknown
    ("source", pa.string()),
    ("split", pa.string()),  # train | dev | test
    optional=("chosen_score", "rejected_score", "label_confidence", "difficulty"),
)

# Made by prepare: every row that was read and is not in PAIRS, with the reason and the row itself.
DROPPED = _schema(("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string()), ("content", pa.string()))

# Made by reference; read by schedule and train. Log-probs are sums in nats over the completion's tokens (EOS counted).
REFERENCE = _schema(
    ("pair_id", pa.string()),
    ("tokens_digest", pa.string()),  # of the three id lists that were scored
    ("chosen_logps", pa.float64()),
    ("rejected_logps", pa.float64()),
    ("chosen_tokens", pa.int32()),
    ("rejected_tokens", pa.int32()),
)

# Made by weigh, and by prepare where data.changed_tokens asks for it; read by weigh and train. A number for each token
# of both completions: a model's log-prob in nats, a weight, or 1 where the token is not the other side's, else 0.
TOKEN_VALUES = _schema(
    ("pair_id", pa.string()),
    ("tokens_digest", pa.string()),  # as in REFERENCE
    ("chosen", pa.list_(pa.float32())),
    ("rejected", pa.list_(pa.float32())),
)

# Made by weigh for itself: what it has scored that is no pair, a completion (as chosen) after another's prompt.
ASKED = _schema(("pair_id", pa.string()), ("prompt_ids", _ids), ("chosen_ids", _ids), ("rejected_ids", _ids))
# Made by reference where the objective looks at features; read by train. Means over a completion's tokens, those that
# are not 0, in the order of their latents.
FEATURES = _schema(
    ("pair_id", pa.string()),
    ("tokens_digest", pa.string()),  # as in REFERENCE
    ("chosen_latents", _ids),
    ("chosen_values", pa.list_(pa.float32())),
    ("rejected_latents", _ids),
    ("rejected_values", pa.list_(pa.float32())),
)

# Made by features; read by report. A row for every so many steps of the autoencoder's training.
DICTIONARY = _schema(
    ("step", pa.int64()),
    ("states", pa.int64()),  # seen so far
    ("loss", pa.float64()),  # the share of the states' variance that is not explained, as it is trained
    ("explained", pa.float64()),  # the share that is, of held-out pairs' states
    ("dead", pa.float64()),  # share of latents that no state of the latest pass has used
)

# Made by schedule; read by train and report. It is the epoch: row `position` is trained at step position // batch_size.
# Pairs of route drop are not trained: they stand once, after all others, so that every train pair is accounted for.
SCHEDULE = _schema(
    ("position", pa.int64()),
    ("pair_id", pa.string()),
    ("difficulty", pa.float64()),  # as schedule.difficulty measures it, larger is harder; null if unknown
    ("route", pa.string()),  # preference | sft | drop
    ("flipped", pa.bool_()),  # train exchanges the two completions and their cached log-probs
    optional=("difficulty",),
)

# Made by train; read by report. One row a trained pair, as it was at its step, before the update.
TRAINED_PAIRS = _schema(
    ("step", pa.int64()),
    ("position", pa.int64()),
    ("pair_id", pa.string()),
    ("route", pa.string()),
    ("flipped", pa.bool_()),
    ("loss", pa.float64()),
    ("gap", pa.float64()),  # scaled reward gap beta * H; null on sft pairs, like the next two
    ("margin", pa.float64()),  # target margin subtracted from the gap
    ("weight", pa.float64()),  # -d loss / d gap: how hard the pair pulls
    optional=("gap", "margin", "weight"),
)

# What a step measures of its preference pairs, null without any; see objectives/diagnostics.py. The first four are also
# taken over pairs of clean and of flipped labels apart.
_SPLIT = ("accuracy", "gap", "margin", "weight")  # accuracy: the share of gaps above 0, those at 0 one half
_MEASURED = (
    *_SPLIT,
    *(f"{name}_{part}" for part in ("clean", "flipped") for name in _SPLIT),
    *(f"{name}_q{share}" for name in ("gap", "margin") for share in (10, 50, 90)),
    # Of each side: the scaled reward, whose difference is the gap, and the policy's log-prob sum in nats.
    *(f"{side}_{name}" for name in ("reward", "logps") for side in ("chosen", "rejected")),
    "weak_share",  # of pairs whose gradient weight is below 0.05
    "noise_rate",  # mean effective noise rate of gamma-PO's margins where it has a meaning
    "noise_rate_null",  # share of pairs where it has none
    "queue_fill",  # share of gamma-PO's queue in use
    # Means over the held-out pairs after the step, every train.held_out_steps steps.
    *(f"held_out_{name}" for name in ("accuracy", "gap", "chosen_logps", "rejected_logps")),
)

# Made by train; read by report. One row an optimiser step; means over the step's pairs, all workers.
STEPS = _schema(
    ("step", pa.int64()),
    ("loss", pa.float64()),
    ("learning_rate", pa.float64()),
    ("grad_norm", pa.float64()),
    ("preference_pairs", pa.int64()),
    ("sft_pairs", pa.int64()),
    ("nll", pa.float64()),  # mean NLL per token of the chosen side, over sft pairs; null without any
    ("tokens", pa.int64()),
    ("seconds", pa.float64()),
    *((name, pa.float64()) for name in _MEASURED),
    optional=("nll", *_MEASURED),
)

# Made by train where the objective estimates how often labels are right; read by report. A row a step and a source that
# has preference pairs in it, after the step.
RELIABILITY = _schema(
    ("step", pa.int64()),
    ("source", pa.string()),  # as in PAIRS
    ("pairs", pa.int64()),  # of the step's preference pairs
    ("flip_rate", pa.float64()),  # share of the source's labels that are taken to be wrong
)

# Made by train where the pairs are of several streams; read by report. A row a step and a stream; means over its pairs.
STREAMS = _schema(
    ("step", pa.int64()),
    ("stream", pa.string()),  # its name in the configuration; `data` is the first
    ("pairs", pa.int64()),
    ("weight", pa.float64()),  # of the step's loss
    ("loss", pa.float64()),  # before it is weighted; null without pairs, or without a weight
    ("gap", pa.float64()),  # null without preference pairs, like the next
    ("accuracy", pa.float64()),
    optional=("loss", "gap", "accuracy"),
)

# Why a turn was not asked: it does not fit into the model, or the chat template does not render it.
UNASKED = ("no-room", "not-rendered")

# Made by generate, one artifact a model; read by judge and report.
RESPONSES = _schema(
    ("question_id", pa.string()),
    ("benchmark", pa.string()),
    ("sample", pa.int32()),  # of generate.samples answers to a question, from 0
    ("turn", pa.int32()),  # of the conversation, from 1
    ("prompt", pa.string()),  # chat messages, as JSON; of a later turn with the answers before it
    ("meta", pa.string()),  # what the judge needs of the question, as JSON
    ("response", pa.string()),
    ("tokens", pa.int32()),
    ("finish_reason", pa.string()),  # stop | length, or one of UNASKED
    ("seed", pa.int64()),
)

# Made by judge; read by report. One row a question and a model.
VERDICTS = _schema(
    ("question_id", pa.string()),
    ("model", pa.string()),  # base | trained
    ("score", pa.float64()),  # share of constraints met
    ("detail", pa.string()),  # per constraint: kind, wording, met; as JSON
)


# Made by judge where a model judges; read by report and export. One row a game: two answers in one order.
GAMES = _schema(
    ("benchmark", pa.string()),
    ("question_id", pa.string()),
    ("model", pa.string()),  # base | trained
    ("against", pa.string()),  # base, or whose answers they are
    ("model_first", pa.bool_()),  # whether the model's answer was shown first
    ("outcome", pa.string()),  # read | alike | unparsable | missing
    ("points", pa.float64()),  # of the model: 1, 1/2 or 0, or a probability; null without a verdict
    ("times", pa.int64()),  # how often it counts: 3 for a strong verdict
    ("judgment", pa.string()),  # the judge's words, or why there are none
    optional=("points",),
)

# The same for single answers. One row a model, question and turn.
RATINGS = _schema(
    ("benchmark", pa.string()),
    ("question_id", pa.string()),
    ("turn", pa.int32()),
    ("model", pa.string()),  # base | trained
    ("category", pa.string()),
    ("outcome", pa.string()),  # read | unparsable | missing
    ("rating", pa.float64()),  # 1 to 10; null without one
    ("judgment", pa.string()),  # the judge's words, or why there are none
    optional=("category", "rating"),
)

# Answers of others that the models' were compared with.
BASELINES = _schema(
    ("benchmark", pa.string()),
    ("question_id", pa.string()),
    ("name", pa.string()),  # who answered
    ("response", pa.string()),
    ("tokens", pa.int32()),  # as the file of answers has them
    optional=("tokens",),
)

# Made by a judge that runs here, before its words are read: a row a request, in order.
REPLIES = _schema(
    ("text", pa.string()),  # null without an answer
    ("why", pa.string()),  # there is none
    ("prompt_tokens", pa.int32()),
    ("completion_tokens", pa.int32()),
    ("first", pa.string()),  # log-probs of the likeliest first tokens, as JSON
    ("cut", pa.bool_()),  # whether it ended at its token limit
    optional=("text",),
)


def write(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path) -> int:
    """Write one Parquet part, whole or not at all; returns its row count.

    Raises ValueError, naming the column, for a null out of place.
    """
    return write_tables([pa.Table.from_pylist(list(rows), schema=schema)], schema, path)


def write_tables(found: Iterable[pa.Table], schema: pa.Schema, path: Path) -> int:
    """The same of Arrow tables, each a row group and written as it comes, so that a part may be larger than memory."""
    rows = 0
    with aside(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as file:
        for table in found:
            for field in schema:
                if not field.nullable and (nulls := table[field.name].null_count):
                    raise ValueError(f"{path.name}: column {field.name} has {nulls} nulls, and must have none")
            file.write_table(table)
            rows += table.num_rows
    return rows


def gather(files: Iterable[Path], schema: pa.Schema, path: Path) -> None:
    """Write the rows of many Parquet files of one schema as one, in order; it is there whole or not at all.

    They are held a row group at a time.
    """

    def groups() -> Iterator[pa.Table]:
        waiting = [schema.empty_table()]
        for file in files:
            waiting.append(pq.read_table(file))
            if sum(map(len, waiting)) >= ROW_GROUP:
                yield pa.concat_tables(waiting)
                waiting.clear()
        if waiting:
            yield pa.concat_tables(waiting)

    write_tables(groups(), schema, path)


def read(
    folder: Path, schema: pa.Schema, columns: Sequence[str] | None = None, pattern: str = "part-*.parquet"
) -> pa.Table:
    """All parts of a table, in the order of their names. An optional column that a part is older than is null."""
    names = list(columns) if columns else schema.names
    wanted = pa.schema([schema.field(name) for name in names])
    # Not pq.read_table, which asks twice as much of each file: the parts may be many and small.
    opened = (pq.ParquetFile(part) for part in sorted(folder.glob(pattern)))
    found = [_with_later(file.read(columns=names, use_threads=False), wanted) for file in opened]
    return pa.concat_tables(found).select(names).cast(wanted) if found else wanted.empty_table()


def _with_later(part: pa.Table, wanted: pa.Schema) -> pa.Table:
    for field in wanted:
        if field.nullable and field.name not in part.column_names:
            part = part.append_column(field, pa.nulls(part.num_rows, field.type))
    return part


def joined(table: pa.Table, other: pa.Table) -> pa.Table:
    """`table` with the columns of `other`, by pair id; null where `other` has no such pair."""
    if not table["pair_id"].equals(other["pair_id"]):  # parts of the one are made of parts of the other
        other = other.take(pc.index_in(table["pair_id"], value_set=other["pair_id"]))
    for name in other.column_names:
        if name != "pair_id":
            table = table.append_column(name, other[name])
    return table


def parts(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut `rows` into lists of `size`, the last one shorter."""
    part: list[Any] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def messages_json(messages: list[dict[str, Any]]) -> str:
    """Chat messages as the JSON text the tables keep."""
    return json.dumps(messages, ensure_ascii=False, sort_keys=True)
