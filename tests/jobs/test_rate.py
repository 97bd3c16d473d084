"""Stages rate and pair on candidates that are there: rules, a judge at an endpoint, and what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from jobs.common.own_answers import own_answers
from jobs.common.stage import Outcome, Work, make, manifest
from pipeline.errors import UserError
from pipeline.line.check import faults
from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.onpolicy.describing import warnings
from pipeline.preferences.constraints import Constraint
from pipeline.preferences.verifiable import Question
from pipeline.results import tables
from pipeline.settings.config import RunConfig
from tests.conftest import family_config
from tests.judge_server import Answer, judge_server
from tests.pipeline.onpolicy.test_choosing_blocks import Row, candidate
from tests.pipeline.preferences.families import tokenizer
from tests.pipeline.preferences.talks import CHATML

LOWER = Question("q", [], (Constraint("lower", {}),), ("Use small letters.",))
META = json.dumps(LOWER.meta)
ROWS = [
    *(candidate(1, text, [number], response=text, meta=META) for number, text in enumerate(["low", "LOUD", "Loud"])),
    *(candidate(2, text, [number], response=text, meta=META) for number, text in enumerate(["same", "small"])),
]


@pytest.fixture
def sampled(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Plan]:
    """A plan whose candidates are made."""

    def planned(rows: Sequence[Row] = ROWS, **sections: Any) -> Plan:
        given = {"model": str(tiny_model("Llama")), "data": "sampled", "resources": {"root": str(tmp_path)}}
        plan = make_plan(RunConfig.model_validate(given | sections))
        step = plan.steps["sample"]
        if not step.address.find():
            with step.address.writing() as folder:
                outcome = Outcome({"part-0.parquet": tables.write(rows, tables.CANDIDATES, folder / "part-0.parquet")})
                step.address.commit(manifest(plan, step, outcome, 0.0), outcome.rows)
        return plan

    return planned


def test_rules_and_pairs(sampled: Callable[..., Plan]) -> None:
    plan = sampled()
    rated = make(plan, plan.steps["rate:rules"]).manifest
    assert rated["ledger"] == {"answers": 5, "scored": 5, "unrated": {}}
    assert rated["metrics"]["scores"]["distinct"] == 2
    paired = make(plan, plan.steps["pair"])
    ledger = {"prompts": 2, "paired": 1, "unpaired": {"all-equal": 1}, "pairs": 1, "beyond_cap": 0}
    assert paired.manifest["ledger"] == ledger
    (pair,) = tables.read(paired.path, tables.SELECTED).to_pylist()
    assert pair["chosen"] == "low" and pair["rejected"] in ("LOUD", "Loud") and pair["margin"] == 1.0


def test_a_judge_rates_beside_the_rules(sampled: Callable[..., Plan]) -> None:
    """By its label, one request an answer; words without a rating are no score."""

    def script(asked: str, _: int) -> Answer:
        return Answer(next(told for text, told in SAID.items() if f"\n{text}\n" in asked))

    SAID = {"low": "Fine. [[4]]", "LOUD": "[[9]]", "Loud": "No idea.", "same": "[[2]]", "small": "[[11]]"}
    with judge_server(script) as judge:
        given = {
            "rate": {"raters": ["rules", {"judge": "wise"}], "combine": "mean", "max_missing": 0.5},
            "judge": {"max_tokens": 64},
        }
        plan = sampled(**given, resources={"root": str(sampled_root(sampled)), "judge_endpoint": {"url": judge.url}})
        found = make(plan, plan.steps["rate:wise"])
        assert len(judge.bodies) == 5 and {body["model"] for body in judge.bodies} == {"wise"}
        assert {body["max_tokens"] for body in judge.bodies} == {64}
    scores = {row["candidate_id"]: row["score"] for row in tables.read(found.path, tables.SCORES).to_pylist()}
    assert scores == {"1/low": 4.0, "1/LOUD": 9.0, "1/Loud": None, "2/same": 2.0, "2/small": None}
    assert found.manifest["ledger"]["unrated"] == {"unparsable": 2}
    make(plan, plan.steps["rate:rules"])
    paired = make(plan, plan.steps["pair"])
    (pair,) = tables.read(paired.path, tables.SELECTED).to_pylist()
    assert (pair["chosen"], pair["chosen_score"], pair["rejected"], pair["rejected_score"]) == ("LOUD", 4.5, "low", 2.5)
    assert paired.manifest["ledger"]["unpaired"] == {"unrated": 1}


def sampled_root(sampled: Callable[..., Plan]) -> Path:
    return sampled().steps["sample"].address.root


def test_a_judge_that_rates_few_is_refused_and_not_asked_again(sampled: Callable[..., Plan]) -> None:
    root = sampled_root(sampled)

    rate = {"raters": [{"judge": "wise"}]}
    with judge_server(lambda asked, _: Answer("[[5]]" if "LOUD" in asked else "well")) as judge:
        endpoint = {"url": judge.url, "retries": 0}
        plan = sampled(rate=rate, resources={"root": str(root), "judge_endpoint": endpoint})
        with pytest.raises(UserError, match=r"the rater wise gives 4 of 5 answers no score: \{'unparsable': 4\}"):
            make(plan, plan.steps["rate:wise"])
        assert not plan.steps["rate:wise"].address.find()
        assert len(judge.bodies) == 5
        with pytest.raises(UserError, match=r"rate\.max_missing=0\.05"):
            make(plan, plan.steps["rate:wise"])
        assert len(judge.bodies) == 5  # what was said is kept


def test_an_endpoint_that_rates_half_is_asked_for_the_other_half_alone(sampled: Callable[..., Plan]) -> None:
    """What it did rate is kept, and stands beside what it rates once it is mended."""
    root, broken = sampled_root(sampled), True

    def script(asked: str, _: int) -> Answer:
        ill = broken and any(f"\n{text}\n" in asked for text in ("LOUD", "Loud", "small"))
        return Answer(f"[[{len(asked) % 10 + 1}]]", status=503 if ill else 200)

    with judge_server(script) as judge:
        endpoint = {"url": judge.url, "retries": 0}
        plan = sampled(rate={"raters": [{"judge": "wise"}]}, resources={"root": str(root), "judge_endpoint": endpoint})
        with pytest.raises(UserError, match=r"gives 3 of 5 answers no score: \{'missing': 3\}\n(.|\n)*503"):
            make(plan, plan.steps["rate:wise"])
        broken = False
        rated = make(plan, plan.steps["rate:wise"])
        assert len(judge.bodies) == 8 and rated.manifest["ledger"] == {"answers": 5, "scored": 5, "unrated": {}}
        broken, plan = (
            True,
            sampled(
                rate={"raters": [{"judge": "wiser"}], "max_missing": 0.6},
                resources={"root": str(root), "judge_endpoint": endpoint},
            ),
        )
        make(plan, plan.steps["rate:wiser"])
        with pytest.raises(UserError, match=r"none of 2 prompts has a pair: \{'unrated': 2\}"):
            make(plan, plan.steps["pair"])  # one answer of each prompt has a score


def test_where_no_prompt_has_a_pair_it_is_told(sampled: Callable[..., Plan]) -> None:
    plan = sampled(ROWS[3:])
    make(plan, plan.steps["rate:rules"])
    with pytest.raises(UserError, match=r"none of 1 prompts has a pair: \{'all-equal': 1\}"):
        make(plan, plan.steps["pair"])


def test_the_report_shows_what_became_of_the_answers(sampled: Callable[..., Plan], tmp_path: Path) -> None:
    plan = sampled()
    inputs = {name.replace(":", "_"): make(plan, plan.steps[name]) for name in ("sample", "rate:rules", "pair")}
    found = own_answers(Work(plan, plan.steps["report"], inputs, tmp_path))
    assert found and (found.prompts, found.answers, found.pairs, found.unpaired) == (2, 5, 1, {"all-equal": 1})
    assert found.groups["chosen"].scores == {"rules": 1.0} and found.rewards["rules"].distinct == 2
    assert found.agreement == [] and found.rewards["rules"].rounded is None
    assert "1 of 2 prompts have no pair, most of them as all-equal." in warnings(found)


def test_the_report_finds_a_rater_by_its_name_whatever_is_in_it(sampled: Callable[..., Plan], tmp_path: Path) -> None:
    """As servers name models: llama3:8b, or ft:gpt:owner."""
    root = sampled_root(sampled)
    with judge_server(lambda asked, _: Answer(f"[[{len(asked) % 10 + 1}]]")) as judge:
        rate = {"raters": ["rules", {"judge": "own/llama3:8b"}]}
        plan = sampled(rate=rate, resources={"root": str(root), "judge_endpoint": {"url": judge.url}})
        steps = [plan.steps[name] for name in plan.steps if plan.steps[name].stage in ("sample", "rate", "pair")]
        made = {step.name: make(plan, step) for step in steps}
    report = plan.steps["report"]
    inputs = {role: made[step.name] for role, step in report.inputs.items() if step.name in made}
    found = own_answers(Work(plan, report, inputs, tmp_path))
    assert found and found.rewards.keys() == {"rules", "own/llama3:8b"} and len(found.agreement) == 1


def test_without_branches_all_answers_meet(sampled: Callable[..., Plan]) -> None:
    """That pair.among is not used is said, and it is the same result as without it."""
    plans = [sampled(pair={"among": among}) for among in ("siblings", "all")]
    assert plans[0].steps["pair"].address == plans[1].steps["pair"].address
    make(plans[0], plans[0].steps["rate:rules"])
    assert make(plans[0], plans[0].steps["pair"]).manifest["ledger"]["pairs"] == 1


def test_prompts_without_constraints_have_no_rules(
    sampled: Callable[..., Plan], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Name a colour."}\n')
    given = {"prompts": str(file), "against": str(tiny_model("Qwen3"))}
    plan = sampled(sample=given)  # as they can be sampled before a rater is chosen
    (told,) = faults(plan, plan.of("rate"))
    assert told.problem.startswith("rate.raters=rules: no rule knows what the prompts of")
    with pytest.raises(UserError, match=r"rate\.raters names nobody, and pair\.rule=best-worst goes by scores"):
        sampled(sample=given, rate={"raters": []})
    plan = sampled(sample=given, rate={"raters": []}, pair={"rule": "delta"})
    assert [name for name in plan.steps][:3] == ["sample", "pair", "prepare"]


def test_code_of_a_raters_own_is_pinned(sampled: Callable[..., Plan]) -> None:
    rater = {"model": "owner/armo", "kind": "armo", "trust_remote_code": True, "revision": "main"}
    with pytest.raises(UserError, match=r"runs code of its own, of revision main\n.*all 40 digits"):
        sampled(rate={"raters": [rater]})


def test_a_reward_model_that_gives_no_reward_is_refused_before_anything(
    sampled: Callable[..., Plan], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"is a language model \(LlamaForCausalLM\), and gives no score"):
        sampled(rate={"raters": [str(tiny_model("Llama"))]})
    folder = tmp_path / "two"
    config = family_config("Llama", num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    (told,) = faults(plan := sampled(rate={"raters": [str(folder)]}), plan.of("rate"))
    assert told.problem == f"the rater {folder} has 2 labels by its config.json, and a reward is one number"
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    (told,) = faults(plan := sampled(rate={"raters": [str(folder)]}), plan.of("rate"))
    assert "no tokenizer that can be loaded" in told.problem
    tokenizer("byte-level", CHATML).save_pretrained(folder)
    plan = sampled(rate={"raters": [str(folder)]})
    assert not faults(plan, plan.of("rate"))
