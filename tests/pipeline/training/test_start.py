"""Training that starts from another model than the reference, such as the one that a round before it trained."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import score
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables
from tests.pipeline.training.training_bench import BATCH, DEV, TRAIN, Bench, Row, exported, pairs_log, run

BETA = 0.5


@pytest.fixture(scope="module")
def first(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("first"), tiny_model("Llama"))


@pytest.fixture(scope="module")
def trained(first: Bench, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a first round trained, opened as the next one does."""
    policy = run(first.trainer("dpo", beta=BETA, train={"learning_rate": 1e-2})).policy
    return exported(policy, first, tmp_path_factory.mktemp("trained"))


def scored(bench: Bench, model: Any) -> list[Row]:
    """Rows of tables.REFERENCE under a model."""
    sums = (score(model, lay_out([Tokens(*ids_of(pair))]), 256)[0].tolist() for pair in bench.pairs)
    return [
        row | {"chosen_logps": chosen, "rejected_logps": rejected}
        for row, (chosen, rejected) in zip(bench.reference, sums, strict=True)
    ]


def ids_of(pair: Row) -> tuple[list[int], list[int], list[int]]:
    return pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"]


def second(first: Bench, folder: Path, start: list[Row] | None) -> Bench:
    """The same pairs and reference, with log-probs of the model that training starts from."""
    bench = copy.copy(first)
    bench.folder = folder
    for table, rows, schema in (("pairs", first.pairs, tables.PAIRS), ("reference", first.reference, tables.REFERENCE)):
        bench.write(table, rows, schema)
    if start:
        bench.write("start", start, tables.REFERENCE)
    return bench


def gaps(bench: Bench, start: list[Row]) -> dict[str, float]:
    """BETA * the difference of both sides' log-ratios of start model and reference, by pair."""
    return {
        row["pair_id"]: BETA
        * (row["chosen_logps"] - base["chosen_logps"] - row["rejected_logps"] + base["rejected_logps"])
        for row, base in zip(start, bench.reference, strict=True)
    }


def test_it_begins_at_the_gaps_that_the_start_has_to_the_reference(first: Bench, trained: Any, tmp_path: Path) -> None:
    start = scored(first, trained)
    expected = gaps(first, start)
    assert max(map(abs, expected.values())) > 0.1  # it has learnt something
    bench = second(first, tmp_path, start)
    trainer = bench.trainer("gamma-dpo", beta=BETA, gamma0=1.0, tau=1.0, model=trained)
    order = [example.pair_id for k in range(TRAIN // BATCH) for example in trainer.epoch.step(k)]
    queue = trainer.state.state_dict()["gamma"]["queue"].tolist()
    assert queue == pytest.approx([expected[pair_id] for pair_id in order])
    held_out = trainer.held_out()  # before anything is learnt both are the start, whose figures are cached
    assert held_out["after"] == pytest.approx(held_out["before"], abs=1e-4)
    assert held_out["before"]["gap"] == pytest.approx(sum(expected[p["pair_id"]] for p in first.pairs[-DEV:]) / DEV)
    record = trainer.step()
    assert record["gap"] == pytest.approx(sum(expected[pair_id] for pair_id in order[:BATCH]) / BATCH, abs=1e-4)


def test_the_loss_of_the_first_step_by_hand_labels_flipped_or_not(first: Bench, trained: Any, tmp_path: Path) -> None:
    start = scored(first, trained)
    expected = gaps(first, start)
    bench = second(first, tmp_path, start)
    for flips, sign in ((0.0, 1), (1.0, -1)):
        trainer = bench.trainer("dpo", {"flip_fraction": flips}, beta=BETA, model=copy.deepcopy(trained))
        record = trainer.step()
        losses = [math.log1p(math.exp(-sign * expected[row["pair_id"]])) for row in pairs_log(trainer)]
        assert record["loss"] == pytest.approx(sum(losses) / BATCH, rel=1e-4)


def test_what_it_starts_from_is_checked_against_its_own_scores(first: Bench, trained: Any, tmp_path: Path) -> None:
    start = scored(first, trained)
    by_the_reference = second(first, tmp_path, None)
    with pytest.raises(UserError, match=r"at step 0 the policy's chosen log-prob is .* nats a token from the cached"):
        by_the_reference.trainer("dpo", model=trained).step()
    bench = second(first, tmp_path, start)
    bench.trainer("dpo", model=copy.deepcopy(trained)).step()
    with pytest.raises(UserError, match=r"at step 0 the policy's chosen log-prob is .* nats a token from the cached"):
        bench.trainer("dpo").step()  # of the base model
    start[TRAIN - 1]["rejected_logps"] -= 0.01  # of the easiest pair, which is trained first
    with pytest.raises(UserError, match=r"pair pair-11: .* rejected log-prob"):
        second(first, tmp_path, start).trainer("dpo", model=copy.deepcopy(trained)).step()


@pytest.mark.parametrize("name", ["kto", "fpo"])
def test_what_is_cached_of_the_reference_alone_is_not_expected_of_it(
    first: Bench, trained: Any, tmp_path: Path, name: str
) -> None:
    """Mismatched answers, and features: at step 0 they have moved as far as the start has."""
    bench = second(first, tmp_path, scored(first, trained))
    trainer = bench.trainer(name, model=copy.deepcopy(trained))
    trainer.step()
    moved = [abs(row["margin"] if name == "fpo" else row["gap"]) for row in pairs_log(trainer)]
    assert min(moved) > 1e-6


def test_its_scores_must_be_of_the_pairs_tokens_and_of_all_pairs(first: Bench, trained: Any, tmp_path: Path) -> None:
    start = scored(first, trained)
    with pytest.raises(UserError, match=r"pair-\d\d is scheduled but is not in the reference table"):
        second(first, tmp_path, start[:4]).trainer("dpo", model=trained)
    start[3]["tokens_digest"] = tokens_digest([1], [2], [3])
    with pytest.raises(UserError, match="pair pair-03: the cached reference is of other tokens"):
        second(first, tmp_path, start).trainer("dpo", model=trained)


def test_a_training_goes_on_from_a_checkpoint_as_it_began(first: Bench, trained: Any, tmp_path: Path) -> None:
    from pipeline.training.checkpoints import load, save

    bench = second(first, tmp_path, scored(first, trained))

    def trainer(**given: Any) -> Any:
        return bench.trainer("gamma-dpo", beta=BETA, tau=1.0, model=copy.deepcopy(trained), **given)

    straight, interrupted = run(trainer()), run(trainer(), steps=1)
    save(interrupted, tmp_path / "checkpoint").result()
    resumed = trainer(journal=interrupted.journal.folder)
    load(resumed, tmp_path / "checkpoint")
    run(resumed)
    assert pairs_log(resumed) == pairs_log(straight)
    for one, other in zip(resumed.policy.parameters(), straight.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert resumed.held_out() == straight.held_out()
