"""What a user can get wrong: each is answered with the value, the reason and a remedy, status 2 and no traceback."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.doors import refused

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.pears=3"], ["data.pears", "data.pairs"]),
        (["trian.batch_size=4"], ["trian", "train"]),
        (["train.batch_size=many"], ["train.batch_size", "many"]),
        (["train.learning_rate=-1"], ["train.learning_rate"]),
        (["nonsense"], ["nonsense", "section.key=value"]),
        (["objective.name=gama-dpo"], ["gama-dpo", "gamma-dpo"]),
        (["objective.zeta=1"], ["zeta"]),
        (["model.source=/nowhere/model"], ["/nowhere/model"]),
        (["model.source=package://no_such_package/model.gguf"], ["no_such_package"]),
        (["data.source=/nowhere/pairs.jsonl"], ["/nowhere/pairs.jsonl"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_settings(tiny: Path, tmp_path: Path, overrides: list[str], says: list[str]) -> None:
    told = refused("prepare", f"model.source={tiny}", f"resources.root={tmp_path}", *overrides)
    for text in says:
        assert text in told


def test_a_configuration_that_is_not_there_suggests_one_that_is() -> None:
    told = refused("run", config="configs/smok.yaml")
    assert "configs/smok.yaml" in told and "configs/smoke.yaml" in told


def test_a_configuration_that_is_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("model: [")
    assert "broken.yaml" in refused("run", config=str(tmp_path / "broken.yaml"))


def test_a_model_directory_without_weights(tmp_path: Path) -> None:
    assert str(tmp_path) in refused("prepare", f"model.source={tmp_path}", f"resources.root={tmp_path / 'root'}")


def test_a_model_directory_without_a_tokenizer(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    told = refused("prepare", f"model.source={tmp_path / 'model'}", f"resources.root={tmp_path / 'root'}")
    assert str(tmp_path / "model") in told and "tokenizer" in told


def test_a_tokenizer_without_a_chat_template(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model", ignore=shutil.ignore_patterns("chat_template*"))
    config = tmp_path / "model" / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings.pop("chat_template", None)
    config.write_text(json.dumps(settings))
    told = refused("prepare", f"model.source={tmp_path / 'model'}", f"resources.root={tmp_path / 'root'}")
    assert "chat template" in told and "model.chat_template" in told


def test_a_root_that_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    told = refused("prepare", f"model.source={tiny}", f"resources.root={tmp_path / 'file' / 'root'}")
    assert str(tmp_path / "file") in told and "resources.root" in told


def test_an_answer_longer_than_the_model_takes(tiny: Path, tmp_path: Path) -> None:
    settings = (f"model.source={tiny}", f"resources.root={tmp_path}")
    assert "generate.max_new_tokens" in refused("generate", *settings, "generate.max_new_tokens=5000")
