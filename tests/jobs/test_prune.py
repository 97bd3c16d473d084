"""What is listed and what is removed: never what a configuration needs, nor what is made or used at the moment."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import list as list_door
from jobs import prune
from jobs.common.stage import write_config
from pipeline.line.plan import make_plan
from pipeline.line.rounds import plan_rounds
from pipeline.line.steps import Plan
from pipeline.line.study import plan_study
from pipeline.line.sweep import plan_sweep
from pipeline.settings.config import load
from tests.committed import commit, commit_all
from tests.e2e.doors import REPOSITORY

Config = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The file of a run, with some sections changed, on a model that nobody opens."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"weights")

    def write(name: str = "run", **sections: Any) -> str:
        raw = {"name": name, "model": str(model), "resources": {"root": str(tmp_path / "root")}} | sections
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(raw))
        return str(file)

    return write


def said(capsys: pytest.CaptureFixture[str], door: Callable[[list[str]], None], *arguments: str) -> str:
    door(list(arguments))
    return capsys.readouterr().out


def there(root: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in root.glob("*/*-????????????") if path.is_dir()}


def addresses(plan: Plan, *names: str) -> set[str]:
    steps = [plan.steps[name] for name in names or plan.steps]
    return {f"{step.stage}/{step.address.path.name}" for step in steps}


def test_what_no_configuration_needs_goes(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = config(), config("other", objective={"name": "dpo", "beta": 0.2})
    plans = [make_plan(load(file)) for file in (one, other)]
    for plan in plans:
        commit_all(plan)
    whole, keep = there(tmp_path / "root"), addresses(plans[0])
    told = said(capsys, prune.main, "--config", one)
    assert "remove: 4 results, " in told and f"{one} needs 8 results" in told and "nothing is removed yet" in told
    assert "not there" not in told and "the same overrides?" not in told
    asked = said(capsys, prune.main, "--config", one, "judge.seed=5")
    assert f"{one} needs 6 results, <0.1 MB, and 2 that are not there: is this what was run, with the same" in asked
    assert {line.split()[1] for line in told.splitlines() if line.startswith("remove  ")} == whole - keep
    assert there(tmp_path / "root") == whole
    assert "remove: 0 results" in said(capsys, prune.main, "--config", one, "--config", other, "--yes")
    assert there(tmp_path / "root") == whole

    assert "4 results, <0.1 MB removed" in said(capsys, prune.main, "--config", one, "--yes")
    assert there(tmp_path / "root") == keep
    assert all(step.address.find() and step.input(role) for step in plans[0].steps.values() for role in step.inputs)
    assert not list((tmp_path / "root").rglob("*.lock"))


def test_studies_sampled_lines_and_what_is_not_ours(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {"a": {"objective": "dpo"}, "b": {"objective": "simpo"}}
    study = config("study", study={"methods": methods, "seeds": [0, 1], "until": "train"})
    sampled = config("sampled", data="sampled", objective="dpo")
    grid, page = plan_study(study, [])
    for _, plan in grid.cells:
        for step in plan.until(grid.study.until):
            commit(plan, step)
    commit(grid, page)
    commit_all(make_plan(load(sampled)))
    commit_all(make_plan(load(config("third", data={"source": "verifiable", "seed": 5}))))
    root = tmp_path / "root"
    mine = [root / "study" / "cells" / "a.yaml", root / ".replies" / "x.json", root / "notes" / "of-0123456789ab" / "x"]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    said(capsys, prune.main, "--config", study, "--config", sampled, "--yes")
    wanted = {
        f"{step.stage}/{step.address.path.name}" for _, plan in grid.cells for step in plan.until(grid.study.until)
    }
    wanted |= addresses(make_plan(load(sampled))) | {f"study/{page.address.path.name}"}
    assert {"sample", "rate", "pair", "study"} <= {name.split("/")[0] for name in wanted}
    assert there(root) == wanted | {"notes/of-0123456789ab"}
    assert all(file.read_text() == "mine" for file in mine)


def test_what_other_runs_go_on_from_stays(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trained model that a run starts from, pairs of an earlier one, and the runs of rounds and of a sweep."""
    first = make_plan(load(config("first", data="sampled", objective="dpo")))
    commit_all(first)
    trained, pairs = first.steps["train"].address.path, first.steps["pair"].address.path
    (trained / "model").mkdir()
    for file in (tmp_path / "model").iterdir():
        (trained / "model" / file.name).write_bytes(file.read_bytes())
    data = {"source": "sampled", "earlier": [str(pairs)]}
    more = config("more", data=data, train={"start": str(trained / "model")}, sample={"seed": 5})
    rounds = config("rounds", data="sampled", rounds={"count": 2}, sample={"seed": 6})
    sweep = config("sweep", sweep={"methods": {"a": {"objective": "dpo"}}, "trials": 1, "seeds": [0]})
    tuning = plan_sweep(sweep)
    trial = make_plan(tuning.final("a", {}, 0).config)
    write_config(trial.config, tuning.folder / "a-seed0.yaml")
    plans = [*plan_rounds(rounds).planned, make_plan(load(more)), trial]
    for plan in plans:
        commit_all(plan)
    wanted = set[str]().union(*map(addresses, plans))
    said(capsys, prune.main, *(f"--config={file}" for file in (more, rounds, sweep)), "--yes")
    left = there(tmp_path / "root")
    assert wanted | {f"train/{trained.name}", f"pair/{pairs.name}"} <= left
    assert f"report/{first.steps['report'].address.path.name}" not in left


def test_curves_of_trackers_go_with_their_training(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = config(), config("other", objective={"name": "dpo", "beta": 0.2})
    kept, gone = (make_plan(load(file)).steps["train"].address for file in (one, other))
    commit_all(make_plan(load(one)))
    commit_all(make_plan(load(other)))
    tracking, files = tmp_path / "root" / "tracking", dict[str, list[Path]]()
    for address in (kept, gone):
        files[address.fingerprint] = [
            tracking / "tensorboard" / address.path.name / "events.out.tfevents.1",
            tracking / "wandb" / f"offline-run-20260101_000000-{address.fingerprint}" / "run.wandb",
            tracking / "mlruns" / "1" / f"id-of-{address.label}-{address.fingerprint[:3]}" / "tags" / "fingerprint",
        ]
        for file in files[address.fingerprint]:
            file.parent.mkdir(parents=True)
            file.write_text(address.fingerprint)
    others = tracking / "tensorboard" / "mine" / "events"
    others.parent.mkdir()
    others.touch()
    listed = said(capsys, list_door.main, "--config", one)
    assert f"tracking/tensorboard/{kept.path.name} " in listed and f"train {gone.fingerprint[:6]}" in listed
    with gone.writing():  # whoever trains it anew has its curves open
        assert "wandb/offline-run" in said(capsys, prune.main, "--config", one, "--yes")
        assert all(file.exists() for file in files[gone.fingerprint])
    said(capsys, prune.main, "--config", one, "--yes")
    assert not any(file.parent.exists() for file in files[gone.fingerprint])
    assert all(file.exists() for file in (*files[kept.fingerprint], others))


@pytest.mark.parametrize("role", ["model", "against"])
def test_a_trained_model_that_answers_stays(
    role: str, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a round that starts anew: without it its answers could never be planned again."""
    first = make_plan(load(config("first", objective="dpo")))
    commit_all(first)
    trained = first.steps["train"].address.path
    (trained / "model").mkdir()
    for file in (tmp_path / "model").iterdir():
        (trained / "model" / file.name).write_bytes(file.read_bytes())
    asks = config("asks", data="sampled", objective="dpo", sample={role: {"source": str(trained / "model")}})
    commit_all(make_plan(load(asks)))
    said(capsys, prune.main, "--config", asks, "--yes")
    assert make_plan(load(asks)).steps["sample"].address.find()
    assert f"reference/{first.steps['reference'].address.path.name}" not in there(tmp_path / "root")


def test_results_that_a_path_of_a_configuration_lies_in_stay(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever setting names it, through a link too: pairs of another run's, and its chat template."""
    first = make_plan(load(config("first", objective="dpo")))
    row = b'{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "A banana."}\n'
    commit(first, first.steps["prepare"], {"pairs.jsonl": row})
    commit(first, first.steps["generate:base"], {"chat_template.jinja": b"{{ messages }}"})
    commit(first, first.steps["judge"])
    pairs, template = (first.steps[name].address.path for name in ("prepare", "generate:base"))
    (tmp_path / "link").symlink_to(pairs)
    second = config(
        "second",
        data={"source": str(tmp_path / "link" / "pairs.jsonl")},
        model={"source": str(tmp_path / "model"), "chat_template": str(template / "chat_template.jinja")},
        objective={"name": "dpo"},
    )
    said(capsys, prune.main, "--config", second, "--yes")
    assert there(tmp_path / "root") == addresses(first, "prepare", "generate:base")
    assert make_plan(load(second))


@contextmanager
def at_work(plan: Plan, code: str) -> Iterator[None]:
    """Another process that does something with a result until it is told to end."""
    start = f"""
import sys
from pipeline.results.address import Address
from pathlib import Path
def place(root, stage, label, digest): return Address(Path(root), stage, label, digest)
{code}
    print("held", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", start], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield
    finally:
        process.communicate("")


def spelled(plan: Plan, name: str) -> str:
    address = plan.steps[name].address
    return f"place({str(address.root)!r}, {address.stage!r}, {address.label!r}, {address.fingerprint!r})"


def test_what_is_made_or_used_stays(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = config(), config("other", objective={"name": "dpo", "beta": 0.2})
    plan = make_plan(load(other))
    commit_all(make_plan(load(one)))
    commit(plan, plan.steps["train"])
    with at_work(plan, f"with {spelled(plan, 'train')}.find().held():"):
        told = said(capsys, prune.main, "--config", one, "--yes")
        assert "stays: it is being made, or in use" in told and "0 results, <0.1 MB removed" in told
        assert plan.steps["train"].address.find()
    with at_work(plan, f"with {spelled(plan, 'judge')}.writing() as folder:\n    (folder / 'half').touch()"):
        told = said(capsys, prune.main, "--config", one, "--yes")
        partial = plan.steps["judge"].address.partial
        assert f"judge/{partial.name} stays" in told and "1 result, <0.1 MB removed" in told
        assert (partial / "half").exists() and not plan.steps["train"].address.find()
    said(capsys, prune.main, "--config", one, "--yes")  # now that it is nobody's
    assert not partial.exists()


def test_what_is_unfinished_stays_with_who_goes_on_with_it(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = config(), config("other", data={"source": "verifiable", "seed": 1})
    plans = [make_plan(load(file)) for file in (one, other)]
    for plan in plans:
        plan.steps["reference"].address.partial.mkdir(parents=True)
        (plan.steps["reference"].address.partial / "part-00000.parquet").write_bytes(b"x" * 10)
    successor = commit(plans[0], plans[0].steps["prepare"])
    replaced = successor.path.with_name(f"{successor.path.name}.old")
    replaced.mkdir()
    (replaced / "manifest.json").write_text(json.dumps(successor.manifest))
    said(capsys, prune.main, "--config", one, "--yes")
    assert [plan.steps["reference"].address.partial.exists() for plan in plans] == [True, False]
    assert successor.path.exists() and not replaced.exists()


def test_what_hangs_on_a_training_and_what_is_named(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.line.ranking import plan_ranking

    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "A banana."}\n')
    one, other = config(), config("other", objective={"name": "dpo", "beta": 0.2})
    plans = [make_plan(load(file)) for file in (one, other)]
    ranked = set()
    for plan in plans:
        commit_all(plan)
        pairs, step = plan_ranking(plan, str(tmp_path / "pairs.jsonl"))
        for name in ("prepare", "reference"):
            commit(pairs, pairs.steps[name])
        ranked |= addresses(pairs, "prepare", "reference") | {f"rank/{commit(plan, step).path.name}"}
    said(capsys, prune.main, "--config", one, "--yes")
    left = there(tmp_path / "root")
    assert len([name for name in left if name.startswith("rank/")]) == 1
    assert left - addresses(plans[0]) <= ranked and len(left - addresses(plans[0])) == 3

    commit_all(plans[1])
    train = plans[1].steps["train"].address
    said(capsys, prune.main, "--config", one, "--keep", f"{train.root}/train/{train.path.name}/", "--yes")
    assert there(tmp_path / "root") == left | addresses(plans[1], "train")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--keep", "train/none-0123456789ab"], "is no committed result"),
        (["objective.beat=1"], "did you mean"),
        (["--config", "configs/smoke.yaml"], "results in 2 places"),
    ],
)
def test_what_is_not_understood_removes_nothing(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    commit_all(make_plan(load(config("other", data={"source": "verifiable", "seed": 1}))))
    before = there(tmp_path / "root")
    with pytest.raises(SystemExit) as stop:
        prune.main(["--config", config(), *more, "--yes"])
    assert stop.value.code == 2 and says in capsys.readouterr().err
    assert there(tmp_path / "root") == before


def test_the_list(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = config()
    plan = make_plan(load(one))
    commit_all(plan)
    commit_all(make_plan(load(config("other", objective={"name": "dpo", "beta": 0.2}))))
    root = f"resources.root={tmp_path / 'root'}"
    lines = said(capsys, list_door.main, root).splitlines()
    assert len(lines) == 14 and lines[-1].startswith("12 results, ") and lines[-1].endswith(str(tmp_path / "root"))
    (reference,) = [line for line in lines if line.startswith("reference/")]
    assert reference.endswith(f"prepare {plan.steps['prepare'].address.fingerprint[:6]}")
    (prepared,) = [line for line in lines if line.startswith("prepare/")]
    assert prepared.endswith(f"{tmp_path / 'model'}, verifiable")
    found = json.loads(said(capsys, list_door.main, "--config", one, "--json"))
    assert {each["result"] for each in found if each["needed_by"] == [one]} == addresses(plan)
    assert sum(not each["needed_by"] for each in found) == 4
    assert all(each["bytes"] > 0 and each["written"] > 1.7e9 and each["kind"] == "committed" for each in found)
    with pytest.raises(SystemExit):
        list_door.main(["name=x"])
    assert "of which configuration?" in capsys.readouterr().err


def test_of_a_store(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Removed there and in this machine's mirror; what is in the store alone is found, too."""
    root = {"root": f"file://{tmp_path}/store", "mirror": str(tmp_path / "mirror")}
    (tmp_path / "store").mkdir()
    one, other = config(resources=root), config("other", resources=root, objective={"name": "dpo", "beta": 0.2})
    plans = [make_plan(load(file)) for file in (one, other)]
    for plan in plans:
        commit_all(plan)
    elsewhere = {"root": root["root"], "mirror": str(tmp_path / "another")}
    one = config(resources=elsewhere)
    told = said(capsys, prune.main, "--config", one, "--yes")
    assert "runs on other machines are not seen" in told and "4 results, <0.1 MB removed" in told
    assert there(tmp_path / "store") == addresses(plans[0])
    assert said(capsys, list_door.main, "--config", one).splitlines()[-1] == "0 results, <0.1 MB that nothing needs"
    assert os.listdir(tmp_path / "another") == os.listdir(tmp_path / "mirror")
