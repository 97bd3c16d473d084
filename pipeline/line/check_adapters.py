"""Layers to adapt: whether the model has them, by the headers of its files or by its architecture; see check.py."""

import re
from pathlib import Path
from typing import Any

from pipeline.compute.limits import built, weight_files
from pipeline.errors import UserError
from pipeline.line.steps import Plan
from pipeline.settings.inputs import Model


def adapter_layers(plan: Plan) -> None:
    """Layers to adapt that the model has not got."""
    lora, folder = plan.config.train.lora, plan.folder_of(plan.start)
    if lora is None or lora.layers == "all-linear" or not (folder / "config.json").is_file():
        return
    layers = [lora.layers] if isinstance(lora.layers, str) else lora.layers
    here = _matrices(folder)
    named = all(any(names_layer(lora.layers, layer, module) for module in here) for layer in layers)
    if named and not isinstance(lora.layers, str):
        return
    # A checkpoint may have other names than the model, and an expression may mean what is no matrix.
    modules = _modules(folder, plan.config.model)
    here = [name for name, is_matrix in modules.items() if is_matrix]
    remedy = f"use all-linear, or some of {', '.join(sorted({module.rpartition('.')[2] for module in here}))}"
    for layer in layers if here else ():
        if not any(names_layer(lora.layers, layer, module) for module in here):
            raise UserError(f"train.lora.layers: the model has no {layer}", remedy)
        if others := [name for name in modules.keys() - {*here} if names_layer(lora.layers, layer, name)]:
            shown = ", ".join(sorted(others)[:3])
            raise UserError(f"train.lora.layers={layer} means {shown}, too, which hold no matrix to adapt", remedy)


def names_layer(layers: Any, layer: str, module: str) -> bool:
    """Whether PEFT takes `layer` for a module: a text alone is a regular expression, of several each ends a name."""
    if isinstance(layers, str):
        return re.fullmatch(layer, module) is not None
    return module == layer or module.endswith(f".{layer}")


def _matrices(folder: Path) -> list[str]:
    """Modules with a weight of two dimensions, from the headers of a model's files."""
    from safetensors import SafetensorError, safe_open

    modules = []
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="np") as tensors:
                weights = [name for name in tensors.keys() if name.endswith(".weight")]  # noqa: SIM118 - no dictionary
                modules += [name[:-7] for name in weights if len(tensors.get_slice(name).get_shape()) == 2]
        except (OSError, SafetensorError):
            continue  # whoever opens the weights says so
    return modules


def _modules(folder: Path, model: Model) -> dict[str, bool]:
    """Modules of the architecture as it is built, and whether each has a weight of two dimensions; none where it cannot
    be built so."""
    import torch

    try:
        modules = dict(built(folder, "", model.trust_remote_code).named_modules())
    except UserError:  # whoever loads it says so
        return {}
    weights = {name: getattr(module, "weight", None) for name, module in modules.items() if name}
    return {name: isinstance(weight, torch.Tensor) and weight.dim() == 2 for name, weight in weights.items()}
