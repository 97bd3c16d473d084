"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), by PEFT: put into a model, and what each adds to a weight."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from pipeline.compute.loading import replace_parameters
from pipeline.errors import UserError
from pipeline.settings.training import Lora

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "default"  # PEFT's name for the one adapter of a model


def add_adapters(model: PreTrainedModel, lora: Lora) -> "PeftModel":
    """Put adapters into `model`; only they will be trained. The PeftModel.

    Raises UserError where the model has none of the layers that are named.
    """
    from peft import LoraConfig, get_peft_model

    untie(model, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.layers if isinstance(lora.layers, str) else list(lora.layers),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        named = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise UserError(
            f"train.lora.layers={lora.layers} cannot be adapted ({' '.join(str(error).split())[:160]})",
            f"use all-linear, or some of {', '.join(named)}",
        ) from None


def add_drawn_adapters(model: PreTrainedModel, lora: Lora, seed: int) -> None:
    """The same, with first weights drawn by `seed`: the same ones into a model without weights (EmptyModel).

    PEFT leaves adapters where a layer's weight is. For as long as it draws them, a weight on the meta device is a zero
    on the CPU that stands for all of its values, and takes no memory.
    """
    torch.manual_seed(seed)
    if not model.get_input_embeddings().weight.is_meta:
        add_adapters(model, lora)
        return
    untie(model, lora)

    def stand_in(weight: torch.nn.Parameter) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.zeros((), dtype=weight.dtype).expand(weight.shape))

    def empty(weight: torch.nn.Parameter) -> torch.nn.Parameter:
        if weight.requires_grad:  # an adapter's
            return weight
        return torch.nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device="meta"), requires_grad=False)

    replace_parameters(model, stand_in)
    add_adapters(model, lora)
    replace_parameters(model, empty)


def merge_adapters(model: PreTrainedModel, folder: Path, lora: Lora) -> PreTrainedModel:
    """`model` with adapters merged that were put in as `lora` says and lie in `folder`, in PEFT's format."""
    from peft import PeftModel

    untie(model, lora)
    merged: Any = PeftModel.from_pretrained(model, folder)
    whole: PreTrainedModel = merged.merge_and_unload()
    return whole


def untie(model: PreTrainedModel, lora: Lora) -> None:
    """Where the output head or the input embeddings are adapted, each gets weights of its own.

    Adapters merged into shared ones would move both.
    """
    head: Any = model.get_output_embeddings()
    embeddings: Any = model.get_input_embeddings()
    names = [f".{name}" for name, module in model.named_modules() if module in (head, embeddings)]
    layers = [lora.layers] if isinstance(lora.layers, str) else lora.layers
    if head.weight is embeddings.weight and any(name.endswith(f".{layer}") for name in names for layer in layers):
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False


def adapted_layers(model: torch.nn.Module) -> dict[torch.nn.Module, torch.nn.Module]:
    """PEFT's layer around each module that is adapted."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {module.get_base_layer(): module for module in model.modules() if isinstance(module, BaseTunerLayer)}


def added(layer: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What PEFT's `layer` adds to its module's weight, of `weights` in the place of the layer's own."""
    change: torch.Tensor = functional_call(_Added(layer), {f"layer.{name}": each for name, each in weights.items()}, ())
    return change


class _Added(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self) -> torch.Tensor:
        change: torch.Tensor = self.layer.get_delta_weight(ADAPTER)  # type: ignore[operator]
        return change
