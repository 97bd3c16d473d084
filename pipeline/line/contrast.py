"""The two runs of the line whose models a third one's token weights are made of, as configurations."""

from typing import Any

from pipeline.errors import UserError
from pipeline.objectives.presets import resolve
from pipeline.settings.config import RunConfig, validate

SIDES = ("positive", "negative")  # trained on the labels, and on the labels the other way round


def contrasts(config: RunConfig) -> dict[str, RunConfig]:
    """Both runs, by SIDES. They share pairs and reference with the run that asks for them.

    The labels are those that the run itself trains on: what it has flipped, as noise, or exchanged is so for both, as
    no method can see a flip. Raises UserError, with the setting, where `weigh.contrast` means no run.
    """
    raw = config.model_dump(mode="json")
    changes = raw["weigh"]["contrast"]
    schedule = {name: raw["schedule"][name] for name in ("flip_fraction", "swap_labels", "epochs", "seed")}
    if "swap_labels" in changes.get("schedule", {}):
        problem = "weigh.contrast.schedule.swap_labels: one run trains on the labels, the other the other way round"
        raise UserError(problem, "leave it out")
    sections: dict[str, Any] = {
        "objective": {"name": "dpo"} | changes.get("objective", {}),
        "schedule": schedule | changes.get("schedule", {}),
        "train": raw["train"] | changes.get("train", {}),
    }
    if sections["train"]["lora"]:  # a model that scores is whole
        sections["train"] |= {"lora": sections["train"]["lora"] | {"merge": True}}
    try:
        return {side: _run(raw | sections, side) for side in SIDES}
    except UserError as error:
        raise UserError(f"weigh.contrast: {error.problem}", error.remedy) from None


def _run(raw: dict[str, Any], side: str) -> RunConfig:
    labels = {"swap_labels": raw["schedule"]["swap_labels"] != (side == "negative")}
    run = validate(raw | {"schedule": raw["schedule"] | labels, "name": f"{raw['name']}-{side}"})
    preset, _ = resolve(run.objective.name, run.objective.parameters)
    if "contrast" in preset.token_columns:
        problem = f"objective.name={run.objective.name} itself asks for two contrastive models"
        raise UserError(problem, "choose another, such as weigh.contrast={objective: {name: dpo}}")
    return run
