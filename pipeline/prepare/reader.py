"""Rows as pairs of token ids, or counted out: what is done to each row of a block."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.compute.limits import Limits
from pipeline.preferences.messages import Dropped, Message, plain
from pipeline.preferences.normalise import Look, Normaliser, Preference, split_of
from pipeline.prepare.blocks import OUTCOMES, Block, Findings, Made, file_of, write
from pipeline.results.tables import messages_json
from pipeline.settings.inputs import Data, Model

if TYPE_CHECKING:
    from pipeline.preferences.tokenise import Tokeniser
    from pipeline.prepare.account import Account

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
_NOTHING: dict[str, Any] = dict.fromkeys(OUTCOMES.names)


@dataclass(frozen=True)
class Spec:
    """What a reader is made of, for another process: the model's folder, and sections of a configuration as JSON."""

    folder: str
    model: str
    data: str

    @classmethod
    def of(cls, folder: Path, model: Model, data: Data) -> "Spec":
        return cls(str(folder), model.model_dump_json(), data.model_dump_json())

    def open(self) -> "Reader":
        """Raises UserError for a tokenizer or a template that cannot be used with the model."""
        from pipeline.preferences.tokenise import open_tokeniser

        data, model = Data.model_validate_json(self.data), Model.model_validate_json(self.model)
        folder = Path(self.folder)
        limits = Limits.of(folder)
        tokeniser = open_tokeniser(
            folder,
            data.max_prompt_tokens,
            data.max_completion_tokens,
            keep_end=data.long_prompts == "keep-end",
            equal=data.equal_lengths,
            **model.rendering,
        )
        limits.require(tokeniser)
        return Reader(tokeniser, limits, data)


class Reader:
    """Turns the rows of a block into rows of OUTCOMES. Nothing that it learns in one block has a part in another."""

    def __init__(self, tokeniser: "Tokeniser", limits: Limits, data: Data):
        self.tokeniser, self.limits, self.data = tokeniser, limits, data
        self.notes, self.standing = tokeniser.notes.copy(), tokeniser.standing_remarks()  # before any row

    def remarks(self, account: "Account") -> dict[str, int]:
        """What is to be said of the chat template, and how often it was so."""
        standing = account.standing_remarks.union(self.standing)
        return {**(self.notes + account.remarks), **dict.fromkeys(sorted(standing), 1)}

    def normaliser(self, look: Look) -> Normaliser:
        return Normaliser((), self.data.columns, self.data.difficulty_column, self.data.pairing, look)

    def make(self, job: tuple[Block, Look, Path]) -> Made:
        """Write the file of a block into a folder."""
        block, look, folder = job
        self.tokeniser.forget()
        normaliser = self.normaliser(look)
        outcomes = [each for number, row in block for each in self._outcomes(number, row, normaliser)]
        notes = normaliser.notes
        findings = Findings(
            shapes=sorted(notes.shapes),
            columns=sorted(notes.columns),
            message_keys=sorted(notes.message_keys),
            seen=sorted(normaliser.seen_columns),
            remarks=self.tokeniser.standing_remarks(),
            ties=notes.ties,
            repeated=normaliser.repeated,
        )
        made = Made(block.number, block.span, look.scale, normaliser.scale)
        write(pa.Table.from_pylist(outcomes, schema=OUTCOMES), file_of(folder, block.number), made, findings)
        return made

    def _outcomes(self, number: int, row: Any, normaliser: Normaliser) -> Iterator[dict[str, Any]]:
        content = ascii(getattr(row, "detail", row))[:4000]  # of any type, and perhaps of text that cannot be encoded
        for outcome in normaliser.read(row):
            found = {"row": number, "content": content}
            if isinstance(outcome, Dropped):
                yield _NOTHING | found | _why(outcome)
            else:
                yield _NOTHING | found | self._pair(outcome)

    def _pair(self, preference: Preference) -> dict[str, Any]:
        self.tokeniser.notes.clear()
        tokens = self.tokeniser.pair(preference)
        tokens = tokens if isinstance(tokens, Dropped) else self.limits.check(tokens) or tokens
        found = {
            "pair_id": preference.pair_id,
            "mirrored_id": preference.mirrored_id,
            "prompt_id": preference.prompt_id,
            "chosen_score": preference.chosen_score,
            "rejected_score": preference.rejected_score,
            "label_confidence": preference.label_confidence,
            "difficulty": preference.difficulty,
            "source": preference.source,
            "own_split": preference.split,
            "spelled": self._spells(preference),
            "remarks": json.dumps(self.tokeniser.notes) if self.tokeniser.notes else None,
        }
        if isinstance(tokens, Dropped):
            return found | _why(tokens)
        return found | {
            "prompt": messages_json(list(preference.prompt)),
            "chosen": _shown(preference.chosen),
            "rejected": _shown(preference.rejected),
            "prompt_ids": tokens.prompt_ids,
            "chosen_ids": tokens.chosen_ids,
            "rejected_ids": tokens.rejected_ids,
            "split": split_of(preference, self.data.dev_fraction),
        }

    def _spells(self, preference: Preference) -> bool:
        """Whether a text of the pair looks rendered already: it spells a control token, or begins a turn."""
        texts = [message["content"] for message in (*preference.prompt, preference.chosen, preference.rejected)]
        return any(self.tokeniser.encode.spells(text) or any(mark in text for mark in TURNS) for text in texts)


def _why(dropped: Dropped) -> dict[str, str]:
    return {"reason": dropped.reason, "detail": ascii(dropped.detail)[1:-1]}


def _shown(message: Message) -> str:
    """A completion for reading: its text, or the whole message where it is more."""
    return text if isinstance(text := plain(message), str) else messages_json([message])
