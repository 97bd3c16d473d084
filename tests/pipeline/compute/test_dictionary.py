"""Training a sparse autoencoder: it finds features that are there, comes back where it was, and is read as written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.compute.autoencoders import find, read
from pipeline.compute.dictionary import HELD_OUT, Training, collect
from pipeline.compute.models import load_model
from pipeline.errors import UserError
from pipeline.settings.features import Features
from tests.conftest import pairs_file

C, FEATURES, ACTIVE = 24, 32, 2
CPU = torch.device("cpu")
Mixed = tuple[torch.Tensor, torch.Tensor]
SMALL: dict[str, Any] = {"latents": 48, "active": ACTIVE, "batch_states": 256, "learning_rate": 3e-3, "passes": 6}


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    """States that are sums of two of 32 directions, each of length 1 to 2, about a mean: to train on, and held out."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(FEATURES, C, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    chosen = torch.rand(4352, FEATURES, generator=generator).argsort(1)[:, :ACTIVE]
    lengths = 1 + torch.rand(4352, ACTIVE, 1, generator=generator)
    states = (directions[chosen] * lengths).sum(1) + 3.0
    return states[:4096], states[4096:]


def test_it_explains_states_that_are_made_of_few_features(mixed: Mixed, tmp_path: Path) -> None:
    training = Training(*mixed, Features(**SMALL | {"batch_states": 64, "passes": 12}), CPU)
    before = training.row()["explained"]
    rows = list(training.run(tmp_path / "training.pt", every=50))
    assert before < 0.6 and rows[-1]["explained"] > 0.85 and rows[-1]["loss"] < 0.15
    assert [row["step"] for row in rows][-1] == training.steps == 768 and rows[-1]["states"] == 12 * 4096
    norms = training.weights["W_dec"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert not (tmp_path / "other").exists() and 0 <= rows[-1]["dead"] < 0.5


@pytest.mark.parametrize("batch", [64, 10_000])
def test_a_pass_that_is_no_number_of_batches(mixed: Mixed, tmp_path: Path, batch: int) -> None:
    """A batch of one state, which has no variance, would be an infinite loss; of few states all are one batch."""
    few = mixed[0][:129], mixed[1]
    training = Training(*few, Features(**SMALL | {"batch_states": batch, "passes": 40}), CPU)
    before = training.row()["explained"]
    rows = list(training.run(tmp_path / "training.pt", every=50))
    assert rows[-1]["states"] == (40 * 128 if batch == 64 else 40 * 129)
    assert before < rows[-1]["explained"] < 1 and max(row["loss"] for row in rows) < 2


def test_the_loss_by_hand(mixed: Mixed) -> None:
    training = Training(*mixed, Features(**SMALL), CPU)
    states = mixed[0][:100]
    loss, used = training._loss(states)
    w = training.weights
    pre = torch.relu((states - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    kept = torch.zeros_like(pre)
    for row, values in enumerate(pre.tolist()):
        for place in sorted(range(48), key=lambda at: -values[at])[:ACTIVE]:
            kept[row, place] = values[place]
    left = states - kept @ w["W_dec"] - w["b_dec"]
    expected = left.square().sum() / (states - states.mean(0)).square().sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert used.tolist() == (kept > 0).any(0).tolist()


def test_a_dead_latent_is_let_explain_what_is_left(mixed: Mixed) -> None:
    """No gradient reaches a latent that is never among the largest; once it is dead, one does."""
    training = Training(*mixed, Features(**SMALL), CPU)
    weights = training.weights
    with torch.no_grad():
        weights["encoder.weight"][7] *= 1e-4  # far behind all others
        weights["encoder.bias"][7] = 1e-3
    slopes = []
    for unused in (0, len(mixed[0])):
        training.unused[7] = unused
        training.optimizer.zero_grad()
        training._loss(mixed[0][:256])[0].backward()
        assert weights["W_dec"].grad is not None
        slopes.append(float(weights["W_dec"].grad[7].norm()))
    assert slopes[0] == 0 and slopes[1] > 0


def test_one_that_was_stopped_ends_as_one_that_was_not(mixed: Mixed, tmp_path: Path) -> None:
    straight = Training(*mixed, Features(**SMALL), CPU)
    rows = list(straight.run(tmp_path / "straight.pt", every=50))
    stopped = Training(*mixed, Features(**SMALL), CPU)
    file = tmp_path / "stopped.pt"
    for row in stopped.run(file, every=20):
        if row["step"] > 50:
            break
    resumed = Training(*mixed, Features(**SMALL), CPU)
    assert list(resumed.run(file, every=20)) == rows
    for name, weight in straight.weights.items():
        assert torch.equal(resumed.weights[name], weight)
    assert list(Training(*mixed, Features(**SMALL), CPU).run(file, every=20)) == rows  # and once it has ended


def test_what_is_written_is_read_as_it_was_trained(mixed: Mixed, tmp_path: Path) -> None:
    training = Training(*mixed, Features(**SMALL | {"passes": 1}), CPU)
    list(training.run(tmp_path / "training.pt", every=50))
    training.export(tmp_path, layer=5)
    found = find(tmp_path)
    assert (found.format, found.layer) == ("sparsify", 5)
    features = read(found).encode(mixed[1])
    assert int((features > 0).sum(1).max()) <= ACTIVE
    again = features @ training.weights["W_dec"] + training.weights["b_dec"]
    left = (mixed[1] - again).square().sum() / (mixed[1] - mixed[1].mean(0)).square().sum()
    assert 1 - float(left.detach()) == pytest.approx(training.row()["explained"], rel=1e-5)


def test_states_are_the_layers_output_at_completion_tokens(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Of train pairs alone, those of a sixteenth apart; no more than asked for."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 97, (count,), generator=generator).tolist()

    made: list[dict[str, Any]] = [
        {"prompt_ids": ids(3), "chosen_ids": ids(4), "rejected_ids": ids(2)} for _ in range(20)
    ]
    made[5] |= {"split": "dev"}
    pairs_file(tmp_path / "part-00000.parquet", made)
    model = load_model(tiny_model("Llama"), "float32")
    layer, trained, held_out = collect(model, tmp_path, Features(states=10**6, layer=0), budget=40)
    assert layer == 0 and collect(model, tmp_path, Features(), budget=40)[0] == 1  # two thirds of two, rounded down
    assert (len(trained), len(held_out)) == (6 * 18, 6 * 1) and 19 // HELD_OUT == 1
    plain = AutoModelForCausalLM.from_pretrained(tiny_model("Llama"), attn_implementation="eager").eval()
    expected = []
    for number, row in enumerate(pq.read_table(tmp_path / "part-00000.parquet").to_pylist()):
        for side in ("chosen_ids", "rejected_ids") if number != 5 else ():
            with torch.no_grad():
                given = plain(input_ids=torch.tensor([[*row["prompt_ids"], *row[side]]]), output_hidden_states=True)
            expected.append(given.hidden_states[1][0, 3:])

    def ordered(states: torch.Tensor) -> torch.Tensor:
        return states[states[:, 0].argsort()]

    everything = torch.cat((trained, held_out))
    torch.testing.assert_close(ordered(everything), ordered(torch.cat(expected)), rtol=1e-4, atol=1e-4)
    for states, again in zip((trained, held_out), collect(model, tmp_path, Features(layer=0), 400)[1:], strict=True):
        torch.testing.assert_close(again, states, rtol=1e-4, atol=1e-4)  # in this order, however they are packed
    assert sum(map(len, collect(model, tmp_path, Features(states=101), budget=40)[1:])) == 6 * 17
    with pytest.raises(UserError, match="11 pairs are too few to train an autoencoder on"):
        collect(model, tmp_path, Features(states=64), budget=40)
