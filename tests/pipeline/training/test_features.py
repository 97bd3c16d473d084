"""Features through the training loop: by transformers' own states, E by hand, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from pipeline.compute.features import Reader
from pipeline.compute.models import load_model
from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.training.checkpoints import load, save
from pipeline.training.epoch import Sparse
from pipeline.training.loop import Trainer
from tests.pipeline.training.training_bench import LATENTS, Bench, Row, pairs_log, run, steps_log, weights

SPLIT = {"micro_batch_tokens": 18, "logits_chunk": 2}
STRONG: dict[str, Any] = {"beta": 2.0, "alpha": 40.0, "strongest": 7}


@pytest.fixture(scope="module")
def single(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Llama"))


@pytest.fixture(scope="module")
def exact(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Phi"), dtype="float64")


def dense(row: Row) -> torch.Tensor:
    """A row of tables.FEATURES as [2, M]."""
    found = torch.zeros(2, LATENTS, dtype=torch.float64)
    for side, name in enumerate(("chosen", "rejected")):
        found[side, row[f"{name}_latents"]] = torch.tensor(row[f"{name}_values"], dtype=torch.float64)
    return found


def read_alone(model: Any, bench: Bench, prompt: list[int], side: list[int]) -> torch.Tensor:
    """Features of a completion, [M], by transformers' own states of the sequence alone."""
    autoencoder, layer = bench.autoencoder
    weight, bias, threshold = (
        each.double()
        for each in (autoencoder.weight_CM, autoencoder.bias_M, autoencoder.threshold_M)
        if each is not None
    )
    given = model(input_ids=torch.tensor([[*prompt, *side]]), output_hidden_states=True, use_cache=False)
    states = given.hidden_states[layer + 1][0, len(prompt) :].double()  # the first are the embeddings
    pre = states @ weight + bias
    return torch.where(pre > threshold, pre, 0.0).mean(0)


def test_the_cache_is_of_the_layers_output_at_the_completions_tokens(exact: Bench) -> None:
    model = AutoModelForCausalLM.from_pretrained(exact.model, attn_implementation="eager", dtype=torch.float64).eval()
    assert exact.autoencoder
    cached = tables.read(exact.folder / "features", tables.FEATURES).to_pylist()
    assert [row["pair_id"] for row in cached] == [row["pair_id"] for row in exact.pairs]
    sizes = []
    for row, pair in zip(cached, exact.pairs, strict=True):
        with torch.no_grad():
            sides = [read_alone(model, exact, pair["prompt_ids"], pair[f"{s}_ids"]) for s in ("chosen", "rejected")]
        torch.testing.assert_close(dense(row), torch.stack(sides), rtol=1e-6, atol=1e-6)
        assert all(value > 0 for value in row["chosen_values"]) and row["chosen_latents"] == sorted(
            row["chosen_latents"]
        )
        sizes.append(len(row["chosen_latents"]))
    assert min(sizes) > 0 and max(sizes) < LATENTS


def test_a_lookup_in_the_sparse_cache_is_one_in_the_dense() -> None:
    generator = np.random.default_rng(0)
    for count in (0, 1, 5, LATENTS):
        latents = np.sort(generator.choice(LATENTS, count, replace=False)).astype(np.int32)
        values = generator.random(count).astype(np.float32)
        wide = np.zeros(LATENTS)
        wide[latents] = values
        asked = generator.permutation(LATENTS)
        assert Sparse(latents, values).at(asked).tolist() == wide[asked].tolist()


def test_nothing_has_moved_at_step_0(exact: Bench) -> None:
    trainer = exact.trainer("fpo", **STRONG)
    trainer.step()
    margins = [row["margin"] for row in pairs_log(trainer)]
    assert margins == pytest.approx([0.0] * 4, abs=1e-9)
    trainer.step()
    assert max(abs(row["margin"]) for row in pairs_log(trainer)[4:]) > 1e-4


def test_a_step_by_the_whole_model(exact: Bench) -> None:
    """Losses and the norm of the gradient at the second step, by transformers' eager forward of each side alone."""
    trainer = run(exact.trainer("fpo", resources=SPLIT, train={"max_grad_norm": 1e9}, **STRONG), steps=1)
    model = AutoModelForCausalLM.from_pretrained(exact.model, attn_implementation="eager", dtype=torch.float64)
    model.load_state_dict(trainer.policy.model.state_dict())
    cached = {row["pair_id"]: row for row in tables.read(exact.folder / "features", tables.FEATURES).to_pylist()}
    pairs, logps = {row["pair_id"]: row for row in exact.pairs}, {row["pair_id"]: row for row in exact.reference}
    losses = []
    for example in trainer.epoch.step(1):
        pair, was = pairs[example.pair_id], dense(cached[example.pair_id])
        ratios, moved = [], []
        for side, name in enumerate(("chosen", "rejected")):
            ids = torch.tensor([[*pair["prompt_ids"], *pair[f"{name}_ids"]]])
            start = len(pair["prompt_ids"])
            own = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].log_softmax(1)
            lp = own.gather(1, ids[0, start:, None]).sum()
            ratios.append((lp - logps[example.pair_id][f"{name}_logps"]) / len(pair[f"{name}_ids"]))
            features = read_alone(model, exact, pair["prompt_ids"], pair[f"{name}_ids"])
            strongest = features.detach().topk(7).indices
            moved.append((features[strongest] - was[side][strongest]).square().mean())
        z = ratios[0] - ratios[1] - 40.0 * (moved[1] - moved[0].detach())
        losses.append(F.softplus(-2.0 * z))
    torch.stack(losses).mean().backward()
    record = trainer.step()
    assert [row["loss"] for row in pairs_log(trainer)[4:]] == pytest.approx(torch.stack(losses).tolist(), rel=1e-6)
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert record["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("name", ["fpo", "mixdpo"])
@pytest.mark.parametrize("cut", [SPLIT, {"checkpoint_activations": True}])
def test_neither_micro_batches_nor_checkpointed_layers_change_the_answer(
    exact: Bench, name: str, cut: dict[str, Any]
) -> None:
    given: dict[str, Any] = {**STRONG, **({"preference": "fpo"} if name == "mixdpo" else {})}
    if name == "mixdpo":
        given["tau"] = 0.3
        given["margin"] = "gamma"
    schedule = {"flip_fraction": 0.3}
    whole, split = (run(exact.trainer(name, schedule=schedule, resources=r, **given)) for r in (None, cut))
    torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-9)


def test_without_its_margin_it_is_sigmoid_norm(exact: Bench) -> None:
    one = run(exact.trainer("fpo", beta=5.0, alpha=0.0))
    other, moved = run(exact.trainer("sigmoid-norm")), run(exact.trainer("fpo", **STRONG | {"beta": 5.0}))
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-12)
    assert float((weights(moved) - weights(other)).norm()) > 1e-4


def test_all_features_are_as_many_as_there_are(exact: Bench) -> None:
    """With `strongest` beyond the latents: the mean over every one."""
    one, more = (run(exact.trainer("fpo", **STRONG | {"strongest": k})) for k in (LATENTS, 10 * LATENTS))
    torch.testing.assert_close(weights(one), weights(more), rtol=0, atol=0)


def test_a_resumed_run_is_the_same(single: Bench, tmp_path: Path) -> None:
    straight, interrupted = (run(single.trainer("fpo", **STRONG), steps) for steps in (100, 2))
    save(interrupted, tmp_path).result()
    load(resumed := single.trainer("fpo", journal=interrupted.journal.folder, **STRONG), tmp_path)
    assert torch.equal(weights(run(resumed)), weights(straight)) and steps_log(resumed)[0]["loss"] > 0


def test_a_flip_exchanges_features(single: Bench) -> None:
    assert single.autoencoder
    clean, noisy = single.epoch(), single.epoch(flip_fraction=1.0)
    for one, other in zip(clean.step(0), noisy.step(0), strict=True):
        assert [side.values.tolist() for side in noisy.features(other)] == [
            side.values.tolist() for side in clean.features(one)[::-1]
        ]


def test_held_out_pairs_need_no_features(single: Bench) -> None:
    assert single.trainer("fpo").held_out()["after"]["gap"] == pytest.approx(0.0, abs=1e-6)


# --- what is refused


def other_reader(bench: Bench, **change: Any) -> Trainer:
    autoencoder, layer = bench.autoencoder
    trainer = bench.trainer("fpo")
    trainer.forward.reader = Reader(trainer.policy.model, change.pop("layer", layer), replace(autoencoder, **change))
    return trainer


def test_the_cache_of_another_layer_or_autoencoder_is_refused(single: Bench) -> None:
    for change in ({"layer": 1}, {"bias_M": torch.ones(LATENTS)}, {"active": 3}):
        with pytest.raises(UserError, match=r"at step 0 the policy's features are .* of their size from the cached"):
            other_reader(single, **change).step()
    with pytest.raises(UserError, match="no feature of any completion of the first step is other than 0"):
        other_reader(single, bias_M=torch.full((LATENTS,), -1e4)).step()
    other_reader(single).step()


def test_features_of_other_tokens_and_none_at_all_are_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, tiny_model("Llama"))
    made = bench.autoencoder
    rows = tables.read(tmp_path / "features", tables.FEATURES).to_pylist()
    bench.write("features", [row | {"tokens_digest": "0" * 64} for row in rows], tables.FEATURES)
    with pytest.raises(UserError, match="the cached features are of other tokens, or there are none"):
        bench.trainer("fpo")
    bench.write("features", rows[1:], tables.FEATURES)
    with pytest.raises(UserError, match="pair pair-00: the cached features are of other tokens, or there are none"):
        bench.trainer("fpo")
    bench.write("features", rows, tables.FEATURES)
    trainer = bench.trainer("fpo")
    spoilt = bytearray((tmp_path / "epoch" / "features").read_bytes())
    spoilt[200] ^= 1
    (tmp_path / "epoch" / "features").write_bytes(spoilt)
    with pytest.raises(UserError, match=r"its features in .* are not as they were written"):
        run(trainer)
    (tmp_path / "features" / "part-00000.parquet").unlink()
    (tmp_path / "features").rmdir()
    epoch = bench.epoch()
    with pytest.raises(UserError, match="looks at features, and the epoch has none"):
        Trainer(bench.base(), trainer.objective, epoch, trainer.settings, trainer.resources, autoencoder=made)


def test_models_and_autoencoders_that_cannot_be_read_by(single: Bench, tiny_model: Callable[[str], Path]) -> None:
    autoencoder, _ = single.autoencoder
    with pytest.raises(UserError, match=r"features.layer=2: the model has 2 layers"):
        Reader(single.base(), 2, autoencoder)
    with pytest.raises(UserError, match="of states of 31 channels, and the model's are of 32"):
        Reader(single.base(), 0, replace(autoencoder, weight_CM=autoencoder.weight_CM[:-1]))
    with pytest.raises(UserError, match="features are read of packs, and BloomForCausalLM takes a sequence a side"):
        Reader(load_model(tiny_model("Bloom"), "float32"), 0, autoencoder)
