"""Rounds: one configuration several times over, each time from what the time before has trained.

    rounds:
      count: 3
      start: previous      # what a round trains: the model of the round before, or the base model
      reference: base      # what its gaps are measured against
      prompts: split       # other prompts each time, sample.prompts.limit of them; or the same
      mix: latest          # whose pairs it trains on, beside its own: nobody's, those of the round before, or of all

Round r samples from the model of round r - 1, round 1 from the base model. A round is a run of its own: the
configuration with the settings of `_SET`, so that its results are found as any run's are. What it depends on of the
round before is content, so that it can be planned once that is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from pipeline.errors import UserError
from pipeline.line.plan import make_plan, readable
from pipeline.line.steps import VERSIONS, Plan, Step
from pipeline.onpolicy.prompts import read_prompts
from pipeline.results.artifacts import fingerprint
from pipeline.settings.config import RunConfig, Section, validate
from pipeline.settings.faults import own_section
from pipeline.settings.file import read
from pipeline.settings.inputs import SAMPLED

MODEL = "model"  # the folder of a training that holds what it trained
_SET = ("sample.model", "train.start", "reference.model", "data.earlier")  # by round; sample.prompts.skip is added to


class Rounds(Section):
    count: int = Field(ge=1)
    start: Literal["previous", "base"] = "previous"
    reference: Literal["base", "previous"] = "base"
    prompts: Literal["split", "same"] = "split"
    mix: Literal["latest", "last-two", "all"] = "latest"
    # report: every round's model is asked and judged. train: it is not, which takes a fraction of the time.
    until: Literal["train", "report"] = "report"


class _File(BaseModel):
    rounds: Rounds


@dataclass(frozen=True)
class Series(Plan):
    """The plan of the rounds' page: the base configuration's, the rounds, and a plan for each that is known so far."""

    rounds: Rounds
    planned: tuple[Plan, ...]

    def results(self) -> dict[str, Step]:
        """What the page reads, by `round-N:step`."""
        read = ("sample", "rate", "pair", "prepare", "train", "judge", "report")
        return {
            f"round-{number}:{step.name}": step
            for number, plan in enumerate(self.planned, 1)
            for step in self.steps_of(plan)
            if step.stage in read
        }

    def steps_of(self, plan: Plan) -> list[Step]:
        """A round's results in order, up to where rounds end."""
        return plan.until(self.rounds.until)

    def pending(self, plan: Plan) -> list[Step]:
        """What is to be made of a round."""
        return [step for step in self.steps_of(plan) if not step.address.find()]

    @property
    def not_known(self) -> list[str]:
        """A line for each round that cannot be planned yet."""
        later = range(len(self.planned) + 1, self.rounds.count + 1)
        return [f"round {number}: known once round {number - 1} is trained" for number in later]

    def page(self) -> Step | None:
        """The step that makes the page; None as long as a round is not known."""
        if len(self.planned) < self.rounds.count:
            return None
        inputs = self.results()
        identity = {"rounds": self.rounds.model_dump(mode="json"), "name": self.config.name}
        digest = fingerprint(
            "rounds", VERSIONS["rounds"], identity, {role: step.address.fingerprint for role, step in inputs.items()}
        )
        address = self.steps["prepare"].address.beside("rounds", readable(self.config.name) or "rounds", digest)
        return Step("rounds", address, identity, inputs)

    def further(self) -> "Series":
        """The same with all rounds that can be planned now."""
        planned = list(self.planned)
        while len(planned) < self.rounds.count and _ready(self.rounds, planned):
            planned.append(make_plan(configuration(self.rounds, self.config, planned)))
        return Series(**{**vars(self), "planned": tuple(planned)})


def plan_rounds(path: str, overrides: Sequence[str] = ()) -> Series:
    """The rounds of a file, as many as can be planned. Raises UserError where any of them would not be as it says."""
    rounds, config = load_rounds(path, overrides)
    first = make_plan(configuration(rounds, config, ()))
    base = {**vars(first), "config": config}
    return Series(**base, rounds=rounds, planned=(first,)).further()


def load_rounds(path: str, overrides: Sequence[str] = ()) -> tuple[Rounds, RunConfig]:
    """The section `rounds`, and the configuration that all rounds share. Raises UserError as config.load does."""
    raw = read(path, overrides)
    rounds: Rounds = own_section(raw, path, _File, "configs/rounds.yaml")
    config = validate(raw)
    if config.data.source != SAMPLED:
        problem = f"data.source={config.data.source}: rounds are made of pairs of the model's own answers"
        raise UserError(problem, f"set data.source={SAMPLED}; python -m jobs.run trains on other pairs")
    for setting in _SET:
        section, name = setting.split(".")
        if getattr(getattr(config, section), name):
            raise UserError(f"{setting} is given, and every round has its own", "leave it out; see `rounds`")
    lora = config.train.lora
    if rounds.count > 1 and lora and not lora.merge:
        problem = "train.lora.merge=false keeps adapters apart, and the next round starts from a whole model"
        raise UserError(problem, "set train.lora.merge=true")
    if rounds.prompts == "split" and config.sample.prompts.limit is None:
        problem = "rounds.prompts=split gives every round other prompts, and how many is not said"
        raise UserError(problem, "set sample.prompts.limit to the prompts of one round, or rounds.prompts=same")
    return rounds, config


def configuration(rounds: Rounds, config: RunConfig, before: Sequence[Plan]) -> RunConfig:
    """The round that comes after those `before`, for which it must be `_ready`."""
    number = len(before) + 1
    raw: dict[str, Any] = config.model_dump(mode="json") | {"name": f"{config.name}-round{number}"}
    if rounds.prompts == "split":
        prompts = config.sample.prompts
        raw["sample"]["prompts"]["skip"] = prompts.skip + (number - 1) * (prompts.limit or 0)
    if before:
        source = {"source": str(trained(before[-1])), "revision": None}
        if rounds.start == "previous":
            raw["train"]["start"] = source  # which answers, too
        else:
            raw["sample"]["model"] = raw["model"] | source
        if rounds.reference == "previous":
            raw["reference"]["model"] = source
        pairs = (plan.steps["pair"].address.find() for plan in _mixed(rounds, before))
        raw["data"]["earlier"] = [str(artifact.path) for artifact in pairs if artifact]
    return validate(raw)


def _mixed(rounds: Rounds, before: Sequence[Plan]) -> Sequence[Plan]:
    """The rounds whose pairs are trained on beside a round's own, the latest first."""
    return {"latest": (), "last-two": before[-1:], "all": before[::-1]}[rounds.mix]


def _ready(rounds: Rounds, before: Sequence[Plan]) -> bool:
    """Whether all is there that the next round is planned from."""
    if before and trained(before[-1]) is None:
        return False
    return all(plan.steps["pair"].address.find() for plan in _mixed(rounds, before))


def trained(plan: Plan) -> Path | None:
    """The folder of what a round has trained; None where it is not there."""
    artifact = plan.steps["train"].address.find()
    folder = artifact.path / MODEL if artifact else None
    return folder if folder and folder.is_dir() else None


def _to_sample(series: Series) -> bool:
    """Whether any round has yet to ask its prompts, one that is not known among them."""
    steps = [step for plan in series.planned for step in series.pending(plan)]
    return bool(series.not_known) or any(step.stage == "sample" for step in steps)


def require_prompts(series: Series) -> None:
    """Raise UserError where the prompts do not last for all rounds that are to ask them. Reads all of them."""
    given, rounds = series.config.sample.prompts, series.rounds
    if rounds.prompts == "same" or given.limit is None or not _to_sample(series):
        return
    there = len(read_prompts(given.model_copy(update={"limit": rounds.count * given.limit})).prompts)
    if there <= (rounds.count - 1) * given.limit:
        raise UserError(
            f"sample.prompts.source={given.source} has {there} prompts, which are none for the last of {rounds.count} "
            f"rounds of sample.prompts.limit={given.limit}",
            "lower sample.prompts.limit or rounds.count, give more prompts, or set rounds.prompts=same",
        )
