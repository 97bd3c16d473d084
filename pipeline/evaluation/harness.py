"""lm-evaluation-harness (EleutherAI): its command for a model, and what it wrote, read back.

What a training costs elsewhere shows in tasks that it was not about. The harness asks both models, and keeps its
results in a folder a model, `results_<time>.json` below it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

MODELS = ("base", "trained")
WORDS = ("tokenizer", "add_bos_token", "enable_thinking")  # arguments that say how a model is asked
TASKS = ("ifeval", "gsm8k", "mmlu", "truthfulqa_mc2")


@dataclass(frozen=True)
class Asked:
    """How a model is to be opened: a folder, and that of adapters on it with their rank."""

    model: Path
    dtype: str
    gpus: int  # 0: on a CPU, by transformers
    adapter: Path | None = None
    rank: int = 0
    trust_remote_code: bool = False
    alike: Mapping[str, Any] = field(default_factory=dict)  # arguments that base and trained model are both given


def command(asked: Asked, tasks: Sequence[str], output: Path) -> list[str]:
    """The arguments of `lm_eval`. Raises UserError where it could not read a path among them."""
    arguments: dict[str, Any] = {"pretrained": asked.model, "dtype": asked.dtype, **asked.alike}
    if asked.gpus:
        arguments |= {"tensor_parallel_size": asked.gpus, "gpu_memory_utilization": 0.8}
        if asked.adapter:
            arguments |= {"lora_local_path": asked.adapter, "max_lora_rank": asked.rank}
    elif asked.adapter:
        arguments |= {"peft": asked.adapter}
    if asked.trust_remote_code:
        arguments |= {"trust_remote_code": True}
    for path in filter(None, (asked.model, asked.adapter, asked.alike.get("tokenizer"))):
        if not {*",="}.isdisjoint(str(path)):
            problem = f"{path}: lm-evaluation-harness takes arguments apart at commas and equals signs"
            raise UserError(problem, "give resources.root, or model.source, a path without them, such as a link")
    joined = ",".join(f"{name}={value}" for name, value in arguments.items())
    on = ["--model", "vllm"] if asked.gpus else ["--model", "hf", "--device", "cpu"]
    how = ["--tasks", ",".join(tasks), "--batch_size", "auto" if asked.gpus else "8"]
    return ["run", *on, "--model_args", joined, *how, "--apply_chat_template", "--output_path", str(output)]


def newest(folder: Path) -> Path:
    """The last results below a folder. Raises UserError where there are none."""
    found = sorted(folder.rglob("results_*.json"), key=lambda file: file.name)
    if not found:
        problem = f"{folder}: holds no results of lm-evaluation-harness (results_*.json)"
        raise UserError(problem, "python -m jobs.export --for lm-eval says the commands that make them")
    return found[-1]


@dataclass(frozen=True)
class Score:
    value: float
    error: float | None  # standard error, where the harness gives one


@dataclass(frozen=True)
class Compared:
    """A task's figure of both models. `higher` is better; None where the harness does not say."""

    task: str
    metric: str
    base: Score
    trained: Score
    higher: bool | None

    @property
    def change(self) -> float:
        return self.trained.value - self.base.value

    @property
    def error(self) -> float | None:
        """The standard error of the change if the models had been asked different questions: no less than its own."""
        if self.base.error is None or self.trained.error is None:
            return None
        return float((self.base.error**2 + self.trained.error**2) ** 0.5)

    @property
    def worse(self) -> bool:
        """Whether the training lost more than twice the standard error."""
        if self.error is None or self.higher is None:
            return False
        lost = -self.change if self.higher else self.change
        return lost > 2 * self.error


@dataclass(frozen=True)
class Results:
    """What one file says: a figure by task and metric, of tasks that are no part of a group, and of whose model."""

    model: str
    scores: Mapping[tuple[str, str], Score]
    higher: Mapping[tuple[str, str], bool]
    versions: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)  # that its model was opened with, where they are said

    def is_of(self, asked: Asked) -> bool:
        """Whether it is of this model, and asked in the same words as far as that is said."""
        given, wanted = ({name: str(of[name]) for name in WORDS if name in of} for of in (self.arguments, asked.alike))
        opened = self.arguments.get("pretrained", str(asked.model))  # what adapters were put on
        same = (self.model, opened) == (str(asked.adapter or asked.model), str(asked.model))
        return same and (not self.arguments or given == wanted)


def read(file: Path) -> Results:
    """Raises UserError where the file is none of the harness's."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        parts = {name for own in (found.get("group_subtasks") or {}).values() for name in own}
        tasks = {name: own for name, own in found["results"].items() if name not in parts}
        scores = {
            (task, key): Score(float(value), _error(own, key))
            for task, own in tasks.items()
            for key, value in own.items()
            if "," in key and "_stderr," not in key and isinstance(value, int | float)
        }
        better = found.get("higher_is_better") or {}
        higher = {
            key: better[key[0]][metric] for key in scores if (metric := _metric(key[1])) in better.get(key[0], {})
        }
        higher = {key: each for key, each in higher.items() if isinstance(each, bool)}
        arguments = _arguments(found)
        return Results(_model(found, arguments), scores, higher, found.get("versions") or {}, arguments)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{file}: are no results of lm-evaluation-harness ({type(error).__name__}: {error})"
        raise UserError(problem, "give the folder that it wrote with --output_path") from None


def _arguments(found: Mapping[str, Any]) -> dict[str, Any]:
    given = (found.get("config") or {}).get("model_args") or {}
    if isinstance(given, str):
        return dict(each.partition("=")[::2] for each in given.split(","))
    return dict(given)


def _model(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Whose results they are, as its folder or name was given; of adapters theirs, which the harness's own name is not
    where vLLM puts them on.
    """
    names = (given.get("lora_local_path"), given.get("peft"), found.get("model_name"), given.get("pretrained"))
    return str(next(filter(None, names), ""))


def require_of(base: Results, trained: Results, train: str) -> None:
    """Raise UserError where the results name the model of another training than the one of this fingerprint, or one
    model for both. A name that is no result's, such as a hub's, says nothing of it."""
    if base.model == trained.model != "" or _training(base.model) == train[:12]:
        problem = f"both results of lm-evaluation-harness are of {base.model}, or they are exchanged"
    elif (other := _training(trained.model)) not in (None, train[:12]):
        problem = f"the results of lm-evaluation-harness are of the training {other}, and this one is {train[:12]}"
    else:
        return
    raise UserError(problem, "python -m jobs.export --for lm-eval with this configuration, and a folder of its own")


def _training(model: str) -> str | None:
    """The first digits of the fingerprint of the train result that a model lies in, by its path."""
    named = re.search(r"/train/[^/]+-([0-9a-f]{12})/(?:model|adapter)/?$", model)
    return named[1] if named else None


def _metric(key: str) -> str:
    return key.partition(",")[0]


def _error(own: Mapping[str, Any], key: str) -> float | None:
    metric, _, rest = key.partition(",")
    value = own.get(f"{metric}_stderr,{rest}")
    return float(value) if isinstance(value, int | float) else None


def compare(base: Results, trained: Results) -> list[Compared]:
    """What both have. Raises UserError where there is nothing, or a task is of two versions."""
    common = [key for key in base.scores if key in trained.scores]
    if not common:
        problem = f"the results of base and trained model have no task in common ({', '.join(_tasks(base)) or 'none'})"
        raise UserError(problem, "run both commands of python -m jobs.export --for lm-eval with the same tasks")
    for task, version in base.versions.items():
        if task in trained.versions and trained.versions[task] != version:
            problem = f"the task {task} is of version {version} and {trained.versions[task]} for the two models"
            raise UserError(problem, "run both commands with one version of lm-evaluation-harness")
    return [
        Compared(
            task,
            metric.removesuffix(",none"),  # the filter that its answers went through, where there is one
            base.scores[task, metric],
            trained.scores[task, metric],
            base.higher.get((task, metric)),
        )
        for task, metric in common
    ]


def _tasks(results: Results) -> list[str]:
    return sorted({task for task, _ in results.scores})
