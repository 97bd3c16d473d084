"""Answers of a model's own through the doors: sampled, rated by rules and by a reward model, paired, prepared."""

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from jobs.common.stage import Outcome, manifest
from pipeline.line.plan import make_plan
from pipeline.onpolicy.candidates import references
from pipeline.onpolicy.prompts import read_prompts
from pipeline.preferences.messages import Dropped
from pipeline.preferences.tokenise import open_tokeniser
from pipeline.results import tables
from pipeline.settings.config import load
from tests.e2e.conftest import Head
from tests.e2e.doors import REPOSITORY, made, only, rows
from tests.e2e.running import Calm, actors, beside, same_parts, start, submit, until

pytestmark = pytest.mark.e2e

PAIRS_FILE = REPOSITORY.parent / "shared" / "data" / "pairs" / "alpaca_margin_pairs.jsonl"
GIVEN = (
    *("data=sampled", "sample.prompts.limit=16", "sample.n=4", "sample.max_new_tokens=12", "sample.temperature=1.5"),
    *("sample.shard_prompts=4", "pair.cut=keep"),
)


@pytest.fixture(scope="module")
def reward_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of one label, whose padding is the token that ends a turn."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "rm", AutoTokenizer.from_pretrained(tiny)
    config = AutoConfig.from_pretrained(tiny, num_labels=1, pad_token_id=tokenizer.eos_token_id)
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def calm(tiny: Path, reward_model: Path, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """All that stands before the reference, without a fault."""
    root = tmp_path_factory.mktemp("rated")
    given = (f"model={tiny}", f"resources.root={root}", *GIVEN, f"rate.raters=[rules, {reward_model}]")
    said = made("run", *given, "--until", "prepare", environment=head.environment)
    assert "rate:rm: float32 on a CPU; attention packed, a side at a time" in said
    return Calm(root, given)


def test_sampled_rated_paired_and_prepared(calm: Calm, reward_model: Path, head: Head) -> None:
    root = calm.root
    candidates = {row["candidate_id"]: row for row in rows(only(root, "sample"))}
    rules, rewards = (
        {row["candidate_id"]: row["score"] for row in rows(only(root, "rate", label))} for label in ("rules-*", "rm-*")
    )
    assert rules.keys() == rewards.keys() == candidates.keys()
    assert rewards == pytest.approx(by_transformers(reward_model, candidates.values()), abs=1e-5)

    # By hand: mean ranks within each prompt, the best with the worst.
    selected = {row["prompt_id"]: row for row in rows(only(root, "pair"))}
    ledger = json.loads((only(root, "pair") / "manifest.json").read_text())["ledger"]
    assert ledger["prompts"] == 16 == len(selected) + sum(ledger["unpaired"].values()) and len(selected) > 8
    for prompt_id, row in selected.items():
        own = {name for name, each in candidates.items() if each["prompt_id"] == prompt_id}

        def rank(name: str, scores: dict[str, float], own: set[str]) -> float:
            beaten = [(scores[name] > scores[other]) + (scores[name] == scores[other]) / 2 for other in own - {name}]
            return sum(beaten) / len(beaten)

        ranks = {name: (rank(name, rules, own) + rank(name, rewards, own)) / 2 for name in own}
        assert row["chosen_score"] == pytest.approx(max(ranks.values())) == pytest.approx(ranks[row["chosen_id"]])
        assert row["rejected_score"] == pytest.approx(min(ranks.values())) == pytest.approx(ranks[row["rejected_id"]])
        assert row["chosen"] == candidates[row["chosen_id"]]["response"]

    prepared = rows(only(root, "prepare"))
    assert {(row["prompt"], row["chosen_score"]) for row in prepared} <= {
        (row["prompt"], row["chosen_score"]) for row in selected.values()
    }
    assert len(prepared) + sum(dropped(root).values()) == len(selected)

    again = made("run", *calm.settings, "pair.min_margin=0.5", "--until", "pair", environment=head.environment)
    assert again.count("committed already, kept") == 3 and "pair: making" in again


def test_a_killed_rater_is_replaced_and_a_killed_stage_goes_on(calm: Calm, head: Head, tmp_path: Path) -> None:
    """The actor as soon as it is there, and the driver as soon as another has rated a part."""
    given = beside(calm, tmp_path, "sample")
    driver = start(head, "rate", *given)
    until(lambda: actors(head.pid, "ModelRater"), driver)
    for rater in actors(head.pid, "ModelRater"):
        rater.kill()
    until(lambda: list(tmp_path.glob("rate/rm-*.partial/part-*.parquet")), driver, pause=0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    said = made("rate", *given, environment=head.environment)
    assert "rate:rules: committed already, kept" in said
    assert same_parts(only(calm.root, "rate", "rm-*"), only(tmp_path, "rate", "rm-*"))


@pytest.mark.skipif(not PAIRS_FILE.exists(), reason="needs the real pairs in ../shared/data/pairs")
def test_real_answers_are_rated_as_by_transformers_and_make_the_pairs_of_a_table(
    tiny: Path, reward_model: Path, head: Head, tmp_path: Path
) -> None:
    """People's own completions as candidates, in two shards: the doors rate and pair against one by one, by hand."""
    given = (
        *(f"model={tiny}", f"resources.root={tmp_path}", "data=sampled", f"rate.raters=[{reward_model}]"),
        *(f"sample.prompts.source={PAIRS_FILE}", "sample.prompts.limit=20"),
    )
    plan = make_plan(load(str(REPOSITORY / "configs" / "smoke.yaml"), given))
    step, tokeniser = plan.steps["sample"], open_tokeniser(tiny, 1, 1)
    asked = read_prompts(plan.config.sample.prompts).prompts.values()
    answers = [each for prompt in asked for each in references(prompt, tokeniser) if not isinstance(each, Dropped)]
    with step.address.writing() as folder:
        parts = {"part-0.parquet": answers[1::2], "part-1.parquet": answers[::2]}  # of each prompt one in each
        written = {name: tables.write(rows, tables.CANDIDATES, folder / name) for name, rows in parts.items()}
        step.address.commit(manifest(plan, step, Outcome(written), 0.0), written)
    impatient = {"RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "1"}  # a part that takes longer ends no stage
    made("run", *given, "--until", "pair", environment=head.environment | impatient)

    right = by_transformers(reward_model, answers)
    scores = {row["candidate_id"]: row["score"] for row in rows(only(tmp_path, "rate"))}
    assert len(scores) == len(right) == 40 and scores == pytest.approx(right, abs=1e-5)
    table = set()
    for prompt_id in {row["prompt_id"] for row in answers}:
        one, other = sorted(
            (row["candidate_id"] for row in answers if row["prompt_id"] == prompt_id), key=right.__getitem__
        )
        table.add((prompt_id, other, one))
    selected = rows(only(tmp_path, "pair"))
    assert {(row["prompt_id"], row["chosen_id"], row["rejected_id"]) for row in selected} == table and len(table) == 20
    for row in selected:
        assert row["margin"] == pytest.approx(right[row["chosen_id"]] - right[row["rejected_id"]], abs=2e-5)


def by_transformers(reward_model: Path, candidates: Iterable[dict[str, Any]]) -> dict[str, float]:
    """By candidate, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model)
    model.config.pad_token_id = None
    found = {}
    for row in candidates:
        talk = [*json.loads(row["prompt"]), {"role": "assistant", "content": row["response"]}]
        ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            found[row["candidate_id"]] = float(model(ids).logits)
    return found


def dropped(root: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((only(root, "prepare") / "manifest.json").read_text())["ledger"]["dropped"]
    return found


def test_two_rounds_killed_between_and_within_them(calm: Calm, reward_model: Path, head: Head, tmp_path: Path) -> None:
    """The second goes on from what the first has trained. What the first sampled is found where a run left it."""
    rounds = ("rounds={count: 2, mix: all, until: train}", f"rate.raters={reward_model}", "data.dev_fraction=0.2")
    given = (*beside(calm, tmp_path, "sample", "rate"), *rounds)
    driver = start(head, "rounds", *given)
    until(lambda: list(tmp_path.glob("train/*/manifest.json")), driver)
    os.kill(driver.pid, signal.SIGKILL)
    before = driver.communicate()[0]
    assert before.count("committed already, kept") == 2 and "round 1 of 2" in before
    driver = start(head, "rounds", *given)
    until(lambda: list(tmp_path.glob("reference/model-*.partial/part-*.parquet")), driver, pause=0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    said = submit(head, "rounds", *given)
    assert "rounds: round 1 of 2, 0 results to make" in said
    assert "reference:start: making" in said and "sample: making" not in said

    first, second = sorted(
        (json.loads(file.read_text()) for file in tmp_path.glob("train/*/manifest.json")),
        key=lambda made: "start" in made["inputs"],
    )
    assert second["inputs"]["start"]["stage"] == "reference:start" and "start" not in first["inputs"]
    trained = pq.read_table(only(tmp_path, "train", f"*-{second['fingerprint'][:12]}") / "steps.parquet").to_pylist()
    assert trained[0]["gap"] != 0 and trained[0]["queue_fill"] > 0  # it is measured against the base model
    (ledger,) = (made["ledger"] for made in prepared(tmp_path) if "joined" in made["ledger"])
    own, earlier = ledger["joined"]
    assert ledger["read"] == own["rows"] + earlier["rows"] and ledger["kept"] == own["kept"] + earlier["kept"]
    page = only(tmp_path, "rounds")
    one, two = json.loads((page / "manifest.json").read_text())["metrics"]["rounds"]
    assert (one["prompts"], two["prompts"], one["earlier"], two["earlier"]) == (16, 16, 0, earlier["kept"])
    assert one["pairs"] == earlier["rows"] and two["pairs"] == own["rows"] and one["accuracy"] is not None
    assert two["rewards"]["rm"]["chosen"] > two["rewards"]["rm"]["rejected"]
    html = (page / "rounds.html").read_text(encoding="utf-8")
    assert "round 1" in html and "the model of round 1" in html and html.rstrip().endswith("</html>")


def prepared(root: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in root.glob("prepare/*/manifest.json")]
