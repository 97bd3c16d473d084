"""The trained weights, gathered a layer at a time and written as safetensors: no worker ever holds the whole model.

Names, what is left out because it is tied, and how weights are split over files are as save_pretrained makes them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.core_model_loading import dot_natural_key, revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from pipeline.compute.adapters import adapted_layers, added, untie
from pipeline.compute.loading import EmptyModel
from pipeline.compute.policy import Policy
from pipeline.results.files import write_aside

SHARD_BYTES = 5 * 10**9  # of one file, where no single weight is larger; the exporting worker holds one, and a layer


def export_weights(policy: Policy, empty: EmptyModel, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the trained model's weights into `folder`, adapters merged into them; every worker must call this.

    `empty` is the model that training began with, opened once more. The first worker writes.
    """
    if policy.lora:
        untie(empty.model, policy.lora)
    kept = _kept(empty.model)
    written = revert_weight_conversion(empty.model, dict(kept))  # as the files have it, where that is otherwise
    sizes = {name: torch.empty_like(weight) for name, weight in written.items()}  # a view counts as all that it is of
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=shard_bytes)
    planned = dict(split.filename_to_tensors)
    waiting: dict[str, torch.Tensor] = {}
    for layer in _gathered(policy, empty, sorted(kept, key=dot_natural_key)):
        if not is_first():
            continue
        waiting |= revert_weight_conversion(empty.model, layer)
        for name, keys in list(planned.items()):
            if waiting.keys() >= {*keys}:
                save_file({key: waiting.pop(key).contiguous() for key in keys}, folder / name, {"format": "pt"})
                del planned[name]
    if not is_first():
        return
    if split.is_sharded:
        counted = {"total_parameters": empty.model.num_parameters(), **split.metadata}
        index = {"metadata": counted, "weight_map": split.tensor_to_filename}
        write_aside(folder / SAFE_WEIGHTS_INDEX_NAME, json.dumps(index, indent=2, sort_keys=True) + "\n")
    if planned or waiting:
        raise RuntimeError(f"of the trained weights {sorted(planned)} were not complete, and {len(waiting)} are left")


def adapter_weights(policy: Policy) -> dict[str, torch.Tensor]:
    """The adapters' weights by PEFT's names, whole, on the first worker; every worker must call this."""
    found = {}
    for name, weight in policy.model.named_parameters():
        if weight.requires_grad:
            whole = _whole(weight, weight.dtype)
            if is_first():
                found[f"base_model.model.{name}"] = whole.cpu()
    return found


def is_first() -> bool:
    """Whether this worker writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _kept(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What of a model's state is saved, by name; on the meta device."""
    ignored = model._keys_to_ignore_on_save or ()
    state = {name: weight for name, weight in model.state_dict().items() if name not in ignored}
    kept: dict[str, torch.Tensor] = remove_tied_weights_from_state_dict(state, model)
    return kept


def _gathered(policy: Policy, empty: EmptyModel, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """The weights of `names`, whole and merged, a layer at a time, on the first worker's host; elsewhere nothing."""
    adapted = adapted_layers(policy.model) if policy.lora else {}
    for layer in _layers(names):
        found = {}
        for name in layer:
            module, attribute = policy.places[name]
            weight = _whole(getattr(module, attribute), empty.dtypes[name])
            around = adapted.get(module) if attribute == "weight" else None
            parts = {n: _whole(w, w.dtype) for n, w in around.named_parameters() if w.requires_grad} if around else {}
            if is_first():
                found[name] = weight.to("cpu", copy=bool(parts))
                if around is not None:
                    found[name] += added(around, {n: w.cpu() for n, w in parts.items()})
        yield found


def _layers(names: Sequence[str]) -> list[list[str]]:
    """Names by the layer that their first number names; those without one are a layer, too."""
    layers: dict[str, list[str]] = {}
    for name in names:
        number = re.match(r".*?\.\d+\.", name)
        layers.setdefault(number[0] if number else "", []).append(name)
    return list(layers.values())


@torch.no_grad()
def _whole(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    """All of a weight, rounded before it is gathered."""
    weight = weight.detach().to(dtype)
    whole: torch.Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    if (
        whole.is_cuda
    ):  # else the others ask for all layers at once, and NCCL's patience with the last begins at the first
        torch.cuda.current_stream().synchronize()
    return whole
