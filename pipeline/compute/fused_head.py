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


def fused_logps(model: PreTrainedModel, hidden_NC: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    """log p of each target, [N] float32 in nats, from the hidden state that predicts it; differentiable."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    head = model.get_output_embeddings()
    device = head.weight.device  # of a model laid over several neither that of its last layer nor the current one
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    loss = LigerFusedLinearCrossEntropyLoss(reduction="none", softcap=cap, accum_dtype=torch.float32)
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        losses_N: torch.Tensor = loss(head.weight, hidden_NC.to(device), target_N.to(device), head.bias)
    return -losses_N
