"""The GPU check: what it makes of its figures, by hand; and that a part is run, noted and cut as it should be."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from benchmarks.gpu.goals import GOALS, UNKNOWN, read, table
from benchmarks.gpu.inputs import FAMILIES, SHAPES, pairs_of, random_model, reference, trainer_of
from benchmarks.gpu.utilisation import _flops
from benchmarks.measure import ROOT
from pipeline.compute.layout import Tokens


def cell(figures: list[dict[str, object]], goal: str) -> str:
    row = next(line for line in table(figures).splitlines() if line.startswith(f"| {goal}"))
    return row.split("|")[3].strip()


MACHINE = [
    {"part": "machine", "dtype": "bfloat16", "tflops": 800.0},
    {"part": "machine", "dtype": "bfloat16", "tflops": 640.0},
    {"part": "machine", "dtype": "float32", "tflops": 900.0},
]


def step(part: str, layers: int, seconds: float, tflop: float, **more: object) -> dict[str, object]:
    known = {"layers": layers, "seconds": seconds, "model_tflop_a_step": tflop, "checkpointed": False, "lora": False}
    return {"part": part, **known, "budget": 16384, "model_tflops": tflop / seconds} | more


def test_utilisation_of_the_8b_shape_is_the_slope_over_layers() -> None:
    # A layer takes 0.1 s and 50 TFLOP, the rest 0.4 s and 100: 32 layers take 3.6 s and 1,700, 472 TFLOP/s of 800.
    figures = [*MACHINE, step("8b", 2, 0.6, 200.0), step("8b", 6, 1.0, 400.0), step("8b", 32, 1.0, 1.0, lora=True)]
    assert cell(figures, "8B shape") == "0.59"


def test_utilisation_of_the_1b_shape_is_that_of_its_best_packs() -> None:
    figures = [*MACHINE, step("1b", 16, 1.0, 360.0), step("1b", 16, 1.0, 440.0, budget=32768, failed="x")]
    figures.append(step("1b", 16, 1.0, 400.0, budget=32768))
    assert cell(figures, "1B shape") == "0.50 (packs of 32,768)"


def test_gradients_are_those_of_the_worst_family_and_kind() -> None:
    def family(name: str, **gradients: float) -> dict[str, object]:
        return {"part": "agree", "family": name, **{f"{kind}_gradient": value for kind, value in gradients.items()}}

    figures = [
        family("Llama", packed=1e-6, checkpointed=3e-6, eager=0.0) | {"dtype": "float32"},
        family("Gemma2", packed=2e-6, chunks=5e-5, checkpointed=2e-6, eager=0.0) | {"dtype": "float32"},
        family("Llama", packed=0.02, checkpointed=0.03, eager=0.02) | {"dtype": "bfloat16"},
        family("Gemma2", packed=0.03, checkpointed=0.03, eager=0.03) | {"dtype": "bfloat16"},
    ]
    assert cell(figures, "gradients, 15 families") == "5e-05 (Gemma2; 2 families)"
    assert cell(figures, "the same in bfloat16") == "1.5 (Llama; 2 families)"


def test_ours_is_held_against_the_faster_peer_and_its_memory() -> None:
    figures = [
        {"part": "padded", "side": "ours", "pairs_a_second": 40.0, "peak_gib": 12.0},
        {"part": "padded", "side": "padded, 2 pairs at once", "pairs_a_second": 10.0, "peak_gib": 10.0},
        {"part": "padded", "side": "padded, 8 pairs at once", "pairs_a_second": 20.0, "peak_gib": 24.0},
    ]
    found = "2.00 times the pairs/s, 0.50 of its memory (padded, 8 pairs at once)"
    assert cell(figures, "against padded transformers") == found


def test_what_has_no_figure_or_failed_is_not_measured() -> None:
    failed = [{"part": "8b", "what": "reference pass", "failed": "OutOfMemoryError: no room"}]
    assert table(failed).count(UNKNOWN) == len(table(failed).splitlines()) - 2


def test_flops_are_those_of_the_shape() -> None:
    # 2 layers of 8 x 8 (q, o), 8 x 4 (k, v), 8 x 16 (three of the MLP); norms of 8, five; embeddings and head 16 x 8.
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    config = LlamaConfig(vocab_size=16, num_hidden_layers=2, tie_word_embeddings=False, **sizes)
    model, pair = random_model(config, torch.float32, "cpu"), Tokens([1, 2], [3, 4, 5], [6])
    layer = 2 * 64 + 2 * 32 + 3 * 128
    # Seen: the prompt 1 + 2, the chosen side 3 x 2 + 6, the rejected 1 x 2 + 1; 4 x 2 layers x 2 heads x 4 wide each.
    attention = 4 * 2 * 2 * 4 * (3 + 12 + 3)
    useful, whole = _flops(model, [pair], lora=False)
    assert useful == 3 * (2 * 2 * layer * 6 + 2 * 128 * 4 + attention)
    assert whole == 6 * (2 * layer + 5 * 8 + 128) * 6 + 3 * attention
    assert _flops(model, [pair], lora=True)[1] == 4 * (2 * layer + 5 * 8 + 128) * 6 + 3 * attention
    tied = random_model(
        LlamaConfig(vocab_size=16, num_hidden_layers=2, tie_word_embeddings=True, **sizes), torch.float32, "cpu"
    )
    assert _flops(tied, [pair], lora=False)[1] == whole


def test_shapes_have_the_parameters_of_their_models() -> None:
    for name, billions in (("1b", 1.236), ("8b", 8.030)):
        model = random_model(LlamaConfig(**SHAPES[name]), torch.bfloat16, "meta")
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)


def test_pairs_fill_what_they_may_and_are_the_same_each_time() -> None:
    pairs = pairs_of(20000, 500, 1000, seed=3)
    assert 18000 < sum(pair.packed for pair in pairs) <= 20000
    assert pairs == pairs_of(20000, 500, 1000, seed=3) != pairs_of(20000, 500, 1000, seed=4)
    assert pairs_of(30, 500, 1000)[0].packed == 30


def test_the_trainer_of_the_check_meets_its_own_reference(tmp_path: Path) -> None:
    model = random_model(LlamaConfig(**SMALL), torch.float32, "cpu")
    pairs = pairs_of(600, 60, 512)
    trainer = trainer_of(model, pairs, reference(model, pairs, 4096), tmp_path, steps=2, objective="mixdpo")
    while not trainer.done:
        trainer.step()
    routed = sum(record["sft_pairs"] for record in trainer.journal.steps)
    assert (len(trainer.journal.pairs), routed) == (len(pairs), len(pairs) // 8)


SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_part_notes_its_figures_at_once_and_goals_are_told(tmp_path: Path) -> None:
    done = check("--out", str(tmp_path), "--parts", "machine")
    assert done.returncode == 0, done.stderr
    figures = read(tmp_path / "figures.jsonl")
    assert [row["dtype"] for row in figures if "tflops" in row] == ["bfloat16", "float32"]
    assert (tmp_path / "goals.md").read_text() == table(figures) + "\n"
    assert len(list(tmp_path.iterdir())) == 3  # no more than come back from a machine that is lent


def test_what_is_left_of_the_time_is_not_begun_and_unknown_parts_are_refused(tmp_path: Path) -> None:
    late = check("--out", str(tmp_path), "--seconds", "1")
    assert (late.returncode, late.stdout.count("no time is left")) == (0, 6)
    assert check("--out", str(tmp_path), "--parts", "machine,agreed").returncode == 2


def test_the_documented_table_has_these_goals() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for goal, wanted, _ in GOALS:
        assert f"| {goal} | {wanted} | " in page


def test_families_are_fifteen() -> None:
    assert len(FAMILIES) == 15
