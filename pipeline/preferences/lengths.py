"""How long a pair may be, and what becomes of one that is longer: it is dropped, or cut where the user says so."""

from collections import Counter
from dataclasses import dataclass

from pipeline.preferences.messages import Dropped

Sides = tuple[list[int], list[int], list[int]]  # token ids of prompt, chosen and rejected


@dataclass(frozen=True)
class Lengths:
    """Limits in tokens, the completion's with its end token, and what is cut."""

    prompt: int
    completion: int
    keep_end: bool = False  # of a prompt that is longer its end is kept
    equal: bool = False  # both completions are cut to the length of the shorter one (POET)

    def fit(self, sides: Sides, begin: int | None, notes: Counter[str]) -> Sides | Dropped:
        """The pair as it may be; into `notes` what was cut. `begin` is the token that stands before every text."""
        prompt, chosen, rejected = sides
        if self.equal and len(chosen) != len(rejected):
            shorter = min(len(chosen), len(rejected))
            chosen, rejected = chosen[:shorter], rejected[:shorter]
            notes["a pair's longer answer is cut to the length of the shorter (data.equal_lengths)"] += 1
        if len(prompt) > self.prompt and self.keep_end:
            first = prompt[:1] if self.prompt > 1 and prompt[0] == begin else []
            prompt = [*first, *prompt[len(first) - self.prompt :]]
            notes["a prompt is cut to its end (data.long_prompts=keep-end)"] += 1
        if len(prompt) > self.prompt:
            return Dropped("prompt-too-long", f"{len(prompt)} tokens, the limit is {self.prompt}")
        if max(len(chosen), len(rejected)) > self.completion:
            lengths = f"chosen {len(chosen)}, rejected {len(rejected)} tokens"
            return Dropped("completion-too-long", f"{lengths}, the limit is {self.completion}")
        if chosen == rejected:
            return Dropped("equal-completions", f"different texts, the same {len(chosen)} tokens")
        return prompt, chosen, rejected
