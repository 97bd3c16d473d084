"""Four real workers over gloo: however a model lies on them they learn the same, each with its share of the memory."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.compute.comparison import LONG
from pipeline.compute.cpu import give_back_memory
from pipeline.compute.loading import open_empty
from pipeline.compute.policy import Policy
from pipeline.compute.selfcheck import choose
from pipeline.objectives import build
from pipeline.settings.resources import Resources
from pipeline.settings.training import Train
from pipeline.training.checkpoints import load, save
from pipeline.training.epoch import Epoch
from pipeline.training.exporting import adapter_weights, export_weights
from pipeline.training.journal import Journal
from pipeline.training.loop import Trainer
from tests import gloo
from tests.pipeline.training.training_bench import BATCH, SETTINGS, Bench, run, steps_log

WORLD = 4
LAYERS = (2, FEW := 4, MANY := 12)  # of models to weigh; the first is for what is set up once
LAYOUTS: dict[str, dict[str, Any]] = {"sharded": {}, "grouped": {"shard_within": 2}}
LORA: dict[str, Any] = {"lora": {"rank": 4, "alpha": 8}}


def trainer(bench: Bench, name: str, rank: int = 0, world: int = 1, train: Any = None, **resources: Any) -> Trainer:
    """`name` is its journal's: one that goes on from another's checkpoint has the other's."""
    model = open_empty(bench.model, bench.dtype) if world > 1 else bench.base()
    settings = Train(**{**SETTINGS, **(train or {})})
    given = Resources(train_workers=world, **resources)
    epoch, journal = Epoch(bench.folder / "epoch", BATCH), Journal(bench.folder / f"journal-{name}-{rank}")
    return Trainer(model, build("dpo"), epoch, settings, given, rank, world, journal)


def exported(made: Trainer, bench: Bench, folder: Path) -> list[float]:
    """Writes the model; returns the losses."""
    folder.mkdir(exist_ok=True)
    export_weights(made.policy, open_empty(bench.model, bench.dtype), folder)
    return [record["loss"] for record in steps_log(made)]


def learn(rank: int, world: int, bench: Bench, folder: Path) -> dict[str, Any]:
    """What each layout learns, and two that go on from what the other saved."""
    losses: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        first = trainer(bench, name, rank, world, **layout)
        # With gradients, as on a GPU, where this is looked at as the model is loaded.
        losses[f"{name}-is-run"] = str(first.policy.within(choose, Resources(), LONG))
        run(first, steps=1)
        save(first, folder / f"checkpoint-{name}").result()
        losses[name] = exported(run(first), bench, folder / name)
    for name, other in zip(LAYOUTS, reversed(LAYOUTS), strict=True):
        resumed = trainer(bench, name, rank, world, **LAYOUTS[other])
        load(resumed, folder / f"checkpoint-{name}")
        losses[f"{name}-resumed"] = exported(run(resumed), bench, folder / f"{name}-resumed")
    adapted = trainer(bench, "adapted", rank, world, LORA, **LAYOUTS["grouped"])
    losses["adapted"] = exported(run(adapted), bench, folder / "adapted")
    return losses


def wide(folder: Path, layers: int) -> Path:
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 4, "vocab_size": 97}
    config = LlamaConfig(num_hidden_layers=layers, num_key_value_heads=4, **sizes)
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder / str(layers))
    return folder / str(layers)


@contextmanager
def peak() -> Iterator[list[float]]:
    """The process's anonymous memory at its highest, over what it is before, in MiB; mapped files are not in it."""
    gc.collect()
    give_back_memory()

    def now() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) / 1024

    before, seen, done = now(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen[0] = max(seen[0], now() - before)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def weigh(rank: int, world: int, models: dict[int, Path], folder: Path) -> dict[str, float]:
    """Peaks of loading and exporting models of several depths, in each layout and under adapters."""
    adapted: Any = {"lora": {"rank": 4, "alpha": 8, "layers": ["q_proj"], "merge": False}}
    peaks: dict[str, float] = {}
    policy: Any = None
    for layers, model in models.items():
        for name, train in (("sharded", {}), ("grouped", {}), ("adapted", adapted)):
            policy, resources = None, Resources(train_workers=world, **LAYOUTS.get(name, {}))
            with peak() as seen:
                policy = Policy(open_empty(model, "bfloat16"), Train(**train), resources, world)
            peaks[f"{name}-{layers}"] = seen[0]
            if name == "sharded":
                out = folder / f"export-{layers}"
                out.mkdir(exist_ok=True)
                with peak() as seen:
                    export_weights(policy, open_empty(model, "bfloat16"), out, shard_bytes=8 * 2**20)
                peaks[f"export-{layers}"] = seen[0]
        dtypes = {(weight.requires_grad, weight.dtype) for weight in policy.parameters()}
        assert dtypes == {(False, torch.bfloat16), (True, torch.float32)}
        assert all(isinstance(weight, DTensor) for weight in policy.parameters())
        assert (adapter_weights(policy) != {}) == (rank == 0)
    return peaks


@pytest.fixture(scope="module")
def worked(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Any], list[dict[str, float]], Path]:
    """Of every worker, losses by layout and peaks of memory; and the folder of what they wrote. One start of all."""
    folder = tmp_path_factory.mktemp("worked")
    bench = Bench(folder, tiny_model("Gemma2"), dtype="float64")
    bench.epoch()  # its table
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**18))  # what is freed is gone, and not there for the next
        both = gloo.run(WORLD, work, bench, {layers: wide(folder, layers) for layers in LAYERS}, folder)
    return [losses for losses, _ in both], [peaks for _, peaks in both], folder


def work(rank: int, world: int, bench: Bench, models: dict[int, Path], folder: Path) -> tuple[Any, dict[str, float]]:
    return learn(rank, world, bench, folder), weigh(rank, world, models, folder)


@pytest.fixture(scope="module")
def alone(worked: tuple[Any, Any, Path], tiny_model: Callable[[str], Path]) -> dict[str, list[float]]:
    """The losses of one worker, in whole and with adapters; its models are beside the others."""
    folder = worked[-1]
    bench = Bench(folder, tiny_model("Gemma2"), dtype="float64")
    one, adapted = trainer(bench, "one"), trainer(bench, "one-adapted", train=LORA)
    whole = exported(run(one), bench, folder / "one")
    return {"one": whole, "one-adapted": exported(run(adapted), bench, folder / "one-adapted")}


@pytest.mark.parametrize("layout", ["sharded", "grouped", "sharded-resumed", "grouped-resumed", "adapted"])
def test_four_workers_learn_as_one(
    worked: tuple[list[Any], Any, Path], alone: dict[str, list[float]], layout: str
) -> None:
    """In float64 to 1e-9, as two do; from a checkpoint of the other layout, too."""
    losses, _, folder = worked
    one = "one-adapted" if layout == "adapted" else "one"
    assert all(each == losses[0] for each in losses)
    assert losses[0][layout] == pytest.approx(alone[one], abs=1e-9) and len(alone[one]) == 3
    ours, theirs = (load_file(folder / name / "model.safetensors") for name in (layout, one))
    assert ours.keys() == theirs.keys() and "lm_head.weight" not in ours
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-9
    assert alone[one][0] != alone[one][-1]
    for name in LAYOUTS:
        assert losses[0][f"{name}-is-run"] == "attention packed, a side at a time; head in chunks; layers as they are"


def test_memory_grows_with_a_workers_share(worked: tuple[Any, list[dict[str, float]], Path]) -> None:
    """A layer more costs a worker its float32 masters over the workers that share it; under adapters half of that.

    Whole, it would be four times as much, and half of that again as it is read. What exports holds no more for it.
    """
    layer = (4 * 512 * 512 + 3 * 512 * 2048 + 2 * 512) * 4 / 2**20
    _, every, folder = worked
    for peaks in every:
        for name, share in (("sharded", 1 / WORLD), ("grouped", 2 / WORLD), ("adapted", 0.5 / WORLD)):
            growth = (peaks[f"{name}-{MANY}"] - peaks[f"{name}-{FEW}"]) / (MANY - FEW)
            assert growth == pytest.approx(layer * share, rel=0.25), (name, every)
    exporting = every[0]
    assert exporting[f"export-{MANY}"] < exporting[f"export-{FEW}"] + 4 and exporting[f"export-{MANY}"] < 64, every
    ours, theirs = (open_whole(folder / name) for name in (f"export-{MANY}", str(MANY)))
    assert len(list((folder / f"export-{MANY}").glob("*.safetensors"))) > 4
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def open_whole(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}
