"""One typed configuration for a whole run: a section a stage, plus `resources`, which is where and how and never enters an identity.

Every field is documented where it stands; a field nobody sets in configs/ has no place here.
Imports no ML library, so that a door answers a bad configuration at once.
"""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.objectives.presets import PRESETS, check_parameters


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(Section):
    source: (
        str  # a directory, a .gguf file, package://module/file.gguf (a file inside an installed package), or a hub name
    )
    revision: str | None = None  # of a hub name: branch, tag or commit
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat_template: str | None = None  # a Jinja file, where the tokenizer has no template or the wrong one


class Data(Section):
    source: str = "verifiable"  # "verifiable" (embedded), a .jsonl/.json/.parquet path, or a hub data set
    subset: str | None = None  # of a hub data set: its configuration
    split: str | None = None  # of a hub data set: its split
    revision: str | None = None
    limit: int | None = Field(None, ge=1)  # keep so many train pairs, chosen by a hash of their content
    pairs: int = Field(256, ge=1)  # embedded source: train pairs to make
    dev_pairs: int = Field(64, ge=0)  # embedded source: held-out pairs to make
    dev_fraction: float = Field(0.0, ge=0, lt=1)  # other sources: share of prompts held out, where rows name no split
    seed: int = 0  # embedded source
    max_prompt_tokens: int = Field(512, ge=1)
    max_completion_tokens: int = Field(512, ge=1)
    max_dropped: float = Field(0.05, ge=0, le=1)  # share of rows that may be dropped before prepare fails
    shard_pairs: int = Field(
        512, ge=1
    )  # pairs a Parquet part; the unit of work, and of re-work, of the reference stage


class Schedule(Section):
    order: Literal["shuffle", "easy-to-hard", "hard-to-easy"] | None = None  # null: as the objective asks
    difficulty: Literal["score-margin", "reference-gap", "reference-gap-per-token"] = "score-margin"
    sft_percentile: float | None = Field(
        None, ge=0, le=100
    )  # the hardest so many percent go to SFT; mixdpo only, 10 there
    sft_below: float | None = None  # or: pairs of a margin below this go to SFT, as in the paper
    flip_fraction: float = Field(0.0, ge=0, le=1)  # label noise: this share of pairs is trained the wrong way round
    epochs: int = Field(1, ge=1)
    seed: int = 0


class Objective(Section):
    """A preset and what is changed in it; which parameters a preset has stands in pipeline/objectives/presets.py."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str = "gamma-dpo"

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Train(Section):
    learning_rate: float = Field(1e-6, gt=0)
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: float = Field(0.1, ge=0, le=1)
    batch_size: int = Field(128, ge=1)  # pairs an optimiser step, over all workers
    weight_decay: float = Field(0.0, ge=0)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0)
    seed: int = 0  # of dropout, where a model has any


class Generate(Section):
    benchmark: Literal["verifiable"] = "verifiable"
    split: Literal["test", "dev"] = "test"  # settings are chosen on dev
    prompts: int = Field(160, ge=1)
    max_new_tokens: int = Field(32, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = 0
    shard_prompts: int = Field(
        40, ge=1
    )  # prompts an engine call; fixed here so that answers do not depend on the workers


class Judge(Section):
    resamples: int = Field(2000, ge=100)  # of the bootstrap intervals
    seed: int = 0


class Report(Section):
    samples: int = Field(24, ge=0)  # answers shown side by side


class Resources(Section):
    """Where and how. Nothing here changes a result beyond rounding, so nothing here enters an identity."""

    root: str = "runs"
    scorers: int = Field(1, ge=1)  # actors of the reference stage
    train_workers: int = Field(1, ge=1)
    generators: int = Field(2, ge=1)  # vLLM engines at a time, over both models
    gpus_per_actor: float = Field(0, ge=0)
    micro_batch_tokens: int = Field(1024, ge=1)  # packed tokens a forward and backward
    score_tokens: int = Field(4096, ge=1)  # packed tokens a forward of the reference stage
    logits_chunk: int = Field(256, ge=1)  # completion positions whose logits exist at one time
    checkpoint_steps: int = Field(50, ge=1)
    max_failures: int = Field(2, ge=0)  # restarts of the train workers before the stage gives up
    kv_cache_gib: float = Field(1.0, gt=0)  # a vLLM engine's cache on a CPU
    gpu_memory_fraction: float = Field(0.9, gt=0, le=1)  # a vLLM engine's share of a GPU
    log_seconds: float = Field(10.0, gt=0)  # between two lines of progress


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
        """Write what the objective asks of the schedule into the schedule, so that identities hold values, not defaults of defaults."""
        if not isinstance(raw, dict) or not isinstance(raw.get("schedule") or {}, dict):
            return raw
        objective = raw.get("objective") or {}
        preset = PRESETS.get(objective.get("name", "gamma-dpo")) if isinstance(objective, dict) else None
        if preset is None:
            return raw
        schedule = dict(raw.get("schedule") or {})
        if schedule.get("order") is None:
            schedule["order"] = preset.order
        routed = schedule.get("sft_percentile") is not None or schedule.get("sft_below") is not None
        if preset.routes and not routed:
            schedule["sft_percentile"] = 10.0
        return raw | {"schedule": schedule}

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        check_parameters(self.objective.name, self.objective.parameters)
        routed = self.schedule.sft_percentile is not None or self.schedule.sft_below is not None
        if routed and not PRESETS[self.objective.name].routes:
            raise UserError(
                f"schedule routes pairs to SFT, which objective.name={self.objective.name} does not take",
                f"objective.name=mixdpo objective.preference={self.objective.name}, or leave schedule.sft_* out",
            )
        if self.schedule.sft_percentile is not None and self.schedule.sft_below is not None:
            raise UserError(
                f"schedule.sft_percentile={self.schedule.sft_percentile} and schedule.sft_below={self.schedule.sft_below} "
                "are two ways to say the same",
                "set one of them to null",
            )
        return self


def load(path: str, overrides: list[str] = ()) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides (values are YAML too), check everything.

    Raises UserError that names the key, the value, the reason and the nearest valid key.
    """
    file = Path(path)
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        hint = (
            f"did you mean {file.parent / near[0]}?"
            if near
            else "give the path of a YAML file, such as configs/quickstart.yaml"
        )
        raise UserError(f"--config {path}: there is no such file", hint)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"--config {path}: is not YAML ({' '.join(str(error).split())})", "mend the file at that place"
        ) from None
    if not isinstance(raw, dict):
        raise UserError(
            f"--config {path}: holds a {type(raw).__name__}, not sections",
            "write sections such as `model:` and `data:`",
        )
    for override in overrides:
        _override(raw, override)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise _explain(error) from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key or key.startswith("-"):
        raise UserError(f"argument {override!r} is not section.key=value", "write for example train.learning_rate=1e-5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str) and _is_number(value):
        value = float(value)  # YAML 1.1 reads 1e-5 as a string
    *sections, leaf = key.split(".")
    for section in sections:
        inner = raw.setdefault(section, {})
        if inner is None:
            inner = raw[section] = {}
        if not isinstance(inner, dict):
            raise UserError(
                f"argument {override!r}: {section} is not a section", "see the sections in configs/quickstart.yaml"
            )
        raw = inner
    raw[leaf] = value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return any(character.isdigit() for character in text)


def _explain(error: ValidationError) -> UserError:
    """The first fault of a pydantic report, in the words of our errors, and how many more there are."""
    fault, more = error.errors()[0], error.error_count() - 1
    where = ".".join(str(part) for part in fault["loc"])
    tail = f" (and {more} more)" if more else ""
    if fault["type"] == "extra_forbidden":
        known = _keys_beside(fault["loc"])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
        hint = (
            f"did you mean {'.'.join([*map(str, fault['loc'][:-1]), near[0]])}?"
            if near
            else f"known keys: {', '.join(known)}"
        )
        return UserError(f"{where} is not a key of the configuration{tail}", hint)
    if fault["type"] == "missing":
        return UserError(f"{where} is missing{tail}", f"set it in the file, or give {where}=VALUE")
    return UserError(f"{where}={fault['input']!r}: {fault['msg']}{tail}", f"give {where} another value")


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    kind: Any = RunConfig
    for part in location[:-1]:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields)
