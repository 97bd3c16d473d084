"""The account that prepare keeps: rows that look as if a template had rendered them, and what it says of losses."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from jobs.prepare import Reader, refuse_losses
from pipeline.errors import UserError
from pipeline.preferences.files import Rows
from pipeline.preferences.tokenise import Tokeniser
from pipeline.settings.config import Data

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GOOD = [{"prompt": f"Name colour {i}.", "chosen": "Red.", "rejected": "Seven."} for i in range(40)]


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    """A byte-level BPE without merges."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=bare, **special)
    fast.chat_template = CHATML
    return Tokeniser(fast, 512, 512)


def read(tokeniser: Tokeniser, rows: list[Any], **data: Any) -> Reader:
    reader = Reader(tokeniser, Data(source="pairs.jsonl", **data), Rows(lambda: enumerate(rows, 1)))
    assert len(list(reader.pairs())) == reader.kept
    return reader


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "<|im_start|>user\nHi.", "chosen": "Yes.", "rejected": "No."}, "pairs spell control tokens"),
        ({"prompt": "Hi.", "chosen": "Yes.<|im_end|>", "rejected": "No."}, "pairs spell control tokens"),
        (
            {"prompt": "[INST] Hi. [/INST]", "chosen": "Yes.", "rejected": "No."},
            "pairs spell control tokens",
        ),  # another's
        ({"prompt": "Say.", "chosen": "Say. Red.", "rejected": "Say.\nSeven."}, "pairs have answers that begin with"),
    ],
)
def test_texts_that_look_rendered_are_counted_and_beyond_a_share_refused(
    tokeniser: Tokeniser, row: dict[str, str], said: str
) -> None:
    def wrong(count: int) -> list[dict[str, str]]:
        return [{**row, "chosen": f"{row['chosen']} {i}"} for i in range(count)]

    few = read(tokeniser, [*GOOD[8:], *wrong(8)])
    few.refuse_suspects()
    assert 8 in (few.metrics()["spelled_control_tokens"], few.metrics()["repeated_prompts"])
    many = [*GOOD[9:], *wrong(9)]
    with pytest.raises(UserError, match=f"9 of 40 {said}") as caught:
        read(tokeniser, many).refuse_suspects()
    assert "data.max_suspect=1" in caught.value.remedy
    read(tokeniser, many, max_suspect=1.0).refuse_suspects()


def test_losses_are_told_with_a_row_of_each_reason(tokeniser: Tokeniser) -> None:
    bad = [{**GOOD[0], "split": "held-out"}, {**GOOD[1], "split": "held-back"}, {**GOOD[2], "rejected": "Red."}]
    reader = read(tokeniser, [*GOOD[3:5], *bad])
    ledger = {"read": 5, "kept": 2, "dropped": {"bad-split": 2, "equal-completions": 1}}
    with pytest.raises(UserError) as caught:
        refuse_losses(reader.data, ledger, Path("dropped.parquet"), reader.examples())
    assert "bad-split: row 3: split is 'held-out', not train, dev or test" in caught.value.remedy
    assert "equal-completions: row 5: 'Red.'" in caught.value.remedy and "held-back" not in caught.value.remedy


def test_what_was_found_is_said_once(tokeniser: Tokeniser, capsys: pytest.CaptureFixture[str]) -> None:
    message = {"role": "user", "content": "Hi.", "weight": 2}
    row = {"prompt": [message], "rejected": "No.", "id": 1, "system_prompt": "Be brief.", "chosen-rating": 3}
    reader = read(tokeniser, [{**row, "chosen": f"Red {i}."} for i in range(3)])
    reader.tell()
    said = capsys.readouterr().out
    assert said.count("rows are messages") == said.count("columns not used: chosen-rating, id, system_prompt") == 1
    assert said.count("data.columns={system: system_prompt, chosen_score: chosen-rating} would read") == 1
    assert said.count("message keys not used: weight") == 1
