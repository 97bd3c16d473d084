"""Publishing through the door to a stand-in of the hub: all of it or none, private, with a card, and nothing twice."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import yaml

from jobs import publish
from jobs.common import hub as client
from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.settings.config import load
from tests.committed import commit
from tests.hub_server import TOKEN, Hub, hub_server

WEIGHTS = b"the weights" * 100
HELD_OUT = {"pairs": 4, "before": {"accuracy": 0.5}, "after": {"accuracy": 0.75}}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as one:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", one.url)
        # Xet's storage has a protocol of its own; without it files go as they do to a hub that has none.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(client, "WAIT_SECONDS", 0.01)
        yield one


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """A configuration of which a model is trained, and its arguments."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "A banana."}\n')
    raw = {"name": "mine", "model": str(model), "data": str(tmp_path / "pairs.jsonl"), "objective": "dpo"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw | {"resources": {"root": str(tmp_path / "root")}}))
    return ["--config", str(tmp_path / "run.yaml")]


def plan_of(given: list[str], *overrides: str) -> Plan:
    return make_plan(load(given[1], overrides))


@pytest.fixture
def trained(given: list[str]) -> Plan:
    plan = plan_of(given)
    files = {"model/config.json": b"{}", "model/model.safetensors": WEIGHTS, "model/README.md": b"of a path"}
    commit(plan, plan.steps["train"], files | {"steps.parquet": b"x"}, metrics={"held_out": HELD_OUT})
    return plan


def published(given: list[str], *more: str) -> None:
    publish.main([*given, "--to", "me/mine", "--licence", "apache-2.0", *more])


def refused(capsys: pytest.CaptureFixture[str], given: list[str], *more: str) -> str:
    with pytest.raises(SystemExit) as stop:
        published(given, *more)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_model(hub: Hub, given: list[str], trained: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(given)
    there = hub.repositories["model", "me/mine"]
    fingerprint = trained.steps["train"].address.fingerprint
    assert there.private and list(there.tags) == [f"widemargin-{fingerprint[:12]}"]
    assert f"{hub.url}/me/mine/tree/widemargin-{fingerprint[:12]} is private" in capsys.readouterr().out
    assert there.files["model.safetensors"] == WEIGHTS and there.files["config.json"] == b"{}"
    assert set(there.files) == {".gitattributes", "config.json", "model.safetensors", "README.md", "widemargin.json"}
    _, head, text = there.files["README.md"].decode().split("---\n", maxsplit=2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0" and "base_model" not in metadata and "dpo" in metadata["tags"]
    assert "75.0 % of 4 ranked as labelled, 50.0 % before" in text and "beta: 0.1" in text
    assert trained.model.digest in text and "Its answers were not compared" in text
    assert json.loads(there.files["widemargin.json"])["fingerprint"] == fingerprint
    assert not [name for name, content in there.files.items() if str(tmp_path).encode() in content]

    published(given)  # nothing is sent, or committed, twice
    assert "has it already" in capsys.readouterr().out
    assert (len(there.commits), hub.asked["put"], hub.asked["commit"]) == (2, 1, 1)


def test_a_dry_run_asks_nothing(hub: Hub, given: list[str], trained: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    publish.main([*given, "--to", "me/mine", "--dry-run"])
    said = capsys.readouterr().out
    assert "would go to me/mine, private: 4 files" in said and "model.safetensors" in said
    assert "its licence is not said yet" in said and "# me/mine" in said
    assert not hub.asked


def test_what_is_refused_before_the_hub_is_asked(
    hub: Hub, given: list[str], trained: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        publish.main([*given, "--to", "me/mine"])
    assert "under which licence" in capsys.readouterr().err
    assert "no name of a repository" in refused(capsys, given, "--base", "path/to/a/model")
    assert "prepare: not there yet" in refused(capsys, given, "--what", "pairs")
    weights = trained.steps["train"].address.path / "model" / "model.safetensors"
    weights.write_bytes(WEIGHTS[::-1])
    assert "has other bytes than were committed" in refused(capsys, given)
    assert not hub.asked


@pytest.mark.parametrize(
    ("what", "status", "says"),
    [
        ("whoami", 401, "does not take the token, which may have expired"),
        ("create", 403, "the token may not write to me/mine"),
        ("batch", 413, "more than the hub takes"),
        ("commit", 413, "more than the hub takes"),
        ("commit", 422, "the hub refuses me/mine"),
    ],
)
def test_a_hub_that_refuses(
    hub: Hub, given: list[str], trained: Plan, capsys: pytest.CaptureFixture[str], what: str, status: int, says: str
) -> None:
    hub.faults[what] = [status]
    if what == "create":
        hub.faults["info"] = [404, 404]  # asked for once more by the client
    assert says in refused(capsys, given)
    assert not [tag for one in hub.repositories.values() for tag in one.tags]
    assert all(set(one.files) == {".gitattributes"} for one in hub.repositories.values())
    published(given)  # as soon as it does not
    assert hub.repositories["model", "me/mine"].tags


def test_no_token(
    hub: Hub,
    given: list[str],
    trained: Plan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "there is no token for the hub" in refused(capsys, given)
    monkeypatch.setenv("HF_TOKEN", "hf_of_last_year")
    assert "which may have expired" in refused(capsys, given)
    assert TOKEN not in capsys.readouterr().out and not hub.repositories


@pytest.mark.parametrize("fault", [500, 503, "drop", "lost"])
def test_what_is_dropped_on_the_way_goes_on(
    hub: Hub, given: list[str], trained: Plan, capsys: pytest.CaptureFixture[str], fault: int | str
) -> None:
    """In the middle of the commit, or after it where nobody hears of it: one commit, and its tag at the end."""
    hub.faults["commit"] = [fault, fault] if fault != "lost" else [fault]
    published(given)
    there = hub.repositories["model", "me/mine"]
    assert "once more in 0 s" in capsys.readouterr().out
    assert there.files["model.safetensors"] == WEIGHTS and len(there.commits) == 2 and len(there.tags) == 1
    assert hub.asked["put"] == 1


def test_weights_that_are_dropped_in_the_middle(hub: Hub, given: list[str], trained: Plan) -> None:
    hub.faults["put"] = ["drop"]
    published(given)
    assert hub.repositories["model", "me/mine"].files["model.safetensors"] == WEIGHTS and hub.asked["put"] == 2


def test_a_hub_that_stays_away_and_comes_back(
    hub: Hub, given: list[str], trained: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults["commit"] = [500] * client.TRIES
    said = refused(capsys, given)
    assert "the hub answers 500" in said and "the same command goes on" in said
    there = hub.repositories["model", "me/mine"]
    assert not there.tags and set(there.files) == {".gitattributes"}
    published(given)
    assert there.tags and hub.asked["put"] == 1  # what was sent was kept


def test_a_commit_that_is_not_what_was_sent_is_not_called_published(
    hub: Hub, given: list[str], trained: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.hub_server import Repository

    commit_files = Repository.commit
    monkeypatch.setattr(
        Repository,
        "commit",
        lambda self, files: commit_files(self, {name: files[name] for name in files if "config" not in name}),
    )
    assert "config.json of 4 files is missing or other" in refused(capsys, given)
    assert not hub.repositories["model", "me/mine"].tags


def test_a_repository_that_is_there(
    hub: Hub, given: list[str], trained: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """Public only where that is said; weights of another commit go, what its owner put there stays."""
    old = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "picture.png": b"p"}
    hub.make("model", "me/mine", private=False, **old)
    assert "is there already, and public" in refused(capsys, given)
    assert not hub.asked["commit"]
    published(given, "--public")
    there = hub.repositories["model", "me/mine"]
    assert "picture.png" in there.files and not {*old} - {"picture.png"} & there.files.keys()
    assert "is public, 4 files" in capsys.readouterr().out
    hub.make("model", "me/closed", private=True)
    publish.main([*given, "--to", "me/closed", "--licence", "mit", "--public"])
    said = capsys.readouterr().out
    assert "me/closed is there already and stays private" in said and "is private, 4 files" in said


def test_adapters_name_their_base_for_others(hub: Hub, given: list[str], tmp_path: Path) -> None:
    lora = "train.lora={rank: 4, merge: false}"
    plan = plan_of(given, lora)
    config = json.dumps({"base_model_name_or_path": str(tmp_path / "model"), "r": 4}).encode()
    files = {"adapter/adapter_config.json": config, "adapter/adapter_model.safetensors": WEIGHTS}
    commit(plan, plan.steps["train"], files, metrics={"held_out": {}})
    published([*given, lora], "--base", "owner/base")
    there = hub.repositories["model", "me/mine"].files
    assert json.loads(there["adapter_config.json"]) == {"base_model_name_or_path": "owner/base", "r": 4}
    metadata = yaml.safe_load(there["README.md"].decode().split("---\n")[1])
    assert (metadata["base_model"], metadata["library_name"]) == ("owner/base", "peft")
    assert not [name for name, content in there.items() if str(tmp_path).encode() in content]


def test_adapters_name_the_model_that_they_were_trained_on(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "model", tmp_path / "start")
    more = ["train.lora={rank: 4, merge: false}", f"train.start={tmp_path / 'start'}"]
    plan = plan_of(given, *more)
    made = commit(plan, plan.steps["train"], {"adapter/adapter_config.json": b"{}"}, metrics={"held_out": {}})
    monkeypatch.setattr(publish, "hub_name", lambda source, base: f"owner/{Path(source).name}")
    files = publish.content(plan, made, client.Place("me/mine", "model", public=False), "mit", None)
    assert json.loads(cast(bytes, files["adapter_config.json"])) == {"base_model_name_or_path": "owner/start"}


def test_adapters_bring_the_template_that_they_were_trained_in(hub: Hub, given: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    more = ["train.lora={rank: 4, merge: false}", f"model.chat_template={tmp_path / 'own.jinja'}"]
    plan = plan_of(given, *more)
    commit(plan, plan.steps["train"], {"adapter/adapter_config.json": b"{}"}, metrics={"held_out": {}})
    published([*given, *more])
    assert hub.repositories["model", "me/mine"].files["chat_template.jinja"] == b"{{ messages }}"


def test_pairs_and_a_reference_as_data_sets(hub: Hub, given: list[str], tmp_path: Path) -> None:
    plan = plan_of(given)
    ledger = {"read": 3, "kept": 2, "dropped": {"seam": 1}}
    found = {"splits": {"train": 1, "dev": 1}}
    commit(plan, plan.steps["prepare"], rows={"part-00000.parquet": 2}, metrics=found, ledger=ledger)
    commit(plan, plan.steps["reference"])
    for what in ("pairs", "reference"):
        published(given, "--what", what)
        there = hub.repositories["dataset", "me/mine"].files
        assert there["data/part-00000.parquet"] == {"pairs": b"prepare", "reference": b"reference"}[what]
        metadata = yaml.safe_load(there["README.md"].decode().split("---\n")[1])
        assert metadata["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]
        assert ("dropped: seam | 1" in there["README.md"].decode()) == (what == "pairs")
        assert not [name for name, content in there.items() if str(tmp_path).encode() in content]


def test_other_models_are_named_and_no_path(hub: Hub, given: list[str], tmp_path: Path) -> None:
    """A training from another model than its reference, and from another than the base."""
    for name in ("start", "judge-of-gaps"):
        shutil.copytree(tmp_path / "model", tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    others = [f"train.start={tmp_path / 'start'}", f"reference.model={tmp_path / 'judge-of-gaps'}"]
    plan = plan_of(given, *others)
    commit(plan, plan.steps["train"], {"model/config.json": b"{}"}, metrics={"held_out": {}})
    commit(plan, plan.steps["reference"])
    published([*given, *others], "--base", "owner/start")
    there = hub.repositories["model", "me/mine"].files
    card = there["README.md"].decode()
    assert "Trained from owner/start by dpo" in card and "  start: local" in card
    assert f"- started from: local, SHA-256 {plan.start.digest}" in card
    published([*given, *others], "--what", "reference")
    scored = hub.repositories["dataset", "me/mine"].files["README.md"].decode()
    for each in (card, scored):
        assert f"- measured against: local, SHA-256 {plan.reference.digest}" in each and str(tmp_path) not in each
    assert "started from" not in scored
    assert str(tmp_path).encode() not in there["widemargin.json"]
