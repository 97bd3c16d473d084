"""What passes between those who ask a judge and those who are one: a request, and a reply."""

from dataclasses import dataclass, field, replace

from pipeline.evaluation.benchmarks.thoughts import spoken, thinks
from pipeline.preferences.messages import Message


@dataclass(frozen=True)
class Request:
    messages: tuple[Message, ...]
    max_tokens: int  # of the reply
    first_token: bool = False  # whether the log-probs of its first token are wanted
    anew: bool = False  # whether the reply takes the place of an earlier one, in place of going on from it


@dataclass(frozen=True)
class Reply:
    """`text` is None where there was no answer, and `why` says so. Token counts are 0 where the judge gives none."""

    text: str | None
    why: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first: dict[str, float] = field(default_factory=dict)  # log-probs of the likeliest first tokens, after any thoughts
    cut: bool = False  # whether it ended at its token limit
    thoughts: str = ""  # where the judge keeps them apart from its text, which may hold some as well
    without: tuple[str, ...] = ()  # settings that the judge would not take, and was asked without

    @property
    def thinks(self) -> bool:
        return bool(self.thoughts) or thinks(self.text or "")

    @property
    def wordless(self) -> bool:
        """Whether it came, and ended within the judge's thoughts or before a word was said."""
        return self.text is not None and (self.thinks or self.cut) and not (spoken(self.text) or "").strip()

    def then(self, further: "Reply", anew: bool = False) -> "Reply":
        """This reply and what the judge said when it was asked on, or `anew`; none where that did not come."""
        return replace(
            further,
            text=further.text if anew or further.text is None else f"{self.text}\n{further.text}",
            prompt_tokens=self.prompt_tokens + further.prompt_tokens,
            completion_tokens=self.completion_tokens + further.completion_tokens,
        )
