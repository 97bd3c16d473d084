"""What is said of the rows that were read, and when it is too much to go on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.saying import say
from pipeline.errors import UserError
from pipeline.settings.inputs import Data
from pipeline.statistics import share_of

if TYPE_CHECKING:
    from pipeline.preferences.normalise import Normaliser
    from pipeline.prepare.account import Account


def metrics(account: "Account", source: "Normaliser") -> dict[str, Any]:
    """What was found by looking, for the manifest."""
    return {
        "shapes": sorted(account.shapes),
        "splits": dict(account.splits),
        "columns_not_used": [_name(each) for each in source.unused_of(account.seen, account.columns)],
        "message_keys_not_used": sorted(map(_name, account.message_keys)),
        "ties": account.ties,
        "spelled_control_tokens": account.spelled,
        "repeated_prompts": account.repeated,
        "repeated_prompts_taken_off": source.repeats,
        "scores_against_labels": account.against,
        "contradicting_labels": account.contradicting.count,
        "prompts_in_several_splits": account.shared_prompts.count,
    }


def ledger_of(account: "Account", written: int) -> dict[str, Any]:
    """What became of every row, where so many pairs were `written`."""
    reasons = dict(account.dropped.most_common())
    ledger = {"rows": account.rows, "read": account.read, "kept": account.kept, "dropped": reasons}
    return ledger | {"beyond_limit": account.kept - written}


def tell_ledger(ledger: Mapping[str, Any]) -> None:
    """Say what became of results that are joined, and of the rows that are no pairs."""
    if joined := ledger.get("joined"):
        told = ", ".join(f"{each['kept']} of {each['rows']} pairs of {each['result']}" for each in joined)
        say(f"prepare: {told}")
    if reasons := ledger["dropped"]:
        say(f"prepare: {sum(reasons.values())} of {ledger['read']} rows dropped: {reasons}")


def _name(column: str) -> str:
    """A column's name, which may hold what UTF-8 cannot spell."""
    return column.encode(errors="backslashreplace").decode() or "(without a name)"


def tell(account: "Account", found: Mapping[str, Any], data: Data) -> None:
    """Say once what was read, and what was not."""
    from pipeline.preferences.columns import hint

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
    moved = {"chosen", "rejected"} & data.columns.keys()
    if moved and not {"chosen_score", "rejected_score"} & data.columns.keys() and account.scored:
        say("prepare: data.columns gives other answers, and not their scores: name these, too, or give null")
    if 2 * account.against > account.scored:
        say(
            f"prepare: of {account.scored} pairs with scores {account.against} have the lower one on the chosen side: "
            "where the higher one is better, data.columns={chosen: NAME, rejected: NAME, ...} exchanges the sides"
        )
    for each, what in (
        (account.contradicting, "pairs of answers are labelled both ways, and both are kept"),
        (account.shared_prompts, "prompts stand in more than one split, so that what is held out is not unseen"),
    ):
        if each.rows:
            say(f"prepare: {each.count} {what}; the first in rows {each.rows[0]} and {each.rows[1]}")


def refuse_suspects(account: "Account", data: Data, repeats: bool) -> None:
    """Raise UserError where more texts than the user allows look as if they were rendered, or joined, before."""
    repeated = 0 if repeats else account.repeated
    found = (
        (account.spelled, "spell control tokens of chat templates", "give messages, or texts without a template's"),
        (repeated, "have an answer that begins with its prompt", "leave the prompt out of chosen and rejected"),
    )
    for count, what, remedy in found:
        if count > data.max_suspect * account.pairs:
            problem = f"data.source={data.source}: {count} of {account.pairs} pairs {what}"
            raise UserError(problem, f"{remedy}; data.max_suspect=1 trains on them as they are")


def refuse_losses(account: "Account", data: Data, kept_aside: Path, repeated: int = 0) -> None:
    """Raise UserError, with an example a reason, where nothing is left, or more was dropped than the user allows.

    So many of the dropped are `repeated`: of results that are joined, where two having one pair is no fault of either.
    """
    read, dropped = account.read, account.dropped.total()
    if account.kept == 0 or dropped - repeated > share_of(read, data.max_dropped):
        reasons = dict(account.dropped.most_common())
        allowed = f"data.max_dropped allows {data.max_dropped:.1%}" if account.kept else "which leaves nothing"
        raise UserError(
            f"data.source={data.source}: {dropped} of {read} rows were dropped ({dropped / max(1, read):.1%}, "
            f"{allowed}): {reasons}",
            f"mend the data{' or raise data.max_dropped' if account.kept else ''}; all are in {kept_aside}, such as\n"
            + "\n".join(f"    {reason}: {account.examples[reason]}{_remedy(reason)}" for reason in reasons),
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
