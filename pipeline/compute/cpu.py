"""Linear layers by oneDNN on a CPU, and what keeps their memory small.

PyTorch sends float32 products to MKL, which has no AVX-512 path for AMD processors, and everything narrower to oneDNN,
which has one for all. Shapes: T tokens, I in features, O out features.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def use_onednn(model: torch.nn.Module) -> None:
    """Let every plain linear layer of a float32 model on a CPU compute by oneDNN; others are left as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.dtype is torch.float32 and module.weight.is_cpu:
            module.__class__ = Linear


def give_back_memory() -> None:
    """Hand what is freed back to the system: packs of many sizes leave holes in the heap that glibc keeps.

    It takes a part of a second, as what is handed back must be asked for again. Elsewhere than in glibc, nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


class Linear(torch.nn.Linear):
    """torch.nn.Linear by oneDNN, [..., I] -> [..., O]."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        plain = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
        if input.dtype is torch.float32 and self.weight.dtype is torch.float32 and not plain:
            result: torch.Tensor = _OneDNN.apply(input, self.weight, self.bias)
            return result
        return F.linear(input, self.weight, self.bias)


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_TI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(input_TI, weight_OI)
        return _product(input_TI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input_TI, weight_OI = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        gradient_OT = gradient_TO.flatten(0, -2).t()
        return (
            _product(gradient_TO, weight_OI.t()) if of_input else None,
            _product(gradient_OT, input_TI.flatten(0, -2).t()) if of_weight else None,
            gradient_OT.sum(dim=1) if of_bias else None,
        )


def _product(left_TI: torch.Tensor, right_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """left @ right.T + bias, by the operator that torch.compile, too, puts linear layers on."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left_TI, right_OI, bias_O, "none", [], "")
    return result
