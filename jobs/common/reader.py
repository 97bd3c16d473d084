"""Rows of a source as rows of the table of pairs, and what was found while they were read."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.settings.config import Data

if TYPE_CHECKING:
    from pipeline.compute.limits import Limits
    from pipeline.preferences.files import Rows
    from pipeline.preferences.normalise import Copy, Preference
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


class Reader:
    """Turns rows into rows of tables.PAIRS, and keeps account of every row that is not one.

    Raises UserError where the first rows show that the source is not what was meant, and `best` is of an earlier
    reading; see Normaliser.
    """

    def __init__(
        self,
        tokeniser: "Tokeniser",
        limits: "Limits",
        data: Data,
        rows: "Rows",
        best: "Mapping[str, Copy] | None" = None,
    ):
        from pipeline.preferences.normalise import Normaliser

        self.tokeniser, self.limits, self.data, self.rows = tokeniser, limits, data, rows
        self.normaliser = Normaliser(rows, data.columns, data.difficulty_column, data.pairing, best)
        self.rows_read = self.kept = self.spelled = self.scored = 0
        self.dropped: list[Row] = []
        self.splits: Counter[str] = Counter()

    def pairs(self) -> Iterator[Row]:
        from pipeline.preferences.messages import Dropped
        from pipeline.preferences.normalise import split_of
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
                    "pair_id": preference.pair_id,
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


def _name(column: str) -> str:
    """A column's name, which may hold what UTF-8 cannot spell."""
    return column.encode(errors="backslashreplace").decode() or "(without a name)"


def _shown(message: Row) -> str:
    """A completion for reading: its text, or the whole message where it is more."""
    from pipeline.preferences.messages import plain
    from pipeline.results.tables import messages_json

    return text if isinstance(text := plain(message), str) else messages_json([message])
