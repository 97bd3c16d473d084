"""Whole conversations as token ids, as a reward model reads them: all that the chat template writes, and no more."""

from collections.abc import Sequence
from typing import Any

from pipeline.preferences.forged import Turns
from pipeline.preferences.messages import Dropped, Message, Unusable, short
from pipeline.preferences.tokenise import MAY_LACK, Tokeniser


class Conversations:
    """Encodes a prompt with its answer in one piece, with a tokeniser's template and its care for control tokens.

    What begins a text is written by the template or not at all, so that no BOS is there twice; what the template writes
    after an answer, such as the newline after `<|im_end|>`, belongs to it.
    """

    def __init__(self, tokeniser: Tokeniser):
        self.tokeniser = tokeniser
        self._turns = Turns(tokeniser.encode, self._rendered)

    def forget(self) -> None:
        """Begin anew: what was learnt of conversations already read has no part in the next."""
        self.tokeniser.forget()
        self._turns.forget()

    def __call__(self, messages: Sequence[Message], answer: Message) -> list[int] | Dropped:
        """Token ids; or why there are none: refused by the template, not rendered whole, or forged."""
        template, encode = self.tokeniser.template, self.tokeniser.encode
        whole = [encode.hidden(message) for message in (*messages, answer)]
        try:
            rendered = self._rendered(whole, (), True)
            for index, kind, text in template.left_out(whole, (), rendered, answer_next=False):
                if kind not in MAY_LACK:
                    which = f"message {index + 1}, of role {whole[index]['role']},"
                    raise Unusable(
                        "template-leaves-out", f"{kind} of {which} is not rendered whole: {short.repr(text)}"
                    )
            (ids,) = encode(rendered)
            if self._turns.forged(ids, whole, (), answered=True):
                raise Unusable("control-token", f"a text would forge a turn: {short.repr(answer['content'])}")
        except Unusable as unusable:
            return unusable.dropped
        return ids

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Any], _: bool) -> str:
        return self.tokeniser.render(messages, tools, answer_next=False)
