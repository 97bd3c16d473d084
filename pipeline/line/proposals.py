"""What Optuna proposes for the trials of a method, and the file in which it keeps how they ended.

A proposal is a function of the seed, the trial's number, the ranges, and the figures of the trials it is told of. How
many run at a time, in which order they end, and what was interrupted have no part in it. Optuna is optional.
"""

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import UserError
from pipeline.randomness import seed_of
from pipeline.settings.sweep import Range, label

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

DIGITS = 4  # that a proposed number has: more would say nothing, and be hard to read


@dataclass(frozen=True)
class Trial:
    """A trial that is over. `figure` is what it is chosen by, larger is better; None where it failed, for `reason`."""

    method: str
    number: int
    settings: Mapping[str, Any]  # as proposed, by their dotted names
    figure: float | None
    reason: str = ""
    short: tuple[float, ...] = field(default=())  # figures of its short runs
    pruned: bool = False  # it went no further than these

    @property
    def whole(self) -> bool:
        return self.figure is not None and not self.pruned


def best(trials: Iterable[Trial]) -> Trial | None:
    """The one that is chosen: of those that came to their end the best, of equals the first; None without any."""
    whole = [trial for trial in trials if trial.whole]
    return max(whole, key=lambda trial: (trial.figure, -trial.number), default=None)


def require_optuna() -> None:
    """Raise UserError where it is not installed."""
    if importlib.util.find_spec("optuna") is None:
        problem = "what a sweep tries is proposed by Optuna, which is not installed"
        raise UserError(problem, "install it: pip install 'widemargin[sweep]', or pip install optuna")


def propose(
    ranges: Mapping[str, Range],
    sampler: Literal["random", "tpe"],
    seed: int,
    number: int,
    before: Sequence[Trial] = (),
) -> dict[str, Any]:
    """A value for each setting. `before` are the trials that TPE learns from; without one that has a figure, and at
    random, values are drawn from the ranges alone: for all methods the same, where their first ranges are.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its lines are not ours to say
    drawn_from = distributions(ranges)
    study = optuna.create_study(
        direction="maximize", sampler=_sampler(sampler, seed_of("proposal", seed, number), before)
    )
    study.add_trials([_frozen(trial, drawn_from) for trial in before])
    found = study.ask(drawn_from).params
    return {name: _value(each, found[name]) for name, each in ranges.items()}


def distributions(ranges: Mapping[str, Range]) -> "dict[str, BaseDistribution]":
    """The ranges as Optuna has them; values of a choice as JSON, since a value may be a list or a section."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: CategoricalDistribution([label(value) for value in each.choice or ()])
        if each.ends is None
        else FloatDistribution(*each.ends, log=each.log is not None)
        for name, each in ranges.items()
    }


def _sampler(name: str, seed: int, before: Sequence[Trial]) -> "BaseSampler":
    from optuna.samplers import RandomSampler, TPESampler

    seed %= 2**32
    if name == "random" or not any(trial.figure is not None for trial in before):
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=1, constant_liar=False)


def _value(given: Range, found: Any) -> Any:
    if given.ends is None:
        return json.loads(found)
    low, high = given.ends
    return min(max(float(f"{found:.{DIGITS}g}"), low), high)


def _frozen(trial: Trial, drawn_from: "Mapping[str, BaseDistribution]") -> "FrozenTrial":
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    state = TrialState.COMPLETE if trial.whole else TrialState.PRUNED if trial.pruned else TrialState.FAIL
    return create_trial(
        state=state,
        value=trial.figure,
        params={
            name: label(trial.settings[name]) if isinstance(each, CategoricalDistribution) else trial.settings[name]
            for name, each in drawn_from.items()
        },
        distributions=dict(drawn_from),
        intermediate_values=dict(enumerate(trial.short)),
        user_attrs={"trial": trial.number, "reason": trial.reason},
    )


class Record:
    """Optuna's file of a sweep's trials, a study a method: its dashboard and its plots open it.

    What a trial came to is known from its results, too; that one failed is known from here alone. One process writes.
    """

    def __init__(self, file: Path):
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name(f"{file.name}.lock").unlink(missing_ok=True)  # of a process that was killed while it wrote
        try:
            _end_at_a_line(file)
            self.storage = JournalStorage(JournalFileBackend(str(file)))
            for study in self.storage.get_all_studies():
                self.storage.get_all_trials(study._study_id)
        except Exception as error:  # whatever another version, a disk or an editor has left there
            problem = f"{file}: is no journal that this Optuna reads ({type(error).__name__}: {error})"
            remedy = "move it away: trials are found by their results, and what failed is tried again"
            raise UserError(problem, remedy) from None
        self.studies: dict[str, Study] = {}

    def study(self, method: str) -> "Study":
        import optuna

        if method not in self.studies:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            self.studies[method] = optuna.create_study(
                storage=self.storage, study_name=method, direction="maximize", load_if_exists=True
            )
        return self.studies[method]

    def failure(self, method: str, number: int, settings: Mapping[str, Any], ranges: Mapping[str, Range]) -> str:
        """Why a trial of these settings failed when it was last tried; nothing where it did not."""
        from optuna.trial import TrialState

        last, asked = self._last(method, number), _frozen(Trial(method, number, settings, None), distributions(ranges))
        failed = last is not None and last.state == TrialState.FAIL and last.params == asked.params
        return str(last.user_attrs["reason"]) if last and failed else ""

    def add(self, trial: Trial, ranges: Mapping[str, Range]) -> None:
        """Write down how a trial ended, unless that stands there."""
        last, one = self._last(trial.method, trial.number), _frozen(trial, distributions(ranges))
        if last is None or (last.state, last.values, last.params) != (one.state, one.values, one.params):
            self.study(trial.method).add_trial(one)

    def _last(self, method: str, number: int) -> "FrozenTrial | None":
        """A trial may stand there several times: it failed, and was tried again."""
        return {each.user_attrs.get("trial"): each for each in self.study(method).trials}.get(number)  # or others' own


def _end_at_a_line(file: Path) -> None:
    """Drop what a process that was killed, or a full disk, left of a last line: Optuna would not read on.

    Raises ValueError for a line that is none, of which Optuna says nothing where it is the last.
    """
    if not file.exists():
        return
    with open(file, "r+b") as journal:
        content = journal.read()
        journal.truncate(end := content.rfind(b"\n") + 1)
    for line in content[:end].splitlines():
        json.loads(line)
