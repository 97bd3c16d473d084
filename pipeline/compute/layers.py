"""A decoder's layers by torch.compile: norms, rotary embeddings and gated products in few kernels, and less is kept.

A layer's forward is compiled where its class defines it, so that all layers of a kind share one compilation, and
whatever stands around a layer (hooks of FSDP2, checkpointed activations) stays outside and works as without. Attention
is called as it is (attention.py): what depends on the pack is no part of the graph.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.compute.attention import allow_variants

_PLAIN = "_widemargin_plain"  # of a compiled class: the one that it was made of


def compile_layers(model: PreTrainedModel, backend: str | Callable[..., Any] = "inductor") -> int:
    """Let every layer of the decoder compute by compiled code, made when it is first called. Returns their number."""
    allow_variants()
    restore_layers(model)
    layers = layers_of(model)
    for layer in layers:
        kind: Any = type(layer)
        layer.__class__ = _compiled(kind, backend)
    return len(layers)


def restore_layers(model: PreTrainedModel) -> None:
    """Let the layers compute as they did before."""
    for layer in layers_of(model):
        layer.__class__ = vars(type(layer)).get(_PLAIN, type(layer))


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a decoder, in order: what transformers marks as such."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@cache
def _compiled(kind: Any, backend: str | Callable[..., Any]) -> type[torch.nn.Module]:
    """A class, not an attribute of each layer: a copy of a layer would call the original's."""
    members = {
        "forward": torch.compile(kind.forward, dynamic=True, backend=backend),
        _PLAIN: kind,
        "__module__": kind.__module__,
    }
    found: type[torch.nn.Module] = type(kind.__name__, (kind,), members)
    return found
