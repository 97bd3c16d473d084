"""The autoencoder is trained on the states of the reference, whatever the base model is."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.dictionary import STATES, DictionaryTrainer
from jobs.common.stage import Work, make
from jobs.features import spec_of
from pipeline.line.plan import make_plan
from pipeline.settings.config import RunConfig


def model(like: Path, folder: Path, seed: int) -> Path:
    """One of two layers that writes the same tokens, with weights of its own."""
    shutil.copytree(like, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig.from_pretrained(like, num_hidden_layers=2)).save_pretrained(folder)
    return folder


def first_layers(model: Path, pairs: Path) -> torch.Tensor:
    """What the first layer gives at all completion tokens, by transformers' own forward of each side; in any order."""
    opened, found = LlamaForCausalLM.from_pretrained(model, attn_implementation="eager").eval(), []
    for row in pq.read_table(pairs / "part-00000.parquet").to_pylist():
        for side in ("chosen_ids", "rejected_ids"):
            with torch.no_grad():
                ids = torch.tensor([[*row["prompt_ids"], *row[side]]])
                states = opened(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
            found.append(states[len(row["prompt_ids"]) :])
    return ordered(torch.cat(found))


def ordered(states: torch.Tensor) -> torch.Tensor:
    return states[states[:, 0].argsort()]


def test_states_are_those_of_the_reference(byte_model: Path, tmp_path: Path) -> None:
    base, other = model(byte_model, tmp_path / "base", 1), model(byte_model, tmp_path / "other", 2)
    rows = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": f"no, {n}", "split": "train"} for n in range(17)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {
        "model": {"source": str(base), "dtype": "float32"},
        "reference": {"model": {"source": str(other)}},
        "data": {"source": str(tmp_path / "pairs.jsonl")},
        "objective": {"name": "fpo"},
        "features": {"layer": 0},
        "resources": {"root": str(tmp_path / "runs")},
    }
    plan = make_plan(RunConfig.model_validate(raw))
    pairs, step = make(plan, plan.steps["prepare"]), plan.steps["features"]
    trainer = DictionaryTrainer(spec_of(Work(plan, step, {"pairs": pairs}, tmp_path)), "features")
    trainer.opened.result()
    layer, *states = trainer._states(tmp_path / STATES)
    assert layer == 0
    expected = first_layers(other, pairs.path)
    torch.testing.assert_close(ordered(torch.cat(states)), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first_layers(base, pairs.path), expected, atol=1e-2)
