"""The section `resources`: where and how. It never enters an identity."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.settings.faults import shown
from pipeline.settings.section import Section


class JudgeEndpoint(Section):
    """An OpenAI-compatible endpoint, and how it may be asked."""

    url: str | None = None  # such as http://127.0.0.1:8000/v1
    key_env: str | None = Field(default=None, min_length=1)  # the environment variable that holds its key; null: none
    concurrency: int = Field(default=8, ge=1)  # requests at a time
    requests_a_minute: float | None = Field(default=None, gt=0)
    # What a million tokens cost, asked and answered, for the report.
    dollars_per_million: tuple[float, float] | None = Field(default=None, examples=[[2.5, 10.0]])
    timeout_seconds: float = Field(default=120.0, gt=0)  # of one request
    retries: int = Field(default=5, ge=0)  # of one request, ever longer apart


WHOLE_GRADIENTS = 0.25  # of a GPU, that resources.whole_gradients may take where nothing is said


TrackerName = Literal["wandb", "tensorboard", "mlflow", "trackio", "swanlab"]


class Workers(NamedTuple):
    """How many train workers there may be."""

    least: int
    most: int


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
    prepare_workers: int | None = Field(default=None, ge=1)  # processes; null: of large sources one a CPU, else one
    scorers: int = Field(default=1, ge=1)  # actors of the reference stage, and of each rater that is a model
    # A number, or [least, most]: as many as the cluster has room for, now and later.
    train_workers: int | tuple[int, int] = 1
    generators: int = Field(default=1, ge=1)  # vLLM engines at a time, of sample and generate
    judges: int = Field(default=1, ge=1)  # the same, of judge.local and of raters that judge here
    study_cells: int = Field(default=1, ge=1)  # of a study or a sweep, side by side; they share a node's cores
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
    # Restarts of train workers, of an actor, or of a Ray that a door started itself, before the stage gives up.
    max_failures: int = Field(default=2, ge=0)
    # Seconds that actors wait for nodes, such as an autoscaler brings, where the cluster has no room for them; null:
    # none before a stage begins, ten minutes where what it runs on is lost.
    wait_for_cluster: float | None = Field(default=None, ge=0)
    judge_endpoint: JudgeEndpoint = JudgeEndpoint()
    kv_cache_gib: float = Field(default=1.0, gt=0)  # a vLLM engine's cache on a CPU
    # What a vLLM engine takes of a GPU, or of its share where gpus_per_actor is a part of one.
    gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    # How long train workers wait for each other in one operation; the slowest checkpoint must be written meanwhile.
    collective_timeout_seconds: float = Field(default=1800.0, ge=1)
    log_seconds: float = Field(default=10.0, gt=0)  # between two lines of progress
    # Told of each step while it trains, and of the report (docs/cluster.md); keys come from the environment.
    trackers: tuple[TrackerName, ...] = Field(default=(), examples=[["wandb", "tensorboard"]])

    @property
    def workers(self) -> Workers:
        """The least and the most train workers."""
        given = self.train_workers
        return Workers(given, given) if isinstance(given, int) else Workers(*given)

    def shards(self, dtype: str, workers: int) -> bool:
        """Whether a policy that computes in `dtype` goes through FSDP2; if not, one worker trains it as it is.

        One that may be joined by others shards, too: the same optimiser goes on, whatever their number.
        """
        return max(workers, self.workers.most) > 1 or dtype == "bfloat16" or self.cpu_offload

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise UserError(
                f"resources.gpus_per_actor={gpus:g}: a part of a GPU beside whole ones cannot be had",
                f"set {int(gpus)} or {int(gpus) + 1}; a part alone, such as 0.5, shares a GPU between actors",
            )
        return gpus

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_tracker(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, trackers: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        return tuple(dict.fromkeys(trackers))

    @field_validator("train_workers", mode="before")
    @classmethod
    def _least_first(cls, given: object) -> object:
        counts: list[Any] = list(given) if isinstance(given, list | tuple) else [given, given]
        if len(counts) == 2 and all(type(count) is int and count > 0 for count in counts) and counts[0] <= counts[1]:
            return given
        problem = f"resources.train_workers={shown(given)} is no number of workers, and no [least, most] of them"
        raise UserError(problem, "give a whole number of 1 or more, or two such, the smaller one first")

    @model_validator(mode="after")
    def _groups_are_whole(self) -> "Resources":
        if self.shard_within and any(count % self.shard_within for count in self.workers):
            given = "..".join(map(str, dict.fromkeys(self.workers)))
            problem = f"resources.shard_within={self.shard_within} does not divide the train workers"
            problem += f" (resources.train_workers={given}) into groups of one size"
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
