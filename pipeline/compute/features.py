"""Features of completions: a decoder layer's output at each completion token, through a sparse autoencoder, averaged.

The output is the residual stream as the next layer takes it, before any norm of the model's own end. For the reference
pass and the trainer alike. Shapes: T packed positions, C hidden size, M latents, S = 2 * pairs sides, K strongest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from pipeline.compute.attention import is_packed
from pipeline.compute.autoencoders import Autoencoder, find, read
from pipeline.compute.layers import layers_of
from pipeline.compute.layout import Pack
from pipeline.errors import UserError
from pipeline.settings.features import Features


class Reader:
    """Reads the features of a model that is run over packs."""

    def __init__(self, model: PreTrainedModel, layer: int | None, autoencoder: Autoencoder):
        """Raises UserError where the model cannot be read so, or the autoencoder is of another size."""
        self.layer, _ = layer_of(model, layer)
        embeddings: Any = model.get_input_embeddings()
        width = embeddings.weight.shape[-1]
        if autoencoder.channels != width:
            problem = f"the autoencoder is of states of {autoencoder.channels} channels, and the model's are of {width}"
            raise UserError(problem, "give one that was made for this model, or leave features.source out")
        self.autoencoder, self.placed = autoencoder, False

    def pooled(self, states_TC: torch.Tensor, pack: Pack) -> torch.Tensor:
        """The mean over each side's tokens of their features, [S, M]; zeros of an absent side."""
        if not self.placed:
            dtype = torch.promote_types(states_TC.dtype, torch.float32)
            self.autoencoder, self.placed = self.autoencoder.to(states_TC.device, dtype), True
        means = []
        for side_TC in sides(states_TC, pack):
            if torch.is_grad_enabled() and len(side_TC):
                means.append(checkpoint(self._mean, side_TC, use_reentrant=False))  # [tokens, M] is not kept
            else:
                means.append(self._mean(side_TC))
        return torch.stack(means)

    def strongest(self, states_TC: torch.Tensor, pack: Pack, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each side the `count` largest of them, differentiable, and which they are: [S, K] and [S, K]."""
        pooled_SM = self.pooled(states_TC, pack)
        largest = pooled_SM.topk(min(count, pooled_SM.shape[1]), dim=1)
        return largest.values, largest.indices

    def _mean(self, side_TC: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.encode(side_TC).sum(0) / max(1, len(side_TC))


def open_autoencoder(folder: Path, settings: Features) -> tuple[Autoencoder, int]:
    """The autoencoder in a folder, and the layer that it reads."""
    found = find(folder)
    return read(found), settings.layer_read(found.layer)


@contextmanager
def reading(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """In the list, after the one forward that is run inside: the layer's output, [T, C]."""
    seen: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: Any, output: Any) -> None:
        if not seen:  # not when the backward computes it again
            seen.append((output[0] if isinstance(output, tuple) else output)[0])

    hook = layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def sides(states_TC: torch.Tensor, pack: Pack) -> list[torch.Tensor]:
    """A pack's states at each side's own tokens, chosen and rejected of each pair in turn."""
    lengths = [length for _, *parts in pack.segments for length in parts]
    parts = states_TC.split([*lengths, len(states_TC) - sum(lengths)])  # on a GPU padding stands at the end
    return [part for place, part in enumerate(parts[:-1]) if place % 3]


def layer_of(model: PreTrainedModel, layer: int | None) -> tuple[torch.nn.Module, int]:
    """A layer of a model that is run over packs, and its number; the one two thirds up where none is given.

    Raises UserError where there is none, or it cannot be read so.
    """
    if not is_packed(model):
        problem = f"features are read of packs, and {type(model).__name__} takes a sequence a side"
        raise UserError(problem, "choose an objective that looks at no features, or a model such as a Llama")
    known = layers_of(model.get_decoder())
    layer = 2 * len(known) // 3 if layer is None else layer
    if layer >= len(known):
        problem = f"features.layer={layer}: the model has {len(known)} layers that features can be read of, from 0"
        raise UserError(problem, "give one of these, or null")
    return known[layer], layer
