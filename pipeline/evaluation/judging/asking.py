"""What passes between those who ask a judge and those who are one: a request, and a reply."""

from dataclasses import dataclass, field

from pipeline.preferences.shapes import Message


@dataclass(frozen=True)
class Request:
    messages: tuple[Message, ...]
    max_tokens: int  # of the reply
    first_token: bool = False  # whether the log-probs of its first token are wanted


@dataclass(frozen=True)
class Reply:
    """`text` is None where there was no answer, and `why` says so. Token counts are 0 where the judge gives none."""

    text: str | None
    why: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first: dict[str, float] = field(default_factory=dict)  # log-probs of the likeliest first tokens, by their text
    cut: bool = False  # whether it ended at its token limit

    def then(self, further: "Reply") -> "Reply":
        """This reply and what the judge said when it was asked on; none where that did not come."""
        return Reply(
            None if further.text is None else f"{self.text}\n{further.text}",
            further.why,
            self.prompt_tokens + further.prompt_tokens,
            self.completion_tokens + further.completion_tokens,
            cut=further.cut,
        )
