"""The pairs that are benchmarked, as token ids: read from a file as the pipeline reads it, or made up in many turns."""

import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences.rows import Rows
from pipeline.settings.inputs import Data

Row = dict[str, Any]
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
TEXTS = ("prompt", "chosen", "rejected")
MULTI_TURN_SHARE = 0.75  # of packed tokens that are prompt, at least

_WORDS = (
    "the a of and to in that is was for on are as with they at be this have from or one had by word but not what all "
    "were we when your can said there use an each which she do how their if will up other about out many then them "
    "these so some her would make like him into time has look two more write go see number no way could people my than "
    "first water been call who oil its now find long down day did get come made may part river garden engine letter"
)


def from_file(file: Path, model: Path, count: int, texts: Sequence[str] = ()) -> list[Row]:
    """`count` pairs of split train, those of the lowest ids, in that order; with those of TEXTS that are asked for.

    Raises UserError where there are fewer.
    """
    from jobs.prepare import open_rows

    data = Data(source=str(file), limit=count)
    return _tokenised(open_rows(data).rows, data, model, count, texts)


def multi_turn(model: Path, count: int, seed: int = 0) -> list[Row]:
    """Made-up conversations whose prompts hold at least MULTI_TURN_SHARE of the packed tokens of each pair."""
    data = Data(max_prompt_tokens=4096, max_completion_tokens=4096, limit=count)
    rows = Rows.of(lambda: enumerate(_conversations(count, random.Random(seed))))
    pairs = _tokenised(rows, data, model, count)
    share = min(prompt_share([pair]) for pair in pairs)
    if share < MULTI_TURN_SHARE:
        problem = f"the tokenizer of {model} makes prompts of {share:.2f} of the packed tokens"
        raise UserError(problem, f"benchmark another model: {MULTI_TURN_SHARE} is what --multi-turn promises")
    return pairs


def _tokenised(rows: Rows, data: Data, model: Path, count: int, texts: Sequence[str] = ()) -> list[Row]:
    from pipeline.compute.limits import Limits
    from pipeline.preferences.tokenise import open_tokeniser
    from pipeline.prepare.preparation import prepare_here
    from pipeline.prepare.reader import Reader
    from pipeline.results import tables

    tokeniser = open_tokeniser(model, data.max_prompt_tokens, data.max_completion_tokens)
    with tempfile.TemporaryDirectory() as folder:
        prepare_here(Reader(tokeniser, Limits.of(model), data).make, rows, data, Path(folder))
        table = tables.read(Path(folder), tables.PAIRS, ["pair_id", *texts, *IDS, "split"])
    pairs = [pair for pair in table.to_pylist() if pair["split"] == "train"]
    if len(pairs) < count:
        problem = f"data.source={data.source} has {len(pairs)} usable train pairs, and {count} are needed"
        raise UserError(problem, "give a larger file, or a smaller --n")
    return [{name: pair[name] for name in ("pair_id", *texts, *IDS)} for pair in pairs]


def _conversations(count: int, draw: random.Random) -> Iterator[Row]:
    """Pairs of completions of 20 to 60 words after 3, 5 or 7 turns of a conversation."""

    def text(words: int) -> str:
        return " ".join(draw.choices(_WORDS.split(), k=words)) + "."

    for _ in range(count):
        chosen, rejected, turns = draw.randint(20, 60), draw.randint(20, 60), 2 * draw.randint(2, 4) - 1
        spoken = 4 * (chosen + rejected) // turns
        prompt = [{"role": ("user", "assistant")[i % 2], "content": text(spoken)} for i in range(turns)]
        answers = {
            name: [{"role": "assistant", "content": text(words)}]
            for name, words in (("chosen", chosen), ("rejected", rejected))
        }
        yield {"prompt": prompt, **answers}


def packed_tokens(pairs: Iterable[Row]) -> int:
    return sum(len(pair[name]) for pair in pairs for name in IDS)


def prompt_share(pairs: list[Row]) -> float:
    """The share of packed tokens that is prompt."""
    return sum(len(pair["prompt_ids"]) for pair in pairs) / packed_tokens(pairs)
