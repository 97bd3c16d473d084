"""The training loop on a tiny Llama: what must not change the answer, what a resumed run is, and what stops a run."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.settings.training import Train
from pipeline.training.checkpoints import load, save
from pipeline.training.rates import learning_rate
from tests.pipeline.training.training_bench import BATCH, DEV, TRAIN, Bench, pairs_log, run, steps_log, weights


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Llama"))


def test_micro_batches_do_not_change_the_answer(bench: Bench) -> None:
    start = weights(bench.trainer())
    whole = run(bench.trainer())
    single = run(bench.trainer(resources={"micro_batch_tokens": 18, "logits_chunk": 1}))
    update = (weights(whole) - start).norm()
    assert float((weights(whole) - weights(single)).norm() / update) < 1e-4
    for a, b in zip(pairs_log(whole), pairs_log(single), strict=True):
        assert a["pair_id"] == b["pair_id"] and a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["margin"] == (None if b["margin"] is None else pytest.approx(b["margin"], abs=1e-5))


def test_a_resumed_run_is_the_uninterrupted_one(bench: Bench, tmp_path: Path) -> None:
    straight, interrupted = run(bench.trainer()), run(bench.trainer(), steps=2)
    save(interrupted, tmp_path)
    run(interrupted)  # what is written meanwhile is not what it becomes
    assert torch.equal(weights(interrupted), weights(straight))
    resumed = bench.trainer(journal=interrupted.journal.folder)
    load(resumed, tmp_path)
    assert resumed.next_step == 2
    run(resumed)
    assert torch.equal(weights(resumed), weights(straight))
    assert pairs_log(resumed) == pairs_log(straight) and len(pairs_log(resumed)) == TRAIN
    assert torch.equal(resumed.state.state_dict()["gamma"]["queue"], straight.state.state_dict()["gamma"]["queue"])
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in steps_log(t)] for t in (resumed, straight)]
    assert timeless[0] == timeless[1]


def test_a_checkpoint_after_the_last_step_holds_all_that_an_export_writes(bench: Bench, tmp_path: Path) -> None:
    done = run(bench.trainer())
    save(done, tmp_path).result()
    resumed = bench.trainer(journal=done.journal.folder)
    load(resumed, tmp_path)
    assert resumed.done and resumed.record == done.record and torch.equal(weights(resumed), weights(done))
    assert (steps_log(resumed), pairs_log(resumed)) == (steps_log(done), pairs_log(done))
    assert resumed.held_out() == done.held_out()


def test_routes(bench: Bench) -> None:
    """Easy to hard, the 4 hardest of 12 to SFT: the last of three steps. No rejected side is run there."""
    trainer = run(bench.trainer())
    assert [row["route"] for row in pairs_log(trainer)] == ["preference"] * 8 + ["sft"] * 4
    last, by_id = steps_log(trainer)[-1], {pair["pair_id"]: pair for pair in bench.pairs}
    sides = [by_id[row["pair_id"]] for row in pairs_log(trainer)[8:]]
    assert last["tokens"] == sum(len(pair["prompt_ids"]) + len(pair["chosen_ids"]) for pair in sides)
    assert (last["sft_pairs"], last["preference_pairs"], last["gap"]) == (4, 0, None)
    assert last["nll"] == pytest.approx(last["loss"])  # sft_weight is 1
    assert len(trainer.state.state_dict()["gamma"]["queue"]) == 8  # SFT pairs were not observed


def test_the_first_step_by_the_cached_scores(bench: Bench) -> None:
    """At step 0 every gap is zero: the loss of DPO is log 2, and half of every pair's weight is spent."""
    record = bench.trainer("dpo", beta=0.5).step()
    assert record["loss"] == pytest.approx(math.log(2), abs=1e-5) and record["gap"] == pytest.approx(0, abs=1e-4)
    mean = {row["pair_id"]: row["chosen_logps"] / row["chosen_tokens"] for row in bench.reference}
    trainer = bench.trainer(sft_weight=0.5, schedule={"sft_percentile": 100})
    record = trainer.step()
    first = [row["pair_id"] for row in pairs_log(trainer)]
    assert record["loss"] == pytest.approx(-0.5 * sum(mean[pair_id] for pair_id in first) / BATCH, rel=1e-5)


def test_training_lowers_the_loss(bench: Bench) -> None:
    trainer = run(bench.trainer("dpo", beta=0.5, schedule={"epochs": 4}))
    losses = [record["loss"] for record in steps_log(trainer)]
    assert sum(losses[-3:]) / 3 < 0.8 * math.log(2)


def test_reference_free_margins_start_from_every_pair_once(bench: Bench) -> None:
    trainer = bench.trainer("gamma-simpo", beta=2.0, gamma0=1.0, tau=1.0, schedule={"epochs": 2})
    rows = {row["pair_id"]: row for row in bench.reference}
    order = [example.pair_id for k in range(TRAIN // BATCH) for example in trainer.epoch.step(k)]
    expected = [
        2
        * (rows[i]["chosen_logps"] / rows[i]["chosen_tokens"] - rows[i]["rejected_logps"] / rows[i]["rejected_tokens"])
        for i in order
    ]
    assert trainer.state.state_dict()["gamma"]["queue"].tolist() == pytest.approx(expected)
    assert (
        len(bench.trainer("gamma-dpo").state.state_dict()["gamma"]["queue"]) == 0
    )  # gaps to the reference start at zero


def test_preference_examples_are_spread_evenly(bench: Bench) -> None:
    positions = [example.position for example in bench.epoch().preference_examples(4)]
    assert positions == [0, 3, 6, 9]
    assert [example.position for example in bench.epoch().preference_examples(2048)] == list(range(TRAIN))


def test_a_flip_exchanges_completions_and_reference(bench: Bench) -> None:
    plain, noisy = bench.epoch(), bench.epoch(flip_fraction=1.0)
    for a, b in ((a, b) for k in range(3) for a, b in zip(plain.step(k), noisy.step(k), strict=True)):
        prompt, chosen, rejected = (list(part) for part in plain.tokens(a))
        noise = [list(part) for part in noisy.tokens(b)]
        assert a.pair_id == b.pair_id and b.flipped and noise == [prompt, rejected, chosen]
        assert a.reference == b.reference[::-1] and a.counts == b.counts[::-1]
    assert bench.trainer(schedule={"flip_fraction": 1.0}).step()["loss"] > 0  # its cached scores pass the parity check


def test_held_out_leaves_everything_as_it_was(bench: Bench) -> None:
    trainer = run(bench.trainer(), steps=2)
    before, queue = weights(trainer), trainer.state.state_dict()["gamma"]["queue"].clone()
    figures = trainer.held_out()
    assert torch.equal(weights(trainer), before) and torch.equal(trainer.state.state_dict()["gamma"]["queue"], queue)
    assert trainer.policy.training and figures["pairs"] == DEV
    dev = bench.reference[TRAIN:]
    assert figures["before"]["gap"] == pytest.approx(0) and figures["after"]["gap"] != 0
    assert figures["before"]["chosen_logps"] == pytest.approx(sum(row["chosen_logps"] for row in dev) / DEV)
    assert torch.equal(weights(run(trainer)), weights(run(bench.trainer())))


def test_a_wrong_cache_is_refused_and_the_pair_named(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny_model("Llama"))
    bench.reference[-DEV - 1]["rejected_logps"] -= 0.01  # the easiest pair: trained first
    bench.write("reference", bench.reference, tables.REFERENCE)
    with pytest.raises(UserError, match=r"pair pair-11: .* rejected log-prob .*\n.*--force reference"):
        bench.trainer().step()
    bench.write("reference", bench.reference[:5], tables.REFERENCE)
    with pytest.raises(UserError, match="pair-11 is scheduled but is not in the reference table"):
        bench.trainer()


def test_a_loss_that_is_no_number_stops_before_the_update(bench: Bench) -> None:
    trainer = bench.trainer("dpo")
    trainer.step()
    with torch.no_grad():
        trainer.policy.model.get_output_embeddings().weight.fill_(math.nan)
    before = weights(trainer)
    with pytest.raises(UserError, match=r"step 1: .* 4 pairs is not finite \(pair-07, pair-06"):
        trainer.step()
    torch.testing.assert_close(weights(trainer), before, rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_is_no_number_is_no_step(bench: Bench) -> None:
    """The losses are finite, and no later step need come that would show it."""
    trainer = run(bench.trainer("dpo"), steps=2)
    trainer.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match=r"step 2: the gradient of 4 pairs is not finite \(pair-03, .*every loss is"):
        trainer.step()
    assert len(steps_log(trainer)) == 2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 2 / 3, 1 / 3]),  # the last half of 6 steps: 3 left, 2 left, 1 left
    ],
)
def test_learning_rate_by_hand(shape: Any, expected: list[float]) -> None:
    settings = Train(
        learning_rate=2.0, lr_schedule=shape, warmup_fraction=0.3, decay_fraction=0.5
    )  # 0.3 * 6 steps: two of warm-up
    assert [learning_rate(k, 6, settings) / 2 for k in range(6)] == pytest.approx(expected)
    no_warmup = Train(learning_rate=2.0, lr_schedule="linear", warmup_fraction=0.0)
    assert [learning_rate(k, 2, no_warmup) for k in range(2)] == [2.0, 1.0]


def test_held_out_pairs_on_the_way(bench: Bench) -> None:
    trainer = run(bench.trainer(train={"held_out_steps": 3}))
    assert [row["held_out_gap"] is not None for row in steps_log(trainer)] == [False, False, True]
    now = trainer.held_out()["after"]
    assert {name: steps_log(trainer)[-1][f"held_out_{name}"] for name in now} == now
    assert torch.equal(weights(trainer), weights(run(bench.trainer())))  # looking changes nothing
