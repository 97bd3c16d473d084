"""Rounds as plans: what each samples from, starts from, is measured against and trains on; and what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.line.rounds import Series, load_rounds, plan_rounds, require_prompts
from pipeline.line.steps import START, Plan
from pipeline.line.study import load_study
from pipeline.onpolicy.prompts import read_prompts
from pipeline.settings.config import load
from pipeline.settings.onpolicy import Prompts

REPOSITORY = Path(__file__).parents[3]
PROMPTS = [{"prompt": f"Name colour {number}."} for number in range(10)]


@pytest.fixture
def file(tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The path of a file of rounds, with some of its keys changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))

    def write(rounds: dict[str, Any] | None = None, **sections: Any) -> str:
        raw: dict[str, Any] = {
            "name": "r",
            "rounds": {"count": 3} | (rounds or {}),
            "model": {"source": str(tiny_model("Llama"))},
            "data": {"source": "sampled"},
            "sample": {"prompts": {"limit": 4}},
            "resources": {"root": str(tmp_path / "runs")},
        }
        path = tmp_path / "rounds.yaml"
        path.write_text(yaml.safe_dump(raw | sections, sort_keys=False))
        return str(path)

    return write


def commit(plan: Plan, stage: str, model: Path | None = None, note: str = "") -> None:
    """A result as a stage leaves one; of train with a model, which `note` tells from others."""
    step = plan.steps[stage]
    with step.address.writing(anew=True) as folder:
        if model:
            shutil.copytree(model, folder / "model")
            config = json.loads((folder / "model" / "config.json").read_text())
            (folder / "model" / "config.json").write_text(json.dumps(config | {"note": note}))
        figures = {"rows": 0, "seconds": 0.0, "metrics": {}}
        step.address.commit({"name": step.name, "identity": dict(step.identity), **figures}, {})


def after(path: str, model: Path, rounds: int, note: str = "") -> Series:
    """The series once so many rounds are trained."""
    for number in range(rounds):
        plan = plan_rounds(path).planned[number]
        commit(plan, "pair")
        commit(plan, "train", model, f"{note}{number + 1}")
    return plan_rounds(path)


def addresses(plan: Plan) -> list[Path]:
    return [step.address.path for step in plan.steps.values()]


def test_the_first_round_is_a_run_like_any_other(file: Callable[..., str]) -> None:
    (first,) = plan_rounds(file()).planned
    raw = yaml.safe_load(Path(file()).read_text())
    del raw["rounds"]
    Path("plain.yaml").write_text(yaml.safe_dump(raw | {"name": "r-round1"}))
    assert addresses(first) == addresses(make_plan(load("plain.yaml")))


def test_a_round_is_known_once_the_one_before_is_trained(file: Callable[..., str], tiny_model: Any) -> None:
    path = file()
    series = plan_rounds(path)
    assert len(series.planned) == 1 and series.page() is None
    assert series.not_known == ["round 2: known once round 1 is trained", "round 3: known once round 2 is trained"]
    series = after(path, tiny_model("Llama"), 1)
    assert len(series.planned) == 2 and series.not_known == ["round 3: known once round 2 is trained"]
    series = after(path, tiny_model("Llama"), 2)
    assert len(series.planned) == 3 and series.not_known == [] and series.page() is not None


BASE, BEFORE = "base", "before"


@pytest.mark.parametrize(
    ("start", "reference", "trained_from", "measured_against", "scored_twice"),
    [
        ("previous", "base", BEFORE, BASE, True),
        ("previous", "previous", BEFORE, BEFORE, False),
        ("base", "base", BASE, BASE, False),
        ("base", "previous", BASE, BEFORE, True),
    ],
)
def test_who_samples_is_trained_and_is_measured_against(
    file: Callable[..., str],
    tiny_model: Any,
    start: str,
    reference: str,
    trained_from: str,
    measured_against: str,
    scored_twice: bool,
) -> None:
    path = file({"count": 2, "start": start, "reference": reference})
    first, second = after(path, tiny_model("Llama"), 1).planned
    base = first.steps["sample"].identity["model"]
    before = second.steps["sample"].identity["model"]
    assert before != base  # the model of the round before answers, whatever is trained
    named = {BASE: base, BEFORE: before}
    assert second.steps["train"].identity["model"] == named[trained_from] == second.start.digest
    assert second.steps["reference"].identity["model"] == named[measured_against] == second.reference.digest
    assert (START in second.steps) == scored_twice and START not in first.steps
    if scored_twice:
        assert second.steps[START].identity["model"] == named[trained_from]
        assert second.steps["train"].inputs["start"] is second.steps[START]
    # Tokens are the base model's, and win rates are over it.
    assert second.steps["prepare"].identity["tokenizer"] == base
    assert first.steps["generate:base"].address == second.steps["generate:base"].address


def test_scores_of_a_start_are_those_it_has_as_a_reference(file: Callable[..., str], tiny_model: Any) -> None:
    """The same pairs under the same model are one result, whoever asks for it."""
    path = file({"count": 2})
    second = after(path, tiny_model("Llama"), 1).planned[1]
    raw = second.config.model_dump(mode="json")
    raw["reference"]["model"] = raw["train"]["start"]
    Path("same.yaml").write_text(yaml.safe_dump(raw))
    same = make_plan(load("same.yaml"))
    assert same.steps["reference"].address.fingerprint == second.steps[START].address.fingerprint


@pytest.mark.parametrize(("mix", "joined"), [("latest", []), ("last-two", [1]), ("all", [1, 0])])
def test_whose_pairs_join(file: Callable[..., str], tiny_model: Any, mix: str, joined: list[int]) -> None:
    series = after(file({"mix": mix}), tiny_model("Llama"), 2)
    inputs = series.planned[2].steps["prepare"].inputs
    pairs = [plan.steps["pair"].address.fingerprint for plan in series.planned]
    assert [step.address.fingerprint for step in inputs.values()] == [pairs[2], *(pairs[each] for each in joined)]
    assert {step.stage for step in inputs.values()} == {"pair"}


def test_a_round_waits_for_the_pairs_that_join_it(file: Callable[..., str], tiny_model: Any) -> None:
    path = file({"mix": "all", "count": 2})
    first = after(path, tiny_model("Llama"), 1).planned[0]
    shutil.rmtree(first.steps["pair"].address.path)
    assert len(plan_rounds(path).planned) == 1


def test_every_round_has_other_prompts_or_the_same(file: Callable[..., str], tiny_model: Any) -> None:
    for source in ("verifiable", "prompts.jsonl"):
        split = file({"count": 2}, sample={"prompts": {"source": source, "limit": 4}})
        first, second = (plan.config.sample.prompts for plan in after(split, tiny_model("Llama"), 1).planned)
        one, other = (list(read_prompts(each).prompts) for each in (first, second))
        assert len(one) == len(other) == 4 and not {*one} & {*other}
        both = read_prompts(Prompts(source=source, limit=8))
        assert {*both.prompts} == {*one, *other}
        asked = read_prompts(second)
        assert asked.rows == len(asked.prompts) + asked.skipped + asked.beyond_limit
    same = file({"count": 2, "prompts": "same"})
    first_plan, second_plan = after(same, tiny_model("Llama"), 1).planned
    assert first_plan.steps["sample"].identity["prompts"] == second_plan.steps["sample"].identity["prompts"]


def test_more_rounds_keep_those_that_are_there(file: Callable[..., str], tiny_model: Any) -> None:
    two = after(file({"count": 2}), tiny_model("Llama"), 2)
    four = plan_rounds(file({"count": 4}))
    assert len(four.planned) == 3
    assert [addresses(plan) for plan in four.planned[:2]] == [addresses(plan) for plan in two.planned]


def test_what_another_training_made_is_another_round(file: Callable[..., str], tiny_model: Any) -> None:
    path = file({"count": 2})
    one = after(path, tiny_model("Llama"), 1).planned[1]
    other = after(path, tiny_model("Llama"), 1, note="again ").planned[1]
    moved = {name for name, step in one.steps.items() if step.address != other.steps[name].address}
    assert moved == one.steps.keys() - {"generate:base"}


def test_a_round_written_out_is_the_same_run(file: Callable[..., str], tiny_model: Any) -> None:
    for start in ("previous", "base"):
        for plan in after(file({"mix": "all", "start": start}), tiny_model("Llama"), 2).planned:
            Path("alone.yaml").write_text(yaml.safe_dump(plan.config.model_dump(mode="json")))
            assert addresses(make_plan(load("alone.yaml"))) == addresses(plan)


def test_rounds_may_end_before_anything_is_asked(file: Callable[..., str]) -> None:
    series = plan_rounds(file({"until": "train"}))
    assert [step.name for step in series.steps_of(series.planned[0])][-1] == "train"
    assert not any(role.endswith(("judge", "report")) for role in series.results())


@pytest.mark.parametrize(
    ("rounds", "sections", "says"),
    [
        ({"count": 0}, {}, "rounds.count=0.*give 1 or more"),
        ({"count": None}, {}, "rounds.count"),
        ({"start": "last"}, {}, "rounds.start='last'.*choose one of previous, base"),
        ({"mix": "two"}, {}, "choose one of latest, last-two, all"),
        ({"rounds": 2}, {}, "rounds.rounds is not a key"),
        ({}, {"data": {"source": "verifiable"}}, "data.source=verifiable: rounds are made of pairs of the model's own"),
        ({}, {"data": {"source": "sampled", "earlier": ["x"]}}, "data.earlier is given, and every round has its own"),
        ({}, {"train": {"start": "x"}}, "train.start is given"),
        ({}, {"reference": {"model": "x"}}, "reference.model is given"),
        ({}, {"sample": {"model": "x"}}, "sample.model is given"),
        ({}, {"train": {"lora": {"merge": False}}}, "train.lora.merge=false keeps adapters apart"),
        ({}, {"sample": {"prompts": "prompts.jsonl"}}, "set sample.prompts.limit to the prompts of one round"),
    ],
)
def test_what_cannot_be_rounds_is_one_error(
    file: Callable[..., str], rounds: dict[str, Any], sections: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError) as caught:
        plan_rounds(file(rounds, **sections))
    assert re.search(says, str(caught.value), flags=re.DOTALL)


def test_prompts_must_last_for_all_rounds(file: Callable[..., str]) -> None:
    def asked(limit: int, **rounds: Any) -> None:
        require_prompts(plan_rounds(file(rounds, sample={"prompts": {"source": "prompts.jsonl", "limit": limit}})))

    asked(4)  # the third round has two
    with pytest.raises(UserError, match=r"has 10 prompts, which are none for the last of 3 rounds of .*limit=5"):
        asked(5)
    asked(5, prompts="same")
    with pytest.raises(UserError, match=r"sample\.prompts\.skip=10 passes over all 10 prompts"):
        read_prompts(Prompts(source="prompts.jsonl", limit=4, skip=10))


def test_the_doors_send_each_others_files_on(file: Callable[..., str]) -> None:
    for other in (load, load_study):
        with pytest.raises(UserError, match=r"python -m jobs.rounds|has no section study"):
            other(file())
    with pytest.raises(UserError, match="has no section rounds"):
        load_rounds(str(REPOSITORY / "configs" / "smoke.yaml"))


def test_the_rounds_that_are_shipped() -> None:
    rounds, config = load_rounds(str(REPOSITORY / "configs" / "rounds.yaml"))
    assert rounds.count == 2 and config.sample.prompts.limit == 128


def test_an_earlier_result_must_be_one_of_pairs(file: Callable[..., str], tiny_model: Any) -> None:
    first = after(file({"count": 2, "mix": "all"}), tiny_model("Llama"), 1).planned[0]
    trained, pairs = (str(first.steps[stage].address.path) for stage in ("train", "pair"))
    raw = first.config.model_dump(mode="json")
    for given, says in (
        ([trained], "is no result of stage pair"),
        (["nowhere"], "is no result of stage pair"),
        ([pairs, pairs], "twice"),
    ):
        raw["data"]["earlier"] = given
        Path("earlier.yaml").write_text(yaml.safe_dump(raw))
        with pytest.raises(UserError, match=says):
            make_plan(load("earlier.yaml"))
