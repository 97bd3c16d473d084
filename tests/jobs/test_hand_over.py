"""Both models handed to lm-evaluation-harness, and what came of it in the report; a stand-in program writes results."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from jobs import export
from jobs.report import elsewhere, ranked
from pipeline.errors import UserError
from pipeline.evaluation.harness import Asked, read
from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.settings.config import load
from tests.committed import commit

# Of the harness's options those that it needs; the trained model knows less.
PROGRAM = """#!{python}
import argparse, json, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["run"])
for name in ("model", "device", "model_args", "tasks", "batch_size", "output_path"):
    parser.add_argument(f"--{{name}}")
parser.add_argument("--apply_chat_template", action="store_true")
given = parser.parse_args()
model = dict(each.split("=") for each in given.model_args.split(","))["pretrained"]
if not pathlib.Path(model, "config.json").is_file() or "fails" in given.tasks:
    sys.exit(3)
score = 0.2 if "train" in model else 0.4
results = {{task: {{"acc,none": score, "acc_stderr,none": 0.01}} for task in given.tasks.split(",")}}
higher = {{task: {{"acc": True}} for task in results}}
folder = pathlib.Path(given.output_path, model.replace("/", "__"))
folder.mkdir(parents=True)
found = {{"results": results, "higher_is_better": higher, "versions": {{}}, "model_name": model}}
found["config"] = {{"model_args": given.model_args}}
(folder / "results_2026.json").write_text(json.dumps(found))
"""


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"weights")
    raw = {"name": "mine", "model": str(model), "objective": "dpo", "resources": {"root": str(tmp_path / "root")}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    return ["--config", str(tmp_path / "run.yaml")]


@pytest.fixture
def trained(given: list[str]) -> Plan:
    plan = make_plan(load(given[1]))
    commit(plan, plan.steps["train"], {"model/config.json": b"{}", "model/model.safetensors": b"w"})
    return plan


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "lm_eval"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def handed(given: list[str], to: Path, *more: str) -> None:
    export.main([*given, "--for", "lm-eval", "--tasks", "gsm8k,ifeval", "--to", str(to), *more])


def test_the_commands_are_said(
    given: list[str], trained: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    handed(given, tmp_path / "out")
    said = capsys.readouterr().out
    base, after = (line for line in said.splitlines() if line.startswith("lm_eval run"))
    assert f"pretrained={tmp_path}/model,dtype=float32" in base and base.endswith(f"--output_path {tmp_path}/out/base")
    assert f"pretrained={trained.steps['train'].address.path}/model," in after
    assert "is not installed here" in said and f"report.lm_eval={tmp_path}/out" in said
    assert not (tmp_path / "out").exists()


def test_what_comes_of_it_is_in_the_report(
    given: list[str], trained: Plan, installed: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    handed(given, out)
    said = capfd.readouterr().out
    assert "gsm8k acc: 0.4 to 0.2, -0.2 +- 0.0141, lost" in said and "asking the trained model" in said
    handed(given, out)
    said = capfd.readouterr().out
    assert said.count("is there already, and kept") == 2 and "asking" not in said
    found = elsewhere(str(out))
    assert found and [row.task for row in found.rows] == ["gsm8k", "ifeval"] and found.rows[0].worse
    shown = make_plan(load(given[1], [f"report.lm_eval={out}"])).steps["report"]
    without = make_plan(load(given[1])).steps["report"]
    assert shown.address.fingerprint != without.address.fingerprint
    (file,) = (out / "trained").rglob("*.json")
    file.write_text(file.read_text().replace("0.2", "0.3"))
    again = make_plan(load(given[1], [f"report.lm_eval={out}"])).steps["report"]
    assert again.address.fingerprint not in (shown.address.fingerprint, without.address.fingerprint)


def test_both_are_asked_in_the_words_of_the_training(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the template that was given, without thoughts where it was so, and Gemma with its BOS, whatever its path."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gemma2"}')
    (tmp_path / "own.jinja").write_text("{{ messages }}{{ enable_thinking }}{{ tone }}")
    more = [
        f"model.chat_template={tmp_path / 'own.jinja'}",
        "model.template_arguments={enable_thinking: false, tone: 1}",
    ]
    plan = make_plan(load(given[1], more))
    commit(plan, plan.steps["train"], {"model/config.json": b"{}", "model/model.safetensors": b"w"})
    handed([*given, *more], tmp_path / "out")
    said = capsys.readouterr().out
    told = f",tokenizer={plan.steps['train'].address.path}/model,add_bos_token=True,enable_thinking=False --"
    assert said.count(told) == 2 and "model.template_arguments are not passed on: tone" in said

    more.append("train.lora={rank: 4, merge: false}")
    plan = make_plan(load(given[1], more))
    commit(plan, plan.steps["train"], {"adapter/adapter_config.json": b"{}"})
    with pytest.raises(SystemExit):
        handed([*given, *more], tmp_path / "out")
    assert "would ask by the chat template in" in capsys.readouterr().err


def test_adapters_are_put_on_the_model_that_they_were_trained_on(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    shutil.copytree(tmp_path / "model", tmp_path / "start")
    (tmp_path / "start" / "model.safetensors").write_bytes(b"other weights")
    more = ["train.lora={rank: 4, merge: false}", f"train.start={tmp_path / 'start'}"]
    plan = make_plan(load(given[1], more))
    commit(plan, plan.steps["train"], {"adapter/adapter_config.json": b"{}"})
    handed([*given, *more], tmp_path / "out")
    base, after = (line for line in capsys.readouterr().out.splitlines() if line.startswith("lm_eval run"))
    assert f"pretrained={tmp_path}/model," in base and f"pretrained={tmp_path}/start," in after
    assert f"={plan.steps['train'].address.path}/adapter" in after


def test_results_of_another_training_are_refused(
    given: list[str], trained: Plan, installed: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And one model's in both places, and those whose adapters vLLM put on the base model."""
    out, setting = tmp_path / "out", f"report.lm_eval={tmp_path / 'out'}"
    handed(given, out)
    fingerprint = trained.steps["train"].address.fingerprint[:12]
    with pytest.raises(UserError, match=f"are of the training {fingerprint}, and this one is"):
        make_plan(load(given[1], [setting, "objective.beta=0.3"]))

    (file,) = (out / "trained").rglob("*.json")
    known = json.loads(file.read_text())
    adapter = f"{tmp_path}/root/train/dpo-0123456789ab/adapter"
    args = {"model_args": f"pretrained={tmp_path}/model,lora_local_path={adapter}"}
    file.write_text(json.dumps(known | {"config": args}))
    assert not read(file).is_of(Asked(tmp_path / "model", "float32", 1))
    assert read(file).is_of(Asked(tmp_path / "model", "float32", 1, Path(adapter), 4))
    assert not read(file).is_of(Asked(tmp_path / "start", "float32", 1, Path(adapter), 4))
    assert not read(file).is_of(
        Asked(tmp_path / "model", "float32", 1, Path(adapter), 4, alike={"add_bos_token": True})
    )
    with pytest.raises(UserError, match="are of the training 0123456789ab, and this one is"):
        make_plan(load(given[1], [setting]))
    known.pop("config")
    file.write_text(json.dumps(known | {"model_name": str(tmp_path / "model")}))
    with pytest.raises(UserError, match="both results of lm-evaluation-harness are of"):
        make_plan(load(given[1], [setting]))
    file.write_text(json.dumps(known | {"model_name": "me/mine"}))  # from the hub
    make_plan(load(given[1], [setting]))


def test_a_path_that_the_harness_cannot_read_is_refused(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"resources.root={tmp_path / 'a,b'}"
    plan = make_plan(load(given[1], [root]))
    commit(plan, plan.steps["train"], {"model/config.json": b"{}", "model/model.safetensors": b"w"})
    with pytest.raises(SystemExit) as stop:
        handed([*given, root], tmp_path / "out", "--dry-run")
    assert stop.value.code == 2 and "at commas and equals signs" in capsys.readouterr().err


def test_a_harness_that_fails(
    given: list[str], trained: Plan, installed: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        export.main([*given, "--for", "lm-eval", "--tasks", "fails", "--to", str(tmp_path / "out")])
    assert stop.value.code == 2 and "ended with status 3 for the base model" in capfd.readouterr().err


def test_before_anything_is_trained(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        handed(given, tmp_path / "out")
    assert stop.value.code == 2 and "needs the result of stage train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.main([*given, "--tasks", "gsm8k", "--to", str(tmp_path / "out")])
    assert "are for --for lm-eval" in capsys.readouterr().err


def test_a_ranking_of_another_training_is_refused(given: list[str], trained: Plan, tmp_path: Path) -> None:
    group = {"name": "all", "pairs": 2, "accuracy": {"log-prob sum": {"value": 0.5, "low": 0.2, "high": 0.8}}}
    found: dict[str, object] = {
        "data": "x",
        "train": trained.steps["train"].address.fingerprint,
        "objective": "dpo",
        "own_measure": None,
    }
    found |= {"dropped": {}, "trained_on": 0, "all": group, "subsets": [], "sections": [], "lacking": []}
    file = tmp_path / "ranking.json"
    file.write_text(json.dumps(found | {"held_out": group}))
    assert [shown.name for shown in ranked(file).groups] == ["all", "held-out pairs of the run"]
    make_plan(load(given[1], [f"report.ranked={file}"]))
    with pytest.raises(UserError, match="is of the training"):
        make_plan(load(given[1], [f"report.ranked={file}", "objective.beta=0.3"]))
    for content in ("", "[]", "{}"):
        file.write_text(content)
        with pytest.raises(UserError, match="is no ranking"):
            make_plan(load(given[1], [f"report.ranked={file}"]))
