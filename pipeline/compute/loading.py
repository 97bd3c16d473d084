"""A model without its weights, and the weights filled in once it is sharded: each worker reads its own rows alone.

What transformers loads is the whole model on every worker. Here it builds the same model on the meta device, names and
checks every weight (`open_empty`); adapters and FSDP2 then change it; and `EmptyModel.fill` copies the rows that a
worker holds straight from the safetensors files. Weights that a model keeps otherwise than its files do, such as fused
experts, are made whole on the host, one at a time, by transformers' own conversion.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from pipeline.compute.limits import INDEX, ONE, weight_files
from pipeline.compute.models import opening, require_whole
from pipeline.errors import UserError

_SET = "_is_hf_initialized"  # transformers' mark on modules and weights that it is not to set itself
Place = tuple[torch.nn.Module, str]  # a module, and the attribute of it that is a parameter or a buffer


@dataclass(frozen=True)
class EmptyModel:
    """A model whose parameters are on the meta device; and how its files fill them, whatever is put around its modules.

    Buffers that no file holds, such as the frequencies of rotary embeddings, are computed and on `device` already.
    """

    model: PreTrainedModel
    folder: Path
    device: torch.device
    dtypes: Mapping[str, torch.dtype]  # of every weight, as transformers would load it
    places: Mapping[str, Place]
    sources: Mapping[str, str | WeightConverter]  # by weight: its name in the files, or what makes it of several

    def fill(self) -> None:
        """Copy into every weight, by now on a real device and sharded or not, the rows that this worker has of it.

        A weight is rounded to the dtype that transformers would load it in, whatever the parameter's own.
        """
        tied, filled = dict(self.model.all_tied_weights_keys), set()
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(file, framework="pt")) for file in weight_files(self.folder)]
            slices = {key: file.get_slice(key) for file in files for key in file.keys()}  # noqa: SIM118 - no dictionary
            for target, source in self.sources.items():
                made = {target: slices[source]} if isinstance(source, str) else self._converted(target, source, slices)
                for name, weight in made.items():
                    same = [name, *(each for each, of in tied.items() if of == name and each in self.places)]
                    filled.update(same)
                    for module, attribute in {self.places[each] for each in same}:  # two, where a head was untied
                        _copy_rows(weight, getattr(module, attribute), self.dtypes[name])
        if left := self.places.keys() - filled:  # transformers draws what some models' files may lack
            problem = f"the files of the model in {self.folder} leave weights to chance: {', '.join(sorted(left)[:5])}"
            raise UserError(problem, "open it with transformers, save it, and give that folder")

    def _converted(self, target: str, source: WeightConverter, slices: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        converter = deepcopy(source)
        named: Any = converter.collected_tensors
        for pattern, keys in named.items():
            named[pattern] = [slices[key][...] for key in keys]
        made = converter.convert(target, model=self.model, config=self.model.config)
        return {name: weight[0] if isinstance(weight, list) else weight for name, weight in made.items()}


def open_empty(
    folder: Path, dtype: str, device: str | torch.device = "cpu", *, trust_remote_code: bool = False
) -> EmptyModel:
    """The model that `load_model` would load, without its weights. Raises UserError where that does."""
    trusted = {"trust_remote_code": trust_remote_code}
    with opening(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **trusted)
        with torch.device("meta"):
            kind = type(AutoModelForCausalLM.from_config(config, **trusted))
        described = _described(folder)
        loaded: Any = kind.from_pretrained(
            None,
            config=config,
            state_dict=described,
            dtype=getattr(torch, dtype),
            device_map="meta",
            output_loading_info=True,
        )
    model, report = loaded
    require_whole(folder, model, report)
    device = torch.device(device)
    _compute_buffers(model, device)
    named = model.state_dict(keep_vars=True)
    return EmptyModel(
        model.eval(),
        folder,
        device,
        {name: weight.dtype for name, weight in named.items()},
        places(model),
        _sources(model, named, described),
    )


def places(model: torch.nn.Module) -> dict[str, Place]:
    """Where every parameter and persistent buffer is, by its name, which adapters will change and modules outlive."""
    found = {}
    for name in model.state_dict(keep_vars=True):
        path, _, attribute = name.rpartition(".")
        found[name] = (model.get_submodule(path), attribute)
    return found


def replace_parameters(model: torch.nn.Module, new: Callable[[torch.nn.Parameter], torch.nn.Parameter]) -> None:
    """Put `new(parameter)` in the place of every parameter, the same one wherever it is shared."""
    made: dict[int, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) not in made:
                made[id(parameter)] = (parameter, new(parameter))  # the old one too, so that no other has its id
            if made[id(parameter)][1] is not parameter:
                setattr(module, name, made[id(parameter)][1])


def materialise(model: torch.nn.Module, device: torch.device) -> None:
    """Give every parameter and buffer that is on the meta device memory on `device`: of a sharded one, its shard."""

    def real(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        if not parameter.is_meta:
            return parameter
        data = torch.empty_like(parameter, device=device)  # from_local would move a shard to its mesh's device
        return torch.nn.Parameter(data, requires_grad=parameter.requires_grad)

    replace_parameters(model, real)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.empty_like(buffer, device=device))


def _described(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight in a model's files by its shape alone, from their headers."""
    described = {}
    if not (files := weight_files(folder)):
        raise OSError(f"there is neither {ONE} nor {INDEX} in it")
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - no dictionary
                described[key] = torch.empty(weights.get_slice(key).get_shape(), device="meta")
    return described


def _compute_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Make the buffers that no file holds, as transformers does after loading; weights count as loaded."""
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            if (buffer := getattr(module, name)) is not None:
                setattr(module, name, torch.empty_like(buffer, device=device))
                setattr(module, _SET, False)
    for weight in model.state_dict(keep_vars=True).values():
        setattr(weight, _SET, True)
    model.initialize_weights()


def _sources(
    model: PreTrainedModel, named: dict[str, torch.Tensor], keys: Mapping[str, Any]
) -> dict[str, str | WeightConverter]:
    """What fills each weight of `named`, out of `keys` of the files; renamed and in the order as transformers does."""
    mapping, prefix = get_model_conversion_mapping(model), model.base_model_prefix
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    sources: dict[str, str | WeightConverter] = {}
    for key in sorted(keys, key=dot_natural_key):
        target, pattern = rename_source_key(key, renamings, converters, prefix, named)
        if target not in named and key in named:
            target, pattern = rename_source_key(key, [], [], prefix, named)
        if target not in named:  # such as heads of other uses: transformers leaves it out, too
            continue
        if pattern is None:
            sources[target] = key
            continue
        of_it = next(each for each in converters if pattern in each.source_patterns)
        converter = sources.setdefault(target, deepcopy(of_it))
        assert isinstance(converter, WeightConverter)
        converter.add_tensor(target, key, pattern, key)  # type: ignore[arg-type]
    return sources


@torch.no_grad()
def _copy_rows(source: Any, weight: torch.Tensor, dtype: torch.dtype) -> None:
    """Of `source`, a tensor or a slice of a file, the rows that this worker holds of `weight`."""
    if not isinstance(weight, DTensor):
        weight.copy_(source[...].to(dtype))
        return
    shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
    if shape[0]:
        weight.to_local().copy_(source[offset[0] : offset[0] + shape[0]].to(dtype))
