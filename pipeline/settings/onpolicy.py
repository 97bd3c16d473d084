"""The sections of pairs from a model's own answers: `sample`, `rate` and `pair`, read where data.source is SAMPLED."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.settings.inputs import EMBEDDED, Model
from pipeline.settings.section import Section, TokenId

EMBEDDED_PROMPTS = 256  # where sample.prompts.limit does not say how many: there is no end of them

# How papers sample answers to make pairs of, hotter than answers are sampled to be compared (evaluation/benchmarks/).
SAMPLED_AS: Mapping[str, dict[str, Any]] = {
    # princeton-nlp/SimPO, on_policy_data_gen: five runs of one answer each, of seeds of their own.
    "simpo": {"n": 5, "temperature": 0.8, "top_p": 0.95, "max_new_tokens": 4096},
    # RLHFlow/Online-RLHF, run_loop.sh; OpenRLHF's train_iterative_dpo.sh is alike.
    "online-rlhf": {"n": 8, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 2048},
    "sppo": {"n": 5, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 2048},
    "spin": {"n": 1, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 256},
    # allenai/open-instruct, rejection_sampling: top_p is 1 whatever its flag says.
    "open-instruct": {"n": 3, "temperature": 0.8, "top_p": 1.0, "max_new_tokens": 2048},
}
# Where neither the section nor its preset says.
DEFAULTS: dict[str, Any] = SAMPLED_AS["simpo"] | {"max_new_tokens": 2048}


class Prompts(Section):
    """Where prompts come from: rows of any shape that data.source takes, and rows that hold a prompt alone."""

    source: str = Field(default=EMBEDDED, min_length=1)  # EMBEDDED: the train split of the tasks made here
    subset: str | None = None  # these four as in `data`
    split: str | None = None
    revision: str | None = None
    columns: dict[str, Annotated[str, Field(min_length=1)] | None] = Field(default={}, examples=[{"prompt": "query"}])
    # Keep so many different prompts, chosen by a hash of their content: a larger number keeps the same and more.
    limit: int | None = Field(default=None, ge=1)
    # Pass over so many of those that `limit` would keep: skip 256 with limit 256 are what limit 512 adds.
    skip: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _embedded_has_an_end(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        raw = raw | ({"source": EMBEDDED} if raw.get("source", "embedded") == "embedded" else {})
        if raw["source"] == EMBEDDED and raw.get("limit") is None:
            raw = raw | {"limit": EMBEDDED_PROMPTS}
        return raw

    @model_validator(mode="after")
    def _made_has_no_columns(self) -> "Prompts":
        if self.source == EMBEDDED and self.columns:
            problem = f"sample.prompts.columns: the prompts of sample.prompts.source={EMBEDDED} are made, not read"
            raise UserError(problem, "leave it out")
        return self


class Branch(Section):
    """Answers that go on from a beginning of another: siblings that share a prefix."""

    cuts: int = Field(default=0, ge=0, le=8)  # of every answer, at ends of sentences; 0: no branches
    children: int = Field(default=4, ge=1)  # answers that go on from each cut


class Sample(Section):
    prompts: Prompts = Prompts()
    model: Model | None = None  # who answers; null: what is trained, before it is
    # Answers the same prompts: candidates like any other, but by pair.rule=delta, whose rejected ones they are.
    against: Model | None = None
    # As a paper samples (SAMPLED_AS): what is null below is as it says, and DEFAULTS without one.
    preset: Literal["simpo", "online-rlhf", "sppo", "spin", "open-instruct"] | None = None
    n: int = Field(default=5, ge=1)  # answers a prompt; more of them later keep those that are there
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=2048, ge=1)  # of one answer
    # Tokens that end an answer, as the model's own end of sequence does; and texts that do.
    stop_token_ids: tuple[TokenId, ...] = Field(default=(), examples=[[128001, 128009]])
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), examples=[["###", "User:"]])
    max_prompt_tokens: int | None = Field(default=None, ge=1)  # longer prompts are left out; null: as in `data`
    seed: int = 0
    # Prompts an engine call, an answer to each; a setting of its own, so that answers do not depend on how many engines
    # there are.
    shard_prompts: int = Field(default=256, ge=1)
    reference_answers: bool = False  # the data's own answers are candidates, too
    branch: Branch = Branch()

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, raw: Any) -> Any:
        """Write what null means into the section: an identity then holds values."""
        if not isinstance(raw, dict):
            return raw
        preset = raw.get("preset")
        known = DEFAULTS | (SAMPLED_AS.get(preset, {}) if isinstance(preset, str) else {})
        return raw | {name: value for name, value in known.items() if raw.get(name) is None}

    @model_validator(mode="after")
    def _several_answers_differ(self) -> "Sample":
        if self.temperature == 0 and self.n > 1:
            problem = f"sample.n={self.n} answers a prompt at sample.temperature=0 are all the same answer"
            raise UserError(problem, "raise sample.temperature, or set sample.n=1")
        if self.temperature == 0 and self.branch.cuts:
            problem = "sample.branch goes on from answers, and at sample.temperature=0 always as they did"
            raise UserError(problem, "raise sample.temperature, or set sample.branch.cuts=0")
        return self


_OF_A_MODEL = ("kind", "revision", "dtype", "chat_template", "template_arguments", "trust_remote_code")


class Rater(Section):
    """Who gives an answer a score: one of `rules`, `model`, `judge` and `local`."""

    rules: bool = False  # the constraints of the embedded tasks: the share that is met
    model: str | None = Field(default=None, min_length=1)  # a reward model: a folder, or a hub name
    kind: Literal["classifier", "armo"] = "classifier"  # of `model`: one label, or a `.score` by code of its own
    revision: str | None = None  # of `model`, as are the next four
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    chat_template: str | None = None
    template_arguments: dict[str, JsonValue] = Field(default={}, examples=[{"enable_thinking": False}])
    trust_remote_code: bool = False
    judge: str | None = Field(default=None, min_length=1)  # a model that judges, by its name at judge_endpoint
    local: Model | None = None  # or one that is run here

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        """A text alone is `rules`, or a reward model; a judge that is run here may be its source alone."""
        if isinstance(raw, str):
            return {"rules": True} if raw == "rules" else {"model": raw}
        local = raw.get("local") if isinstance(raw, dict) else None
        return raw | {"local": {"source": local}} if isinstance(local, str) else raw

    @model_validator(mode="after")
    def _one_who_rates(self) -> "Rater":
        given = [name for name in ("rules", "model", "judge", "local") if getattr(self, name)]
        if len(given) != 1:
            problem = f"a rater of rate.raters is {' and '.join(given) or 'none of rules, model, judge and local'}"
            raise UserError(problem, "give one of them a rater, such as rate.raters=[rules, {model: FOLDER}]")
        idle = [name for name in _OF_A_MODEL if getattr(self, name) != type(self).model_fields[name].default]
        if idle and not self.model:
            problem = f"a rater of rate.raters has {' and '.join(idle)} beside {given[0]}, which are of a model's"
            remedy = "leave it out; of a judge that runs here it is within: {local: {source: FOLDER, dtype: bfloat16}}"
            raise UserError(problem, remedy)
        if self.kind == "armo" and self.model and not self.trust_remote_code:
            problem = f"the rater {self.model} of kind armo scores by code of its own"
            raise UserError(problem, "set trust_remote_code: true beside it, once you have read that code")
        return self

    @property
    def as_model(self) -> Model | None:
        """The model that is to be found for it; None where there is none."""
        if self.model is None:
            return self.local
        return Model(source=self.model, **{name: getattr(self, name) for name in _OF_A_MODEL if name != "kind"})


class Rate(Section):
    raters: tuple[Rater, ...] = Field(default=(Rater(rules=True),), examples=[["rules"]])  # none: of pair.rule=delta
    # Of several raters: the mean of their ranks within a prompt, of their scores, or a vote for best and worst.
    combine: Literal["mean-rank", "mean", "majority"] = "mean-rank"
    max_missing: float = Field(default=0.05, ge=0, le=1)  # share of scores of a rater that may be missing

    @field_validator("raters")
    @classmethod
    def _each_once(cls, raters: tuple[Rater, ...]) -> tuple[Rater, ...]:
        for number, rater in enumerate(raters):
            if rater in raters[:number]:
                raise UserError(f"rate.raters names rater {number + 1} twice", "name each rater once")
        return raters


class Contrast(Section):
    """Shares of the pairs by how far apart their scores are; they add up to 1."""

    high: float = Field(default=0.5, ge=0, le=1)
    middle: float = Field(default=0.0, ge=0, le=1)
    low: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> "Contrast":
        if abs((total := self.high + self.middle + self.low) - 1) > 1e-9:
            raise UserError(f"pair.contrast: high, middle and low add up to {total:g}", "give shares that add up to 1")
        return self


class Pair(Section):
    rule: Literal["best-worst", "best-random", "best-second", "all", "contrast", "delta"] = "best-worst"
    among: Literal["all", "trunks", "siblings"] = "all"  # of branches: answers of their own, or of one shared prefix
    per_prompt: int = Field(default=1, ge=1)  # pairs of a prompt, at most
    min_margin: float = Field(default=0.0, ge=0)  # of scores: what the rule makes beyond a bound is left out
    max_margin: float | None = Field(default=None, gt=0)
    max_length_gap: int | None = Field(default=None, ge=0)  # tokens between the two answers
    length_penalty: float = Field(default=0.0, ge=0)  # taken off a score for each of its answer's tokens
    # Answers that were cut at sample.max_new_tokens: in no pair, as rejected alone, or as any other.
    cut: Literal["drop", "rejected-only", "keep"] = "drop"
    # Answers of one score are no pair. Of several best, or several worst, one is drawn; or the shortest of the best is
    # taken, and of the worst the nearest to it in length.
    ties: Literal["drop", "shortest"] = "drop"
    contrast: Contrast = Contrast()  # of rule contrast
    # label_confidence = sigmoid(margin / this); null leaves it open.
    confidence_temperature: float | None = Field(default=None, gt=0)
    seed: int = 0  # of what is drawn at random, by a hash of the prompt

    def read_of(self, sample: Sample) -> dict[str, Any]:
        """What pairs of these answers depend on; the rest is not read."""
        aside = {"contrast"} if self.rule != "contrast" else set()
        aside |= {"among"} if not sample.branch.cuts else set()
        return self.model_dump(mode="json", exclude=aside)

    @model_validator(mode="after")
    def _bounds_hold_something(self) -> "Pair":
        if self.max_margin is not None and self.max_margin < self.min_margin:
            problem = f"pair.min_margin={self.min_margin:g} is above pair.max_margin={self.max_margin:g}"
            raise UserError(problem, "raise the one or lower the other")
        return self
