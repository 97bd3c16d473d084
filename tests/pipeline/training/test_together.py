"""Two real workers against one: the same answer however a step is shared out, dropout, resuming, checkpoints at once.

The workers run once and do all of it; the tests look at what they found.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.staging import AsyncStager, DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.training.checkpoints import load, save
from pipeline.training.loop import Trainer
from tests import gloo
from tests.pipeline.training.training_bench import Bench, Row, pairs_log, run, steps_log, weights

SMALL = {"micro_batch_tokens": 13}  # the longest pair's: four micro-batches or more a step
# Beside MixDPO over gamma-DPO, a mechanism each; the last of two streams, balanced by their gradients. MixDPO is here
# with margins over a step's own gaps.
OTHERS = ("nca", "bco", "dpop", "wpo", "dr-dpo", "rappo", "re-po", "kto", "tis-dpo", "bmc", "fpo", "mixdpo", "bvpo")
UNEVEN = {"micro_batch_tokens": 40}  # two micro-batches a step of four pairs; with two workers one each
DROPOUT = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}, "learning_rate": 0.05}
Found = dict[str, Any]


def whole(trainer: Trainer) -> torch.Tensor:
    parts = (p.full_tensor() if isinstance(p, DTensor) else p for p in trainer.policy.parameters())
    return torch.cat([part.detach().flatten() for part in parts])


class Reductions(TorchDispatchMode):
    """Counts how often the workers add up gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "reduce_scatter" in str(func)
        return func(*args, **(kwargs or {}))


def work(rank: int, world: int, benches: tuple[Bench, ...], folder: Path) -> Found:
    for number, bench in enumerate(benches):  # each trainer writes its schedule
        bench.folder = shutil.copytree(bench.folder, folder / f"{rank}-{number}")
    exact, single, wrong = benches
    shared: dict[str, Any] = {"rank": rank, "world": world}
    return {
        "sums": sums(exact, shared),
        "others": {name: learnt(exact, name, shared) for name in OTHERS},
        "dropout": dropout(single, shared, folder),
        "checkpoints": checkpoints(single, shared, folder),
        "refused": refused(wrong, shared),
    }


def sums(bench: Bench, shared: dict[str, Any]) -> Found:
    found: Found = {}
    for name, resources in (("small", SMALL), ("every", {**SMALL, "whole_gradients": False}), ("uneven", UNEVEN)):
        trainer = bench.trainer(resources=resources, **shared)
        with Reductions() as counted:
            trainer.step()
        run(trainer)
        found[name] = (whole(trainer), pairs_log(trainer), steps_log(trainer), trainer.held_out(), counted.count)
    return found


def learnt(bench: Bench, name: str, shared: dict[str, Any]) -> tuple[torch.Tensor, list[Row], Any]:
    two: dict[str, Any] = {"streams": {"again": bench}, "weights": [0.5, 0.5], "balance": "least-error"}
    lifted = {"undesirable_weight": 0.25}  # so that z is above 0
    more = {"bvpo": two, "mixdpo": {"queue": "step", "centred": False}, "kto": lifted}.get(name, {})
    trainer = run(bench.trainer(name, resources=SMALL, schedule={"flip_fraction": 0.3}, **shared, **more))
    return whole(trainer), pairs_log(trainer), trainer.state.state_dict()


def dropout(bench: Bench, shared: dict[str, Any], folder: Path) -> Found:
    def trainer(journal: Path | None = None, **resources: Any) -> Trainer:
        given = {**SMALL, **resources}
        return bench.trainer("dpo", train=DROPOUT, resources=given, journal=journal, **shared)

    straight, masks = trainer(), []
    first = next(m for m in straight.policy.modules() if type(m) is torch.nn.Dropout and m.p)
    hook = first.register_forward_hook(lambda _, given, out: masks.append((out[0, 0] == 0) & (given[0][0, 0] != 0)))
    run(straight)
    hook.remove()
    interrupted = run(trainer(), steps=2)
    save(interrupted, folder / "dropout").result()
    torch.manual_seed(7 * shared["rank"])  # as another process would find the generator
    resumed = trainer(interrupted.journal.folder)
    load(resumed, folder / "dropout")
    run(resumed)
    again = run(trainer(checkpoint_activations=True))
    return {
        "masks": torch.stack(masks).tolist(),
        "straight": whole(straight),
        "resumed": whole(resumed),
        "checkpointed": whole(again),
        "logs": pairs_log(straight) == pairs_log(resumed),
    }


def checkpoints(bench: Bench, shared: dict[str, Any], folder: Path) -> list[bool]:
    """Twelve checkpoints, each begun as soon as the one before: on a GPU, too, a step is shorter than a checkpoint."""
    staged = StagingOptions(False, False, False, False)
    stagers: tuple[AsyncStager | None, ...] = (None, DefaultStager(staged))
    right = []
    for kind, stager in enumerate(stagers):
        trainer = run(bench.trainer("dpo", **shared), steps=1)
        trainer.stager = stager
        begun = [save(trainer, folder / f"{kind}-{number}") for number in range(6)]
        for future in begun:
            future.result(timeout=60)
        again = bench.trainer("dpo", journal=trainer.journal.folder, **shared)
        load(again, folder / f"{kind}-5")
        right.append(torch.equal(whole(again), whole(trainer)) and again.next_step == 1)
        run(again)
    return right


def refused(bench: Bench, shared: dict[str, Any]) -> str:
    try:
        bench.trainer("dpo", **shared).step()
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def benches(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Bench, Bench]:
    exact, single, wrong = (
        Bench(tmp_path_factory.mktemp(name), tiny_model(family), dtype)
        for name, family, dtype in (("a", "Phi", "float64"), ("b", "Llama", "float32"), ("c", "Llama", "float32"))
    )
    wrong.reference[-5]["rejected_logps"] -= 0.01  # of a pair of the first step
    wrong.write("reference", wrong.reference, tables.REFERENCE)
    return exact, single, wrong


@pytest.fixture(scope="module")
def two(benches: tuple[Bench, Bench, Bench], tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return gloo.run(2, work, benches, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("name", ["small", "every", "uneven"])
def test_two_workers_learn_as_one(two: list[Found], benches: tuple[Bench, Bench, Bench], name: str) -> None:
    one = run(benches[0].trainer())
    for worker in two:
        found, pairs, steps, held_out, _ = worker["sums"][name]
        torch.testing.assert_close(found, weights(one), rtol=0, atol=1e-9)
        assert [row["pair_id"] for row in pairs] == [row["pair_id"] for row in pairs_log(one)]
        for a, b in zip(pairs, pairs_log(one), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-9) and a["route"] == b["route"]
        assert [row["tokens"] for row in steps] == [row["tokens"] for row in steps_log(one)]
        assert held_out["after"] == pytest.approx(one.held_out()["after"], abs=1e-8)
    assert two[0]["sums"][name][1:4:2] == two[1]["sums"][name][1:4:2]  # to the last bit


@pytest.mark.parametrize("name", OTHERS)
def test_two_workers_learn_any_objective_as_one(two: list[Found], benches: tuple[Bench, ...], name: str) -> None:
    """And remember the same, to the last bit of each other's."""
    one, pairs, _ = learnt(benches[0], name, {})
    for worker in two:
        found, theirs, _ = worker["others"][name]
        torch.testing.assert_close(found, one, rtol=0, atol=1e-9)
        for a, b in zip(theirs, pairs, strict=True):
            assert a["pair_id"] == b["pair_id"] and a["flipped"] == b["flipped"]
            for figure in ("loss", "gap", "margin", "weight"):
                expected = None if b[figure] is None else pytest.approx(b[figure], rel=1e-8, abs=1e-8)  # of SFT pairs
                assert a[figure] == expected
    (_, pairs, first), (_, same, second) = (worker["others"][name] for worker in two)
    assert pairs == same
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_gradients_are_added_up_once_a_step(two: list[Found]) -> None:
    """Of two layers and the root, on the last micro-batch; or, where memory is short, in each."""
    counted = {name: found[-1] for name, found in two[0]["sums"].items()}
    assert counted["small"] == counted["uneven"] == 3
    assert counted["every"] >= 2 * 3 and counted["every"] % 3 == 0


def test_dropout_is_each_workers_own_and_resumed(two: list[Found]) -> None:
    found = [worker["dropout"] for worker in two]
    masks = [each["masks"] for each in found]
    assert any(map(any, masks[0])) and not all(map(all, masks[0]))
    assert masks[0] != masks[1] and masks[0][0] != masks[0][-1]
    for each in found:
        assert torch.equal(each["resumed"], each["straight"]) and each["logs"]
        torch.testing.assert_close(each["checkpointed"], each["straight"], rtol=0, atol=1e-4)


def test_checkpoints_begun_at_once_are_written_one_after_the_other(two: list[Found]) -> None:
    assert [worker["checkpoints"] for worker in two] == [[True, True]] * 2


def test_every_worker_hears_of_a_wrong_reference(two: list[Found]) -> None:
    """Also the one that did not compute the pair, which would otherwise wait for the others."""
    assert two[0]["refused"] == two[1]["refused"] and "rejected log-prob" in two[0]["refused"]
