"""One typed configuration for a whole run: a section a stage, plus `resources` (resources.py).

Every field is documented where it stands: model and data in inputs.py, the training in training.py, answers and what is
made of them in evaluation.py, answers of the model's own in onpolicy.py, and the others in files of their names.
Imports no ML library, so that a door answers a bad configuration at once.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.objectives.presets import PRESETS, resolve
from pipeline.settings.bridge import Bridge
from pipeline.settings.evaluation import Generate, Judge, Report
from pipeline.settings.faults import explain, refuse_odd_values
from pipeline.settings.features import Features
from pipeline.settings.file import read
from pipeline.settings.inputs import SAMPLED, Data, Model, Weights
from pipeline.settings.onpolicy import Pair, Rate, Sample
from pipeline.settings.resources import Resources
from pipeline.settings.section import Name, Section
from pipeline.settings.shorthand import expand
from pipeline.settings.streams import FIRST, Stream
from pipeline.settings.training import Objective, Reference, Schedule, Train
from pipeline.settings.weigh import Weigh


class RunConfig(Section):
    name: str = "run"
    model: Model
    data: Data = Data()
    reference: Reference = Reference()
    schedule: Schedule = Schedule()
    objective: Objective = Objective()
    train: Train = Train()
    generate: Generate = Generate()
    judge: Judge = Judge()
    report: Report = Report()
    sample: Sample = Sample()  # these three where data.source is SAMPLED
    rate: Rate = Rate()
    pair: Pair = Pair()
    bridge: Bridge = Bridge()  # where it names who edits
    weigh: Weigh = Weigh()  # where the objective takes weights of tokens
    # Further pairs, by a name of yours: each stream is prepared, scored and scheduled by itself, and has its share of
    # every step.
    streams: dict[Name, Stream] = Field(default={}, examples=[{"own": {"data": "own.jsonl", "weight": 0.3}}])
    features: Features = Features()  # of an objective that looks at any
    resources: Resources = Resources()

    def model_of(self, weights: Weights | None) -> Model:
        """The section `model` with these weights; without any, as it is."""
        return self.model.model_copy(update=weights.model_dump()) if weights else self.model

    @property
    def reads_features(self) -> bool:
        return "features" in resolve(self.objective.name, self.objective.parameters)[0].needs

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, raw: Any) -> Any:
        """Write out short forms, and what the objective asks of the schedule into the schedule.

        Identities then hold values, not defaults of defaults.
        """
        raw = expand(raw) if isinstance(raw, dict) else raw
        objective, schedule = (raw.get(key, {}) if isinstance(raw, dict) else None for key in ("objective", "schedule"))
        if not isinstance(objective, dict) or not isinstance(schedule, dict):
            return raw  # the fields' own checks say what is wrong
        preset = PRESETS.get(str(objective.get("name", Objective.model_fields["name"].default)))
        if preset is None:
            return raw
        asked = dict(preset.schedule)
        if schedule.get("sft_below") is not None:
            asked.pop("sft_percentile", None)  # two ways to say the same
        given = {key: value for key, value in schedule.items() if value is not None}
        schedule = schedule | {"order": "shuffle"} | asked | given
        return raw | {"schedule": schedule}

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        preset, _ = resolve(self.objective.name, self.objective.parameters)
        if "changed" in preset.token_columns and not self.data.changed_tokens:
            problem = f"objective.name={self.objective.name} weighs the tokens that are not the other side's"
            raise UserError(problem, "set data.changed_tokens=true, which has prepare keep which they are")
        if "mismatched" in preset.needs and self.train.batch_size < 2:
            problem = f"objective.name={self.objective.name} compares each pair of a step with another of it"
            raise UserError(f"{problem}, and train.batch_size={self.train.batch_size}", "give 2 or more")
        routed = self.schedule.sft_percentile is not None or self.schedule.sft_below is not None
        if routed and not PRESETS[self.objective.name].routes:
            raise UserError(
                f"schedule routes pairs to SFT, which objective.name={self.objective.name} does not take",
                f"objective.name=mixdpo objective.preference={self.objective.name}, or 'schedule={{}}' to reset it",
            )
        if self.schedule.sft_percentile is not None and self.schedule.sft_below is not None:
            raise UserError(
                f"schedule.sft_percentile={self.schedule.sft_percentile} and "
                f"schedule.sft_below={self.schedule.sft_below} are two ways to say the same",
                "set one of them to null",
            )
        if self.data.source == SAMPLED and (self.pair.rule == "delta") and self.sample.against is None:
            raise UserError(
                "pair.rule=delta takes rejected answers from another model, and sample.against names none",
                "name it, such as sample.against=FOLDER",
            )
        if not self.rate.raters and self.pair.rule != "delta":
            problem = f"rate.raters names nobody, and pair.rule={self.pair.rule} goes by scores"
            raise UserError(problem, "give a rater, such as rate.raters=[rules]")
        self._streams_are_weighed()
        for name in ("methods", "wording", "baselines"):
            for benchmark in getattr(self.judge, name):
                if benchmark not in self.generate.benchmarks:
                    raise UserError(
                        f"judge.{name}.{benchmark}: {benchmark} is not asked",
                        f"generate.benchmarks holds {', '.join(self.generate.benchmarks)}",
                    )
        return self

    def _streams_are_weighed(self) -> None:
        weights = {name: stream.weight for name, stream in self.streams.items()}
        given = [weight for weight in weights.values() if weight is not None]
        preset, _ = resolve(self.objective.name, self.objective.parameters)
        if given and preset.two_streams:
            problem = f"streams.*.weight is set, and objective.name={self.objective.name} weighs its two streams itself"
            raise UserError(problem, "leave the weights out, and set objective.trace_weight")
        if given and len(given) < len(weights):
            without = next(name for name, weight in weights.items() if weight is None)
            problem = f"streams.{without} has no weight, and others have"
            raise UserError(problem, "give every stream one, or none; the first has the rest")
        if sum(given) >= 1:
            problem = f"the weights of streams add up to {sum(given):g}, which leaves none for the pairs of `data`"
            raise UserError(problem, "give weights that add up to less than 1")
        if FIRST in self.streams:
            raise UserError(f"streams.{FIRST}: that is what the first stream is called", "give another name")
        for name in self.streams:
            self.of_stream(name)  # says what is wrong with it

    def of_stream(self, name: str) -> "RunConfig":
        """The configuration of a stream's own line. Raises UserError, with its name, where it is none."""
        raw = self.streams[name].over(self.model_dump(mode="json") | {"streams": {}})
        try:
            return RunConfig.model_validate(raw)
        except ValidationError as error:
            told = explain(error, RunConfig)
        except UserError as error:
            told = error
        raise UserError(f"streams.{name}: {told.problem}", told.remedy)

    @property
    def stream_weights(self) -> list[float] | None:
        """What each stream is of a step's loss, the first that of `data`; None where each pair counts alike."""
        preset, parameters = resolve(self.objective.name, self.objective.parameters)
        if preset.two_streams:
            return [parameters.number("trace_weight"), 1 - parameters.number("trace_weight")]
        given = [stream.weight for stream in self.streams.values() if stream.weight is not None]
        return [1 - sum(given), *given] if given else None


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides (values are YAML too), check everything.

    Raises UserError that names the key, the value, the reason and the nearest valid key.
    """
    return validate(read(path, overrides))


def validate(raw: dict[str, Any]) -> RunConfig:
    """The configuration that a file's content means. Raises UserError; see `load`."""
    for name in ("study", "rounds", "sweep"):
        if name in raw:
            remedy = f"python -m jobs.{name} with the same --config runs it, and says with --dry-run what is there"
            raise UserError(f"this configuration has a section {name}", remedy)
    refuse_odd_values(raw)
    raw = dict(raw)
    for name, section in RunConfig.model_fields.items():
        if raw.get(name) is None and isinstance(section.annotation, type) and issubclass(section.annotation, Section):
            raw[name] = {}  # `data:` with nothing under it, and no `data:` at all, mean the defaults
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise explain(error, RunConfig) from None
