"""Several streams through the training loop: in proportion, each with its own state, whatever a step is split into."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.compute.layout import lay_out
from pipeline.compute.logprobs import side_sums, token_logps
from pipeline.errors import UserError
from pipeline.objectives.streams import Balance
from pipeline.settings.streams import in_proportion, require_in_each_step
from pipeline.training.checkpoints import load, save
from pipeline.training.rows import counts
from tests.pipeline.training.training_bench import DEV, TRAIN, Bench, Row, pairs_log, run, steps_log, weights

SPLIT = {"micro_batch_tokens": 18, "logits_chunk": 2}
FEW = 6  # pairs of the second stream
SHUFFLED = {"order": "shuffle"}


def benches(folder: Path, model: Path, dtype: str = "float32", train: int = FEW) -> tuple[Bench, Bench]:
    """Two streams' tables of different pairs that have the same ids."""
    return Bench(folder / "one", model, dtype), Bench(folder / "other", model, dtype, seed=2, train=train)


@pytest.fixture(scope="module")
def single(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Bench]:
    return benches(made(tmp_path_factory), tiny_model("Llama"))


@pytest.fixture(scope="module")
def exact(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Bench]:
    return benches(made(tmp_path_factory), tiny_model("Phi"), "float64")


@pytest.fixture(scope="module")
def even(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Bench]:
    """Streams of one size, in float64."""
    return benches(made(tmp_path_factory), tiny_model("Phi"), "float64", TRAIN)


def made(factory: pytest.TempPathFactory) -> Path:
    folder = factory.mktemp("streams")
    for name in ("one", "other"):
        (folder / name).mkdir()
    return folder


def streams_log(trainer: Any) -> list[Row]:
    trainer.journal.export(trainer.journal.folder)
    rows: list[Row] = pq.read_table(trainer.journal.folder / "streams.parquet").to_pylist()
    return rows


def test_every_step_holds_each_stream_in_proportion_and_in_its_own_order(single: tuple[Bench, Bench]) -> None:
    one, other = single
    epoch = one.epoch({"off": other}, 3, order="easy-to-hard", epochs=2)
    assert epoch.streams == {"data": 2 * TRAIN, "off": 2 * FEW} and epoch.steps == 12
    steps = [epoch.step(k) for k in range(epoch.steps)]
    assert [[pairs for pairs, _ in counts(step, 2)] for step in steps] == [[2, 1]] * 12
    for stream, bench in enumerate(single):
        alone = bench.epoch({}, 100, order="easy-to-hard", epochs=2)
        mine = [each for step in steps for each in step if each.stream == stream]
        own = alone.step(0)
        assert [each.pair_id for each in mine] == [each.pair_id for each in own]
        for each, same in zip(mine, own, strict=True):
            assert (each.reference, each.scores, each.difficulty) == (same.reference, same.scores, same.difficulty)
            for ids, its in zip(epoch.tokens(each), alone.tokens(same), strict=True):
                assert list(ids) == list(its)
        first = epoch.preference_examples(100, stream)
        assert [each.pair_id for each in first] == [each.pair_id for each in alone.preference_examples(100)]
        assert {each.stream for each in first} == {stream}
    assert epoch.sources == ["data: web", "data: staff", "off: web", "off: staff"]
    assert [each.stream for each in epoch.held_out(range(epoch.held_out_pairs))] == [0] * DEV + [1] * DEV
    numbers = [each.number for step in steps for each in step]
    assert len({*numbers}) == TRAIN + FEW and all(numbers.count(number) == 2 for number in numbers)


def test_a_step_by_hand(exact: tuple[Bench, Bench]) -> None:
    """By what each pair's log-probs were: 0.3 of the mean over the first stream's pairs, and 0.7 over the other's."""
    one, other = exact
    trainer = run(one.trainer("dpo", streams={"off": other}, weights=[0.3, 0.7], batch=3, beta=0.7))
    pairs, logged = pairs_log(trainer), streams_log(trainer)
    for record in steps_log(trainer):
        rows = [row for row in pairs if row["step"] == record["step"]]
        streams = [each.stream for each in trainer.epoch.step(record["step"])]
        for row, stream in zip(rows, streams, strict=True):
            plain = float(torch.nn.functional.softplus(torch.tensor(-row["gap"], dtype=torch.float64)))
            assert row["loss"] == pytest.approx(plain * (0.3 * 3 / 2, 0.7 * 3 / 1)[stream], rel=1e-12)
        assert record["loss"] == pytest.approx(sum(row["loss"] for row in rows) / 3, rel=1e-12)
        first, second = (row for row in logged if row["step"] == record["step"])
        assert (first["stream"], first["pairs"], second["stream"], second["pairs"]) == ("data", 2, "off", 1)
        assert (first["weight"], second["weight"]) == pytest.approx((0.3, 0.7))
        assert 0.3 * first["loss"] + 0.7 * second["loss"] == pytest.approx(record["loss"], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "given", "parameters"),
    [
        ("dpo", [0.3, 0.7], {}),
        ("dpo", None, {}),
        ("gamma-simpo", [0.6, 0.4], {"tau": 2.0}),
        ("cpo", [0.6, 0.4], {}),
        ("mixdpo", None, {}),
        ("bvpo", [0.5, 0.5], {"balance": "least-error", "beta": 0.5}),
    ],
)
def test_micro_batches_do_not_change_the_answer(
    exact: tuple[Bench, Bench], name: str, given: Any, parameters: dict[str, Any]
) -> None:
    one, other = exact
    shared: dict[str, Any] = {"streams": {"off": other}, "weights": given, "batch": 6, **parameters}
    whole, split = (run(one.trainer(name, resources=cut, **shared)) for cut in (None, SPLIT))
    torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-9)
    assert float((weights(whole) - weights(one.trainer(name, **shared))).norm()) > 0
    for a, b in zip(streams_log(whole), streams_log(split), strict=True):
        assert a["weight"] == pytest.approx(b["weight"], rel=1e-7)


def test_equal_streams_are_one_whatever_they_weigh(even: tuple[Bench, Bench]) -> None:
    one, _ = even
    alone = run(one.trainer("dpo", schedule=SHUFFLED, batch=2, beta=0.5))
    for weight in (0.0, 0.2, 0.5, 1.0):
        shared: dict[str, Any] = {"streams": {"same": one}, "schedule": SHUFFLED, "batch": 4, "beta": 0.5}
        both = run(one.trainer("bvpo", weights=[weight, 1 - weight], **shared))
        torch.testing.assert_close(weights(both), weights(alone), rtol=0, atol=1e-9)
        assert [row["loss"] for row in steps_log(both)] == pytest.approx([row["loss"] for row in steps_log(alone)])


def test_all_of_the_weight_is_one_stream_alone(even: tuple[Bench, Bench]) -> None:
    one, other = even
    for place, bench in enumerate(even):
        alone = run(bench.trainer("dpo", schedule=SHUFFLED, batch=2, beta=0.5))
        given = [1.0 - place, float(place)]
        both = run(one.trainer("bvpo", streams={"off": other}, schedule=SHUFFLED, weights=given, batch=4, beta=0.5))
        torch.testing.assert_close(weights(both), weights(alone), rtol=0, atol=1e-9)
        losses = {name: [row["loss"] for row in streams_log(both) if row["stream"] == name] for name in ("data", "off")}
        told, untold = (losses[name] for name in (("data", "off"), ("off", "data"))[place])
        assert told == pytest.approx([row["loss"] for row in steps_log(alone)])
        assert untold == [None] * len(told)  # its losses are nothing of the step's; 0 would be another figure


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gamma-dpo", {"tau": 0.3}), ("re-po", {}), ("bvpo", {"balance": "least-error", "margin": "gamma"})],
)
def test_each_streams_state_survives_a_checkpoint(
    single: tuple[Bench, Bench], tmp_path: Path, name: str, parameters: dict[str, Any]
) -> None:
    one, other = single
    shared: dict[str, Any] = {"streams": {"off": other}, "weights": [0.5, 0.5], "batch": 6, **parameters}
    straight, interrupted = (run(one.trainer(name, **shared), steps) for steps in (100, 2))
    save(interrupted, tmp_path).result()
    load(resumed := one.trainer(name, journal=interrupted.journal.folder, **shared), tmp_path)
    assert torch.equal(weights(run(resumed)), weights(straight)) and streams_log(resumed) == streams_log(straight)
    load(forgetful := one.trainer(name, journal=interrupted.journal.folder, **shared), tmp_path)
    forgetful.state = one.trainer(name, **shared).state
    assert not torch.equal(weights(run(forgetful)), weights(straight))
    gaps = {(row["step"], row["position"]): row["gap"] for row in pairs_log(straight)}
    if straight.state.states[0].gamma:
        for stream, state in enumerate(straight.state.states):
            seen = [
                each for k in range(straight.epoch.steps) for each in straight.epoch.step(k) if each.stream == stream
            ]
            queue = state.state_dict()["gamma"]["queue"].tolist()
            assert queue == [gaps[each.position // 6, each.position] for each in seen][-len(queue) :]
            assert len(queue) == len(seen)


def test_the_gradients_that_balance_streams_are_each_pairs_own(exact: tuple[Bench, Bench]) -> None:
    """By one backward a pair: of its loss by gains of the states that the output head reads."""
    one, other = exact
    shared: dict[str, Any] = {"streams": {"off": other}, "weights": [0.5, 0.5], "batch": 6, "beta": 0.5}
    trainer = one.trainer("bvpo", balance="least-error", resources=SPLIT, **shared)
    expected = Balance(0.5, 0.9)
    for k in range(2):
        gradients = []
        for example in trainer.epoch.step(k):
            pack = lay_out([trainer.epoch.tokens(example)])
            gains_1C = torch.ones(1, 32, dtype=torch.float64, requires_grad=True)
            chosen, rejected = side_sums(token_logps(trainer.policy.model, pack, 64, gains_PC=gains_1C), pack)[0]
            gap = 0.5 * ((chosen - example.reference[0]) - (rejected - example.reference[1]))
            gradients.append(torch.autograd.grad(torch.nn.functional.softplus(-gap), gains_1C)[0])
        expected.observe(torch.cat(gradients), torch.tensor([each.stream for each in trainer.epoch.step(k)]))
        trainer.step()
        assert trainer.state.balance and trainer.state.balance.weight == pytest.approx(expected.weight, rel=1e-9)
    assert expected.weight != 0.5


def test_held_out_pairs_of_all_streams(single: tuple[Bench, Bench]) -> None:
    """Each by its own stream's state."""
    one, other = single
    figures = one.trainer("gamma-dpo", streams={"off": other}, batch=3).held_out()
    alone = [bench.trainer("gamma-dpo").held_out() for bench in single]
    assert figures["pairs"] == 2 * DEV
    for name, value in figures["after"].items():
        assert value == pytest.approx(sum(each["after"][name] for each in alone) / 2, rel=1e-5, abs=1e-5), name


def test_a_stream_that_is_too_small_for_a_step_is_refused(single: tuple[Bench, Bench]) -> None:
    one, other = single
    shared: dict[str, Any] = {"streams": {"off": other}, "batch": 2}
    with pytest.raises(
        UserError, match=r"stream off has 6 of 18 pairs, .* step of 2 holds one\n.*batch_size=3 or more"
    ):
        one.trainer("dpo", weights=[0.5, 0.5], **shared)
    one.trainer("dpo", **shared).step()
    shared |= {"weights": [0.5, 0.5], "batch": 5}
    with pytest.raises(
        UserError, match=r"holds 2, which .*least-error goes by\n.*batch_size=6 .*objective.balance=fixed"
    ):
        one.trainer("bvpo", balance="least-error", **shared)
    one.trainer("bvpo", **shared).step()


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("pairs", [(5, 7, 7, 7), (6, 8, 8, 8), (3, 4, 4, 9), (2, 5), (2, 3, 7)])
def test_what_is_not_refused_is_in_every_step(pairs: tuple[int, ...], least: int) -> None:
    """Four streams may leave one out of a step that has room for it. What is advised is not refused."""
    of, named = in_proportion(pairs), dict(zip("abcd", pairs, strict=False))
    refused, advised = [], 0
    for batch in range(1, sum(pairs) + 1):
        steps = [of[at : at + batch].tolist() for at in range(0, sum(pairs) - batch + 1, batch)]
        try:
            require_in_each_step(named, batch, least)
        except UserError as error:
            assert re.match(r"stream [abcd] has \d of \d+ pairs, so that not every step of", error.problem)
            refused.append(batch)
            advised = int(re.findall(r"batch_size=(\d+) or more", error.remedy)[0])
        else:
            assert all(step.count(stream) >= least for step in steps for stream in range(len(pairs)))
    assert max(refused) < advised <= sum(pairs) and ((pairs, least) != ((6, 8, 8, 8), 1) or refused == [1, 2, 3, 4, 6])
