"""The policy as it is trained: with adapters, checkpointed activations, and sharded over workers, where asked for.

One worker in float32 or float64 trains the model as it is. Several workers, or bfloat16, go through FSDP2, which shards
weights, gradients and optimiser state, and in bfloat16 keeps float32 master weights: what is computed with is their
rounding, which at step 0 is exactly what the reference was scored with.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.compute.layout import Pack
from pipeline.compute.logprobs import token_logps
from pipeline.errors import UserError
from pipeline.settings.config import Lora, Resources, Train

if TYPE_CHECKING:
    from peft import PeftModel


class Policy(torch.nn.Module):
    """Log-probs of completion tokens, as `token_logps` of the model.

    A module of its own, so that decoder and head are one forward: FSDP2 gathers once the weights they share.
    """

    def __init__(self, model: PreTrainedModel, settings: Train, resources: Resources, world: int = 1):
        """Changes `model` in place. With world > 1 torch.distributed must be up."""
        super().__init__()
        self.dtype = next(model.parameters()).dtype  # what is computed in
        self.device = model.device
        self.lora = settings.lora
        if settings.lora:
            torch.manual_seed(settings.seed)  # the first adapter weights
            add_adapters(model, settings.lora)
        if resources.checkpoint_activations:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model
        self.sharded = world > 1 or self.dtype is torch.bfloat16
        if self.sharded:
            self._shard(world)

    def forward(self, pack: Pack, chunk: int) -> torch.Tensor:
        return token_logps(self.model, pack, chunk)

    def _shard(self, world: int) -> None:
        if not dist.is_initialized():  # one process in bfloat16, outside Ray Train
            backend = "gloo" if self.device.type == "cpu" else "nccl"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        options: dict[str, Any] = {"mesh": init_device_mesh(self.device.type, (world,))}
        if self.dtype is torch.bfloat16:
            self.model.float()
            options["mp_policy"] = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):  # transformers' name for a layer of a decoder
                fully_shard(module, **options)
        fully_shard(self, **options)

    def trained(self, base: Callable[[], PreTrainedModel]) -> "PreTrainedModel | PeftModel | None":
        """The model to save, adapters merged into it, or as a PeftModel where they are to stay apart.

        None on all workers but the first. Every worker must call this. `base` loads the model that training began with,
        once more.
        """
        if not self.sharded and not self.lora:
            return self.model
        whole = get_model_state_dict(self, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.sharded and dist.get_rank() > 0:
            return None
        model = base()
        adapted = add_adapters(model, self.lora) if self.lora else None
        model.load_state_dict({name.removeprefix("model."): weight for name, weight in whole.items()})
        if adapted is None:
            return model
        return adapted.merge_and_unload() if self.lora and self.lora.merge else adapted


def add_adapters(model: PreTrainedModel, lora: Lora) -> "PeftModel":
    """Put low-rank adapters (Hu et al. 2021, arXiv 2106.09685) into `model`; only they will be trained. The PeftModel.

    Raises UserError where the model has none of the layers that are named.
    """
    from peft import LoraConfig, get_peft_model

    _untie(model, lora)
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


def _untie(model: PreTrainedModel, lora: Lora) -> None:
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
