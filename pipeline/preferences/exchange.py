"""One question and its answer as a chat template renders them, to learn from how it does."""

import itertools
import re
from dataclasses import dataclass
from typing import Any

from pipeline.preferences.messages import Message, said
from pipeline.preferences.template import Template
from pipeline.preferences.thoughts import without_tags

ANSWER = "\ue002"  # stands for the answer
_QUESTION, _SYSTEM = {"role": "user", "content": "x"}, {"role": "system", "content": "y"}
_TOOL = {"type": "function", "function": {"name": "z", "description": "", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class Exchange:
    """A question with what a template wants before it, the tools that it wants, and three renderings."""

    question: tuple[Message, ...]
    tools: tuple[Any, ...]
    asked: str  # up to where the answer begins
    stated: str  # not asked to go on
    answered: str  # with ANSWER as the answer

    @classmethod
    def of(cls, template: Template) -> "Exchange":
        """The shortest that is rendered. Raises UserError where none is, or an answer could not be trained on."""
        failed: Exception | None = None
        for tools, system in itertools.product(((), (_TOOL,)), ((), (_SYSTEM,))):
            question = (*system, _QUESTION)
            try:
                asked, stated = (template(question, tools, answer_next=each) for each in (True, False))
                answered = template([*question, said(ANSWER)], tools, answer_next=False)
            except Exception as error:  # a template is a program: it may fail in any way
                failed = failed or error
                continue
            found = cls(question, tools, asked, stated, answered)
            found._require(template)
            return found
        raise template.error(f"has a chat template that fails: {failed}") from failed

    def _require(self, template: Template) -> None:
        header, found, _ = self.answered.rpartition(ANSWER)
        if not found:
            raise template.error("has a chat template that leaves out an assistant's answer")
        if self.unasked and re.search(r"\w", lacks := without_tags(header.removeprefix(self.asked))):
            raise template.error(
                f"has a chat template whose generation prompt lacks what it writes before an answer ({lacks!r})"
            )

    @property
    def tail(self) -> str:
        """What is written after the answer."""
        return self.answered.rpartition(ANSWER)[2]

    @property
    def unasked(self) -> bool:
        """Whether the template begins the next turn without being asked to, or none at all."""
        return self.asked == self.stated
