"""What a plan is: the stages and their versions, steps with their identities, addresses and inputs, and all of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.compute.models import ModelSource
from pipeline.errors import UserError
from pipeline.line.onpolicy import Front
from pipeline.results.address import Address
from pipeline.results.artifacts import Artifact, fingerprint
from pipeline.settings.config import RunConfig

START = "reference:start"  # the step that scores pairs under the model that training starts from

STAGES = (
    *("sample", "rate", "pair", "bridge"),  # where they are asked for, as are features and weigh
    *("prepare", "features", "reference", "schedule", "weigh", "train", "generate", "judge", "report"),
)

OF_A_STREAM = STAGES[: STAGES.index("schedule") + 1]  # what its own line makes

# Raise a stage's version when its code changes what it writes.
VERSIONS = {"model": 1, "prepare": 5, "reference": 1, "schedule": 3, "train": 4, "generate": 4, "judge": 9, "report": 8}
VERSIONS |= {"sample": 2, "rate": 2, "pair": 2, "weigh": 1, "bridge": 2, "features": 2}
VERSIONS |= {"study": 5, "rounds": 3, "sweep": 2, "rank": 2}  # pages over several runs, and what jobs.rank makes


@dataclass(frozen=True)
class Step:
    """One result: its address, and the steps whose results it reads, by role."""

    # The stage, or stage:model for generate, stage:rater for rate, stage:side of another run for weigh; START or
    # reference:features. Of a stream's line stream/name.
    name: str
    address: Address
    identity: Mapping[str, Any]
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    run: "Plan | None" = field(default=None, compare=False, repr=False)  # another run that it is of; weigh reads it
    stream: str | None = None  # whose line it is of

    @property
    def stage(self) -> str:
        return self.address.stage

    @property
    def part(self) -> str:
        """The stage of the line that it is made for."""
        return "weigh" if self.run else self.stage

    def input(self, role: str, opened: Collection[str] = ("*",)) -> Artifact:
        """A committed input, verified as far as it is `opened`. Raises UserError that names what makes it."""
        artifact = self.inputs[role].address.find()
        if artifact is None:
            raise self.lacks(role)
        return artifact.verify(opened=opened)

    def lacks(self, role: str) -> UserError:
        """What to say of an input that is not there."""
        step = self.inputs[role]
        return UserError(
            f"stage {self.stage} needs the result of stage {step.stage}, which is not at {step.address.path}",
            f"python -m jobs.{step.part} with the same --config and overrides, or python -m jobs.run",
        )


@dataclass(frozen=True)
class Plan:
    """A configuration and every result it means."""

    config: RunConfig
    model: ModelSource  # whose tokens are trained, and whose answers the trained model's are compared with
    start: ModelSource  # train.start: what is trained, and answers prompts
    reference: ModelSource  # reference.model
    judge: ModelSource | None  # judge.local
    steps: Mapping[str, Step]  # in the order of the line
    front: Front | None  # where pairs are made of answers of the model's own
    editor: ModelSource | None  # bridge.local
    streams: Mapping[str, "Plan"]  # of each its own line's

    def of(self, *stages: str) -> list[Step]:
        """The steps of some stages, in the order in which they are made."""
        return [step for step in self.steps.values() if step.part in stages]

    def line_of(self, step: Step) -> tuple["Plan", Step]:
        """The plan of the run or line that a step is of, and the step as it stands there."""
        if step.stream is None:
            return step.run or self, step
        line = self.streams[step.stream]
        return line, line.steps[step.name.removeprefix(f"{step.stream}/")]

    def until(self, stage: str) -> list[Step]:
        """All steps in order, up to a stage."""
        return self.of(*STAGES[: STAGES.index(stage) + 1])

    @property
    def model_folder(self) -> Path:
        return self.folder_of(self.model)

    def folder_of(self, model: ModelSource) -> Path:
        """Where a model is, or will be once it is converted: the base model by prepare."""
        return self.converted(model).path if model.is_gguf else model.path

    def models(self) -> list[ModelSource]:
        """All that are opened for any of it, its streams among it, each once."""
        found: list[ModelSource | None] = [self.model, self.start, self.reference, self.judge, self.editor]
        if self.front:
            found += [self.front.model, self.front.against, *(each.model for each in self.front.raters)]
        for line in self.streams.values():
            found += line.models()
        return list(dict.fromkeys(each for each in found if each))

    def conversions(self) -> list[Address]:
        """The addresses of the .gguf models among them in Hugging Face format."""
        return list(dict.fromkeys(self.converted(each) for each in self.models() if each.is_gguf))

    def converted(self, model: ModelSource) -> Address:
        """The address of a .gguf model in Hugging Face format: the only result that is not a stage of the line."""
        digest = fingerprint("model", VERSIONS["model"], {"model": model.weights}, {})
        return self.steps["prepare"].address.beside("model", model.label, digest)


def role_of(name: str) -> str:
    """The role by which the report reads the step of a name."""
    return name.replace(":", "_")
