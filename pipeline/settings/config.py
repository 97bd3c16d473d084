"""One typed configuration for a whole run: a section a stage, plus `resources` (resources.py).

Every field is documented where it stands: model and data in inputs.py, answers of the model's own in onpolicy.py.
Imports no ML library, so that a door answers a bad configuration at once.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.objectives.presets import PRESETS, resolve
from pipeline.settings.bridge import Bridge
from pipeline.settings.faults import explain, refuse_odd_values, shown
from pipeline.settings.features import Features
from pipeline.settings.file import read
from pipeline.settings.inputs import EMBEDDED, SAMPLED, Data, Model, Weights
from pipeline.settings.onpolicy import Pair, Rate, Sample
from pipeline.settings.resources import Resources
from pipeline.settings.section import Name, Section, Share, TokenId
from pipeline.settings.shorthand import expand
from pipeline.settings.streams import FIRST, Stream
from pipeline.settings.weigh import Weigh

# How answers are sampled where neither `generate` nor its preset says: greedily, and briefly.
PLAIN: dict[str, Any] = {"max_new_tokens": 32, "temperature": 0.0, "top_p": 1.0, "stop_token_ids": ()}


class Schedule(Section):
    order: Literal["shuffle", "easy-to-hard", "hard-to-easy"] | None = None  # null: as the objective asks
    window: int | None = Field(default=None, ge=1)  # easy-to-hard, hard-to-easy: shuffle within runs of so many pairs
    # Random, drawn by the seed, is for comparison: what a choice by difficulty is worth.
    difficulty: Literal["score-margin", "reference-gap", "reference-gap-per-token", "column", "random"] = "score-margin"
    drop_percentile: float | None = Field(default=None, ge=0, lt=100)  # so many percent of the train pairs are left out
    drop: Literal["hardest", "easiest"] = "hardest"  # which ones; before any go to SFT
    # So many percent of the train pairs, the hardest of those kept, go to SFT; mixdpo only, 10 there.
    sft_percentile: float | None = Field(default=None, ge=0, le=100)
    sft_below: float | None = None  # or: pairs of a margin below this go to SFT, as in the paper
    # Label noise: this share of all train pairs, rounded to whole pairs, is the wrong way round. Pairs that are dropped
    # or go to SFT count, too: noise is in the data, whatever is made of them. A larger share flips the same and more.
    flip_fraction: float = Field(default=0.0, ge=0, le=1)
    swap_labels: bool = False  # then every label is exchanged: a flipped one is right again
    epochs: int = Field(default=1, ge=1)
    seed: int = 0

    @property
    def ranks(self) -> bool:
        """Whether pairs are told apart by difficulty."""
        return self.order != "shuffle" or (self.drop_percentile, self.sft_percentile, self.sft_below) != (None,) * 3

    @model_validator(mode="after")
    def _window_has_an_order(self) -> "Schedule":
        if self.window is not None and self.order == "shuffle":
            problem = f"schedule.window={self.window} loosens an order, and schedule.order=shuffle is none"
            raise UserError(problem, "set schedule.order to easy-to-hard or hard-to-easy, or schedule.window to null")
        return self


class Objective(Section):
    """A preset and what is changed in it; which parameters a preset has stands in pipeline/objectives/presets.py."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str = "gamma-dpo"

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Lora(Section):
    """Low-rank adapters (PEFT). The base model stays the reference, so cached scores stay valid."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # All but the output head, or names such as q_proj, or one regular expression for the whole name of a module.
    layers: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default="all-linear", examples=[["q_proj", "v_proj"]]
    )
    merge: bool = True  # into the exported model; false keeps them apart, and vLLM puts them on the base model

    @field_validator("layers", mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        """A name alone is a list of one: PEFT would take it for an expression, which no module's whole name is."""
        return [given] if isinstance(given, str) and given != "all-linear" and re.fullmatch(r"[\w.]+", given) else given

    @field_validator("layers")
    @classmethod
    def _is_an_expression(cls, layers: str | tuple[str, ...]) -> str | tuple[str, ...]:
        remedy = "give all-linear, names such as [q_proj, v_proj], or an expression"
        if "" in (layers, *layers):
            raise UserError(f"train.lora.layers={shown(layers)} names no layer", remedy)
        try:
            re.compile(layers if isinstance(layers, str) else "")
        except re.error as error:
            raise UserError(f"train.lora.layers={layers!r} is no regular expression ({error})", remedy) from None
        return layers

    @model_validator(mode="after")
    def _served(self) -> "Lora":
        if self.rank > 512 and not self.merge:
            problem = f"train.lora.rank={self.rank} is more than the 512 that vLLM serves unmerged"
            raise UserError(problem, "lower it, or set train.lora.merge to true")
        return self


class Reference(Section):
    model: Weights | None = None  # whose log-probs gaps are measured against; null: the model's


class Train(Section):
    learning_rate: float = Field(default=1e-6, gt=0)
    lr_schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    decay_fraction: float = Field(default=0.1, gt=0, le=1)  # of all steps, for wsd: warm-up, stable, decay
    lora: Lora | None = None  # null trains all weights
    batch_size: int = Field(default=128, ge=1)  # pairs an optimiser step, over all workers
    # With moments of 32 bits, or of 8 where torchao or bitsandbytes is installed: a quarter of their memory.
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    adam_betas: tuple[Share, Share] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, gt=0)
    held_out_steps: int = Field(default=0, ge=0)  # look at the held-out pairs every so many steps; 0: at the end only
    seed: int = 0  # of dropout, where there is any, and of adapters
    start: Weights | None = None  # what is trained; null: the model


class Generate(Section):
    # What is asked: names with the file of their questions. Null is for the tasks made here (EMBEDDED), and for
    # alpaca_eval, arena_hard_v0.1, arena_hard_v2.0, mt_bench, which are then taken from where their owners have them.
    benchmarks: dict[Name, str | None] = Field(
        default={EMBEDDED: None}, min_length=1, examples=[{EMBEDDED: None, "mine": "questions.jsonl"}]
    )
    split: Literal["test", "dev"] = "test"  # of the embedded tasks; settings are chosen on dev
    prompts: int | None = Field(default=None, ge=1)  # ask only the first so many of each benchmark
    samples: int = Field(default=1, ge=1)  # answers a question
    # How papers sample with a family of models (evaluation/benchmarks/sampling.py): what is null below is as it says,
    # and PLAIN without one, as for the embedded tasks in any case.
    preset: Literal["llama-3-instruct", "mistral-base", "mistral-instruct", "gemma-2"] | None = None
    max_new_tokens: int | None = Field(default=None, ge=1)  # of one answer
    temperature: float | None = Field(default=None, ge=0)  # but MT-Bench's questions, which have their own
    top_p: float | None = Field(default=None, gt=0, le=1)
    # Tokens that end an answer, as the model's own end of sequence does; and texts that do.
    stop_token_ids: tuple[TokenId, ...] | None = Field(default=None, examples=[[128001, 128009]])
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), examples=[["###", "User:"]])
    seed: int = 0
    # Questions an engine call; a setting of its own, so that answers do not depend on the number of engines. An engine
    # on a CPU answers 256 at once: fewer leave it idle, and more engines than shards have nothing to do.
    shard_prompts: int = Field(default=256, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, raw: Any) -> Any:
        """Without a preset, write what null means into the section: an identity then holds values."""
        if not isinstance(raw, dict) or raw.get("preset") is not None:
            return raw
        return raw | {name: value for name, value in PLAIN.items() if raw.get(name) is None}

    @model_validator(mode="after")
    def _embedded_has_no_file(self) -> "Generate":
        if file := self.benchmarks.get(EMBEDDED):
            problem = f"generate.benchmarks.{EMBEDDED}={file}: the embedded tasks are made, not read"
            raise UserError(problem, f"give your questions another name, or set {EMBEDDED} to null")
        return self


class Judge(Section):
    resamples: int = Field(default=2000, ge=100)  # of the bootstrap intervals
    seed: int = 0
    # A model that judges, too: by its name at resources.judge_endpoint, or one that is run here. Null: rules alone.
    model: str | None = Field(default=None, min_length=1)
    local: Model | None = None
    # By benchmark, in place of its own way: two games a question, one preference by log-probs, or ratings 1 to 10.
    methods: dict[Name, Literal["games", "preference", "ratings"]] = Field(
        default={}, examples=[{"alpaca_eval": "games"}]
    )
    # By benchmark, a file of words to the judge, or `own` for ours. Else its owners', where installed, or ours.
    wording: dict[Name, str] = Field(default={}, examples=[{"alpaca_eval": "own"}])
    # By benchmark, a file of answers that both models' are compared with; null: those of its owners. Where there is
    # none, the two models' answers are compared with each other.
    baselines: dict[Name, str | None] = Field(default={}, examples=[{"alpaca_eval": None}])
    max_tokens: int | None = Field(default=None, ge=1)  # of a verdict, thoughts and all; null: as the benchmark has it
    # Null: none is sent, for judges that take none; their own then, or 1 of local.
    temperature: float | None = Field(default=0.0, ge=0)
    shard_prompts: int = Field(default=40, ge=1)  # of local: requests an engine call, as generate.shard_prompts
    max_missing: float = Field(default=0.05, ge=0, le=1)  # share of verdicts that may be missing before judge fails

    @model_validator(mode="after")
    def _one_judge(self) -> "Judge":
        if self.model is not None and self.local is not None:
            problem = f"judge.model={self.model} and judge.local.source={self.local.source} are two judges"
            raise UserError(problem, "set one of them to null; jobs.score --second-judge compares two")
        return self


class Report(Section):
    samples: int = Field(default=1000, ge=0)  # questions of each benchmark whose answers are shown side by side
    # What came of the training elsewhere: files that jobs.rank made of it, and the folder of jobs.export --for lm-eval.
    ranked: tuple[str, ...] = Field(default=(), examples=[["runs/rank/NAME/ranking.json"]])
    lm_eval: str | None = None


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
