"""Attention over a pack: a completion sees its prompt and itself; no pair sees another.

Registered in transformers' attention interface, so that any decoder written against it works unpatched. The layout of
the pack travels through the model's keyword arguments as `segments`. Transformers builds no mask for a name it does not
know in its mask table, which is what is wanted here: the layout is the mask.

Shapes: B = 1, H heads, T packed tokens, D head dimension.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from pipeline.compute.layout import Segment
from pipeline.errors import UserError

NAME = "widemargin"


def packed_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: tuple[Segment, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One scaled-dot-product call a side. Returns [B, T, H, D] and no weights, as the interface wants.

    The first call runs the prompt and the chosen completion as one causal sequence; the second runs the rejected
    completion's queries against the prompt's and its own keys.
    """
    if softcap is not None:
        raise UserError(
            "this model caps its attention logits, which packed attention does not do yet", "use another model"
        )
    grouped = key_BHTD.shape[1] != query_BHTD.shape[1]
    out_BHTD = torch.empty_like(query_BHTD)
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": grouped}
    for start, prompt, chosen, rejected in segments:
        first = slice(start, start + prompt + chosen)
        q, k, v = (tensor[:, :, first] for tensor in (query_BHTD, key_BHTD, value_BHTD))
        if sliding_window is None or prompt + chosen <= sliding_window:
            out_BHTD[:, :, first] = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        else:
            mask = _causal(prompt + chosen, 0, sliding_window, q.device)
            out_BHTD[:, :, first] = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
        if rejected:
            second = slice(first.stop, first.stop + rejected)
            k, v = (
                torch.cat((tensor[:, :, start : start + prompt], tensor[:, :, second]), dim=2)
                for tensor in (key_BHTD, value_BHTD)
            )
            mask = _causal(rejected, prompt, sliding_window, k.device)
            out_BHTD[:, :, second] = F.scaled_dot_product_attention(
                query_BHTD[:, :, second], k, v, attn_mask=mask, **options
            )
    return out_BHTD.transpose(1, 2), None


def _causal(queries: int, offset: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[queries, offset + queries] bool: query i stands at offset + i and sees keys up to it, `window` at most."""
    at = torch.arange(offset, offset + queries, device=device)[:, None]
    key = torch.arange(offset + queries, device=device)[None, :]
    mask = key <= at
    return mask if window is None else mask & (key > at - window)


AttentionInterface.register(NAME, packed_attention)
