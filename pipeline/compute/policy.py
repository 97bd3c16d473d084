"""The policy as it is trained: with adapters, checkpointed activations, and sharded over workers, where asked for.

One worker in float32 or float64 trains the model as it is. Several workers, or bfloat16, go through FSDP2
(sharding.py), which in bfloat16 keeps float32 master weights: what is computed with is their rounding, which at step 0
is exactly what the reference was scored with.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.compute.adapters import add_drawn_adapters
from pipeline.compute.loading import EmptyModel, materialise, places
from pipeline.compute.logprobs import token_logps
from pipeline.compute.models import make_ready
from pipeline.compute.sharding import reshard, shard, unshard
from pipeline.settings.resources import Resources
from pipeline.settings.training import Train


class Policy(torch.nn.Module):
    """Log-probs of completion tokens, as `token_logps` of the model.

    A module of its own, so that decoder and head are one forward: FSDP2 gathers once the weights they share.
    """

    def __init__(self, model: PreTrainedModel | EmptyModel, settings: Train, resources: Resources, world: int = 1):
        """Changes the model in place; an empty one is filled once it is sharded.

        With world > 1 torch.distributed must be up.
        """
        super().__init__()
        empty = model if isinstance(model, EmptyModel) else None
        self.model: PreTrainedModel = model.model if isinstance(model, EmptyModel) else model
        self.dtype = self.model.dtype  # what is computed in
        self.device = empty.device if empty else self.model.device
        self.lora = settings.lora
        self.places = places(self.model)  # of the weights by the model's own names
        self._compute: Callable[..., Any] = token_logps
        if settings.lora:
            add_drawn_adapters(self.model, settings.lora, settings.seed)
        if resources.checkpoint_activations:
            every = int(resources.checkpoint_activations)
            offload = resources.offload_activations and self.device.type == "cuda"  # else they are on the host
            self.model.gradient_checkpointing_enable({"use_reentrant": False}, every_n_layers=every, offload=offload)
        self.sharded = resources.shards(str(self.dtype).removeprefix("torch."), world)
        self.units = shard(self, self.device, self.dtype, resources, world) if self.sharded else 1
        if empty:
            materialise(self, torch.device("cpu") if resources.cpu_offload else self.device)
            empty.fill()
            self.within(partial(make_ready, to_train=True), resources)

    def forward(self, *given: Any) -> Any:
        """`token_logps(model, ...)` of what is given; or, for as long as `within` lasts, what is computed there."""
        return self._compute(self.model, *given)

    @property
    def note(self) -> str | None:
        """What is unusual in how the model lies on the workers."""
        if self.sharded and self.units == 1:
            return "its weights are gathered all at once: its layers are not what transformers calls layers"
        return None

    def within(self, compute: Callable[..., Any], *given: Any) -> Any:
        """`compute(model, *given)` with weights gathered as in a forward, which it may run; on every worker alike."""
        self._compute = compute
        # A gradient that is taken within lets go of what the root gathered; a forward begins with the embeddings.
        embeddings = self.model.get_input_embeddings()
        hook = embeddings.register_forward_pre_hook(lambda *_: unshard(self))
        try:
            with torch.no_grad():
                return self(*given)
        finally:
            hook.remove()
            self._compute = token_logps
            reshard(self)
