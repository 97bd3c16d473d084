"""Compiled layers give what plain ones give, in few graphs. By dynamo and autograd alone: no kernels are made."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.compute.attention import NAME
from pipeline.compute.layers import compile_layers, restore_layers
from pipeline.compute.layout import Pack, Tokens, lay_out
from pipeline.compute.logprobs import token_logps
from pipeline.compute.policy import Policy
from pipeline.settings.resources import Resources
from pipeline.settings.training import Lora, Train


@pytest.fixture
def model(tiny_model: Callable[[str], Path], request: pytest.FixtureRequest) -> PreTrainedModel:
    torch._dynamo.reset()
    counters.clear()
    model = AutoModelForCausalLM.from_pretrained(tiny_model(request.param)).train()
    model.set_attn_implementation(NAME)
    return model


def packs(count: int) -> list[Pack]:
    """Of many sizes and numbers of pairs."""
    rng = random.Random(0)
    most = (30, 20, 20)
    pairs = [[[[7] * rng.randint(1, each) for each in most] for _ in range(rng.randint(1, 6))] for _ in range(count)]
    return [lay_out([Tokens(*pair) for pair in pack]) for pack in pairs]


def measured(model: PreTrainedModel, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    logps_N = token_logps(model, pack, 1000)
    (logps_N * torch.arange(1.0, len(logps_N) + 1)).sum().backward()
    return logps_N.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("model", "checkpointed", "backend"),
    [("Llama", True, "aot_eager"), ("Gemma2", False, "eager")],
    indirect=["model"],
)
def test_log_probs_and_gradients(model: PreTrainedModel, checkpointed: bool, backend: str) -> None:
    plain = copy.deepcopy(model)
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    compile_layers(model, backend=backend)
    graphs = []
    for pack in packs(3):
        for found, right in zip(measured(model, pack), measured(plain, pack), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[-1] == graphs[0] <= 12  # whatever the sizes; four for each of gradients and none

    copied = copy.deepcopy(model)
    with torch.no_grad():
        next(iter(copied.model.layers)).mlp.down_proj.weight.zero_()
        assert not torch.equal(
            token_logps(copied, pack, 1000), token_logps(model, pack, 1000)
        )  # it is not the original
    restore_layers(model)
    assert [type(layer) for layer in model.model.layers] == [type(layer) for layer in plain.model.layers]


@pytest.mark.parametrize("model", ["Llama"], indirect=True)
def test_under_fsdp_with_adapters_and_checkpointed_activations(model: Any) -> None:
    """Hooks that gather weights stand outside: in bfloat16, equal to the last bit."""
    settings, resources = Train(lora=Lora(rank=4)), Resources(checkpoint_activations=True)
    model.to(torch.bfloat16)
    plain = Policy(copy.deepcopy(model), settings, resources).train()
    compile_layers(model, backend="eager")
    policy, pack = Policy(model, settings, resources).train(), packs(1)[0]
    found = []
    for each in (policy, plain):
        logps_N = each(pack, 1000)
        logps_N.sum().backward()
        gradients: list[Any] = [weight.grad for weight in each.parameters() if weight.grad is not None]
        found.append((logps_N.detach(), torch.cat([gradient.full_tensor().flatten() for gradient in gradients])))
    assert counters["stats"]["unique_graphs"] > 0
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs) and ours.any()
