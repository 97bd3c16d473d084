"""A sweep's door before anything is spent, and how trials go on, stop, fail and are chosen."""

import contextlib
import errno
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import yaml

from jobs import sweep
from jobs.common.cells import Ended
from jobs.common.epoch import SMALL_DISK
from jobs.common.provenance import provenance
from jobs.common.sweep_page import scales
from jobs.common.tuning import Key, Tuner, says_of_itself
from pipeline.errors import UserError, no_room
from pipeline.line.plan import make_plan
from pipeline.line.proposals import Record, Trial
from pipeline.line.steps import Plan
from pipeline.line.sweep import plan_sweep
from pipeline.results import tables
from pipeline.results.address import HELD, Address
from pipeline.results.locks import exclusive

SWEEP: dict[str, Any] = {
    "methods": {"dpo": {"objective": "dpo"}, "ipo": {"objective": "ipo"}},
    "ranges": {"train.learning_rate": {"log": [1e-6, 1e-3]}},
    "trials": 6,
    "until": "train",
}


@pytest.fixture
def given(tmp_path: Path, byte_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The arguments of a sweep, with some of its keys changed."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)

    def write(**changes: Any) -> list[str]:
        raw = {"model": str(byte_model), "data": {"pairs": 4, "dev_pairs": 2}, "schedule": {"epochs": 2}}
        raw["resources"] = {"root": str(tmp_path / "root")}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(raw | {"sweep": SWEEP | changes}, sort_keys=False))
        return ["--config", "sweep.yaml"]

    return write


def says(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = 0
    try:
        sweep.main(list(arguments))
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out + said.err


def test_a_dry_run_names_every_trial_that_is_known(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = says(capsys, *given(), "--dry-run")
    lines = said.splitlines()
    assert status == 0 and len(lines) == 13 and all(line.startswith("make  ") for line in lines[:12]), said
    assert lines[-1] == "12 trials, of which 0 follow from figures; then 2 final runs"
    assert lines[0].partition("train.")[2] == lines[6].partition("train.")[2]  # both methods meet the same rates
    status, said = says(capsys, *given(sampler="tpe"), "--dry-run")
    assert status == 0 and said.splitlines()[-1].startswith("12 trials, of which 4 follow from figures"), said


def test_without_optuna_it_is_refused(
    given: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, said = says(capsys, *given())
    assert status == 2 and "Optuna, which is not installed" in said and "pip install" in said
    assert not Path("root").exists()


def test_what_the_line_refuses_is_refused_before_any_trial(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = says(capsys, *given(), "train.lora.layers=q_prj", "resources.train_workers=999")
    assert status == 2 and said.count("error: ") == 2 and "| " not in said, said


def test_settings_that_do_not_go_together_are_told_with_their_trial(
    given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = {"schedule.sft_percentile": [None, 10], "schedule.sft_below": [None, 0.5]}
    status, said = says(capsys, *given(methods={"mix": {"objective": "mixdpo"}}, ranges=ranges), "--dry-run")
    assert status == 2 and "two ways to say the same (trial " in said and "schedule.sft_below=0.5)" in said, said


def test_what_was_ended_or_is_made_by_others_says_nothing_of_the_settings() -> None:
    held = f"{HELD} dpo-0123456789ab of stage train"
    ends = [Ended(2, "step 3: the loss is not finite"), Ended(1, "failed unexpectedly"), Ended(2, held), Ended(-9)]
    assert [says_of_itself(end) for end in ends] == [True, True, False, False]


def test_a_full_disk_says_nothing_of_the_settings(given: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The trials that met it would be counted as failed for good, and others chosen."""
    full = no_room(OSError(errno.ENOSPC, ""))
    (tmp_path / "prepare").touch()
    with pytest.raises(UserError) as nowhere, Address(tmp_path, "prepare", "pairs", "f" * 64).writing():
        pass
    small = f"root needs about 9.1 GB for two checkpoints, {SMALL_DISK} 1.0 GB free"
    assert full is not None
    for error in (full.problem, nowhere.value.problem, small):
        tuning = plan_sweep(given(trials=1)[1])
        monkeypatch.setattr("jobs.common.tuning.run_cells", lambda *_, error=error: [Ended(2, error), Ended(0)])
        monkeypatch.setattr("actors.cluster.connected", contextlib.nullcontext)
        record = Record(tuning.folder / "optuna.log")
        with pytest.raises(UserError) as caught:
            Tuner(tuning, record, contextlib.ExitStack(), retry_failed=False).tune()
        assert f"had no room (dpo-trial0: {error})" in caught.value.problem and not record.study("dpo").trials


def test_a_sweep_that_another_process_is_at(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = plan_sweep(given()[1]).folder
    folder.mkdir(parents=True)
    with exclusive(folder / ".lock"):
        status, said = says(capsys, *given())
    assert status == 2 and "another process is at this sweep" in said


class ByHand(Tuner):
    """Trials whose figures are given by method, number and length, in place of trained ones."""

    known: Mapping[tuple[str, int], Mapping[int | None, float | str]]
    asked: list[tuple[int | None, list[Key]]]

    def figures(self, proposed: Mapping[Key, dict[str, Any]], length: int | None) -> dict[Key, float | str]:
        self.asked.append((length, list(proposed)))
        return {key: self.known[key][length] for key in proposed}


def by_hand(given: Any, known: Mapping[tuple[str, int], Mapping[int | None, float | str]], **changes: Any) -> ByHand:
    tuning = plan_sweep(given(**changes)[1])
    tuner = ByHand(tuning, Record(tuning.folder / "optuna.log"), contextlib.ExitStack(), retry_failed=False)
    tuner.known, tuner.asked = known, []
    return tuner


def test_of_short_trials_the_better_half_goes_on(given: Any) -> None:
    figures: dict[tuple[str, int], Mapping[int | None, float | str]] = {
        ("dpo", 0): {1: 0.5, None: 0.9}, ("dpo", 1): {1: 0.7, None: 0.6}, ("dpo", 2): {1: 0.7, None: 0.6},
        ("dpo", 3): {1: "diverged"}, ("dpo", 4): {1: 0.1, None: "killed"},
    }  # fmt: skip
    halving = {"setting": "schedule.epochs", "values": [1]}
    tuner = by_hand(given, figures, methods={"dpo": {"objective": "dpo"}}, trials=5, batch=4, halving=halving)
    chosen = tuner.tune()
    assert tuner.asked == [
        (1, [("dpo", number) for number in range(4)]),
        (None, [("dpo", 1), ("dpo", 2)]),  # of three that came to an end two, the better ones
        (1, [("dpo", 4)]),
        (None, [("dpo", 4)]),
    ]
    ends = [(each.number, each.figure, each.pruned, each.reason) for each in tuner.trials["dpo"]]
    assert ends == [
        (0, 0.5, True, ""), (1, 0.6, False, ""), (2, 0.6, False, ""), (3, None, False, "diverged"),
        (4, None, False, "killed"),
    ]  # fmt: skip
    assert chosen["dpo"].number == 1  # of equals the first, and none that stopped or failed
    states = [each.state.name for each in tuner.record.study("dpo").trials]
    assert states == ["PRUNED", "COMPLETE", "COMPLETE", "FAIL", "FAIL"]


def test_a_method_whose_trials_all_fail_is_never_chosen(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[tuple[str, int], Mapping[int | None, float | str]] = {}
    for number in range(6):
        figures |= {("dpo", number): {None: 0.5 + number / 10}, ("ipo", number): {None: "diverged"}}
    chosen = by_hand(given, figures).tune()
    assert chosen.keys() == {"dpo"} and chosen["dpo"].number == 5
    assert "ipo: none of 6 trials came to an end" in capsys.readouterr().out
    failed: dict[tuple[str, int], Mapping[int | None, float | str]] = {key: {None: "diverged"} for key in figures}
    with pytest.raises(UserError, match="every trial failed, such as dpo 0: diverged"):
        by_hand(given, failed).tune()


def test_tpe_proposes_the_same_whatever_was_interrupted(given: Any) -> None:
    """From the figures of the batches before alone: those that end are told in the order of their numbers."""
    figures: dict[tuple[str, int], Mapping[int | None, float | str]] = {
        (method, number): {None: 0.5 + (7 * number % 5) / 10} for method in ("dpo", "ipo") for number in range(6)
    }
    one, again = (by_hand(given, figures, sampler="tpe", batch=2) for _ in range(2))
    one.batch(range(2))
    again.tune()
    one.batch(range(2, 4))
    assert one.trials["dpo"] == again.trials["dpo"][:4]
    assert again.trials["dpo"][4].settings != by_hand(given, figures, batch=2).tuning.proposed("dpo", 4)


def committed(plan: Plan, until: str, points: Sequence[float], rate: float = 0.5) -> None:
    """Results of a line up to a stage, as their manifests would be: the trained model's points are those given."""
    held_out = {"accuracy": rate, "gap": 1.0, "chosen_logps": -10.0, "rejected_logps": -30.0}
    metrics: dict[str, dict[str, Any]] = {
        "prepare": {"splits": {"train": 4, "dev": 8}},
        "train": {
            "steps": 2,
            "held_out": {"pairs": 8, "before": held_out | {"chosen_logps": -12.0}, "after": held_out},
        },
        "judge": {"comparison": {"rate": {"value": rate}}, "trained": {"share_met": {"value": rate / 2}}},
    }
    for step in plan.until(until):
        if step.address.find():
            continue
        with step.address.writing() as folder:
            if step.stage == "judge":
                scores = [("base", 0.5) for _ in points] + [("trained", point) for point in points]
                rows = [
                    {"question_id": str(place % len(points)), "model": model, "score": score, "detail": "[]"}
                    for place, (model, score) in enumerate(scores)
                ]
                tables.write(rows, tables.VERDICTS, folder / "part-00000.parquet")
            about = {"seconds": 10.0, "provenance": provenance(), "metrics": metrics.get(step.stage, {})}
            step.address.commit(about, {})


def test_a_result_counts_whatever_was_written_of_a_failure(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As somebody has run the trial alone since; and without one it stays failed, and is not begun again."""
    changes = {"trials": 2, "methods": {"dpo": {"objective": "dpo"}}}
    tuning = plan_sweep(given(**changes)[1])
    record = Record(tuning.folder / "optuna.log")
    for number in (0, 1):
        record.add(Trial("dpo", number, tuning.proposed("dpo", number), None, "no memory"), tuning.ranges("dpo"))
    committed(make_plan(tuning.trial("dpo", 1, tuning.proposed("dpo", 1)).config), "train", [])
    status, said = says(capsys, *given(**changes))
    assert status == 0 and "dpo: trial 1 is chosen, 0.500" in said and "1 of 3 runs failed" in said, said
    (manifest,) = Path("root/sweep").glob("*/manifest.json")
    trials = json.loads(manifest.read_text())["metrics"]["trials"]
    assert [(each["outcome"], each["reason"]) for each in trials] == [("failed", "no memory"), ("whole", "")]


def test_figures_that_are_no_numbers_are_failures_with_results(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"trials": 2, "methods": {"dpo": {"objective": "dpo"}}}
    tuning = plan_sweep(given(**changes)[1])
    for number, rate in ((0, float("nan")), (1, 0.75)):
        committed(make_plan(tuning.trial("dpo", number, tuning.proposed("dpo", number)).config), "train", [], rate)
    for _ in range(2):  # the second finds the same page
        status, said = says(capsys, *given(**changes))
        assert status == 0 and "dpo: trial 1 is chosen, 0.750" in said and "1 of 3 runs failed" in said, said
    (manifest,) = Path("root/sweep").glob("*/manifest.json")
    first = json.loads(manifest.read_text())["metrics"]["trials"][0]
    assert first["outcome"] == "failed" and first["reason"] == "its accuracy is not finite" and first["steps"] == 2


def test_methods_whose_own_range_is_of_another_kind_share_a_figure(
    given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    queues = {"exact": ["step", 4], "long": {"choice": [512, 2048]}}
    methods = {
        name: {"objective": "gamma-dpo", "ranges": {"objective.queue": choice, "train.weight_decay": decay}}
        for (name, choice), decay in zip(queues.items(), ([0, 0.1], {"log": [0.01, 0.1]}), strict=True)
    }
    changes = {"trials": 1, "methods": methods, "ranges": {}}
    tuning = plan_sweep(given(**changes)[1])
    for method in methods:
        committed(make_plan(tuning.trial(method, 0, tuning.proposed(method, 0)).config), "train", [])
    status, said = says(capsys, *given(**changes))
    assert status == 0, said
    (page,) = Path("root/sweep").glob("*/sweep.html")
    assert scales(tuning) == {"objective.queue": "category", "train.weight_decay": "linear"}
    assert page.read_text().count('id="fig-setting-') >= 2


def exactly(differences: Sequence[float]) -> tuple[float, float]:
    """The ends of a percentile bootstrap by all resamples there are."""
    means = [fmean(each) for each in itertools.product(differences, repeat=len(differences))]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_what_is_there_is_found_chosen_and_shown(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """From results on the disk alone, as after a kill at the very end: no process is started, nor Ray."""
    changes = {"choose_by": "win_rate", "until": "judge", "trials": 2, "seeds": [0, 1]}
    tuning = plan_sweep(given(**changes)[1])
    rates = {"dpo": (0.6, 0.8), "ipo": (0.7, 0.7)}
    for method, figures in rates.items():
        for number, rate in enumerate(figures):
            run = tuning.trial(method, number, tuning.proposed(method, number))
            committed(make_plan(run.config), "judge", [1.0, 1.0], rate)
    points = {"dpo": ([1, 1, 0, 0.5], [1, 1, 1, 1]), "ipo": ([1, 0, 0, 0.5], [1, 1, 0, 0])}
    for method, number in (("dpo", 1), ("ipo", 0)):  # the better one, and of equals the first
        for seed in (0, 1):
            run = tuning.final(method, tuning.proposed(method, number), seed)
            committed(make_plan(run.config), "judge", points[method][seed])
    status, said = says(capsys, *given(**changes))
    assert status == 0 and "dpo: trial 1 is chosen, 0.800" in said and "ipo: trial 0 is chosen, 0.700" in said, said
    assert said.count("4 of 4 runs kept") == 2 and "failed" not in said
    (manifest,) = Path("root/sweep").glob("*/manifest.json")
    dpo, ipo = json.loads(manifest.read_text())["metrics"]["methods"]
    assert (dpo["win_rate"]["value"], ipo["win_rate"]["value"]) == (0.8125, 0.4375) and dpo["beyond"] is None
    assert ipo["beyond"]["value"] == -0.375  # question by question: 0, -1/2, -1/2, -1/2
    assert -0.5 <= ipo["beyond"]["questions"]["low"] < -0.25 <= ipo["beyond"]["questions"]["high"] <= 0
    for found, values in ((dpo["win_rate"], [1, 1, 0.5, 0.75]), (ipo["beyond"], [0, -0.5, -0.5, -0.5])):
        assert (found["questions"]["low"], found["questions"]["high"]) == pytest.approx(exactly(values))
    assert ipo["beyond"]["seeds"]["low"] == pytest.approx(-0.375 - 12.7062 * 0.125)  # seeds 1/4 and 1/2 apart from dpo
    half = 12.7062 * 0.1875 / 2**0.5 * 2**0.5  # of two seeds, of which one is 0.1875 above and one below the mean
    assert dpo["win_rate"]["seeds"]["high"] == pytest.approx(0.8125 + half)
    assert dpo["accuracy"]["value"] == 0.65 and dpo["chosen_change"] == 2.0 and dpo["lost"] == []
    # A final run of the trial's own seed is the trial's training, and costs nothing.
    assert (dpo["trial_steps"], dpo["final_steps"]) == (4, 2)
    assert {file.name for file in manifest.parent.iterdir()} == {
        "manifest.json", "sweep.html", "methods.csv", "methods.md", "trials.csv"
    }  # fmt: skip
    assert "sweep: committed already, kept" in says(capsys, *given(**changes))[1]
