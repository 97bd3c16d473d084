"""A small tokenizer, and the whole of prepare in this process."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.compute.limits import Limits
from pipeline.preferences.rows import Rows
from pipeline.preferences.tokenise import Tokeniser
from pipeline.prepare.account import Account
from pipeline.prepare.preparation import Preparation
from pipeline.prepare.reader import Reader
from pipeline.settings.inputs import Data

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GOOD = [{"prompt": f"Name colour {i}.", "chosen": "Red.", "rejected": "Seven."} for i in range(40)]


@cache
def tokeniser() -> Tokeniser:
    """A byte-level BPE without merges."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=bare, **special)
    fast.chat_template = CHATML
    return Tokeniser(fast, 512, 512)


@dataclass(frozen=True)
class Made:
    """What prepare makes of some rows."""

    preparation: Preparation
    account: Account
    folder: Path

    @property
    def parts(self) -> dict[str, bytes]:
        return {part.name: part.read_bytes() for part in sorted(self.folder.glob("part-*.parquet"))}

    @property
    def pairs(self) -> list[dict[str, Any]]:
        return pq.read_table(sorted(self.folder.glob("part-*.parquet"))).to_pylist()

    @property
    def dropped(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "dropped.parquet").to_pylist()

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(row["row"], row["reason"]) for row in self.dropped]


def prepared(rows: list[Any] | Rows, folder: Path, a_block: int = 2048, spread: Any = map, **data: Any) -> Made:
    folder.mkdir(exist_ok=True)
    given = rows if isinstance(rows, Rows) else Rows.of(lambda: enumerate(rows, 1))
    settings = Data(source="pairs.jsonl", **data)
    preparation = Preparation(given, settings, folder, a_block)
    for _ in preparation.read(Reader(tokeniser(), Limits(None, None), settings).make, spread):
        pass
    copies, account = preparation.settle()
    for _ in preparation.write(copies, spread):
        pass
    return Made(preparation, account, folder)
