"""The benchmark `verifiable`: prompts whose constraints a rule decides, and the figures of a model's answers to them.

A share of constraints met says little by itself, so it never stands alone: beside it are what an empty answer and the
best single constant answer would have got, how many of a model's answers differ from one another, and their length.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pipeline.evaluation.benchmarks.thoughts import without_thoughts
from pipeline.evaluation.profile import Profile, profile
from pipeline.preferences.constraints import met
from pipeline.preferences.verifiable import Question, questions
from pipeline.statistics import Interval, WinRate, bootstrap_mean, win_rate

SIZE = 160  # prompts of the benchmark

# Constant answers made to meet as many constraints at once as they can; `baselines` tries them beside real answers.
CONSTANTS = (
    *("yes", "Yes.", "YES!", "good?", "Good?", "GOOD?", '"Yes."', '"yes"', "[yes]", "[YES]", "*Yes*", "*yes*"),
    *("it is very good?", "It Is Very Good!", "IT IS VERY GOOD?", "truly, it is good?", "It is good. It is warm!"),
    *("good, warm, old", "GOOD, WARM, OLD", '"good, warm, old, new"', "[Good, Warm, Old]", "*good, warm, old*"),
    *(
        "- one\n- two",
        "- ONE\n- TWO\n- THREE",
        "1. one\n2. two",
        "1. One\n2. Two\n3. Three",
        "- it is good.\n- is it warm?",
    ),
    *('{"a": 1}', '{"quality": "good", "detail": "warm"}', '{"nature": "good", "label": "warm"}'),
    *(
        "Maybe it is good. Have a great weekend.",
        "hey, hey, it is good. is it warm?",
        "truly good good. hey hey, is it warm?",
    ),
)


@dataclass(frozen=True)
class Judged:
    """One answer and what the rules said: `met[i]` is about the question's constraint i, of kind `kinds[i]`."""

    question_id: str
    kinds: tuple[str, ...]
    met: tuple[bool, ...]
    text: str
    tokens: int
    finish_reason: str  # stop | length

    @property
    def share(self) -> float:
        return sum(self.met) / len(self.met)


@dataclass(frozen=True)
class Summary:
    """One model's figures over the prompts. Shares lie in 0 to 1."""

    prompts: int
    share_met: Interval
    wholly_met: Interval
    tokens: float  # mean per answer
    kinds: dict[str, float]  # share met by kind of constraint
    profile: Profile


@dataclass(frozen=True)
class Baseline:
    """What one text would get as the answer to every prompt."""

    text: str
    share_met: float
    wholly_met: float


def benchmark(size: int = SIZE) -> list[Question]:
    """The questions of the benchmark, always the same ones."""
    return questions("test", size)


def judge(question: Question, text: str, tokens: int, finish_reason: str) -> Judged:
    """Put an answer to the rules, without its thoughts. `tokens` and `finish_reason` are the generator's."""
    kinds = tuple(constraint.kind for constraint in question.constraints)
    flags = tuple(met(constraint, without_thoughts(text)) for constraint in question.constraints)
    return Judged(question.question_id, kinds, flags, text, tokens, finish_reason)


def summarise(answers: Sequence[Judged], resamples: int = 2000, seed: int = 0) -> Summary:
    """The figures of one model, one answer a prompt; intervals are 95 % bootstrap intervals over prompts."""
    flags: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        for kind, flag in zip(answer.kinds, answer.met, strict=True):
            flags[kind].append(flag)
    return Summary(
        prompts=len(answers),
        share_met=bootstrap_mean([answer.share for answer in answers], resamples, seed),
        wholly_met=bootstrap_mean([float(all(answer.met)) for answer in answers], resamples, seed),
        tokens=fmean(answer.tokens for answer in answers),
        kinds={kind: fmean(flags[kind]) for kind in sorted(flags)},
        profile=profile(
            [answer.text for answer in answers], sum(answer.finish_reason == "length" for answer in answers)
        ),
    )


def compare(trained: Sequence[Judged], base: Sequence[Judged], resamples: int = 2000, seed: int = 0) -> WinRate:
    """How often the trained model met more of a prompt's constraints than the base model, matched by question."""
    theirs = {answer.question_id: answer.share for answer in base}
    if {answer.question_id for answer in trained} != set(theirs) or len(trained) != len(base):
        raise ValueError(
            "the two models did not answer the same questions, each once: their answers cannot be compared"
        )
    return win_rate(
        [answer.share for answer in trained], [theirs[answer.question_id] for answer in trained], resamples, seed
    )


def baselines(asked: Sequence[Question], answers: Iterable[str] = ()) -> tuple[Baseline, Baseline]:
    """(the empty answer, the best constant answer) among `answers` and CONSTANTS.

    Best is the highest mean share of constraints met. Chosen with the test prompts in view, so it is a bar
    set high, not a method.
    """
    candidates = sorted({*CONSTANTS, *answers})
    best = max(
        (_constant(asked, text) for text in candidates), key=lambda baseline: (baseline.share_met, baseline.wholly_met)
    )
    return _constant(asked, ""), best


def _constant(asked: Sequence[Question], text: str) -> Baseline:
    judged = [judge(question, text, 0, "stop") for question in asked]
    return Baseline(text, fmean(answer.share for answer in judged), fmean(all(answer.met) for answer in judged))
