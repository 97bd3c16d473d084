"""THE path from tokens to log-probs: used by the reference scorer and by the trainer, so that both agree to rounding.

Shapes: T packed tokens, N completion tokens, S = 2 * pairs sides, C hidden size, V vocabulary.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from pipeline.compute.attention import is_packed
from pipeline.compute.fused_head import fused_logps, is_fused
from pipeline.compute.layout import Pack


def token_logps(model: PreTrainedModel, pack: Pack, chunk: int) -> torch.Tensor:
    """log p of every completion token, [N] float32 (float64 of a float64 model) in nats, differentiable.

    The output head runs on completion positions only, at most `chunk` of them at a time, and is run again in the
    backward, so that no [T, V] tensor ever exists and no more than one [chunk, V] is kept: that of the last chunk, with
    which the backward begins. A fused head settles its own chunks.
    """
    hidden_NC, kind = _packed(model, pack) if is_packed(model) else _one_by_one(model, pack)
    if is_fused(model):
        return fused_logps(model, hidden_NC, pack.target_N)
    chunks = max(1, math.ceil(len(pack.target_N) / chunk))
    pieces: list[torch.Tensor] = []
    for hidden, target in zip(hidden_NC.tensor_split(chunks), pack.target_N.tensor_split(chunks), strict=True):
        if torch.is_grad_enabled() and len(pieces) < chunks - 1:
            pieces.append(checkpoint(_head_logps, model, kind, hidden, target, use_reentrant=False))
        else:
            pieces.append(_head_logps(model, kind, hidden, target))
    return torch.cat(pieces)


def _packed(model: PreTrainedModel, pack: Pack) -> tuple[torch.Tensor, type[ModelOutput]]:
    """The hidden states that predict completion tokens, [N, C], by one forward; and the class of decoder outputs."""
    output = model.get_decoder()(
        input_ids=pack.ids_T[None],
        position_ids=pack.positions_T[None],
        attention_mask=None,
        use_cache=False,
        pack=pack,
    )
    hidden_TC = output.last_hidden_state[0]
    return hidden_TC.index_select(0, pack.source_N.to(hidden_TC.device)), type(output)


def _one_by_one(model: PreTrainedModel, pack: Pack) -> tuple[torch.Tensor, type[ModelOutput]]:
    """The same by a forward a side over prompt and completion, for models that cannot honour the layout of a pack."""
    decoder, hidden = model.get_decoder(), []
    for start, *lengths in pack.segments:
        prompt_ids, *sides = pack.ids_T[start : start + sum(lengths)].split(lengths)
        for completion_ids in sides:
            if len(completion_ids):
                output = decoder(input_ids=torch.cat((prompt_ids, completion_ids))[None], use_cache=False)
                hidden.append(output.last_hidden_state[0, len(prompt_ids) - 1 : -1])
    return torch.cat(hidden), type(output)


def _head_logps(
    model: PreTrainedModel, kind: type[ModelOutput], hidden_NC: torch.Tensor, target_N: torch.Tensor
) -> torch.Tensor:
    """Logits by the model's own forward with its decoder standing aside, so that whatever it does to them is done."""
    with _answering(model.get_decoder(), kind(last_hidden_state=hidden_NC[None])):
        logits_NV = model(input_ids=target_N[None], use_cache=False).logits[0]
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    logps_N: torch.Tensor = _ChosenLogps.apply(logits_NV, target_N.to(logits_NV.device))
    return logps_N


class _ChosenLogps(torch.autograd.Function):
    """log_softmax at the targets, [N, V], [N] -> [N]. What autograd makes of it goes three times more over [N, V]."""

    @staticmethod
    def forward(ctx: Any, logits_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        logps_NV, target_N1 = logits_NV.log_softmax(dim=1), target_N[:, None]
        ctx.save_for_backward(logps_NV, target_N1)
        return logps_NV.gather(1, target_N1).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor, None]:
        (logps_NV, target_N1), gradient_N1 = ctx.saved_tensors, gradient_N[:, None]
        # In place, as nobody else has it; a second backward would be refused.
        return logps_NV.exp_().mul_(-gradient_N1).scatter_add_(1, target_N1, gradient_N1), None


@contextmanager
def _answering(decoder: torch.nn.Module, output: ModelOutput) -> Iterator[None]:
    """For as long as this lasts, the decoder does not compute but answers `output`."""
    own = vars(decoder).get("forward")  # where it is wrapped, as for a model laid over several devices
    decoder.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own


def side_sums(logps_N: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Sums over each side's tokens, [pairs, 2] (chosen, rejected) float64, differentiable; an absent side is 0."""
    sums = torch.zeros(2 * pack.pairs, dtype=torch.float64, device=pack.side_N.device)
    return sums.index_add(0, pack.side_N, logps_N.double().to(sums.device)).view(pack.pairs, 2)


@torch.inference_mode()
def score(model: PreTrainedModel, pack: Pack, chunk: int) -> torch.Tensor:
    """The reference pass: (chosen sum, rejected sum) of every pair of a pack, [pairs, 2], where the pack's sides lie.

    On a GPU nothing waits for it: it is there when whoever reads it has waited.
    """
    return side_sums(token_logps(model, pack, chunk), pack)
