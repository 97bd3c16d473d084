"""A training killed where rows, reading ahead and checkpoint meet: what goes on from there has each row once.

Real processes: one that imports what it needs and forks itself for each kill.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.training.checkpoints import load
from pipeline.training.journal import Journal
from tests.pipeline.training.training_bench import BATCH, TRAIN, Bench, pairs_log, run, steps_log, weights

REPOSITORY = Path(__file__).parents[3]
SCHEDULE = {"epochs": 2, "flip_fraction": 0.3}  # six steps
# Trains with a checkpoint after each step, the newest whole one named in a file; what `die_at` names kills it.
CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from pipeline.results import tables
from pipeline.training import checkpoints
from pipeline.training.epoch import Epoch
from tests.pipeline.training.training_bench import BATCH, Bench

root, model, schedule, *kills = sys.argv[1:]
torch.set_num_threads(1)

def dying(function, when):
    calls = []
    def called(*given, **named):
        calls.append(given)
        if when(len(calls), given):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return called

def train(folder, die_at):
    bench = Bench(folder, Path(model))
    if die_at == "reading ahead":  # the pairs of step 3, while step 2 is computed
        Epoch.tokens = dying(Epoch.tokens, lambda _, given: given[1].position >= 3 * BATCH + 2)
    trainer = bench.trainer("gamma-dpo", schedule=eval(schedule), journal=folder / "journal")
    if die_at == "rows half written":  # two tables a checkpoint
        tables.write = dying(tables.write, lambda call, _: call == 6)
    if die_at == "rows written":
        torch.save = dying(torch.save, lambda _, given: str(given[1]).endswith("step-3/position.pt"))
    if die_at == "checkpoint half written":
        checkpoints.checkpoint.async_save = dying(checkpoints.checkpoint.async_save, lambda call, _: call == 3)
    while not trainer.done:
        trainer.step()
        checkpoints.save(trainer, folder / f"step-{trainer.next_step}").result()
        (folder / "newest").write_text(str(trainer.next_step))

for number, die_at in enumerate(kills):
    if not (child := os.fork()):
        train(Path(root) / str(number), die_at)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
KILLS = ("reading ahead", "rows half written", "rows written", "checkpoint half written")


@pytest.fixture(scope="module")
def killed(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    for number in range(len(KILLS)):
        (root / str(number)).mkdir()
    command = [sys.executable, "-c", CHILD, str(root), str(tiny_model("Llama")), repr(SCHEDULE), *KILLS]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(KILLS), done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Llama"))


@pytest.mark.parametrize("number", range(len(KILLS)), ids=KILLS)
def test_a_killed_training_has_each_row_once(killed: Path, bench: Bench, number: int) -> None:
    folder = killed / str(number)
    newest = int((folder / "newest").read_text())
    written = {int(part.stem.split("-")[2]) for part in (folder / "journal").glob("steps-*.parquet")}
    assert newest == 2 and (3 in written) == (number > 0)  # rows that no checkpoint covers
    resumed = bench.trainer("gamma-dpo", schedule=SCHEDULE, journal=folder / "journal")
    load(resumed, folder / f"step-{newest}")
    straight = run(bench.trainer("gamma-dpo", schedule=SCHEDULE))
    assert torch.equal(weights(run(resumed)), weights(straight))
    assert pairs_log(resumed) == pairs_log(straight) and len(pairs_log(straight)) == 2 * TRAIN
    assert [row["step"] for row in steps_log(resumed)] == list(range(2 * TRAIN // BATCH))
    assert [row["position"] for row in pairs_log(resumed)] == list(range(2 * TRAIN))


def test_rows_are_in_parts_and_held_in_few(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no checkpoint comes for long; of 100,000 rows and more one row group is written at a time."""
    monkeypatch.setattr("pipeline.training.journal._PAIRS", 2 * BATCH)
    monkeypatch.setattr("pipeline.results.tables.ROW_GROUP", 3 * BATCH)
    trainer = bench.trainer("gamma-dpo", schedule=SCHEDULE, journal=tmp_path)
    held = []
    while not trainer.done:
        trainer.step()
        held.append(len(trainer.journal.pairs))
    assert held == [BATCH, 0] * 3 and len(list(tmp_path.glob("trained_pairs-*.parquet"))) == 3
    assert pairs_log(trainer) == pairs_log(run(bench.trainer("gamma-dpo", schedule=SCHEDULE)))


def test_rows_that_are_gone_are_missed(bench: Bench, tmp_path: Path) -> None:
    """A checkpoint says what it covers: without these rows nothing goes on from it."""
    trainer = bench.trainer("dpo", journal=tmp_path)
    for _ in range(3):
        trainer.step()
        trainer.journal.write()
    next(tmp_path.glob("steps-*-000000002.parquet")).unlink()
    with pytest.raises(UserError, match=r"rows of steps up to step 1, and the checkpoint is of step 2\n.*remove"):
        Journal(tmp_path).go_on(2)
    Journal(tmp_path).go_on(1)
    assert [part.name for part in sorted(tmp_path.iterdir())] == [
        "steps-000000000-000000001.parquet",
        "trained_pairs-000000000-000000001.parquet",
    ]
