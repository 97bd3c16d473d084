"""THE path from tokens to log-probs: used by the reference scorer and by the trainer, so that both agree to rounding.

Shapes: T packed tokens, N completion tokens, P pairs, S = 2 * P sides, C hidden size, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from pipeline.compute.attention import is_packed, room
from pipeline.compute.fused_head import fused_logps, is_fused
from pipeline.compute.layout import Pack


def token_logps(
    model: PreTrainedModel, pack: Pack, chunk: int, squares: bool = False, gains_PC: torch.Tensor | None = None
) -> torch.Tensor:
    """log p of every completion token, [N] float32 (float64 of a float64 model) in nats, differentiable.

    Each pair's states are multiplied by its `gains_PC`: by ones, whose gradient is then a gradient of each pair's own.
    With `squares` [2, N]: below it log sum_v p(v)^2 over the vocabulary at each position, a constant to the gradient.

    The output head runs on completion positions only, at most `chunk` of them at a time, and is run again in the
    backward, so that no [T, V] tensor ever exists and no more than one [chunk, V] is kept: that of the last chunk, with
    which the backward begins. A fused head is for what is differentiated, and knows no squares.
    """
    hidden_NC, kind = hidden_states(model, pack)
    if gains_PC is not None:  # in float32, as the sums of their gradient are
        hidden_NC = (hidden_NC * gains_PC.index_select(0, pack.side_N // 2)).to(hidden_NC.dtype)
    # Not for a scorer: it waits for the device, as a scorer's host must not.
    if is_fused(model) and torch.is_grad_enabled() and not squares:
        return fused_logps(model, hidden_NC, pack.target_N, chunk)
    chunks = max(1, math.ceil(len(pack.target_N) / chunk))
    pieces: list[torch.Tensor] = []
    for hidden, target in zip(hidden_NC.tensor_split(chunks), pack.target_N.tensor_split(chunks), strict=True):
        if torch.is_grad_enabled() and len(pieces) < chunks - 1:
            pieces.append(checkpoint(head_logps, model, kind, hidden, target, squares, use_reentrant=False))
        else:
            pieces.append(head_logps(model, kind, hidden, target, squares))
    return torch.cat(pieces, dim=-1)


def hidden_states(model: PreTrainedModel, pack: Pack) -> tuple[torch.Tensor, type[ModelOutput]]:
    """The decoder's states at the pack's `source_N`, [N, C]; and the class of its outputs."""
    return _packed(model, pack) if is_packed(model) else _padded(model, pack)


def _packed(model: PreTrainedModel, pack: Pack) -> tuple[torch.Tensor, type[ModelOutput]]:
    """By one forward of all that is packed."""
    padding = (0, room(len(pack.ids_T), pack.ids_T.device) - len(pack.ids_T))
    output = model.get_decoder()(
        input_ids=F.pad(pack.ids_T, padding)[None],
        position_ids=F.pad(pack.positions_T, padding)[None],
        attention_mask=None,
        use_cache=False,
        pack=pack,
    )
    hidden_TC = output.last_hidden_state[0]
    return hidden_TC.index_select(0, pack.source_N.to(hidden_TC.device)), type(output)


def _padded(model: PreTrainedModel, pack: Pack) -> tuple[torch.Tensor, type[ModelOutput]]:
    """The same over a row a side, prompt and completion, for models that cannot honour the layout of a pack.

    Rows are padded on the right, which a causal model does not see; they need no mask. A call of the decoder holds at
    most as many positions as the pack has tokens, or one row. Of a model that is sharded over workers there is one call
    whatever the rows, as in each the workers wait for each other, and their packs differ.
    """
    decoder, rows = model.get_decoder(), list[torch.Tensor]()
    for start, *lengths in pack.segments:
        prompt, *sides = pack.ids_T[start : start + sum(lengths)].split(lengths)
        rows += [torch.cat((prompt, side)) for side in sides if len(side)]
    # A token's position is its place in the row of its side.
    places_N = pack.positions_T.index_select(0, pack.source_N.to(pack.positions_T.device))
    places = places_N.split([count for count in pack.side_N.bincount().tolist() if count])
    sharded = any(isinstance(module, FSDPModule) for module in decoder.modules())
    left = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    hidden: dict[int, torch.Tensor] = {}
    while left:
        together = len(rows) if sharded else max(1, len(pack.ids_T) // len(rows[left[0]]))
        now, left = left[:together], left[together:]
        with _turned_by_row(decoder, [len(rows[row]) for row in now]):
            output = decoder(input_ids=pad_sequence([rows[row] for row in now], batch_first=True), use_cache=False)
        for row, hidden_LC in zip(now, output.last_hidden_state, strict=True):
            hidden[row] = hidden_LC[places[row].to(hidden_LC.device)]
    return torch.cat([hidden[row] for row in range(len(rows))]), type(output)


def turning(decoder: torch.nn.Module) -> list[torch.nn.Module]:
    """The rotary embeddings that depend on the longest sequence at hand."""
    kinds = {module: str(getattr(module, "rope_type", "")) for module in decoder.modules()}  # one, or one a layer type
    return [module for module, kind in kinds.items() if "longrope" in kind or "dynamic" in kind]


@contextmanager
def _turned_by_row(decoder: torch.nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """For as long as this lasts, such embeddings see each row alone, at its own length."""

    def by_row(own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(x: torch.Tensor, position_ids: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, ...]:
            each = [own(x, position_ids[:1, :length], *rest, **more) for length in lengths]
            padded = [[F.pad(turn, (0, 0, 0, max(lengths) - turn.shape[1])) for turn in row] for row in each]
            return tuple(map(torch.cat, zip(*padded, strict=True)))

        return forward

    with ExitStack() as stack:
        for module in turning(decoder):
            stack.enter_context(computing(module, by_row(module.forward)))
        yield


def head_logps(
    model: PreTrainedModel,
    kind: type[ModelOutput],
    hidden_NC: torch.Tensor,
    target_N: torch.Tensor,
    squares: bool = False,
) -> torch.Tensor:
    """log p of each target, [N], by the model's own forward with its decoder standing aside: what it does is done.

    With `squares` [2, N], as in token_logps.
    """
    output, head = kind(last_hidden_state=hidden_NC[None]), model.get_output_embeddings()
    with computing(model.get_decoder(), lambda *_, **__: output):
        if type(head) is torch.nn.Linear and head.weight.is_cuda and head.weight.dtype is torch.bfloat16:
            with computing(head, lambda hidden: float32_logits(hidden.to(head.weight.device), head.weight, head.bias)):
                logits_NV = model(input_ids=target_N[None], use_cache=False).logits[0]
        else:
            logits_NV = model(input_ids=target_N[None], use_cache=False).logits[0]
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    logps: torch.Tensor = _ChosenLogps.apply(logits_NV, target_N.to(logits_NV.device), squares)
    return logps


class _ChosenLogps(torch.autograd.Function):
    """log_softmax at the targets, [N, V], [N] -> [N]. What autograd makes of it goes three times more over [N, V].

    With squares -> [2, N]: log sum_v p(v)^2 below it.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: torch.Tensor, target_N: torch.Tensor, squares: bool) -> torch.Tensor:
        logps_NV, target_N1 = logits_NV.log_softmax(dim=1), target_N[:, None]
        ctx.save_for_backward(logps_NV, target_N1)
        logps_N = logps_NV.gather(1, target_N1).squeeze(1)
        # Not by logsumexp: the largest p is at least 1 / V, whose square is far from underflow.
        return torch.stack((logps_N, logps_NV.exp().square_().sum(1).log())) if squares else logps_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (logps_NV, target_N1), gradient_N = ctx.saved_tensors, gradient[0] if gradient.dim() == 2 else gradient
        gradient_N1 = gradient_N[:, None]
        # In place, as nobody else has it; a second backward would be refused.
        return logps_NV.exp_().mul_(-gradient_N1).scatter_add_(1, target_N1, gradient_N1), None, None


def float32_logits(hidden: torch.Tensor, weight_VC: torch.Tensor, bias_V: torch.Tensor | None) -> torch.Tensor:
    """Logits of bfloat16 states and weights as the sums are taken, in float32; [..., C] -> [..., V].

    Rounded to bfloat16 a logit of 20 is off by up to 0.06. The products of the backward are as the layer's own.
    """
    logits: torch.Tensor = _Float32Logits.apply(hidden.flatten(0, -2), weight_VC)
    return (logits if bias_V is None else logits + bias_V).unflatten(0, hidden.shape[:-1])


class _Float32Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NC: torch.Tensor, weight_VC: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden_NC, weight_VC)
        if hidden_NC.is_cuda:
            return torch.mm(hidden_NC, weight_VC.t(), out_dtype=torch.float32)
        return hidden_NC.float() @ weight_VC.float().t()  # the same sums; no CPU kernel takes them so

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NV: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        (hidden_NC, weight_VC), (of_hidden, of_weight) = ctx.saved_tensors, ctx.needs_input_grad
        gradient_NV = gradient_NV.to(weight_VC.dtype)
        return gradient_NV @ weight_VC if of_hidden else None, gradient_NV.t() @ hidden_NC if of_weight else None


@contextmanager
def computing(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """For as long as this lasts, the module's forward is another."""
    own = vars(module).get("forward")  # where it is wrapped, as for a model laid over several devices
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own  # type: ignore[method-assign]


def side_sums(logps_N: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Sums over each side's tokens, [pairs, 2] (chosen, rejected) float64, differentiable; an absent side is 0."""
    sums = torch.zeros(2 * pack.pairs, dtype=torch.float64, device=pack.side_N.device)
    return sums.index_add(0, pack.side_N, logps_N.double().to(sums.device)).view(pack.pairs, 2)


@torch.no_grad()  # not inference mode: to torch.compile its tensors are others than those of the self-check
def score(model: PreTrainedModel, pack: Pack, chunk: int) -> torch.Tensor:
    """The reference pass: (chosen sum, rejected sum) of every pair of a pack, [pairs, 2], where the pack's sides lie.

    On a GPU nothing waits for it: it is there when whoever reads it has waited.
    """
    return side_sums(token_logps(model, pack, chunk), pack)


@torch.no_grad()
def score_tokens(model: PreTrainedModel, pack: Pack, chunk: int) -> torch.Tensor:
    """The same of each token, [N], as in token_logps: each pair's chosen tokens, then its rejected ones."""
    return token_logps(model, pack, chunk)
