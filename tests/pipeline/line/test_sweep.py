"""A sweep's file: which lines it means, what they share, and what is refused before anything is spent."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.line.study import load_study
from pipeline.line.sweep import Tuning, plan_sweep
from pipeline.settings.config import load

REPOSITORY = Path(__file__).parents[3]
RATE = {"train.learning_rate": {"log": [1e-6, 1e-3]}}
SWEEP: dict[str, Any] = {
    "methods": {
        "dpo": {"objective": "dpo"},
        "mixed": {"objective": "mixdpo", "ranges": {"schedule.sft_percentile": [10, 30]}},
        "fixed": {"objective": "ipo"},
    },
    "ranges": RATE,
    "trials": 6,
    "seeds": [3, 5],
}


@pytest.fixture
def file(tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The path of a sweep's file, with some of its keys changed."""
    monkeypatch.chdir(tmp_path)

    def write(base: dict[str, Any] | None = None, **changes: Any) -> str:
        model = {"source": str(tiny_model("Llama"))}
        path = tmp_path / "sweep.yaml"
        raw = {"name": "s", "model": model, **(base or {}), "sweep": SWEEP | changes}
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return str(path)

    return write


def trials(tuning: Tuning, method: str) -> list[dict[str, Any]]:
    return [tuning.proposed(method, number) for number in range(tuning.trials(method))]


def test_trials_of_a_method(file: Callable[..., str]) -> None:
    tuning = plan_sweep(file(batch=4))
    assert [list(batch) for batch in tuning.batches()] == [[0, 1, 2, 3], [4, 5]] and tuning.against == "dpo"
    run = tuning.trial("mixed", 2, settings := tuning.proposed("mixed", 2))
    assert run.name == "mixed-trial2" and run.config.train.learning_rate == settings["train.learning_rate"]
    assert run.config.schedule.sft_percentile == settings["schedule.sft_percentile"] in (10, 30)
    final = tuning.final("mixed", settings, 5)
    assert (final.config.schedule.seed, final.config.train.seed, final.config.generate.split) == (5, 5, "test")
    assert plan_sweep(file(ranges={}, methods={"a": {"objective": "dpo"}})).trials("a") == 1


def test_what_is_proposed_does_not_change_with_trials_seeds_or_how_many_at_a_time(file: Callable[..., str]) -> None:
    one = plan_sweep(file())
    more = plan_sweep(file(trials=9, seeds=[1], until="train"), ["resources.study_cells=4"])
    assert trials(more, "mixed")[:6] == trials(one, "mixed") and more.folder == one.folder
    assert plan_sweep(file(), ["train.batch_size=2"]).folder != one.folder != plan_sweep(file(seed=1)).folder


def test_all_lines_share_pairs_reference_and_base_answers_of_a_split(file: Callable[..., str]) -> None:
    tuning = plan_sweep(file(choose_by="win_rate"), ["generate.split=dev", "judge.model=j"])
    tried = [make_plan(tuning.trial(name, 0, tuning.proposed(name, 0)).config) for name in tuning.sweep.methods]
    final = [make_plan(tuning.final(name, tuning.proposed(name, 0), 3).config) for name in tuning.sweep.methods]
    for name in ("prepare", "reference"):
        assert len({plan.steps[name].address.path for plan in tried + final}) == 1
    for plans in (tried, final):
        assert len({plan.steps["generate:base"].address.path for plan in plans}) == 1
    assert {plan.config.generate.split for plan in tried} == {"dev"} and tried[0].config.judge.model is None
    assert {plan.config.generate.split for plan in final} == {"test"} and final[0].config.judge.model == "j"


def test_a_final_run_of_the_trials_own_seed_is_the_trial(file: Callable[..., str]) -> None:
    tuning = plan_sweep(file())
    settings = tuning.proposed("dpo", 1)
    plans = [make_plan(run.config) for run in (tuning.trial("dpo", 1, settings), tuning.final("dpo", settings, 0))]
    assert len({plan.steps["train"].address.path for plan in plans}) == 1


def test_short_trials(file: Callable[..., str]) -> None:
    halving = {"setting": "schedule.epochs", "values": [1, 2]}
    tuning = plan_sweep(file({"schedule": {"epochs": 4}}, halving=halving))
    runs = [tuning.trial("dpo", 0, {"train.learning_rate": 1e-4}, length) for length in tuning.lengths]
    assert [run.config.schedule.epochs for run in runs] == [1, 2, 4]
    assert [run.name for run in runs] == ["dpo-trial0-epochs1", "dpo-trial0-epochs2", "dpo-trial0"]
    assert tuning.folder != plan_sweep(file({"schedule": {"epochs": 4}})).folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ranges": {"train.lr": {"log": [1e-6, 1e-3]}}}, "train.lr is not a key.*train.learning_rate"),
        ({"ranges": {"train.learning_rate": {"uniform": [0, 1]}}}, "learning_rate=0.*range of train.learning_rate"),
        ({"ranges": {"train.learning_rate": [1e-6, "x"]}}, "train.learning_rate='x'.*the range of"),
        ({"ranges": {"train.batch_size": {"log": [2, 16]}}}, r"batch_size=7.3.*name them: \{choice"),
        ({"ranges": {"objective.beta": {"uniform": [-1, 1]}}}, "methods.dpo: objective.beta=-1.0 is out of range"),
        ({"ranges": {"objective.tau": {"uniform": [0, 1]}}}, "methods.dpo: objective.name=dpo takes no tau"),
        ({"ranges": {"schedule.sft_percentile": [10, 20]}}, "methods.dpo: schedule routes pairs to SFT"),
        ({"ranges": {"train.decay_fraction": [0.2, 0.3]}}, "no effect with train.lr_schedule=cosine"),
        ({"ranges": {"resources.study_cells": [1, 2]}}, "changes no result"),
        ({"ranges": {"data.pairs": [64, 128]}}, "not be compared on the same pairs"),
        ({"ranges": {"train.seed": [0, 1]}}, "a seed that is chosen is luck"),
        ({"ranges": {"schedule": {"flip_fraction": [0, 0.2]}}}, "noise is what methods are compared under"),
        ({"ranges": {"learning_rate": [1, 2]}}, "no single setting"),
        ({"ranges": {"train.learning_rate": {"log": [1e-3, 1e-6]}}}, "not in order"),
        ({"ranges": {"train.learning_rate": {"loguniform": [1e-6, 1e-3]}}}, "loguniform"),
        ({"ranges": {"train.learning_rate": 3}}, "sweep.ranges.train.learning_rate"),
        ({"methods": {"a": {"objective": "dop"}}}, "methods.a: objective.name='dop'.*did you mean dpo"),
        ({"methods": {"a": {"data": {}}}}, "sweep.methods.a.data is not a key"),
        ({"methods": {"a b": {}, "a/b": {}}}, "both called 'a-b'"),
        ({"methods": {"!!": {"objective": "dpo"}}}, "sweep.methods.!!: the method's name is none for a file"),
        ({"methods": {"a" * 101: {"objective": "dpo"}}}, "is none for a file.*100 bytes"),
        (
            {"methods": {"a": {"objective": "dpo", "train": {"learning_rate": 1e-5}}}},
            r"methods.a sets train.learning_rate, and a range is to.*\{ranges: \{train.learning_rate: \[VALUE\]\}\}",
        ),
        (
            {"methods": {"a": {"objective": {"name": "dpo", "beta": 1}, "ranges": {"objective.beta": [1, 2]}}}},
            "methods.a sets objective.beta",
        ),
        (
            {"methods": {"a": {"train": {"lora": {"rank": 4}}}}, "ranges": {"train.lora.rank": [4, 8]}},
            "sets train.lora",
        ),
        ({"methods": {"a": {"objective": "dpo", "schedule": {"seed": 0}}}}, "sets schedule.seed.*by sweep.seeds"),
        ({"ranges": {"schedule.swap_labels": [True, False]}}, "noise is what methods are compared under"),
        ({"ranges": {"train.held_out_steps": [1, 2]}}, "looks at the held-out pairs more often"),
        ({"ranges": {"objective.beta": [1, 1.0]}}, "a value twice"),
        ({"ranges": {**RATE, "train": {"learning_rate": [1e-5, 1e-4]}}}, "name train.learning_rate twice"),
        ({"ranges": {"train.learning_rate": {"log": [1e-6, float("inf")]}}}, "give a finite number"),
        ({"ranges": {"train.learning_rate": {"log": [float("nan"), 1]}}}, "give a finite number"),
        (
            {"ranges": {"train.learning_rate": {"log": [True, 1]}}},
            r"^sweep\.ranges\.train\.learning_rate\.log=\[True, 1\]: a",
        ),
        (
            {"methods": {"g": {"objective": "gamma-dpo"}}, "ranges": {"objective.queue": {"log": [1, 2048]}}},
            "name them",
        ),
        ({"methods": {"g": {"objective": "gamma-dpo"}}, "ranges": {"objective.centred": {"uniform": [0, 1]}}}, "true"),
        ({"methods": {}}, "sweep.methods"),
        ({"trials": 0}, "sweep.trials=0.*1 or more"),
        ({"choose_by": "loss"}, "choose one of accuracy, win_rate"),
        ({"sampler": "grid"}, "choose one of random, tpe"),
        ({"seeds": [1, 1]}, "names a value twice"),
        ({"against": "kto"}, "none of the sweep's methods.*dpo, mixed, fixed"),
        ({"halving": {"setting": "schedule.epochs", "values": [1]}}, "do not rise up to schedule.epochs=1"),
        ({"halving": {"setting": "data.pairs", "values": [32, 16]}}, "do not rise"),
        (
            {"halving": {"setting": "data.pairs", "values": [16], "keep": 0.9}, "batch": 4},
            "keep=0.9 stops none of 4 trials that begin together",
        ),
        ({"halving": {"setting": "data.pairs", "values": [16]}, "batch": 1}, "stops none of 1 trials"),
        (
            {
                "halving": {"setting": "schedule.epochs", "values": [1]},
                "methods": {"a": {"objective": "dpo"}, "b": {"objective": "dpo", "schedule": {"epochs": 1}}},
            },
            "do not rise up to schedule.epochs=1",
        ),
        ({"halving": {"setting": "train.steps", "values": [1]}}, "choose one of schedule.epochs"),
    ],
)
def test_a_bad_sweep_is_one_error(file: Callable[..., str], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_sweep(file(**changes))
    assert re.search(says, str(caught.value), flags=re.DOTALL), str(caught.value)


def test_what_a_sweep_chooses_by_and_shortens_must_be_there(file: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"data\.dev_pairs=0 leaves no held-out pairs"):
        plan_sweep(file({"data": {"pairs": 4, "dev_pairs": 0}}))
    row = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
    (Path(file()).parent / "pairs.jsonl").write_text(json.dumps(row))
    methods = {"a": {"objective": "dpo"}}
    for setting, says in (("data.pairs", "data.pairs has no effect with data.source"), ("data.limit", None)):
        given = file({"data": "pairs.jsonl"}, methods=methods, halving={"setting": setting, "values": [2]})
        if says is None:
            assert plan_sweep(given).lengths == [2, None]
            continue
        with pytest.raises(UserError, match=says):
            plan_sweep(given)


def test_figures_that_no_stage_makes(file: Callable[..., str]) -> None:
    asked = {"generate": {"benchmarks": {"mine": "q.jsonl"}}}
    (Path(file()).parent / "q.jsonl").write_text('{"instruction": "Name a colour."}\n')
    for changes in ({}, {"choose_by": "win_rate", "until": "train"}):
        with pytest.raises(UserError, match="benchmark verifiable, which"):
            plan_sweep(file(asked, **changes))
    assert plan_sweep(file(asked, until="train")).trials_until == "train"


def test_ranges_on_the_command_line(file: Callable[..., str]) -> None:
    given = [
        "sweep.ranges.train.learning_rate={log: [1.0e-5, 1.0e-4]}",
        "sweep.methods.dpo.ranges.objective.beta=[0.1, 1]",
    ]
    tuning = plan_sweep(file(), given)
    assert tuning.ranges("dpo")["train.learning_rate"].log == (1e-5, 1e-4)
    assert tuning.ranges("dpo")["train.learning_rate"].scale == "log"  # and not the file's, which it replaces
    assert tuning.ranges("dpo")["objective.beta"].choice == (0.1, 1) and "objective.beta" not in tuning.ranges("fixed")


def test_the_doors_send_each_others_files_on_and_one_file_may_serve_both(file: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"python -m jobs.sweep"):
        load(file())
    with pytest.raises(UserError, match="has no section sweep"):
        plan_sweep(str(REPOSITORY / "configs" / "study-noise.yaml"))
    both = file({"study": {"methods": {"a": {"objective": "dpo"}}}})
    assert len(load_study(both)[2]) == 1 and plan_sweep(both).sweep.trials == 6


BENCH = sorted((REPOSITORY / "configs" / "bench").glob("*.yaml"))


@pytest.mark.parametrize("path", BENCH, ids=lambda path: path.stem)
def test_the_bench_that_is_shipped(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven.", "chosen_score": 2, "rejected_score": 1}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))  # a file of one's own
    monkeypatch.chdir(tmp_path)
    tuning = plan_sweep(str(path))
    for method in tuning.sweep.methods:
        tuning.trial(method, 0, tuning.proposed(method, 0))
