"""One typed configuration for a whole run: a section a stage, plus `resources`.

`resources` is where and how; it never enters an identity. Every field is documented where it stands. Imports no ML
library, so that a door answers a bad configuration at once.
"""

import re
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.objectives.presets import PRESETS, resolve
from pipeline.preferences.template import DATE
from pipeline.settings.faults import explain, refuse_odd_values, shown
from pipeline.settings.file import read
from pipeline.settings.shorthand import expand

EMBEDDED = "verifiable"
# How answers are sampled where neither `generate` nor its preset says: greedily, and briefly.
PLAIN: dict[str, Any] = {"max_new_tokens": 32, "temperature": 0.0, "top_p": 1.0, "stop_token_ids": ()}
Share = Annotated[float, Field(ge=0, lt=1)]
TokenId = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_other_as_number(cls, raw: Any) -> Any:
        """YAML reads yes as true, and pydantic true as 1, and 1_000, which is text, as 1000."""
        for name, value in raw.items() if isinstance(raw, dict) else ():
            kinds = str(cls.model_fields[name].annotation) if name in cls.model_fields else ""
            numbers = ("int" in kinds or "float" in kinds) and "str" not in kinds
            odd = [
                each
                for each in (value if isinstance(value, list) else [value])
                if (isinstance(each, bool) and "bool" not in kinds) or (isinstance(each, str) and "_" in each)
            ]
            if numbers and odd:
                problem = f"{cls.__name__.lower()}.{name}={shown(value)}: a number is wanted"
                raise UserError(problem, "give a number, or null")
        return raw


class Model(Section):
    # A directory, a .gguf file, package://module/file.gguf (a file inside an installed package), or a hub name.
    source: str = Field(min_length=1)
    revision: str | None = None  # of a hub name: branch, tag or commit
    # float64 is for checks of the training path; answers are then generated in float32.
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    chat_template: str | None = None  # a Jinja file, where the tokenizer has no template or the wrong one
    template_arguments: dict[str, JsonValue] = {}  # to every rendering of the template, such as enable_thinking: false
    template_date: date = DATE  # what a template that asks for the date is told is today
    trust_remote_code: bool = False  # run the Python files that the model brings; they can do whatever you can

    @property
    def rendering(self) -> dict[str, Any]:
        """What `open_tokeniser` takes of it: all conversations with a model are rendered alike."""
        names = ("chat_template", "trust_remote_code", "template_arguments", "template_date")
        return {name: getattr(self, name) for name in names}


class Data(Section):
    # EMBEDDED (the tasks made here), a file, a folder of files, or a hub data set; docs/data.md says which.
    source: str = Field(default=EMBEDDED, min_length=1)
    subset: str | None = None  # of a hub data set, or a folder laid out as one: its configuration
    split: str | None = None  # the same: its split
    revision: str | None = None
    # Where rows have other names for what is read, such as {prompt: question, chosen: response_j}; null: leave it.
    columns: dict[str, Annotated[str, Field(min_length=1)] | None] = {}
    # Of several completions in a row, ranked or rated, which make pairs.
    pairing: Literal["best-worst", "all", "adjacent"] = "best-worst"
    limit: int | None = Field(default=None, ge=1)  # keep so many train pairs, chosen by a hash of their content
    pairs: int = Field(default=256, ge=1)  # embedded source: train pairs to make
    dev_pairs: int = Field(default=64, ge=0)  # embedded source: held-out pairs to make
    dev_fraction: Share = 0.0  # other sources: share of prompts held out, where rows name no split
    difficulty_column: str | None = Field(default=None, min_length=1)  # of numbers, larger is harder; null: difficulty
    seed: int = 0  # embedded source
    max_prompt_tokens: int = Field(default=512, ge=1)
    max_completion_tokens: int = Field(default=512, ge=1)
    max_dropped: float = Field(default=0.05, ge=0, le=1)  # share of rows that may be dropped before prepare fails
    # Share of pairs that may spell the model's control tokens, or have answers that begin with their prompt.
    max_suspect: float = Field(default=0.2, ge=0, le=1)
    # Pairs a Parquet part: the unit of work, and of re-work, of the reference stage.
    shard_pairs: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _made_has_no_columns(self) -> "Data":
        if self.source == EMBEDDED and self.columns:
            raise UserError(f"data.columns: the pairs of data.source={EMBEDDED} are made, not read", "leave it out")
        return self


class Schedule(Section):
    order: Literal["shuffle", "easy-to-hard", "hard-to-easy"] | None = None  # null: as the objective asks
    window: int | None = Field(default=None, ge=1)  # easy-to-hard, hard-to-easy: shuffle within runs of so many pairs
    difficulty: Literal["score-margin", "reference-gap", "reference-gap-per-token", "column"] = "score-margin"
    drop_percentile: float | None = Field(default=None, ge=0, lt=100)  # so many percent of the train pairs are left out
    drop: Literal["hardest", "easiest"] = "hardest"  # which ones; before any go to SFT
    # So many percent of the train pairs, the hardest of those kept, go to SFT; mixdpo only, 10 there.
    sft_percentile: float | None = Field(default=None, ge=0, le=100)
    sft_below: float | None = None  # or: pairs of a margin below this go to SFT, as in the paper
    # Label noise: this share of all train pairs, rounded to whole pairs, is the wrong way round. Pairs that are dropped
    # or go to SFT count, too: noise is in the data, whatever is made of them. A larger share flips the same and more.
    flip_fraction: float = Field(default=0.0, ge=0, le=1)
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
    layers: str | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    merge: bool = True  # into the exported model; false keeps them apart, and vLLM puts them on the base model

    @field_validator("layers", mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        """A name alone is a list of one: PEFT would take it for an expression, which no module's whole name is."""
        return [given] if isinstance(given, str) and given != "all-linear" and re.fullmatch(r"[\w.]+", given) else given

    @field_validator("layers")
    @classmethod
    def _is_an_expression(cls, layers: str | tuple[str, ...]) -> str | tuple[str, ...]:
        try:
            re.compile(layers if isinstance(layers, str) else "")
        except re.error as error:
            problem = f"train.lora.layers={layers!r} is no regular expression ({error})"
            raise UserError(problem, "give all-linear, names such as [q_proj, v_proj], or an expression") from None
        return layers

    @model_validator(mode="after")
    def _served(self) -> "Lora":
        if self.rank > 512 and not self.merge:
            problem = f"train.lora.rank={self.rank} is more than the 512 that vLLM serves unmerged"
            raise UserError(problem, "lower it, or set train.lora.merge to true")
        return self


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


class Generate(Section):
    # What is asked: names with the file of their questions. Null is for the tasks made here (EMBEDDED), and for
    # alpaca_eval, arena_hard_v0.1, arena_hard_v2.0, mt_bench, which are then taken from where their owners have them.
    benchmarks: dict[Name, str | None] = Field(default={EMBEDDED: None}, min_length=1)
    split: Literal["test", "dev"] = "test"  # of the embedded tasks; settings are chosen on dev
    prompts: int | None = Field(default=None, ge=1)  # ask only the first so many of each benchmark
    samples: int = Field(default=1, ge=1)  # answers a question
    # How papers sample with a family of models (evaluation/benchmarks/sampling.py): what is null below is as it says,
    # and PLAIN without one, as for the embedded tasks in any case.
    preset: Literal["llama-3-instruct", "mistral-base", "mistral-instruct", "gemma-2"] | None = None
    max_new_tokens: int | None = Field(default=None, ge=1)  # of one answer
    temperature: float | None = Field(default=None, ge=0)  # but MT-Bench's questions, which have their own
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop_token_ids: tuple[TokenId, ...] | None = None  # end an answer, as the model's own end of sequence does
    stop: tuple[str, ...] = ()  # texts that end an answer
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
    methods: dict[Name, Literal["games", "preference", "ratings"]] = {}
    # By benchmark, a file of words to the judge, or `own` for ours. Else its owners', where installed, or ours.
    wording: dict[Name, str] = {}
    # By benchmark, a file of answers that both models' are compared with; null: those of its owners. Where there is
    # none, the two models' answers are compared with each other.
    baselines: dict[Name, str | None] = {}
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


class JudgeEndpoint(Section):
    """An OpenAI-compatible endpoint, and how it may be asked."""

    url: str | None = None  # such as http://127.0.0.1:8000/v1
    key_env: str | None = Field(default=None, min_length=1)  # the environment variable that holds its key; null: none
    concurrency: int = Field(default=8, ge=1)  # requests at a time
    requests_a_minute: float | None = Field(default=None, gt=0)
    # What a million tokens cost, asked and answered, for the report.
    dollars_per_million: tuple[float, float] | None = None
    timeout_seconds: float = Field(default=120.0, gt=0)  # of one request
    retries: int = Field(default=5, ge=0)  # of one request, ever longer apart


WHOLE_GRADIENTS = 0.25  # of a GPU, that resources.whole_gradients may take where nothing is said


class Budgets(NamedTuple):
    """What is computed at a time, in packed tokens and in completion positions."""

    micro_batch_tokens: int
    score_tokens: int
    logits_chunk: int


# A CPU wants what stays in its caches; a GPU is idle while thousands of small kernels are launched, and at several
# workers every micro-batch gathers all weights.
BUDGETS = {"cpu": Budgets(1024, 4096, 1024), "cuda": Budgets(16384, 32768, 2048)}


class Resources(Section):
    """Where and how. Nothing here changes a result beyond rounding, so nothing here enters an identity."""

    root: str = "runs"  # a folder, or the URL of an object store such as s3://bucket/runs
    mirror: str = "~/.cache/widemargin"  # where this machine works on results whose root is a URL
    scorers: int = Field(default=1, ge=1)  # actors of the reference stage
    train_workers: int = Field(default=1, ge=1)
    generators: int = Field(default=1, ge=1)  # vLLM engines at a time
    judges: int = Field(default=1, ge=1)  # the same, of judge.local
    study_cells: int = Field(default=1, ge=1)  # cells of a study trained side by side; they share a node's cores
    gpus_per_actor: float = Field(default=0, ge=0)  # a scorer lays its model over several; a train worker takes one
    # What is computed at a time; null: as the device that computes it likes (BUDGETS).
    micro_batch_tokens: int | None = Field(default=None, ge=1)  # packed tokens a forward and backward
    score_tokens: int | None = Field(default=None, ge=1)  # packed tokens a forward of the reference stage
    logits_chunk: int | None = Field(default=None, ge=1)  # completion positions whose logits exist at one time
    allow_slow_path: bool = False  # on a GPU: train even where one of the fast kernels does not run or is not right
    compile_layers: bool | None = None  # torch.compile the decoder's layers; null: on a GPU
    # With several train workers: each keeps gradients of all that is trained (4 bytes a weight) until a step's last
    # micro-batch, and they are added up once; false: after each, and every worker keeps those of its share. Null: where
    # they take at most a quarter of a GPU, and on a CPU.
    whole_gradients: bool | None = None
    shard_within: int | None = Field(default=None, ge=1)  # groups of so many train workers hold all; null: all workers
    cpu_offload: bool = False  # weights, gradients and moments on the host, where a GPU has no room for its share
    # Of every decoder layer (true), or every so many: less memory, up to a third more arithmetic.
    checkpoint_activations: bool | Annotated[int, Field(ge=1)] = False
    offload_activations: bool = False  # what checkpointed layers keep, to the host
    checkpoint_steps: int = Field(default=50, ge=1)
    max_failures: int = Field(default=2, ge=0)  # restarts of train workers, or of an actor, before the stage gives up
    judge_endpoint: JudgeEndpoint = JudgeEndpoint()
    kv_cache_gib: float = Field(default=1.0, gt=0)  # a vLLM engine's cache on a CPU
    # What a vLLM engine takes of a GPU, or of its share where gpus_per_actor is a part of one.
    gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    # How long train workers wait for each other in one operation; the slowest checkpoint must be written meanwhile.
    collective_timeout_seconds: float = Field(default=1800.0, ge=1)
    log_seconds: float = Field(default=10.0, gt=0)  # between two lines of progress

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise UserError(
                f"resources.gpus_per_actor={gpus:g}: a part of a GPU beside whole ones cannot be had",
                f"set {int(gpus)} or {int(gpus) + 1}; a part alone, such as 0.5, shares a GPU between actors",
            )
        return gpus

    @model_validator(mode="after")
    def _groups_are_whole(self) -> "Resources":
        if self.shard_within and self.train_workers % self.shard_within:
            problem = f"resources.shard_within={self.shard_within} does not divide the train workers"
            problem += f" (resources.train_workers={self.train_workers}) into groups of one size"
            raise UserError(problem, "give the workers of a node, or null to shard over all of them")
        return self

    @model_validator(mode="after")
    def _something_to_offload(self) -> "Resources":
        if self.offload_activations and not self.checkpoint_activations:
            problem = "resources.offload_activations=true moves what checkpointed layers keep, and none is checkpointed"
            raise UserError(problem, "set resources.checkpoint_activations to true, or to every so many layers")
        return self

    def budgets(self, device: str) -> Budgets:
        """What is computed at a time on a device of this type ("cpu", "cuda"): as set here, or as it likes."""
        likes = BUDGETS.get(device, BUDGETS["cuda"])
        return Budgets(*(getattr(self, name) or value for name, value in likes._asdict().items()))


class RunConfig(Section):
    name: str = "run"
    model: Model
    data: Data = Data()
    schedule: Schedule = Schedule()
    objective: Objective = Objective()
    train: Train = Train()
    generate: Generate = Generate()
    judge: Judge = Judge()
    report: Report = Report()
    resources: Resources = Resources()

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
        resolve(self.objective.name, self.objective.parameters)
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
        for name in ("methods", "wording", "baselines"):
            for benchmark in getattr(self.judge, name):
                if benchmark not in self.generate.benchmarks:
                    raise UserError(
                        f"judge.{name}.{benchmark}: {benchmark} is not asked",
                        f"generate.benchmarks holds {', '.join(self.generate.benchmarks)}",
                    )
        return self


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides (values are YAML too), check everything.

    Raises UserError that names the key, the value, the reason and the nearest valid key.
    """
    return validate(read(path, overrides))


def validate(raw: dict[str, Any]) -> RunConfig:
    """The configuration that a file's content means. Raises UserError; see `load`."""
    if "study" in raw:
        raise UserError("this configuration has a section study", "python -m jobs.study with the same --config runs it")
    refuse_odd_values(raw)
    raw = dict(raw)
    for name, section in RunConfig.model_fields.items():
        if raw.get(name) is None and isinstance(section.annotation, type) and issubclass(section.annotation, Section):
            raw[name] = {}  # `data:` with nothing under it, and no `data:` at all, mean the defaults
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise explain(error, RunConfig) from None
