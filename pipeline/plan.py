"""The line as data: which results a configuration means, what each depends on, and where it is.

    prepare ─► reference ─► schedule ─► train ─► generate ─► judge ─► report

Answers without torch, ray or vllm. A step is one result of one stage; generate makes two, one a model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import Address, Artifact, DigestMemory, fingerprint
from pipeline.compute.models import ModelSource, locate
from pipeline.compute.version import COMPUTE_VERSION
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.objectives.presets import resolve
from pipeline.preferences.sources import open_source
from pipeline.preferences.verifiable import VERSION as VERIFIABLE_VERSION

STAGES = ("prepare", "reference", "schedule", "train", "generate", "judge", "report")

# Raise a stage's version when its code changes what it writes.
VERSIONS = {"model": 1, "prepare": 1, "reference": 1, "schedule": 1, "train": 1, "generate": 1, "judge": 1, "report": 1}


@dataclass(frozen=True)
class Step:
    """One result: its address, and the steps whose results it reads, by role."""

    name: str  # the stage, or stage:model for generate
    address: Address
    identity: Mapping[str, Any]
    inputs: Mapping[str, "Step"] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.address.stage

    def input(self, role: str) -> Artifact:
        """A committed and verified input. Raises UserError that names the command which makes it."""
        step = self.inputs[role]
        artifact = step.address.find()
        if artifact is None:
            raise UserError(
                f"stage {self.stage} needs the result of stage {step.stage}, which is not at {step.address.path}",
                f"python -m jobs.{step.stage} with the same --config and overrides, or python -m jobs.run",
            )
        return artifact.verify()


@dataclass(frozen=True)
class Plan:
    """A configuration and every result it means."""

    config: RunConfig
    model: ModelSource
    steps: Mapping[str, Step]  # in the order of the line

    def of(self, stage: str) -> list[Step]:
        """The steps of a stage, in order."""
        return [step for step in self.steps.values() if step.stage == stage]

    @property
    def model_folder(self) -> Path:
        """Where the base model is, or will be once prepare has converted it."""
        return self.converted.path if self.model.is_gguf else self.model.path

    @property
    def converted(self) -> Address:
        """The address of a .gguf model in Hugging Face format: the only result that is not a stage of the line."""
        digest = fingerprint("model", VERSIONS["model"], {"model": self.model.digest}, {})
        return Address(self.steps["prepare"].address.root, "model", self.model.label, digest)


def make_plan(config: RunConfig) -> Plan:
    """Everything a configuration will make. Raises UserError where the model or the data cannot be found."""
    if "://" in config.resources.root:
        problem = f"resources.root={config.resources.root} is a URL"
        raise UserError(problem, "give a local or shared folder; object stores come later")
    root = Path(config.resources.root).expanduser().absolute()  # workers run elsewhere
    model = locate(config.model, DigestMemory(root))
    steps: dict[str, Step] = {}

    def add(name: str, label: str, identity: Mapping[str, Any], **inputs: str) -> None:
        stage = name.partition(":")[0]
        needed = {role: steps[other] for role, other in inputs.items()}
        digest = fingerprint(
            stage, VERSIONS[stage], identity, {role: step.address.fingerprint for role, step in needed.items()}
        )
        readable = re.sub(r"[^\w.-]+", "-", label).strip("-.") or stage  # a folder's name, whatever the user named
        steps[name] = Step(name, Address(root, stage, readable, digest), identity, needed)

    def section(name: str) -> dict[str, Any]:
        return getattr(config, name).model_dump(mode="json")

    weights = {"model": model.digest, "dtype": config.model.dtype, "compute": COMPUTE_VERSION}
    preset, parameters = resolve(config.objective.name, config.objective.parameters)
    trained = {"reward": preset.reward, "margin": preset.margin, "link": preset.link, "parameters": parameters}
    benchmark = section("generate") | {"questions": VERIFIABLE_VERSION}
    compared = config.schedule.difficulty != "score-margin"

    add("prepare", Path(config.data.source).stem, {"data": _data_identity(config), "tokenizer": model.digest})
    add("reference", model.label, weights, pairs="prepare")
    add(
        "schedule",
        config.schedule.order or "",
        section("schedule"),
        pairs="prepare",
        **({"reference": "reference"} if compared else {}),
    )
    train = {"objective": trained, "train": section("train"), **weights}
    add("train", config.objective.name, train, pairs="prepare", reference="reference", schedule="schedule")
    add("generate:base", model.label, {"generate": benchmark, "model": model.digest, "dtype": config.model.dtype})
    add("generate:trained", config.objective.name, {"generate": benchmark, "dtype": config.model.dtype}, model="train")
    add("judge", config.generate.benchmark, section("judge"), base="generate:base", trained="generate:trained")
    shown = {"report": section("report"), "name": config.name}
    add("report", config.name, shown, **{name.replace(":", "_"): name for name in steps})
    return Plan(config, model, steps)


def _data_identity(config: RunConfig) -> dict[str, Any]:
    """What the pairs depend on: a file's content, a hub data set's commit, the embedded tasks' version."""
    data = config.data.model_dump(mode="json", exclude={"source", "max_dropped"})
    if config.data.source == "verifiable":
        return {
            "content": {"verifiable": VERIFIABLE_VERSION},
            **{key: data[key] for key in data if key != "dev_fraction"},
        }
    made_here = ("pairs", "dev_pairs", "seed")
    source = open_source(
        config.data.source, split=config.data.split, subset=config.data.subset, revision=config.data.revision
    )
    return {"content": source.identity, **{key: data[key] for key in data if key not in made_here}}
