"""The sections of what a training came to: `generate`, `judge` and `report`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.settings.inputs import EMBEDDED, Model
from pipeline.settings.section import Name, Section, TokenId

# How answers are sampled where neither `generate` nor its preset says: greedily, and briefly.
PLAIN: dict[str, Any] = {"max_new_tokens": 32, "temperature": 0.0, "top_p": 1.0, "stop_token_ids": ()}


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
