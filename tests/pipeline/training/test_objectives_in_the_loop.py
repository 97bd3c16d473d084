"""Every objective through the training loop: the same answer however a step is split, resumed or observed."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.compute.fused_head import fuse, is_fused
from pipeline.compute.selfcheck import chosen
from pipeline.errors import UserError
from pipeline.objectives.gamma import margins_at, solve_scalar
from pipeline.objectives.presets import PRESETS
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables
from pipeline.training.checkpoints import load, save
from pipeline.training.mismatched import rotated, write_asked
from tests.pipeline.training.training_bench import BATCH, TRAIN, Bench, pairs_log, run, steps_log, weights

SPLIT = {"micro_batch_tokens": 18, "logits_chunk": 2}
MIXED = {"schedule": {"sft_percentile": 34, "flip_fraction": 0.3}}
LIFTED = {"undesirable_weight": 0.25}  # of KTO, whose z is above 0 where other answers become likelier, too
REMEMBERING: list[tuple[str, dict[str, Any]]] = [
    ("gamma-dpo", {"tau": 0.3}),
    ("gamma-dpo", {"tau": 0.3, "queue": 5, "centred": False}),
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
    ("bmc", {"margin": "gamma"}),
]


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Llama"))


@pytest.fixture(scope="module")
def exact(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tables"), tiny_model("Phi"), dtype="float64")


def settings(name: str) -> dict[str, Any]:
    """What makes a step of this objective visit all it can do."""
    return MIXED if name == "mixdpo" else {"schedule": {"flip_fraction": 0.3}, **(LIFTED if name == "kto" else {})}


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


@pytest.mark.parametrize("name", PRESETS)
def test_a_resumed_run_is_the_uninterrupted_one(bench: Bench, name: str, tmp_path: Path) -> None:
    """To the bit, where the one went on after its checkpoint."""
    straight = run(bench.trainer(name, **settings(name)), steps=2)
    save(straight, tmp_path).result()
    learnt, logged = weights(run(straight)), pairs_log(straight)
    load(resumed := bench.trainer(name, journal=straight.journal.folder, **settings(name)), tmp_path)
    assert torch.equal(weights(run(resumed)), learnt) and pairs_log(resumed) == logged


AHEAD: list[tuple[str, dict[str, Any]]] = [
    ("mixdpo", {"centred": False}),
    ("confpo", {"margin": "gamma"}),
    ("fpo", {"margin": "gamma"}),
    ("mixdpo", {"preference": "confpo", "margin": "gamma"}),
]


@pytest.mark.parametrize(("name", "parameters"), AHEAD, ids=str)
def test_margins_of_a_step_over_its_own_gaps(
    exact: Bench, name: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    """They average to the base margin in every step, in whatever micro-batches, and are the problem's by its gaps."""
    given = {"tau": 0.3, "queue": "step", **settings(name), **parameters}
    whole, split = (run(exact.trainer(name, **given, resources=cut)) for cut in (None, SPLIT))
    torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-9)
    gamma0 = whole.objective.parameters.number("gamma0")
    moved = 0.0
    for record in steps_log(split):
        rows = [row for row in pairs_log(split) if row["step"] == record["step"] and row["route"] == "preference"]
        gaps = torch.tensor([row["gap"] for row in rows], dtype=torch.float64)
        assert record["queue_fill"] == 1
        if not rows or name == "fpo":  # which has a margin of its own beside it
            continue
        expected = margins_at(gaps, solve_scalar(gaps, gamma0, 0.3), gamma0, 0.3)
        taken_off = 0.0 if parameters.get("centred") is False or "confpo" in (name, *parameters.values()) else gamma0
        assert [row["margin"] + taken_off for row in rows] == pytest.approx(expected.tolist(), abs=1e-9)
        moved += float((expected - gamma0).abs().max())
    assert moved > 0 or name == "fpo"
    interrupted = run(exact.trainer(name, **given, resources=SPLIT), steps=2)
    save(interrupted, tmp_path).result()
    load(resumed := exact.trainer(name, journal=interrupted.journal.folder, **given, resources=SPLIT), tmp_path)
    assert torch.equal(weights(run(resumed)), weights(split)) and pairs_log(resumed) == pairs_log(split)


def test_gaps_that_are_foreseen_are_of_the_same_dropout(exact: Bench) -> None:
    lora = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.5}, "learning_rate": 0.05}
    trainer = run(exact.trainer("gamma-dpo", tau=0.3, queue="step", train=lora, resources=SPLIT))
    for record in steps_log(trainer):
        rows = [row for row in pairs_log(trainer) if row["step"] == record["step"]]
        assert sum(row["margin"] for row in rows) == pytest.approx(0.0, abs=1e-9)
    assert any(abs(row["margin"]) > 1e-6 for row in pairs_log(trainer))


def test_a_foreseen_gap_that_is_no_number_is_told_as_any(bench: Bench) -> None:
    trainer = bench.trainer("gamma-dpo", queue="step", train={"learning_rate": 1e30})
    with pytest.raises(UserError, match="pair-"):
        run(trainer)


def test_kto_by_hand(exact: Bench) -> None:
    """The second step by transformers' own logits: each prompt with an answer of the next pair, w and l in turn."""
    trainer = exact.trainer("kto", resources=SPLIT, **settings("kto"))
    before, now = (
        AutoModelForCausalLM.from_pretrained(exact.model, attn_implementation="eager", dtype=torch.float64).eval()
        for _ in range(2)
    )
    trainer.step()
    now.load_state_dict(trainer.policy.model.state_dict())
    trainer.step()

    def ratio(pair: Any, answer: list[int]) -> float:
        return logp(now, pair["prompt_ids"], answer) - logp(before, pair["prompt_ids"], answer)

    rows = [row for row in pairs_log(trainer) if row["step"] == 1]
    by_id = {pair["pair_id"]: pair for pair in exact.pairs}
    pairs = [by_id[row["pair_id"]] for row in rows]
    sides = [("rejected", "chosen") if row["flipped"] else ("chosen", "rejected") for row in rows]
    ratios = []
    for place, pair in enumerate(pairs):
        other = (place + 1) % BATCH
        ratios.append(ratio(pair, pairs[other][f"{sides[other][place % 2]}_ids"]))
    kl = max(0.0, sum(ratios) / BATCH)
    assert kl > 1e-3
    for row, pair, (w, r) in zip(rows, pairs, sides, strict=True):
        above, below = kl - ratio(pair, pair[f"{w}_ids"]), ratio(pair, pair[f"{r}_ids"]) - kl
        expected = 1 - 1 / (1 + math.exp(0.1 * above)) + 0.25 * (1 - 1 / (1 + math.exp(0.1 * below)))
        assert row["loss"] == pytest.approx(expected, rel=1e-8)


def logp(model: Any, prompt: list[int], answer: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return float(logits.double().log_softmax(1).gather(1, torch.tensor(answer)[:, None]).sum())


def test_a_step_of_one_pair_has_no_kl(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """As a last one may be. Pairs that go to SFT are no answers to compare with; z is 0, as apo-zero has it."""
    one = Bench(tmp_path, tiny_model("Llama"))
    trainer = run(
        one.trainer("mixdpo", preference="kto", schedule={"sft_percentile": 75})
    )  # of three steps one has 3 preference pairs, the others none
    assert [row["preference_pairs"] for row in steps_log(trainer)] == [3, 0, 0]
    alone = one.trainer("mixdpo", preference="kto", schedule={"sft_percentile": 92})
    assert alone.feed.take(0).mismatched == [] and alone.step()["preference_pairs"] == 1


def test_answers_to_the_same_prompt_are_not_mismatched(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    one = Bench(tmp_path, tiny_model("Llama"))
    epoch = one.epoch()
    counts = write_asked(epoch, tmp_path / "all", size=100, positions=None)
    assert dict(counts) == {"asked": TRAIN}
    longest = max(each.packed for k in range(3) for each in rotated(epoch.step(k)))
    assert write_asked(epoch, tmp_path / "short", 100, positions=longest - 1)["longer-than-model"] >= 1
    for pair in one.pairs:
        pair["prompt_ids"] = one.pairs[0]["prompt_ids"]
    for pair, scored in zip(one.pairs, one.reference, strict=True):
        scored["tokens_digest"] = tokens_digest(*(pair[f"{name}_ids"] for name in ("prompt", "chosen", "rejected")))
    one.write("pairs", one.pairs, tables.PAIRS)
    one.write("reference", one.reference, tables.REFERENCE)
    assert dict(write_asked(one.epoch(), tmp_path / "none", 100, None)) == {"same-prompt": TRAIN}


def test_a_wrong_cache_of_other_answers_is_refused(bench: Bench) -> None:
    trainer = bench.trainer("kto")
    step = trainer.feed.take(0)
    wrong = replace(step.mismatched[2].prompt, mismatched=(step.mismatched[2].prompt.mismatched or 0) - 0.01)
    others = [*step.mismatched]
    others[2] = replace(others[2], prompt=wrong)
    trainer.feed.ahead = None
    trainer.feed.prepare = lambda k: replace(step, mismatched=others)
    with pytest.raises(UserError, match=rf"pair {wrong.pair_id}: at step 0 the policy's mismatched log-prob"):
        trainer.step()


def test_a_wrong_cache_of_tokens_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Where sums that others read are right."""
    bench = Bench(tmp_path, tiny_model("Llama"))
    rows = tables.read(tmp_path / "reference-tokens", tables.TOKEN_VALUES).to_pylist()
    wrong = [row | {"chosen": [row["chosen"][0] - 0.01, *row["chosen"][1:]]} for row in rows]
    bench.write("reference-tokens", wrong, tables.TOKEN_VALUES)
    for name in (name for name, row in PRESETS.items() if row.token_columns):
        with pytest.raises(UserError, match="at step 0 the policy's chosen log-prob"):
            bench.trainer(name).step()
    bench.trainer("dpo").step()


def test_a_kl_that_is_no_number_stops_before_the_update(bench: Bench) -> None:
    """And is not 0."""
    trainer = run(bench.trainer("kto"), steps=1)
    before, step = weights(trainer).clone(), trainer.feed.take(1)
    spoilt = replace(step.mismatched[0].prompt, mismatched=math.nan)
    trainer.feed.ahead = None
    trainer.feed.prepare = lambda k: replace(
        step, mismatched=[replace(step.mismatched[0], prompt=spoilt), *step.mismatched[1:]]
    )
    with pytest.raises(UserError, match=f"step 1: the loss or the gap of {BATCH} pairs is not finite"):
        trainer.step()
    assert torch.equal(weights(trainer), before)


def test_a_weighted_gap_by_the_tables(exact: Bench) -> None:
    """The weights that are read are those of the pair's own tokens, of the side as it is trained."""
    weights_of = {
        row["pair_id"]: row for row in tables.read(exact.folder / "contrast", tables.TOKEN_VALUES).to_pylist()
    }
    trainer = exact.trainer("tis-dpo", schedule={"flip_fraction": 0.3}, resources=SPLIT)
    trainer.step()
    examples = trainer.epoch.step(1)
    assert any(example.flipped for k in range(3) for example in trainer.epoch.step(k))
    batch = trainer._recorded(examples)
    for i, example in enumerate(examples):
        row = weights_of[example.pair_id]
        sides = ("rejected", "chosen") if example.flipped else ("chosen", "rejected")
        for side, found in zip(sides, (batch.chosen_token_weights, batch.rejected_token_weights), strict=True):
            assert found is not None and found[i].tolist() == pytest.approx(row[side])
        reference = batch.reference_chosen_token_logps
        assert reference is not None and float(reference[i].sum()) == pytest.approx(example.reference[0], rel=1e-6)


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


NEEDED = {"scores": "rejected_score", "label_confidence": "label_confidence"}


@pytest.mark.parametrize(
    ("name", "column"),
    [(name, NEEDED[need]) for name, row in PRESETS.items() for need in row.needs if need in NEEDED],
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


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("cw-po", {"chosen_score": 0.0, "rejected_score": 1.0}, "no chosen answer is scored better"),
        ("cw-po", {"chosen_score": 1.0, "rejected_score": 1.0}, "no chosen answer is scored better"),
        ("scaled-dpo", {"chosen_score": 0.0, "rejected_score": 1.0}, "no chosen answer is scored better"),
        ("gdpo", {"label_confidence": 0.5}, "label_confidence is 0.5 of all"),
    ],
)
def test_pairs_that_all_weigh_nothing_are_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path, name: str, columns: dict[str, float], says: str
) -> None:
    """The trained model would be the one it began with. One pair that teaches is enough."""
    bench = Bench(tmp_path, tiny_model("Llama"))
    rows = bench.pairs
    bench.pairs = [row | columns for row in rows]
    bench.write("pairs", bench.pairs, tables.PAIRS)
    with pytest.raises(UserError, match=f"learn nothing of any of {TRAIN} pairs that were looked at: {says}"):
        bench.trainer(name)
    bench.write("pairs", [*bench.pairs[:7], rows[7], *bench.pairs[8:]], tables.PAIRS)
    assert bench.trainer(name).step()["loss"] >= 0
