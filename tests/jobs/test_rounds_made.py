"""Two rounds from prompts to their page in one process: the stages themselves, without Ray and without an engine.

What a sampler would have answered is made up; scores, training and export are real. Through the doors: tests/e2e.
"""

import json
import random
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.training import EPOCH, JOURNAL, WorkerSpec
from jobs import rounds
from jobs.common.earlier import Earlier
from jobs.common.epoch import joined
from jobs.common.models import reference_model, start_model
from jobs.common.rounds_page import raters
from jobs.common.stage import Outcome, Work, make, manifest
from jobs.sample import describe
from pipeline.compute.models import load_model
from pipeline.compute.scoring import score_part
from pipeline.line.rounds import Series, plan_rounds
from pipeline.line.steps import START, Plan, Step
from pipeline.objectives import build
from pipeline.onpolicy.candidates import answered, of_prompt
from pipeline.onpolicy.prompts import read_prompts
from pipeline.preferences.tokenise import open_tokeniser
from pipeline.results import tables
from pipeline.training.epoch import Epoch
from pipeline.training.join import join
from pipeline.training.journal import Journal
from pipeline.training.loop import Trainer
from tests.jobs.conftest import Place

WORDS = ("red", "Green.", "blue,", "Cat!", "DOG", "sun?", "\n- one", "\n2. two", "3")


@pytest.fixture
def given(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("sys.argv", ["rounds"])
    sections: dict[str, Any] = {
        "name": "r",
        "rounds": {"count": 2, "mix": "all", "until": "train"},
        "data": {"source": "sampled", "dev_fraction": 0.5, "shard_pairs": 4, "max_prompt_tokens": 2000},
        "sample": {"prompts": {"limit": 48}, "n": 4, "max_new_tokens": 8},
        "objective": {"name": "gamma-dpo", "beta": 0.5, "gamma0": 1.0, "tau": 1.0},
        "train": {"batch_size": 4, "learning_rate": 0.03, "lr_schedule": "constant", "warmup_fraction": 0.0},
    }
    return ["--config", place.config(**sections), *place.given]


def finish(plan: Plan, step: Step, outcome: Outcome) -> None:
    step.address.commit(manifest(plan, step, outcome, 1.0), outcome.rows)


def sample(plan: Plan) -> None:
    """Made-up answers of several words, the same for the same prompt and round."""
    step, asked = plan.steps["sample"], read_prompts(plan.config.sample.prompts)
    tokeniser = open_tokeniser(start_model(plan), 1, 1)
    said = {"answered_by": "model", "finish_reason": "stop", "seed": 1, "logp": -1.0}
    with step.address.writing() as folder:
        rows = []
        for prompt in asked.prompts.values():
            for number in range(plan.config.sample.n):
                draw = random.Random(f"{plan.config.name}{prompt.prompt_id}{number}")
                text = " ".join(draw.choices(WORDS, k=(1, 4, 12, 30)[number]))
                ids = tokeniser.answer(prompt.messages, {"role": "assistant", "content": text})
                assert isinstance(ids, list)
                own = said | {"finish_reason": "length" if number == 3 else "stop"}
                rows.append(answered(of_prompt(prompt), text, ids, sample=number, **own))
                if number == 0:
                    data = {"answered_by": "chosen", "finish_reason": "data", "sample": 0}
                    rows.append(answered(of_prompt(prompt), text, ids, **data))
        name = "part-model-00000-000.parquet"
        outcome = Outcome({name: tables.write(rows, tables.CANDIDATES, folder / name)})
        describe(outcome, asked, Earlier(), Work(plan, step, {}, folder))
        finish(plan, step, outcome)


def score(plan: Plan, step: Step) -> None:
    """What jobs.reference has its actors do."""
    model = load_model(start_model(plan) if step.name == START else reference_model(plan), plan.config.model.dtype)
    pairs = step.input("pairs").path
    with step.address.writing() as folder:
        parts = sorted(pairs.glob("part-*.parquet"))
        rows = {part.name: score_part(model, part, folder / part.name, 100_000, 256).rows for part in parts}
        finish(plan, step, Outcome(rows))


def train(plan: Plan) -> None:
    """What jobs.train has its worker do."""
    from actors.worker import export

    step, config = plan.steps["train"], plan.config
    inputs = {role: step.input(role) for role in step.inputs}
    with step.address.writing() as folder:
        join(**joined(Work(plan, step, inputs, folder)), folder=folder / EPOCH)
        trainer = Trainer(
            load_model(start_model(plan), config.model.dtype, to_train=True),
            build(config.objective.name, **config.objective.parameters),
            Epoch(folder / EPOCH, config.train.batch_size),
            config.train,
            config.resources,
            journal=Journal(folder / JOURNAL),
        )
        while not trainer.done:
            trainer.step()
        export(trainer, WorkerSpec(config, str(start_model(plan)), str(folder), "", threads=1))
        held_out = json.loads((folder / "held_out.json").read_text())
        finish(plan, step, Outcome({}, metrics={"held_out": held_out}))


def made(series: Series, number: int) -> Plan:
    plan = series.planned[number - 1]
    by_hand = {"sample": lambda step: sample(plan), "train": lambda step: train(plan)}
    for step in series.steps_of(plan):
        if step.stage == "reference":
            score(plan, step)
        elif step.stage in by_hand:
            by_hand[step.stage](step)
        else:
            make(plan, step)
    return plan


def test_two_rounds_and_their_page(given: list[str], place: Place) -> None:
    made(plan_rounds(given[1], given[2:]), 1)
    series = rounds.known(plan_rounds(given[1], given[2:]), 2)
    first, second = series.planned[0], made(series, 2)

    # The second trained from the first's model, and was held against its scores and not against the base model's.
    assert second.start.path == first.steps["train"].address.path / "model" != second.reference.path
    steps = pq.read_table(second.steps["train"].address.path / "steps.parquet").to_pylist()
    assert steps[0]["gap"] != 0 and steps[0]["queue_fill"] > 0
    held_out = [
        json.loads((plan.steps["train"].address.path / "held_out.json").read_text()) for plan in (first, second)
    ]
    assert held_out[0]["before"]["gap"] == 0 != held_out[1]["before"]["gap"]
    assert steps[0]["queue_fill"] > 0

    # Prompts of the second are others; the first's pairs joined, and every pair is accounted for.
    ledgers = [plan.steps["prepare"].address.find().manifest["ledger"] for plan in (first, second)]  # type: ignore[union-attr]
    own, earlier = ledgers[1]["joined"]
    assert "joined" not in ledgers[0] and own["rows"] + earlier["rows"] == ledgers[1]["read"]
    assert own["kept"] + earlier["kept"] == ledgers[1]["kept"] and earlier["kept"] == ledgers[0]["kept"]
    folders = (plan.steps["sample"].address.path for plan in (first, second))
    asked = [{*tables.read(each, tables.CANDIDATES, ["prompt_id"])["prompt_id"].to_pylist()} for each in folders]
    assert len(asked[0]) == len(asked[1]) == 48 and not asked[0] & asked[1]

    page = series.page()
    assert page is not None
    artifact = make(series, page)
    one, two = artifact.manifest["metrics"]["rounds"]
    assert (one["number"], two["number"], one["earlier"], two["earlier"]) == (1, 2, 0, earlier["kept"])
    for each in (one, two):
        reward = each["rewards"]["rules"]
        assert reward["chosen"] > reward["rejected"] and 0 <= each["longer"] <= 1
        assert each["prompts"] == 48 and each["answers"] == 240 and each["cut"] == 0.25  # of those that were sampled
        assert each["pairs"] > 4 and each["win_rate"] is None
    rater = second.steps["rate:rules"].address.find()
    assert raters({"rate:rules-2": rater, "pair": rater}) == [("rules-2", rater)]  # type: ignore[dict-item]
    html = (artifact.path / "rounds.html").read_text(encoding="utf-8")
    assert "the model of round 1" in html and html.rstrip().endswith("</html>")
    assert not any(series.pending(plan) for plan in series.planned)
