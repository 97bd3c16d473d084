"""The output head by a fused kernel on a GPU, where the head is one it knows: a linear layer, soft-capped at most.

Liger-Kernel's fused linear cross-entropy goes through the logits in chunks as logprobs.py does, but softmax, gather and
their gradient are one pass over a chunk and not one each. In bfloat16 it rounds logits to bfloat16, takes their softmax
in float32, and rounds what a token's loss weighs in the gradient to bfloat16 (0.2 to 0.4 %). Releases before 0.8.5 may
multiply all of a gradient by that of the first token (its pull request 1298).
"""

import contextlib
import importlib.util

import torch
from transformers import PreTrainedModel

_CHOSEN = "_takes_fused_head"


def is_fused(model: PreTrainedModel) -> bool:
    """Whether `fused_logps` is to be used; an adapted head (LoRA) is another kind of layer."""
    return getattr(model, _CHOSEN, False) and type(model.get_output_embeddings()) is torch.nn.Linear


def is_installed() -> bool:
    """Whether the kernel is there; whether it computes what a model's head does, selfcheck.py finds out."""
    return importlib.util.find_spec("liger_kernel") is not None


def fuse(model: PreTrainedModel, chosen: bool) -> None:
    setattr(model, _CHOSEN, chosen)


def fused_logps(model: PreTrainedModel, hidden_NC: torch.Tensor, target_N: torch.Tensor, chunk: int) -> torch.Tensor:
    """log p of each target, [N] float32 in nats, from the hidden state that predicts it; differentiable.

    About `chunk` positions at a time, or as many as the kernel takes by itself if that is more.
    """
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    head = model.get_output_embeddings()
    device = head.weight.device  # of a model laid over several neither that of its last layer nor the current one
    # Logits of as many numbers as so many times the states have. By itself 1, a few hundred positions of a large
    # vocabulary; and each chunk goes once more through the weights' whole gradient in float32.
    states = max(1, chunk * head.weight.shape[0] // max(1, hidden_NC.numel()))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        losses_N: torch.Tensor = liger_fused_linear_cross_entropy(
            hidden_NC.to(device),
            head.weight,
            target_N.to(device),
            head.bias,
            reduction="none",
            softcap=getattr(model.config.get_text_config(), "final_logit_softcapping", None),
            accum_dtype=torch.float32,
            chunk_mem_const=states,
        )
    return -losses_N
