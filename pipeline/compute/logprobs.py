"""THE path from tokens to log-probs: used by the reference scorer and by the trainer, so that both agree to rounding.

Shapes: T packed tokens, N completion tokens, S = 2 * pairs sides, C hidden size, V vocabulary.
"""

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from pipeline.compute.layout import Pack


def token_logps(model: PreTrainedModel, pack: Pack, chunk: int) -> torch.Tensor:
    """log p of every completion token, [N] float32 (float64 of a float64 model) in nats, differentiable.

    The output head runs on completion positions only, `chunk` of them at a time, and is run again in the backward, so
    that no [T, V] tensor ever exists and no more than one [chunk, V] is kept.
    """
    decoder = model.get_decoder()
    hidden_TC = decoder(
        input_ids=pack.ids_T[None],
        position_ids=pack.positions_T[None],
        attention_mask=None,
        use_cache=False,
        segments=pack.segments,
    ).last_hidden_state[0]
    hidden_NC = hidden_TC.index_select(0, pack.source_N)
    pieces = []
    for hidden, target in zip(hidden_NC.split(chunk), pack.target_N.split(chunk), strict=True):
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_head_logps, model, hidden, target, use_reentrant=False))
        else:
            pieces.append(_head_logps(model, hidden, target))
    return torch.cat(pieces) if pieces else hidden_NC.new_zeros(0, dtype=torch.float32)


def _head_logps(model: PreTrainedModel, hidden_NC: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    logits_NV = model.get_output_embeddings()(hidden_NC)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    if (cap := getattr(model.config, "final_logit_softcapping", None)) is not None:
        logits_NV = cap * torch.tanh(logits_NV / cap)
    return logits_NV.gather(1, target_N[:, None]).squeeze(1) - logits_NV.logsumexp(dim=1)


def side_sums(logps_N: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Sums over each side's tokens, [pairs, 2] (chosen, rejected) float64, differentiable; an absent side is 0."""
    sums = torch.zeros(2 * pack.pairs, dtype=torch.float64, device=logps_N.device)
    return sums.index_add(0, pack.side_N, logps_N.double()).view(pack.pairs, 2)


@torch.inference_mode()
def score(model: PreTrainedModel, pack: Pack, chunk: int) -> list[tuple[float, float]]:
    """The reference pass: (chosen sum, rejected sum) of every pair of a pack."""
    return [(chosen, rejected) for chosen, rejected in side_sums(token_logps(model, pack, chunk), pack).tolist()]
