"""Attention over a pack: a completion sees its prompt and itself; no pair sees another.

Registered in transformers' attention interface, so that any decoder written against it works unpatched. The pack
travels through the model's keyword arguments. Transformers builds no mask for a name it does not know in its mask
table, which is what is wanted here: the layout is the mask.

On a GPU it is one FlexAttention kernel over the pack, which skips blocks nobody sees; on a CPU, which has no such
kernel with a backward, torch's own attention a side at a time.

Shapes: B = 1, H heads, T packed tokens (for FlexAttention with padding after them), D head dimension.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from pipeline.compute.layout import Pack, Segment, sent

NAME = "widemargin"
_BLOCK = 128  # positions of a block of FlexAttention's mask
# Variants of one compiled function: dtypes, with and without gradients, devices of a model laid over several.
_VARIANTS = 64


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the model's attention is the one below; if not, it takes one sequence a side (logprobs.py)."""
    return model.config._attn_implementation == NAME


def flexes(device: torch.device) -> bool:
    """Whether attention is FlexAttention there; its CPU kernel has no backward."""
    return device.type == "cuda"


def room(tokens: int, device: torch.device) -> int:
    """The positions that a pack of so many tokens is given on this device: on a GPU whole blocks, two at least.

    Fewer would be another kernel, that of decoding; and of packs of any size, few shapes are left.
    """
    return max(2, -(-tokens // _BLOCK)) * _BLOCK if flexes(device) else tokens


@torch.compiler.disable  # a compiled layer calls it as it is: what depends on the pack is no part of a layer's graph
def packed_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pack: Pack,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a pack. Returns [B, T, H, D] and no weights, as the interface wants."""
    if flexes(query_BHTD.device):
        if dropout:
            raise NotImplementedError(f"FlexAttention has no dropout, and the model's attention asks for {dropout}")
        mask = block_mask(pack, sliding_window, query_BHTD.shape[2], query_BHTD.device)
        return _flex(query_BHTD, key_BHTD, value_BHTD, mask, scaling, softcap), None
    options: dict[str, Any] = {"scale": scaling, "dropout": dropout, "window": sliding_window, "cap": softcap}
    return _by_side(query_BHTD, key_BHTD, value_BHTD, pack.segments, **options), None


def _flex(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    mask: BlockMask,
    scale: float | None,
    cap: float | None,
) -> torch.Tensor:
    """FlexAttention over a pack, [B, T, H, D]."""
    attend, grouped = compiled(flex_attention), key_BHTD.shape[1] != query_BHTD.shape[1]
    found_BHTD = attend(query_BHTD, key_BHTD, value_BHTD, None if cap is None else _capping(cap), mask, scale, grouped)
    return found_BHTD.transpose(1, 2).contiguous()


@lru_cache(maxsize=8)  # the layers of a forward share it, and those of the backward that compute it again
def block_mask(pack: Pack, window: int | None, size: int, device: torch.device) -> BlockMask:
    """Who sees whom in a pack, for FlexAttention; `window` as transformers means it: positions, one's own included.

    Of `size` positions those after the pack's tokens are padding, which sees itself alone: a row that sees nothing has
    no softmax. Compiled, it makes no [T, T] tensor.
    """
    lengths = torch.tensor([length for _, *parts in pack.segments for length in parts])
    part_T = torch.arange(len(lengths)).repeat_interleave(lengths)
    alone_T = len(lengths) + 3 * torch.arange(size - len(part_T))  # each a prompt of its own
    part_T = sent(torch.cat((part_T, alone_T)).to(torch.int32), device)  # made on the host, waited for by none
    position_T = F.pad(pack.positions_T, (0, size - len(pack.positions_T))).to(device, torch.int32)
    # A tensor, so that the windows of a model's layers are no variants of the kernel.
    widest = sent(torch.tensor(size if window is None else window, dtype=torch.int32), device)

    def sees(_: torch.Tensor, __: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        mine, other = part_T[query], part_T[key]  # three a pair, its prompt first
        seen = (query >= key) & ((mine == other) | (other == mine // 3 * 3))
        return seen & (position_T[query] - position_T[key] < widest)

    mask: BlockMask = compiled(_blocks)(sees, size, device)
    return mask


def _blocks(sees: Callable[..., torch.Tensor], size: int, device: torch.device) -> BlockMask:
    """With a block's size in it: as an argument it would be one more symbol of the compiled code."""
    return create_block_mask(sees, None, None, size, size, device, _BLOCK)


@cache
def _capping(cap: float) -> Callable[..., torch.Tensor]:
    """Bounds scores smoothly to (-cap, cap); one function a cap, as each new one would be compiled anew."""

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return capped


@cache
def compiled(function: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """`function` by torch.compile, for tensors of any size, as a whole or not at all.

    What cannot be compiled, or has more variants than there may be, is an error: otherwise it would run on, unfused, in
    many times the memory.
    """
    result: Callable[..., Any] = torch.compile(function, dynamic=True, fullgraph=True, backend=backend)

    def call(*given: Any) -> Any:
        allow_variants()  # in each thread: layers that are computed again are so in autograd's
        return result(*given)

    return call


def allow_variants() -> None:
    """What torch.compile needs to be told, once something is compiled in this process."""
    config = torch._dynamo.config
    if config.recompile_limit < _VARIANTS:  # set once a thread: this is asked at every layer
        config.recompile_limit = _VARIANTS
    if not config.specialize_float:
        config.specialize_float = True  # a scale of attention that may vary does not compile


def _by_side(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    segments: tuple[Segment, ...],
    **options: Any,
) -> torch.Tensor:
    """Attention a side at a time, [B, T, H, D].

    The prompt and the chosen completion are one causal sequence; the rejected completion's queries run against the
    prompt's and its own keys. The pack is taken apart by `split`, whose backward is one copy; that of a slice would
    clear a tensor of the whole pack for each.
    """
    queries = query_BHTD.split([n for _, *ns in segments for n in (ns[0] + ns[1], ns[2])], dim=2)
    keys, values = (kv.split([n for _, *ns in segments for n in ns], dim=2) for kv in (key_BHTD, value_BHTD))
    sides = []
    for pair in range(len(segments)):
        prompt, chosen, rejected = range(3 * pair, 3 * pair + 3)
        for query_BHQD, side in zip(queries[2 * pair : 2 * pair + 2], (chosen, rejected), strict=True):
            k_BHKD, v_BHKD = (torch.cat((kv[prompt], kv[side]), dim=2) for kv in (keys, values))
            if query_BHQD.shape[2]:
                sides.append(_causal_attention(query_BHQD, k_BHKD, v_BHKD, **options).transpose(1, 2))
    return torch.cat(sides, dim=1)


def _causal_attention(
    q_BHQD: torch.Tensor,
    k_BHKD: torch.Tensor,
    v_BHKD: torch.Tensor,
    *,
    scale: float | None,
    dropout: float,
    window: int | None,
    cap: float | None,
) -> torch.Tensor:
    """Attention of the last Q of K positions, [B, H, Q, D]; keys and values may have fewer heads than queries."""
    queries, keys = q_BHQD.shape[2], k_BHKD.shape[2]
    if cap is not None:
        mask = _causal(queries, keys, window, k_BHKD.device)
        return _capped_attention(q_BHQD, k_BHKD, v_BHKD, mask, scale, dropout, cap)
    whole = queries == keys and (window is None or keys <= window)  # then no mask need be made
    return F.scaled_dot_product_attention(
        q_BHQD,
        k_BHKD,
        v_BHKD,
        attn_mask=None if whole else _causal(queries, keys, window, k_BHKD.device),
        is_causal=whole,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=k_BHKD.shape[1] != q_BHQD.shape[1],
    )


def _capped_attention(
    q_BHQD: torch.Tensor,
    k_BHKD: torch.Tensor,
    v_BHKD: torch.Tensor,
    mask_QK: torch.Tensor,
    scale: float | None,
    dropout: float,
    cap: float,
) -> torch.Tensor:
    """Scores bounded smoothly to (-cap, cap), as Gemma 2 does; no fused kernel has it, so [Q, K] scores are made."""
    heads, width = q_BHQD.shape[1], q_BHQD.shape[3]
    k_BHKD, v_BHKD = (kv.repeat_interleave(heads // kv.shape[1], dim=1) for kv in (k_BHKD, v_BHKD))
    scores_BHQK = q_BHQD @ k_BHKD.transpose(2, 3) * (1 / math.sqrt(width) if scale is None else scale)
    scores_BHQK = cap * torch.tanh(scores_BHQK / cap)
    at_least_float32 = torch.promote_types(scores_BHQK.dtype, torch.float32)
    weights_BHQK = scores_BHQK.masked_fill(~mask_QK, -torch.inf).softmax(dim=3, dtype=at_least_float32)
    return F.dropout(weights_BHQK.to(q_BHQD.dtype), dropout) @ v_BHKD


def _causal(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[queries, keys] bool: the last `queries` of `keys` positions see the keys up to their own, `window` at most."""
    at = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    mask = key <= at
    return mask if window is None else mask & (key > at - window)


AttentionInterface.register(NAME, packed_attention)
