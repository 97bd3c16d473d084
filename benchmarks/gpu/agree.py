"""Log-probs and gradients of a pack against one sequence a side by the model's own eager forward, for 15 families.

In float32; and in bfloat16 against the same float32 figures, beside what eager bfloat16 makes of them. Every token has
a weight of its own, since a gradient that is right on average is not right. And whether a pair sees others of its pack.

Shapes: N completion tokens of the pack, G all elements of all gradients.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.gpu.inputs import FAMILIES, family, random_model
from benchmarks.gpu.part import Part
from pipeline.compute.fused_head import fuse, is_fused
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import token_logps
from pipeline.compute.selfcheck import choose
from pipeline.settings.resources import Resources

CHUNK = 256
COMPILED = ("Llama", "Gemma2")  # again with compiled layers, at the end, as it takes its time
# prompt, chosen, rejected: beside a block of 128, on it, beyond it; a side that is absent, and one of a token
_LENGTHS = ((300, 170, 260), (5, 1, 400), (129, 0, 127), (1, 128, 1), (64, 600, 3))
_SHORT = ((30, 17, 26), (5, 1, 40))

Measured = tuple[torch.Tensor, torch.Tensor]  # log-probs [N], gradients [G]


def run(part: Part) -> None:
    draw = random.Random(0)
    lengths = _SHORT if part.small else _LENGTHS
    pairs = [Tokens(*([draw.randrange(3, 500) for _ in range(n)] for n in parts)) for parts in lengths]
    all_of_them = [*((name, False) for name in FAMILIES), *((name, True) for name in COMPILED)]
    for name, compiled in all_of_them[part.share :: part.of]:
        with part.trying(family=name, compiled=compiled):
            right: Measured | None = None
            for dtype in (torch.float32, torch.bfloat16):
                right = _compare(part, name, dtype, pairs, right, compiled)


def _compare(
    part: Part, name: str, dtype: torch.dtype, pairs: Sequence[Tokens], right: Measured | None, compiled: bool
) -> Measured:
    """Note one family at one dtype against `right`, or else against its own eager forward; returns what was right."""
    started = time.perf_counter()
    model = random_model(family(name), dtype, part.device)
    if dtype is not torch.float32:  # the same weights, rounded; rotary frequencies stay as they are, as when loaded
        model.load_state_dict(random_model(family(name), torch.float32, part.device).state_dict())
    how = choose(model, Resources(allow_slow_path=True, compile_layers=compiled), to_train=True)
    pack = lay_out(pairs, model.device)
    row: dict[str, Any] = {"family": name, "dtype": str(dtype).removeprefix("torch.")}
    row |= {"how": str(how), "leak": _leak(model, pairs)}
    found = {"packed": _measured(model, lambda: token_logps(model, pack, CHUNK))}
    if is_fused(model):
        fuse(model, False)
        found["chunks"] = _measured(model, lambda: token_logps(model, pack, CHUNK))
        fuse(model, True)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found["checkpointed"] = _measured(model, lambda: token_logps(model, pack, CHUNK))
    model.gradient_checkpointing_disable()
    model.eval().set_attn_implementation("eager")
    found["eager"] = _measured(model, lambda: _alone(model, pairs))
    right = right or found["eager"]
    row |= {f"{how}_{what}": off for how, each in found.items() for what, off in _off(each, right).items()}
    part.note(**row, seconds=time.perf_counter() - started)
    return right


def _measured(model: PreTrainedModel, logps: Callable[[], torch.Tensor]) -> Measured:
    model.zero_grad(set_to_none=True)
    logps_N = logps()
    weight_N = torch.randn(len(logps_N), generator=torch.Generator().manual_seed(0)).to(logps_N)
    (logps_N * weight_N).sum().backward()
    gradients = [parameter.grad.float().flatten() for parameter in model.parameters() if parameter.grad is not None]
    return logps_N.detach().float(), torch.cat(gradients)


def _off(found: Measured, right: Measured) -> dict[str, float]:
    (logps_N, gradient_G), (right_N, right_G) = found, right
    off_N = (logps_N - right_N).abs()
    gradient = float((gradient_G - right_G).norm() / right_G.norm())
    return {"largest": float(off_N.max()), "mean": float(off_N.mean()), "gradient": gradient}


def _alone(model: PreTrainedModel, pairs: Sequence[Tokens]) -> torch.Tensor:
    """Log-probs of the completions, [N], each side by itself."""
    found = []
    for prompt, *sides in pairs:
        for side in filter(len, sides):
            ids = torch.tensor([[*prompt, *side]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            found.append(logits.log_softmax(1).gather(1, ids[0, len(prompt) :, None])[:, 0])
    return torch.cat(found)


@torch.no_grad()
def _leak(model: PreTrainedModel, pairs: Sequence[Tokens]) -> float:
    """By how much the first pair's log-probs move at most, in nats, when all other pairs are others."""
    others = [Tokens(*([7] * len(ids) for ids in pair)) for pair in pairs[1:]]
    own = sum(map(len, pairs[0][1:]))
    packs = (lay_out([pairs[0], *rest], model.device) for rest in (pairs[1:], others))
    first, second = (token_logps(model, pack, CHUNK)[:own] for pack in packs)
    return float((first - second).abs().max())
