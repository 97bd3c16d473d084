"""A configuration proposed for a model and data: what is proposed, that it loads and fits, and what is said beside."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from jobs import init
from pipeline.fit.devices import device
from pipeline.fit.fit import fit, look
from pipeline.settings.config import RunConfig, load
from tests.pipeline.fit.test_shape import LLAMA_8B


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs(folder: Path, count: int = 60, words: int = 20, **more: Any) -> str:
    draw = random.Random(0)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            sides = {side: " ".join(["word"] * draw.randint(1, words)) for side in ("chosen", "rejected")}
            file.write(json.dumps({"prompt": f"Say {number}."} | sides | more) + "\n")
    return str(folder / "pairs.jsonl")


def proposed(model: Path, data: str, *more: str) -> tuple[RunConfig, str]:
    init.main(["--model", str(model), "--data", data, "--to", "new.yaml", *more])
    return load("new.yaml"), Path("new.yaml").read_text()


def test_pairs_with_scores(here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, text = proposed(byte_model, pairs(here, chosen_score=9, rejected_score=2))
    assert (config.objective.name, config.schedule.order, config.schedule.sft_percentile) == (
        "mixdpo",
        "easy-to-hard",
        10,
    )
    assert config.objective.parameters["preference"] == "gamma-dpo"
    assert config.data.dev_fraction == 0.1 and config.train.batch_size == 4 and config.train.learning_rate == 1e-5
    assert config.model.dtype == "float32" and "# pairs carry scores" in text
    said = capsys.readouterr().out
    assert "next: python -m jobs.fit --config new.yaml" in said and "of memory" in said


def test_pairs_without_scores_and_lengths(here: Path, byte_model: Path) -> None:
    """Bytes are tokens: of 1 to 99 words of five, and prompts of some tens."""
    config, _ = proposed(byte_model, pairs(here, 500, 99))
    assert config.objective.name == "gamma-dpo" and config.schedule.order == "shuffle"
    assert config.data.max_completion_tokens == 512 and config.data.max_prompt_tokens == 64
    assert config.resources.micro_batch_tokens == 64 + 2 * 512  # one such pair must fit
    assert config.data.dev_fraction == 0.05 and config.train.batch_size == 4


def test_what_the_user_gives_stays(here: Path, byte_model: Path) -> None:
    given = ("objective=dpo", "train.learning_rate=3e-6", "data.dev_fraction=0.2", "name=mine", "train.lora=8")
    config, text = proposed(byte_model, pairs(here, chosen_score=9, rejected_score=2), *given)
    assert (config.objective.name, config.train.learning_rate, config.data.dev_fraction) == ("dpo", 3e-6, 0.2)
    assert config.name == "mine" and config.train.lora and config.train.lora.rank == 8
    assert "gamma-dpo" not in text and "first guess" not in text and "# pairs carry" not in text  # no reason of ours


def test_the_embedded_tasks(here: Path, byte_model: Path) -> None:
    config, _ = proposed(byte_model, "verifiable")
    assert config.objective.name == "mixdpo" and config.data.dev_fraction == 0.0


def test_an_8b_model_on_gpus(here: Path) -> None:
    """It is made to fit, by the smallest change that does, and what is written fits."""
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text(json.dumps(LLAMA_8B))
    data = pairs(here, 20_000, chosen_score=9, rejected_score=2)
    config, text = proposed(here / "model", data, "--gpu", "h100", "--gpus", "4", "resources.root=.")
    assert config.model.dtype == "bfloat16" and config.resources.train_workers == 4 and config.resources.scorers == 4
    assert config.train.batch_size == 128 and config.train.learning_rate == 5e-7
    found = fit(config, look(config), device("h100"), 4)
    assert not found.overfull.keys() - {"disk"}
    one, text = proposed(here / "model", data, "--gpu", "h100", "--gpus", "1", "--force")
    assert one.train.lora and "# without it: train: a GPU must hold" in text
    assert not fit(one, look(one), device("h100"), 1).overfull.keys() - {"disk"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "none.jsonl"], "there is no such file"),
        (["--model", "none/of/it"], "there is nothing at"),
        (["--gpu", "abacus"], "is none that is known here"),
        (["--gpus", "2"], "of which kind?"),
        (["--to", "there.yaml"], "there is one already"),
        (["--to", "no/folder/x.yaml"], "cannot be written"),
        (["objective.beat=1"], "did you mean"),
    ],
)
def test_what_is_refused(
    here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (here / "there.yaml").write_text("mine")
    data = pairs(here)
    options = {"--model": str(byte_model), "--data": data, "--to": "new.yaml"}
    options |= dict(zip(arguments[::2], arguments[1::2], strict=False))
    flat = [word for option in options.items() for word in option]
    with pytest.raises(SystemExit) as stop:
        init.main([*flat, *[each for each in arguments if "=" in each]])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and "Traceback" not in said
    assert not (here / "new.yaml").exists() and (here / "there.yaml").read_text() == "mine"


def test_columns_of_other_names_are_told(here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "other.jsonl").write_text('{"question": "A?", "response_j": "b", "response_k": "c"}\n')
    with pytest.raises(SystemExit):
        proposed(byte_model, "other.jsonl")
    assert "data.columns={prompt: question" in capsys.readouterr().err
    columns = "data.columns={prompt: question, chosen: response_j, rejected: response_k}"
    config, _ = proposed(byte_model, "other.jsonl", columns)
    assert config.data.columns == {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}


def test_what_is_in_the_way_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text(json.dumps(LLAMA_8B | {"num_hidden_layers": 1, "vocab_size": 256}))
    proposed(here / "model", pairs(here), "--gpu", "h100")
    assert "init: " in capsys.readouterr().out
