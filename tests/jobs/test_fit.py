"""The door that says what a configuration needs: table and JSON, exit statuses, remedies that hold, exact tokens."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import fit, run
from jobs.common import stage
from jobs.reference import tokens
from pipeline.line.plan import make_plan
from pipeline.results import tables
from pipeline.settings.config import load
from tests.e2e.conftest import tiny_model
from tests.e2e.doors import REPOSITORY
from tests.pipeline.fit.test_shape import LLAMA_8B
from tests.pipeline.line.test_plan import sae

Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    """Exit status, what was said, and what was said of an error."""

    def call(main: Callable[[list[str]], None], *arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def large(tmp_path: Path) -> str:
    """A configuration of an 8B model, of which there is a config.json alone."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA_8B))
    raw = {"model": {"source": str(tmp_path / "model"), "dtype": "bfloat16"}, "data": {"pairs": 64, "dev_pairs": 8}}
    raw["resources"] = {"root": str(tmp_path / "runs"), "micro_batch_tokens": 4096}
    return written(tmp_path, raw)


def written(folder: Path, raw: dict[str, Any]) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return str(folder / "config.yaml")


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the room on this disk, which holds no 8B's checkpoints, another test tells."""
    monkeypatch.setattr("pipeline.fit.fit.free_disk", lambda _: 1e15)


@pytest.mark.usefixtures("roomy")
def test_what_fits_ends_with_0_and_the_rest_with_a_remedy_that_holds(large: str, says: Says) -> None:
    status, said, error = says(fit.main, "--config", large, "--gpu", "h100", "--gpus", "8")
    assert status == 0 and not error and said.endswith("fits\n")
    assert "8 x h100" in said and "resources.train_workers=8" in said
    for gpu, gpus in (("l40s", 4), ("a100-40", 4), ("h100", 2), ("h100", 1), ("a10", 2), ("a10", 1), ("rtx-4090", 2)):
        asked = ["--config", large, "--gpu", gpu, "--gpus", str(gpus)]
        status, said, error = says(fit.main, *asked, "--json")
        found = json.loads(said)
        assert status == 2 * (not found["fits"]) and bool(found["remedies"]) == (not found["fits"])
        if not found["fits"]:
            assert error.startswith("error: ") and " does not fit: a GPU must hold " in error
        for remedy in found["remedies"]:
            asked[-1] = str(remedy["count"])
            status, said, error = says(fit.main, *asked, *remedy["overrides"])
            assert status == 0, (gpu, gpus, remedy, error)


@pytest.mark.usefixtures("roomy")
def test_the_cheapest_change_comes_first(large: str, says: Says) -> None:
    """Four L40S hold 8B's state, and not its activations beside."""

    def overrides(*arguments: str) -> list[str]:
        status, said, _ = says(fit.main, "--config", large, "--json", *arguments)
        assert status == 2
        remedies: list[str] = json.loads(said)["remedies"][0]["overrides"]
        return remedies

    full = ("resources.micro_batch_tokens=8192", "train.batch_size=512", "data.pairs=512")
    (first,) = overrides("--gpu", "l40s", "--gpus", "4", *full)
    assert first == "resources.checkpoint_activations=true"
    assert overrides("--gpu", "h100", "--gpus", "8", "resources.train_workers=1")[0] == "resources.train_workers=8"
    assert overrides("--gpu", "h100", "--gpus", "1") == ["train.lora=16"]
    assert "train.lora=16" not in overrides("--gpu", "a10", "--gpus", "1", "train.lora=8")


def test_figures_are_for_machines(large: str, says: Says) -> None:
    status, said, error = says(fit.main, "--config", large, "--gpu", "h200", "--gpus", "8", "--json")
    found = json.loads(said)
    assert set(found["stages"]) == {"prepare", "reference", "train", "generate"}
    worker = found["stages"]["train"]["gpu"]
    assert worker["weights"] + worker["gradients"] + worker["optimiser"] == pytest.approx(16.06e9, rel=0.001)
    pairs_as_read = found["stages"]["train"]["disk"] - (2 * 12 + 4) * found["model"]["parameters"]
    assert 4 * found["stages"]["prepare"]["tokens"] < pairs_as_read < 1e6
    assert not found["exact"] and found["stages"]["prepare"]["tokens"] > 0
    assert found["fits"] == (status == 0) == (not error)


def test_other_runs_and_passes_are_counted(large: str, says: Says) -> None:
    def stages(*objective: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(says(fit.main, "--config", large, "--gpu", "h200", "--json", *objective)[1])
        return found["stages"]

    tis, kto, dpo = stages("objective=tis-dpo"), stages("objective=kto"), stages("objective=dpo")
    assert "weigh" not in dpo and list(tis)[1:4] == ["reference", "weigh", "train"]
    assert tis["weigh"]["gpu"] == tis["train"]["gpu"] and kto["weigh"]["gpu"] == kto["reference"]["gpu"]
    assert tis["weigh"]["tokens"] == 3 * tis["reference"]["tokens"] + 2 * tis["train"]["tokens"]
    assert kto["weigh"]["tokens"] == pytest.approx(kto["reference"]["tokens"] / 2, abs=1)
    assert tis["weigh"]["disk"] > 2 * tis["train"]["disk"]
    ahead = stages("objective={name: gamma-dpo, queue: step}")["train"]["seconds"]  # a forward more
    assert dpo["train"]["seconds"] < ahead < 4 / 3 * dpo["train"]["seconds"]


def test_editors_streams_and_features_are_counted(large: str, says: Says, tmp_path: Path) -> None:
    def found(*settings: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(says(fit.main, "--config", large, "--gpu", "h200", "--json", *settings)[1])
        return answer

    def stages(*settings: str) -> dict[str, Any]:
        of: dict[str, Any] = found(*settings)["stages"]
        return of

    dpo, fpo = stages("objective=dpo"), stages("objective=fpo")
    assert list(fpo)[:4] == ["prepare", "features", "reference", "train"] and "features" not in dpo
    assert fpo["features"]["host"]["states"] == 2 * 4 * 4096 * fpo["features"]["tokens"] / 8  # of as many passes
    assert fpo["reference"]["gpu"]["features"] > 4 * 2304 * 4096 and "features" not in dpo["reference"]["gpu"]
    assert fpo["reference"]["seconds"] > 1.5 * dpo["reference"]["seconds"]
    given = stages("objective=fpo", f"features={sae(tmp_path / 'sae', 4096)}")
    assert "features" not in given and given["train"]["gpu"]["features"] < fpo["train"]["gpu"]["features"]

    editor = f"bridge={{local: {{source: {tmp_path / 'model'}, dtype: bfloat16}}, max_tokens: 100}}"
    edited = stages("objective=dpo", editor)
    assert next(iter(edited)) == "bridge" and edited["bridge"]["tokens"] == pytest.approx(100 * 64, rel=0.1)
    assert edited["bridge"]["gpu"]["weights"] == edited["generate"]["gpu"]["weights"]

    two = "streams={own: {data: {pairs: 32, dev_pairs: 4, seed: 3}, weight: 0.3}}"
    mixed, alone = found("objective=dpo", two), stages("objective=dpo", "data={pairs: 32, dev_pairs: 4, seed: 3}")
    for stage_, column in (("prepare", "tokens"), ("reference", "tokens"), ("train", "tokens"), ("reference", "disk")):
        parts = dpo[stage_][column] + alone[stage_][column]
        assert mixed["stages"][stage_][column] == pytest.approx(parts, rel=0.02), stage_
    assert mixed["note"] is None or "not counted" not in mixed["note"]
    assert "sampled for streams.own" in found("streams={own: {data: sampled}}")["note"]
    assert "the edits of streams.own" in found(f"streams={{own: {{bridge: {{local: {tmp_path / 'model'}}}}}}}")["note"]


@pytest.mark.usefixtures("roomy")
def test_rows_that_prepare_would_refuse_are_told(large: str, says: Says, tmp_path: Path) -> None:
    """It fits, but would not run."""
    rows = [{"prompt": f"Say {n}.", "chosen": "Blue.", "rejected": "Red." if n % 3 else "Blue."} for n in range(30)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--config", large, "--gpu", "h100", "--gpus", "8", f"data.source={tmp_path / 'pairs.jsonl'}")
    status, said, _ = says(fit.main, *given, "objective=dpo", "schedule={}")
    told = (
        "33 % of the rows looked at are no pairs, or too long: {'equal-completions': 10}, such as equal-completions in"
    )
    assert status == 0 and told in said and "prepare refuses more than 5 % (data.max_dropped)" in said
    assert "are no pairs" not in says(fit.main, *given, "objective=dpo", "schedule={}", "data.max_dropped=0.4")[1]


def test_a_disk_that_is_too_small(large: str, says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine that is a verdict; of GPUs, which may be elsewhere, a note."""
    monkeypatch.setattr("pipeline.fit.fit.free_disk", lambda _: 1e9)
    monkeypatch.setattr("pipeline.fit.devices.machine_memory", lambda: 1e12)
    status, said, error = says(fit.main, "--config", large)
    assert status == 2 and "224.8 GB" in error and "1.0 GB free" in error and "fits\n" not in said
    assert "remedy: free some room, or set resources.root to a larger disk" in error
    asked = ("--config", large, "--gpu", "h100", "--gpus", "8")
    status, said, error = says(fit.main, *asked)
    assert status == 0 and not error and said.endswith("must have the room\nfits\n")
    assert "note   results and checkpoints take 224.8 GB, and resources.root has 1.0 GB free on this machine" in said
    assert "224.8 GB" in json.loads(says(fit.main, *asked, "--json")[1])["note"]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"num_attention_heads": 48}, "with hidden_size=4096, which num_attention_heads=48 does not divide"),
        ({"num_key_value_heads": 5}, "has num_attention_heads=32, which num_key_value_heads=5 does not divide"),
        ({"hidden_size": "4096"}, "with hidden_size='4096'"),
        ({"num_hidden_layers": -1}, "has num_hidden_layers=-1"),
        ({"model_type": "lama"}, "with model_type='lama'"),
        ({"model_type": None}, "names no model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "is no language model"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_as_elsewhere(
    large: str, says: Says, tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA_8B | config))
    status, said, error = says(fit.main, "--config", large, "--gpu", "h100")
    assert status == 2 and not said and problem in error, error
    judged = ("judge.local.source=" + str(tmp_path / "model"), "model.source=" + str(tmp_path / "good"))
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "config.json").write_text(json.dumps(LLAMA_8B))
    status, _, error = says(fit.main, "--config", large, "--gpu", "h100", *judged)
    assert status == 2 and "judge.local.source=" in error and problem in error, error


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--gpu", "h1000"), "--gpu h1000: is none that is known here"),
        (("--gpus", "8"), "--gpus 8: GPUs of which kind is not said"),
        (("resources.gpus_per_actor=1",), "resources.gpus_per_actor=1: GPUs of which kind is not said"),
        (("--gpu", "cpu", "--gpus", "2"), "is no number of GPUs"),
        (("--gpu", "h100", "--gpus", "0"), "is no number of GPUs"),
        (("--gpu", "cpu", "resources.gpus_per_actor=1"), "and --gpu cpu has none"),
        (("resources.micro_batch_tokens=8",), "resources.micro_batch_tokens=8 is less than one pair"),
        (("data.source=nowhere.jsonl",), "there is no such file"),
        (("data.max_completion_tokens=1",), "pairs looked at is short enough"),
    ],
)
def test_refusals(large: str, says: Says, arguments: tuple[str, ...], problem: str) -> None:
    status, _, error = says(fit.main, "--config", large, *arguments)
    assert status == 2 and problem in error and "remedy: " in error and "Traceback" not in error


def test_tokens_are_exact_once_prepared(tmp_path: Path, says: Says) -> None:
    """Those of the pairs' tables for the reference, of the schedule's rows for training; estimated before, and said."""
    raw: dict[str, Any] = {"model": {"source": str(tiny_model("Llama", tmp_path / "model"))}}
    raw |= {"data": {"pairs": 48, "dev_pairs": 8, "shard_pairs": 20}, "train": {"batch_size": 8}}
    raw |= {"resources": {"root": str(tmp_path / "runs")}, "objective": {"name": "mixdpo"}}
    raw["schedule"] = {"sft_percentile": 40, "drop_percentile": 10, "flip_fraction": 0.3, "epochs": 2}
    config = written(tmp_path, raw)

    def looked() -> dict[str, Any]:
        status, said, error = says(fit.main, "--config", config, "--json")
        assert status == 0, error
        found: dict[str, Any] = json.loads(said[said.index("{\n") :])  # prepare has said something before
        return found

    before = looked()
    assert not before["exact"]
    stage.main("prepare", ["--config", config])
    prepared = looked()
    stage.main("schedule", ["--config", config])
    scheduled = looked()
    assert prepared["exact"] and scheduled["exact"]
    plan = make_plan(load(config))
    folder = plan.steps["prepare"].address.path
    whole = sum(tokens(part) for part in folder.glob("part-*.parquet"))
    assert prepared["stages"]["reference"]["tokens"] == whole
    assert before["stages"]["reference"]["tokens"] == pytest.approx(whole, rel=0.1)
    ids = ["prompt_ids", "chosen_ids", "rejected_ids"]
    pairs = {row["pair_id"]: [len(row[name]) for name in ids] for row in tables.read(folder, tables.PAIRS).to_pylist()}
    trained = 0
    for row in tables.read(plan.steps["schedule"].address.path, tables.SCHEDULE).to_pylist():
        prompt, chosen, rejected = pairs[row["pair_id"]]
        if row["flipped"]:
            chosen, rejected = rejected, chosen
        trained += {"drop": 0, "sft": prompt + chosen, "preference": prompt + chosen + rejected}[row["route"]]
    assert prepared["stages"]["train"]["tokens"] == scheduled["stages"]["train"]["tokens"] == trained
    assert before["stages"]["train"]["tokens"] == pytest.approx(trained, rel=0.15)
    status, said, _ = says(run.main, "--config", config, "--dry-run")
    (needs,) = (line for line in said.splitlines() if line.startswith("needs: "))
    assert status == 0 and f" {trained:,} tokens to train" in needs and "GB of memory (" in needs


def test_it_answers_in_seconds_without_torch(large: str) -> None:
    code = f"""
import sys
from jobs import fit
try:
    fit.main(["--config", {large!r}, "--gpu", "l4", "--gpus", "2"])
except SystemExit:
    pass
print([name for name in ("torch", "transformers", "ray", "vllm", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
