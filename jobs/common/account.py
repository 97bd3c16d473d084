"""What is said of the rows that were read, and when it is too much to go on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.saying import say
from pipeline.errors import UserError
from pipeline.settings.config import Data
from pipeline.statistics import share_of

if TYPE_CHECKING:
    from jobs.common.reader import Reader


def tell(reader: "Reader") -> None:
    """Say once what was read, and what was not."""
    from pipeline.preferences.columns import hint

    found = reader.metrics()
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
    moved = {"chosen", "rejected"} & reader.data.columns.keys()
    if moved and not {"chosen_score", "rejected_score"} & reader.data.columns.keys() and reader.scored:
        say("prepare: data.columns gives other answers, and not their scores: name these, too, or give null")


def refuse_suspects(reader: "Reader") -> None:
    """Raise UserError where more texts than the user allows look as if they were rendered, or joined, before."""
    data = reader.data
    repeated = 0 if reader.normaliser.repeats else reader.normaliser.repeated
    found = (
        (reader.spelled, "spell control tokens of chat templates", "give messages, or texts without a template's"),
        (repeated, "have an answer that begins with its prompt", "leave the prompt out of chosen and rejected"),
    )
    pairs = len(reader.normaliser.best)
    for count, what, remedy in found:
        if count > data.max_suspect * pairs:
            problem = f"data.source={data.source}: {count} of {pairs} pairs {what}"
            raise UserError(problem, f"{remedy}; data.max_suspect=1 trains on them as they are")


def refuse_losses(data: Data, ledger: Mapping[str, Any], kept_aside: Path, examples: Mapping[str, str]) -> None:
    """Raise UserError, with an example a reason, where nothing is left, or more was dropped than the user allows."""
    read, dropped = ledger["read"], ledger["read"] - ledger["kept"]
    if ledger["kept"] == 0 or dropped > share_of(read, data.max_dropped):
        allowed = f"data.max_dropped allows {data.max_dropped:.1%}" if ledger["kept"] else "which leaves nothing"
        raise UserError(
            f"data.source={data.source}: {dropped} of {read} rows were dropped ({dropped / max(1, read):.1%}, "
            f"{allowed}): {ledger['dropped']}",
            f"mend the data{' or raise data.max_dropped' if ledger['kept'] else ''}; all are in {kept_aside}, such as\n"
            + "\n".join(f"    {reason}: {example}{_remedy(reason)}" for reason, example in examples.items()),
        )


def _remedy(reason: str) -> str:
    """What may be done about the model's side of a reason."""
    remedies = {
        "other-scale": "data.columns={scores: NAME} ranks all by NAME, {chosen_score: null} leaves scores beside pairs "
        "unread",
        "open-thoughts": "model.template_arguments={enable_thinking: false} where the template reads it; else answers "
        "with thoughts, or model.chat_template=FILE without",
        "template-leaves-out": "model.chat_template=FILE that writes it, or data.columns={NAME: null} leaves it unread",
        "generation-prompt": "model.chat_template=FILE that renders both alike",
        "template-refused": "model.chat_template=FILE that takes such messages",
        "prompt-too-long": "data.max_prompt_tokens allows more",
        "completion-too-long": "data.max_completion_tokens allows more",
        "seam": "take the white space off the beginnings of answers",
    }
    return f" ({remedies[reason]})" if reason in remedies else ""
