"""Every objective through the training loop: the same answer however a step is split, resumed or observed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.compute.fused_head import fuse, is_fused
from pipeline.compute.selfcheck import chosen
from pipeline.errors import UserError
from pipeline.objectives.presets import PRESETS
from pipeline.results import tables
from pipeline.training.checkpoints import load, save
from tests.pipeline.training.training_bench import BATCH, TRAIN, Bench, pairs_log, run, steps_log, weights

SPLIT = {"micro_batch_tokens": 18, "logits_chunk": 2}
MIXED = {"schedule": {"sft_percentile": 34, "flip_fraction": 0.3}}
REMEMBERING: list[tuple[str, dict[str, Any]]] = [
    ("gamma-dpo", {"tau": 0.3}),
    ("gamma-simpo", {"tau": 2.0}),
    ("cpo-simpo", {"margin": "gamma"}),
    ("beta-dpo", {"keep": 0.5}),
    ("alpha-dpo", {}),
    ("amapo", {"margin": "gamma"}),
    ("gamma-dpo", {"solver": "paper"}),
    ("bco", {}),
    ("dr-dpo", {}),
    ("rappo", {"reference_ratio": 1e9}),
    ("re-po", {}),
    ("scaled-dpo", {"margin": "gamma"}),
]


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Llama"))


@pytest.fixture(scope="module")
def exact(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Phi"), dtype="float64")


def settings(name: str) -> dict[str, Any]:
    """What makes a step of this objective visit all it can do."""
    return {**MIXED, "preference": "gamma-dpo"} if name == "mixdpo" else {"schedule": {"flip_fraction": 0.3}}


@pytest.mark.parametrize("name", PRESETS)
def test_micro_batches_do_not_change_the_answer(exact: Bench, name: str) -> None:
    whole, split = (run(exact.trainer(name, **settings(name), resources=cut)) for cut in (None, SPLIT))
    torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-9)
    for a, b in zip(pairs_log(whole), pairs_log(split), strict=True):
        assert a["pair_id"] == b["pair_id"]
        assert [a[key] for key in ("loss", "gap", "margin", "weight")] == [
            None if b[key] is None else pytest.approx(b[key], rel=1e-7, abs=1e-7)
            for key in ("loss", "gap", "margin", "weight")
        ]
    for record in steps_log(whole):
        losses = [row["loss"] for row in pairs_log(whole) if row["step"] == record["step"]]
        assert record["loss"] == pytest.approx(sum(losses) / len(losses))
    assert float((weights(whole) - weights(exact.trainer(name, **settings(name)))).norm()) > 0


@pytest.mark.parametrize(("name", "parameters"), REMEMBERING)
def test_what_is_remembered_survives_a_checkpoint(
    bench: Bench, name: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    straight, interrupted = (run(bench.trainer(name, **parameters), steps) for steps in (100, 2))
    save(interrupted, tmp_path).result()
    kept = interrupted.journal.folder
    load(resumed := bench.trainer(name, journal=kept, **parameters), tmp_path)
    assert torch.equal(weights(run(resumed)), weights(straight))
    load(forgetful := bench.trainer(name, journal=kept, **parameters), tmp_path)
    forgetful.state = bench.trainer(name, **parameters).state
    assert not torch.equal(weights(run(forgetful)), weights(straight))  # so there was something to remember


def test_the_mean_over_tokens_is_over_the_whole_step(bench: Bench) -> None:
    """CPO's NLL at step 0, by the cached scores: all chosen tokens of the step share one mean."""
    cached = {row["pair_id"]: row for row in bench.reference}
    trainer = bench.trainer("cpo", beta=1e-12, nll_weight=2.0, resources=SPLIT)
    record = trainer.step()
    first = [cached[row["pair_id"]] for row in pairs_log(trainer)]
    nll = -sum(row["chosen_logps"] for row in first) / sum(row["chosen_tokens"] for row in first)
    assert record["loss"] == pytest.approx(math.log(2) + 2 * nll, rel=1e-5)


def test_flipped_pairs_are_told_apart(bench: Bench) -> None:
    trainer = run(bench.trainer("dpo", schedule={"flip_fraction": 0.5, "seed": 3}))
    for record in steps_log(trainer):
        rows = [row for row in pairs_log(trainer) if row["step"] == record["step"]]
        for suffix, flipped in (("_clean", False), ("_flipped", True)):
            gaps = [row["gap"] for row in rows if row["flipped"] is flipped]
            expected = pytest.approx(sum(gaps) / len(gaps)) if gaps else None
            assert record[f"gap{suffix}"] == expected
    assert 0 < sum(row["flipped"] for row in pairs_log(trainer)) < TRAIN


def test_what_a_step_says_of_its_margins(bench: Bench) -> None:
    """Queue fill counts gaps seen before and in the step; the noise rate is of gamma-PO's margins alone."""
    records = steps_log(run(bench.trainer("gamma-dpo", tau=0.3)))
    assert [record["queue_fill"] for record in records] == pytest.approx([BATCH / TRAIN, 2 * BATCH / TRAIN, 1])
    assert records[0]["noise_rate_null"] is None and records[1]["noise_rate_null"] is not None
    for record in records:
        assert record["gap_q10"] <= record["gap_q50"] <= record["gap_q90"]
        assert set(record) == set(tables.STEPS.names)
    plain = steps_log(run(bench.trainer("dpo")))[-1]
    assert plain["queue_fill"] is None and plain["noise_rate"] is None and plain["margin_q90"] == 0


def test_held_out_pairs_of_a_member_that_looks_at_tokens(bench: Bench) -> None:
    figures = bench.trainer("confpo").held_out()
    assert set(figures) == {"pairs", "after"} and 0 <= figures["after"]["accuracy"] <= 1


def test_the_weight_of_wpo_by_the_whole_softmax(exact: Bench) -> None:
    """At step 0, where a pair's slope is a half, by transformers' own logits."""
    trainer = exact.trainer("wpo", resources=SPLIT)
    model = AutoModelForCausalLM.from_pretrained(exact.model, attn_implementation="eager", dtype=torch.float64).eval()
    trainer.step()
    pairs = {row["pair_id"]: row for row in exact.pairs}
    for row in pairs_log(trainer):
        likely, pair = 0.0, pairs[row["pair_id"]]
        for side in (pair["chosen_ids"], pair["rejected_ids"]):
            ids = torch.tensor([[*pair["prompt_ids"], *side]])
            with torch.no_grad():
                p_NV = model(input_ids=ids, use_cache=False).logits[0, len(pair["prompt_ids"]) - 1 : -1].softmax(1)
            own_N = p_NV.gather(1, torch.tensor(side)[:, None]).squeeze(1)
            likely += float((own_N.log() - p_NV.square().sum(1).log()).mean())
        assert row["weight"] == pytest.approx(min(1.0, math.exp(likely)) / 2, rel=1e-6)  # float32 in it


def test_a_head_that_is_asked_for_more_than_log_probs_is_not_the_fused_one(bench: Bench) -> None:
    """And that is said. The reference's pass, and other objectives, keep it."""
    for name, fused in (("wpo", False), ("dpo", True)):
        model = bench.base()
        fuse(model, True)
        model.get_output_embeddings().__class__ = torch.nn.Linear  # as on a GPU; on a CPU it is compute/cpu.py's
        made = bench.trainer(name, model=model)
        assert is_fused(made.policy.model) == fused
        assert ("in chunks, as the objective reads more" in str(chosen(made.policy.model))) == (not fused)


def test_a_source_a_pair_is_none_to_estimate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names are not kept, and whoever asks for them is told; nobody else notices."""
    monkeypatch.setattr("pipeline.training.join.MOST_SOURCES", 1)
    with pytest.raises(UserError, match=r"of more than 10,000 sources\n.*data.columns.source"):
        bench.trainer("re-po")
    bench.trainer("dpo").step()


def test_reliability_by_hand_and_over_a_restart(bench: Bench, tmp_path: Path) -> None:
    """Of each source of a step, with the pairs it has there; a row once, though the run was killed between."""
    folder = bench.folder / "killed"
    interrupted = run(bench.trainer("re-po", journal=folder, adaptation=0.5), steps=2)
    save(interrupted, tmp_path).result()
    run(interrupted)
    interrupted.journal.write()  # rows that no checkpoint covers
    load(resumed := bench.trainer("re-po", journal=folder, adaptation=0.5), tmp_path)
    run(resumed).journal.export(folder)
    rows = tables.read(folder, tables.RELIABILITY, pattern="reliability.parquet").to_pylist()
    pairs = {row["pair_id"]: row["source"] for row in bench.pairs}
    right, expected = {"web": 0.9, "staff": 0.9}, []
    for step in range(TRAIN // BATCH):
        seen = [(pairs[row["pair_id"]], row["gap"]) for row in pairs_log(resumed) if row["step"] == step]
        for source in resumed.epoch.sources or ():
            own = [1 / (1 + math.exp(-gap) * (1 - right[source]) / right[source]) for at, gap in seen if at == source]
            if own:
                right[source] = right[source] / 2 + sum(own) / len(own) / 2
                expected.append((step, source, len(own), pytest.approx(1 - right[source], rel=1e-12)))
    assert [tuple(row.values()) for row in rows] == expected and len(expected) == 6
    bench.trainer("dpo").journal.export(tmp_path)
    assert not (tmp_path / "reliability.parquet").exists()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *((name, "rejected_score") for name in ("odpo", "rating-dpo", "mmpo", "cw-po", "scaled-dpo")),
        *((name, "label_confidence") for name in ("gdpo", "cdpo-soft", "sppo")),
    ],
)
def test_a_pair_without_what_the_objective_needs_is_named(
    tiny_model: Callable[[str], Path], tmp_path: Path, name: str, column: str
) -> None:
    bench = Bench(tmp_path, tiny_model("Llama"))
    bench.pairs[4][column] = None
    bench.write("pairs", bench.pairs, tables.PAIRS)
    with pytest.raises(UserError, match=f"needs {column} of every pair, and pair pair-04 has none"):
        bench.trainer(name)
    bench.trainer("dpo").step()
