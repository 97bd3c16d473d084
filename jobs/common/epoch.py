"""What a training reads: the results and values that its epoch is joined from, and the room that all of it takes."""

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.stage import Work
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.training.epoch_files import More


SMALL_DISK = "and its disk has"  # is said of one that has no room for a training


def joined(work: Work) -> dict[str, Any]:
    """What the epoch is joined from: the folders by role and by stream, and what is in them."""
    from pipeline.training.epoch_files import Line

    def line(of: str = "") -> Line:
        return Line(**{role: work.inputs[role + of].path for role in Line._fields if role + of in work.inputs})

    made_of = {role: artifact.manifest["digest"] for role, artifact in work.inputs.items()}
    streams = {name: line(f":{name}") for name in work.config.streams}
    return {**line()._asdict(), "made_of": made_of, "streams": streams}


def more(work: Work) -> "More":
    """What the objective asks for beside these."""
    from pipeline.objectives.presets import resolve
    from pipeline.prepare.parts import CHANGED
    from pipeline.training.epoch_files import More

    preset, _ = resolve(work.config.objective.name, work.config.objective.parameters)
    roles = {"reference": "token_reference", "contrast": "contrast", "changed": "pairs"}
    values = {
        name: (work.inputs[roles[name]].path, f"{CHANGED if name == 'changed' else 'part'}-*.parquet")
        for name in preset.token_columns
    }
    return More(values, work.inputs["mismatched"].path if "mismatched" in work.inputs else None)


def require_room(work: Work, model: Path) -> None:
    """Raise UserError where the disk has no room for trained model, two checkpoints and epoch; adapters' are small.

    A checkpoint holds float32 weights and two moments of each; the one before stays until the next is whole.
    """
    from safetensors import safe_open

    from actors.training import EPOCH
    from pipeline.training.epoch_files import Line
    from pipeline.training.join import room, stands

    folder, lora, inputs = work.folder, work.config.train.lora, joined(work)
    weights = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            weights += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - it is no dictionary
    models, checkpoints = int(lora is None or lora.merge), 2 * int(lora is None)
    lines = [Line(*(inputs[name] for name in Line._fields)), *inputs["streams"].values()]
    stood, values = stands(folder / EPOCH, inputs["made_of"]), len(more(work).values)
    epoch = 0 if stood else sum(room(line, values) for line in lines)
    needed, free = 4 * weights * (models + 3 * checkpoints) + epoch, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} needs about {needed / 1e9:.1f} GB for two checkpoints, the trained model and the pairs as they "
            f"are read, {SMALL_DISK} {free / 1e9:.1f} GB free",
            "free some room, or set resources.root to a larger disk",
        )
