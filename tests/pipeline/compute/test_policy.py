"""The policy that is trained: adapters and their merge, checkpointed activations, bfloat16 over float32 weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.compute.adapters import add_adapters
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.loading import open_empty
from pipeline.compute.logprobs import score
from pipeline.compute.policy import Policy
from pipeline.errors import UserError
from pipeline.objectives import build
from pipeline.settings.inputs import Model
from pipeline.settings.resources import Resources
from pipeline.settings.training import Lora, Train
from pipeline.training.exporting import adapter_weights, export_weights
from pipeline.training.journal import Journal
from pipeline.training.loop import Trainer
from pipeline.training.saving import save_adapter
from tests.pipeline.training.training_bench import SETTINGS, TRAIN, Bench, exported, pairs_log, run, steps_log, weights

LORA: dict[str, Any] = {"rank": 4, "alpha": 8}
FAMILIES = ["Llama", "Gemma2", "Bloom"]  # untied and tied heads; packed, capped, and one sequence a side


@pytest.fixture(scope="module", params=FAMILIES)
def bench(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model(request.param))


def scores(model: Any, bench: Bench) -> torch.Tensor:
    """The log-prob sums of all pairs, [pairs, 2]."""
    pack = lay_out([Tokens(*(row[f"{part}_ids"] for part in ("prompt", "chosen", "rejected"))) for row in bench.pairs])
    return score(model, pack, 256)


@pytest.mark.parametrize("layers", ["all-linear", ["lm_head"]])
def test_adapters_alone_are_trained_and_the_export_is_their_merge(bench: Bench, tmp_path: Path, layers: Any) -> None:
    lora = LORA | {"layers": layers}
    trainer = bench.trainer("dpo", train={"lora": lora, "learning_rate": 0.05})
    frozen = {name: weight.clone() for name, weight in trainer.policy.named_parameters() if not weight.requires_grad}
    run(trainer)
    after = dict(trainer.policy.named_parameters())
    assert frozen and all(torch.equal(after[name], weight) for name, weight in frozen.items())
    assert {name.split(".")[-3] for name in after.keys() - frozen.keys()} == {"lora_A", "lora_B"}
    merged = exported(trainer.policy, bench, tmp_path)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    trainer.policy.eval()
    learnt = scores(trainer.policy.model, bench)
    torch.testing.assert_close(scores(merged, bench), learnt, rtol=1e-4, atol=1e-3)
    reference = torch.tensor([[row["chosen_logps"], row["rejected_logps"]] for row in bench.reference])
    assert float((learnt - reference).abs().max()) > 0.1


def test_unmerged_adapters_are_a_few_weights_beside_the_base_model(bench: Bench, tmp_path: Path) -> None:
    """Also where an embedding that the head shares is adapted: the base's weights are neither saved nor moved."""
    base = bench.base()
    name = next(name for name, module in base.named_modules() if module is base.get_input_embeddings())
    lora = LORA | {"layers": [name], "merge": False}
    trainer = bench.trainer("dpo", train={"lora": lora, "learning_rate": 0.05})
    run(trainer)
    adapted: Any = add_adapters(open_empty(bench.model, "float32").model, Lora(**lora))
    save_adapter(adapted, Model(source="x"), tmp_path, state_dict=adapter_weights(trainer.policy))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in saved.values()) == 4 * (97 + 32)  # rank x (vocabulary + width)
    trainer.policy.eval()
    learnt = scores(trainer.policy.model, bench)
    again: Any = PeftModel.from_pretrained(base, str(tmp_path))
    torch.testing.assert_close(scores(again.get_base_model(), bench), learnt, rtol=1e-4, atol=1e-3)
    merged = exported(trainer.policy, bench, tmp_path / "merged")
    torch.testing.assert_close(scores(merged, bench), learnt, rtol=1e-4, atol=1e-3)


def test_layers_that_are_not_there_are_named(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"(?s)train.lora.layers=\('nowhere',\) .*use all-linear, or some of .*lm_head"):
        bench.trainer("dpo", train={"lora": LORA | {"layers": ["nowhere"]}})


@pytest.mark.parametrize("every", [True, 2])
@pytest.mark.parametrize("offload", [False, True])
def test_checkpointed_activations_change_nothing(bench: Bench, every: bool | int, offload: bool) -> None:
    """All of them or every other layer's, kept where they are or offloaded: the same gradients, losses and weights."""
    found = []
    for resources in ({}, {"checkpoint_activations": every, "offload_activations": offload}):
        trainer = bench.trainer(resources=resources)
        layers = [each for each in trainer.policy.modules() if isinstance(each, GradientCheckpointingLayer)]
        chosen = [getattr(layer, "gradient_checkpointing", False) for layer in layers]
        assert chosen == ([False] * 2 if not resources else [True, every is True])
        trainer._accumulate(trainer._prepare(0))
        found.append(torch.cat([weight.grad.flatten() for weight in trainer.parameters if weight.grad is not None]))
        trainer.optimizer.zero_grad(set_to_none=True)
        found.append(weights(run(trainer)))
        assert len(pairs_log(trainer)) == TRAIN
    gradient, trained, other_gradient, other_trained = found
    torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=1e-6)
    torch.testing.assert_close(other_trained, trained, rtol=0, atol=1e-6)


def masters(policy: Policy) -> torch.Tensor:
    sharded: list[Any] = list(policy.parameters())
    return torch.cat([weight.full_tensor().flatten() for weight in sharded])


def test_bfloat16_trains_float32_weights(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Updates too small for bfloat16's eight bits add up; the reference in bfloat16 passes the check of step 0."""
    bench = Bench(tmp_path, tiny_model("Llama"), dtype="bfloat16")
    small = {"learning_rate": 1e-5, "adam_betas": (0.0, 0.0)}
    trainer = bench.trainer("dpo", train=small)
    before = masters(trainer.policy)
    run(trainer)
    after = masters(trainer.policy)
    assert before.dtype == after.dtype == torch.float32
    moved = after != before
    assert float(moved.float().mean()) > 0.5
    assert float((after.bfloat16() != before.bfloat16()).float().mean()) < 0.2
    export_weights(trainer.policy, open_empty(bench.model, "bfloat16"), tmp_path)
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("offloaded", [False, True])
def test_what_is_filled_once_it_is_sharded_learns_the_same(
    tiny_model: Callable[[str], Path], tmp_path: Path, offloaded: bool, lora: Any
) -> None:
    """In bfloat16, or in float32 with all of it on the host, to the last bit; float32 adapters to rounding.

    These go through oneDNN where the weights come after them.
    """
    bench = Bench(tmp_path, tiny_model("Gemma2"), dtype="float32" if offloaded else "bfloat16")
    resources, train = Resources(cpu_offload=offloaded), Train(**SETTINGS, lora=lora)
    losses: list[list[float]] = []
    trained = []
    for model in (bench.base(), open_empty(bench.model, bench.dtype)):
        journal = Journal(tmp_path / f"journal-{len(losses)}")
        trainer = run(Trainer(model, build("dpo"), bench.epoch(), train, resources, journal=journal))
        assert trainer.policy.sharded and trainer.policy.units == 3 and trainer.policy.note is None
        losses.append([record["loss"] for record in steps_log(trainer)])
        trained.append(masters(trainer.policy).float())
        frozen = {weight.dtype for weight in trainer.policy.parameters() if not weight.requires_grad}
        assert frozen == (set() if lora is None else {getattr(torch, bench.dtype)})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and len(losses[0]) == 3
    torch.testing.assert_close(trained[0], trained[1], rtol=0, atol=1e-5 if lora and offloaded else 0)


def test_layers_that_are_none_to_transformers_are_one_unit_and_that_is_said(bench: Bench) -> None:
    model = bench.base()
    for layer in [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]:
        layer.__class__ = type("Plain", (torch.nn.Module,), {"forward": type(layer).forward})
    policy = Policy(model, Train(), Resources(cpu_offload=True))
    assert policy.units == 1 and "gathered all at once" in str(policy.note)
