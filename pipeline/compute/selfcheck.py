"""How a loaded model is run, found out before anything is computed with it: by comparing with its own plain forward.

A model may run attention of its own beside transformers' interface, carry a state from token to token, or add to
attention what the packed one does not know; it would then see other pairs of the pack, or score otherwise. All of it
would train silently wrong. Such a model takes one sequence a side.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from pipeline.compute.attention import NAME
from pipeline.compute.fused_head import can_fuse, fuse
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import token_logps
from pipeline.errors import UserError, out_of_memory

# Mean |difference| in nats a token that is rounding, by dtype of the weights; what is looked for is far larger. In
# bfloat16 a mixture of experts sends a token elsewhere for less than this.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 1e-1}
# Largest |difference| where only what must not be seen is changed: nothing else is, so this needs no room for rounding.
_LEAK = 1e-3
_LENGTH = 4  # tokens of each prompt and each completion of the check
_WINDOW = 3
_WINDOWS = ("sliding_window", "attention_chunk_size")


@torch.no_grad()  # not inference mode: a buffer the forward renews there could not be trained with
def choose_attention(model: PreTrainedModel) -> None:
    """Give the model the first attention that is right: the packed one, its default a side at a time, or the eager one.

    Right is what gives the log-probs of the model's own forward and eager attention. The default may not: fused kernels
    leave out what they do not know. Raises UserError where none is right.
    """
    tolerance = _TOLERANCE[next(model.parameters()).dtype]
    default = model.config._attn_implementation
    with _narrow_windows(model):
        model.set_attn_implementation("eager")  # changes nothing where the model has but one
        a, b, c, d, e, f = _parts(model)
        expected_N = torch.cat([_alone(model, *side) for side in ((a, b), (a, c), (d, e), (d, f))])
        if not expected_N.isfinite().all():
            remedy = "its weights are spoilt or too large for model.dtype: fetch them again, or try model.dtype=float32"
            raise UserError(f"{type(model).__name__} gives log-probs that are no finite numbers", remedy)
        for attention in (default, "eager") if _turns_by_length(model) else (NAME, default, "eager"):
            model.set_attn_implementation(attention)
            if model.config._attn_implementation != attention:
                continue
            try:
                found_N = _scored(model, Tokens(a, b, c), Tokens(d, e, f))
                elsewhere_N = _scored(model, Tokens(c, b, a), Tokens(d, a, f))  # all but what `f` after `d` may see
            except Exception as error:  # every family has its own way to fail at what it does not know
                if out_of_memory(error):
                    raise
                why = f"cannot be scored ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
                continue
            off = float((found_N - expected_N).abs().mean())
            leak = float((found_N - elsewhere_N)[-_LENGTH:].abs().max())
            if off <= tolerance and leak <= _LEAK:  # neither is, where it is not a number
                return
            why = f"scores a completion {max(off, leak):.2g} nats a token otherwise than its own forward does"
    remedy = "its forward does more than run a decoder and an output head: use another model, such as a Llama"
    raise UserError(f"{type(model).__name__} {why}", remedy)


@torch.no_grad()
def choose_head(model: PreTrainedModel) -> None:
    """Give the model the fused output head where that can run here and gives the log-probs of the model's own."""
    if not can_fuse(model):
        return
    a, b, c, d, e, f = _parts(model)
    pairs = Tokens(a, b, c), Tokens(d, e, f)
    expected_N = _scored(model, *pairs)
    fuse(model, True)
    try:
        right = float((_scored(model, *pairs) - expected_N).abs().mean()) <= _TOLERANCE[next(model.parameters()).dtype]
    except Exception as error:  # a compiler's or a driver's, of any kind
        if out_of_memory(error):
            raise
        right = False
    fuse(model, right)


def _parts(model: PreTrainedModel) -> list[list[int]]:
    ids = [(7919 * i + 13) % model.config.get_text_config().vocab_size for i in range(6 * _LENGTH)]
    return [ids[i : i + _LENGTH] for i in range(0, len(ids), _LENGTH)]


def _scored(model: PreTrainedModel, *pairs: Tokens) -> torch.Tensor:
    return token_logps(model, lay_out(pairs, model.device), chunk=3)


def _alone(model: PreTrainedModel, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """The completion's log-probs, in nats, by the model's own forward over nothing else."""
    ids = torch.tensor([[*prompt, *completion]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def _turns_by_length(model: PreTrainedModel) -> bool:
    """Whether rotary embeddings depend on the longest sequence at hand, as in a pack they must not."""
    kinds = [str(getattr(module, "rope_type", "")) for module in model.modules()]  # one, or one a kind of layer
    return any("longrope" in kind or "dynamic" in kind for kind in kinds)


@contextmanager
def _narrow_windows(model: PreTrainedModel) -> Iterator[None]:
    """Attention windows of fewer tokens than the check has, so that it sees whether they are honoured."""
    places = [model.config.get_text_config(), *model.modules()]
    wide = [(place, name, getattr(place, name, None)) for place in places for name in _WINDOWS]
    wide = [(place, name, width) for place, name, width in wide if isinstance(width, int) and width > _WINDOW]
    for place, name, _ in wide:
        setattr(place, name, _WINDOW)
    try:
        yield
    finally:
        for place, name, width in wide:
            setattr(place, name, width)
