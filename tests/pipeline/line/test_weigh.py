"""What objectives ask of tokens and of other runs: which results they mean, what moves them, what is refused."""

from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.line.steps import Plan
from tests.pipeline.line.test_plan import LINE, moved

TIS: dict[str, Any] = {"objective": {"name": "tis-dpo"}}
BEFORE = ["prepare", "reference", "schedule"]
RUNS = [f"{stage}:{side}" for side in ("positive", "negative") for stage in ("schedule", "train", "weigh")]


def fingerprints(made: Plan, *names: str) -> list[str]:
    return [made.steps[name].address.fingerprint for name in names]


def test_token_weights_are_made_of_two_other_runs_that_are_found_as_their_own(plan: Any) -> None:
    made = plan(**TIS, train={"learning_rate": 1e-4})
    assert list(made.steps) == [*BEFORE, "weigh:base", *RUNS, "weigh", *LINE[3:]]
    assert [step.name for step in made.of("weigh")] == ["weigh:base", *RUNS, "weigh"]
    assert [step.name for step in made.of("schedule", "train")] == ["schedule", "train"]
    inputs = {role: step.name for role, step in made.steps["train"].inputs.items()}
    assert inputs == {
        "pairs": "prepare",
        "reference": "reference",
        "schedule": "schedule",
        "token_reference": "weigh:base",
        "contrast": "weigh",
    }
    own = plan(objective={"name": "dpo"}, train={"learning_rate": 1e-4})
    other = plan(objective={"name": "dpo"}, train={"learning_rate": 1e-4}, schedule={"swap_labels": True})
    assert fingerprints(made, "schedule:positive", "train:positive") == fingerprints(own, "schedule", "train")
    assert fingerprints(made, "schedule:negative", "train:negative") == fingerprints(other, "schedule", "train")
    assert fingerprints(made, *BEFORE) == fingerprints(own, *BEFORE)
    run = made.steps["train:negative"].run
    assert run is not None and run.config.objective.name == "dpo" and run.config.name == "run-negative"


def test_what_moves_which_of_them(plan: Any) -> None:
    every = [*BEFORE, "weigh:base", *RUNS, "weigh", "train"]

    def anew(**sections: Any) -> list[str]:
        before, after = plan(**TIS), plan(**TIS | sections)
        return [n for n in every if fingerprints(before, n) != fingerprints(after, n)]

    models = ["train:positive", "weigh:positive", "train:negative", "weigh:negative"]
    assert anew(weigh={"transform": "clipped"}) == ["weigh", "train"]
    assert anew(weigh={"span": [0.5, 1.5]}) == ["weigh", "train"] and anew(weigh={"clip": [-1, 1]}) == []
    assert anew(weigh={"contrast": {"objective": {"name": "dpo", "beta": 0.3}}}) == [*models, "weigh", "train"]
    assert anew(weigh={"contrast": {"objective": "dpo", "train": {"batch_size": 7}}}) == [*models, "weigh", "train"]
    assert anew(train={"learning_rate": 1e-4}) == [*models, "weigh", "train"]
    assert anew(objective={"name": "tis-dpo", "beta": 0.3}) == ["train"]
    flipped = plan(**TIS, schedule={"flip_fraction": 0.2})
    assert fingerprints(flipped, "schedule:positive") == fingerprints(flipped, "schedule")
    negative = flipped.steps["schedule:negative"].identity
    assert (negative["flip_fraction"], negative["swap_labels"]) == (0.2, True)  # no flip is given away
    assert "swap_labels" not in flipped.steps["schedule"].identity


def test_the_labels_are_those_that_the_run_itself_trains_on(plan: Any) -> None:
    """With all of them exchanged the positive run has them exchanged, and the negative one as the data have them."""
    made, dpo = plan(**TIS, schedule={"swap_labels": True}), {"objective": {"name": "dpo"}}
    own = plan(**dpo, schedule={"swap_labels": True})
    assert fingerprints(made, "schedule:positive", "train:positive") == fingerprints(own, "schedule", "train")
    assert fingerprints(made, "schedule:negative", "train:negative") == fingerprints(plan(**dpo), "schedule", "train")


@pytest.mark.parametrize("contrast", [{"train": {"batch_size": 7}}, {"objective": {"beta": 0.3}}, {"schedule": {}}])
def test_the_runs_are_of_dpo_unless_another_is_named(plan: Any, contrast: dict[str, Any]) -> None:
    run = plan(**TIS, weigh={"contrast": contrast}).steps["train:negative"].run
    assert run.config.objective.name == "dpo" and run.config.schedule.order == "shuffle"


def test_the_runs_have_no_routes_and_their_models_are_whole(plan: Any) -> None:
    mixed = {"name": "mixdpo", "preference": "tis-dpo"}
    made = plan(objective=mixed, schedule={"sft_percentile": 30}, train={"lora": {"rank": 4, "merge": False}})
    run = made.steps["train:positive"].run
    assert run.config.schedule.sft_percentile is None and run.config.schedule.order == "shuffle"
    assert run.config.train.lora.merge and run.config.train.lora.rank == 4


def test_other_objectives_ask_for_less(plan: Any) -> None:
    assert list(plan(objective={"name": "d2po"}).steps) == [*BEFORE, "weigh:base", *LINE[3:]]
    bmc = plan(objective={"name": "bmc"}, data={"changed_tokens": True})
    assert list(bmc.steps) == [*BEFORE, "weigh:base", *LINE[3:]]
    kto = plan(objective={"name": "kto"})
    assert list(kto.steps) == [*BEFORE, "weigh:mismatched", *LINE[3:]]
    assert list(kto.steps["weigh:mismatched"].inputs) == ["pairs", "reference", "schedule"]
    other = plan(objective={"name": "kto"}, train={"batch_size": 16})
    assert fingerprints(kto, "weigh:mismatched") != fingerprints(other, "weigh:mismatched")
    again = plan(objective={"name": "kto", "beta": 0.3})
    assert fingerprints(kto, "weigh:mismatched") == fingerprints(again, "weigh:mismatched")
    assert moved(plan(), plan(data={"changed_tokens": True})) == [n for n in LINE if n != "generate:base"]
    assert "changed_tokens" not in plan().steps["prepare"].identity["data"]


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"objective": {"name": "bmc"}}, r"weighs the tokens that are not .*\n.*set data.changed_tokens=true"),
        ({"objective": {"name": "mixdpo", "preference": "bmc"}}, "set data.changed_tokens=true"),
        ({"objective": {"name": "kto"}, "train": {"batch_size": 1}}, r"train.batch_size=1\n.*give 2 or more"),
        (
            TIS | {"weigh": {"contrast": {"objective": {"name": "tis-dpo"}}}},
            "weigh.contrast: .* two contrastive models",
        ),
        (TIS | {"weigh": {"contrast": {"objective": {"name": "dop"}}}}, r"weigh.contrast: .*dop.*\n.*did you mean dpo"),
        (TIS | {"weigh": {"contrast": {"train": {"batchsize": 3}}}}, "weigh.contrast: train.batchsize"),
        (TIS | {"weigh": {"contrast": {"objective": {"name": "gdpo"}}}}, "gdpo needs label_confidence"),
        (
            TIS | {"weigh": {"contrast": {"schedule": {"swap_labels": True}}}},
            r"swap_labels: one run .*\n.*leave it out",
        ),
        ({"weigh": {"span": [1.3, 0.7]}}, r"weigh.span=\[1.3, 0.7\] begins after its end"),
    ],
)
def test_what_cannot_be_made_is_told_before_any_work(plan: Any, sections: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        plan(**sections)


def test_a_missing_model_names_the_command_that_makes_it(plan: Any) -> None:
    with pytest.raises(UserError, match=r"weigh needs the result of stage train.*\n.*python -m jobs.weigh"):
        plan(**TIS).steps["weigh:negative"].input("model")
