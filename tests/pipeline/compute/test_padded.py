"""Models that cannot be packed: rows of sides, padded; where workers share a model, one call whatever they have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import float32_logits, token_logps
from pipeline.compute.models import load_model
from pipeline.compute.policy import Policy
from pipeline.settings.resources import Resources
from pipeline.settings.training import Train
from tests.gloo import run

# By worker: six sides and four, uneven in length.
SIDES = [[(5, 9, 3), (12, 1, 20), (3, 8, 8)], [(30, 2, 11), (4, 16, 1)]]


def pairs(worker: int) -> list[Tokens]:
    draw = torch.Generator().manual_seed(worker)
    return [Tokens(*(torch.randint(3, 97, (n,), generator=draw).tolist() for n in pair)) for pair in SIDES[worker]]


def trained(rank: int, world: int, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    policy = Policy(load_model(folder, "float32"), Train(), Resources(), world).train()
    logps_N = policy(lay_out(pairs(rank)), 4)
    logps_N.sum().backward()
    gradients: list[Any] = [weight.grad for weight in policy.parameters()]
    return logps_N.detach(), torch.cat([gradient.full_tensor().flatten() for gradient in gradients])


def test_workers_with_other_numbers_of_sides_gather_weights_alike(tiny_model: Callable[[str], Path]) -> None:
    model = load_model(tiny_model("Bloom"), "float32")
    found = run(2, trained, tiny_model("Bloom"))
    alone = [token_logps(model, lay_out(pairs(worker)), 4) for worker in range(2)]
    for (logps_N, _), right in zip(found, alone, strict=True):
        torch.testing.assert_close(logps_N, right.detach(), rtol=1e-5, atol=1e-5)
    (torch.cat(alone).sum() / 2).backward()  # FSDP2 divides by the workers
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    torch.testing.assert_close(found[0][1], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_rows_that_go_together_hold_no_more_positions_than_the_pack(tiny_model: Callable[[str], Path]) -> None:
    """Or one row; and a long side does not stretch all others."""
    model: Any = load_model(tiny_model("Bloom"), "float32")
    pack, calls = lay_out([*pairs(0), *pairs(1)]), []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, given: calls.append(given[0].shape))
    with torch.no_grad():
        token_logps(model, pack, 1000)
    hook.remove()
    tokens = len(pack.ids_T)
    assert sum(rows for rows, _ in calls) == 10
    assert all(rows * length <= tokens for rows, length in calls)
    assert 1 < len(calls) < 5


def test_logits_in_float32_are_those_of_a_float32_head() -> None:
    """But for the rounding of weights and states to bfloat16; and the gradients are the plain layer's."""
    draw = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(64, 300)
    states = torch.randn(2, 5, 64, generator=draw, dtype=torch.bfloat16)
    pull = torch.randn(2, 5, 300, generator=draw)
    rounded = head.to(torch.bfloat16)
    found, gradients = {}, {}
    for name, logits in (
        ("ours", lambda hidden: float32_logits(hidden, rounded.weight, rounded.bias)),
        ("plain", lambda hidden: rounded(hidden).float()),
        (
            "exact",
            lambda hidden: torch.nn.functional.linear(hidden.float(), rounded.weight.float(), rounded.bias.float()),
        ),
    ):
        hidden = states.clone().requires_grad_()
        rounded.zero_grad()
        found[name] = logits(hidden)
        (found[name] * pull).sum().backward()
        gradients[name] = [hidden.grad, *(weight.grad for weight in rounded.parameters())]
    assert found["ours"].dtype == torch.float32
    torch.testing.assert_close(found["ours"], found["exact"], rtol=0, atol=1e-5)
    assert float((found["plain"] - found["exact"]).detach().abs().max()) > 1e-3
    for ours, exact in zip(gradients["ours"], gradients["exact"], strict=True):
        assert ours is not None and ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, exact, rtol=0.03, atol=0.03)
