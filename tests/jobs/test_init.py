"""A configuration proposed for a model and data: what is proposed, that it loads and fits, and what is said beside."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from jobs import init
from jobs.init import given
from pipeline.fit.devices import device
from pipeline.fit.fit import fit, look
from pipeline.fit.proposal import _within
from pipeline.preferences.messages import said
from pipeline.preferences.normalise import Preference, split_of
from pipeline.settings.config import RunConfig, load
from tests.pipeline.fit.test_shape import LLAMA_8B


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs(folder: Path, count: int = 60, words: int = 20, scored: bool = False, **more: Any) -> str:
    draw = random.Random(0)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            said = {"chosen": "word", "rejected": "werd"}  # sides are never alike
            sides = {side: " ".join([word] * draw.randint(1, words)) for side, word in said.items()}
            scores = {"chosen_score": draw.randint(5, 9), "rejected_score": draw.randint(0, 4)} if scored else {}
            own = {name: value(number) if callable(value) else value for name, value in more.items()}
            file.write(json.dumps({"prompt": f"Say {number}."} | sides | scores | own) + "\n")
    return str(folder / "pairs.jsonl")


def proposed(model: Path, data: str, *more: str) -> tuple[RunConfig, str]:
    init.main(["--model", str(model), "--data", data, "--to", "new.yaml", *more])
    return load("new.yaml"), Path("new.yaml").read_text()


def test_pairs_with_scores(here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, text = proposed(byte_model, pairs(here, scored=True))
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


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({}, "they carry no scores"),
        (
            {"chosen_score": lambda n: n % 9 if n % 3 else None, "rejected_score": lambda n: -n if n % 3 else None},
            "20 of",
        ),
        ({"chosen_score": 7, "rejected_score": 3}, "60 of 60 score margins are alike"),
        ({"chosen_score": 0, "rejected_score": lambda n: 1 + n % 9}, "most scores say the opposite of the labels"),
        ({"difficulty": 3}, "they carry no scores"),
    ],
)
def test_pairs_that_cannot_be_ordered(
    here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str], rows: dict[str, Any], reason: str
) -> None:
    """The hardest of them would be any, and go to SFT."""
    config, text = proposed(byte_model, pairs(here, **rows))
    assert config.objective.name == "gamma-dpo" and f"# pairs cannot be ordered: {reason}" in text
    told = "the scores of 60 of 60 pairs say the opposite of the labels: are chosen and rejected exchanged"
    assert (told in capsys.readouterr().out) == ("opposite" in reason)


def test_pairs_with_a_difficulty(here: Path, byte_model: Path) -> None:
    config, _ = proposed(byte_model, pairs(here, difficulty=lambda number: number))
    assert (config.objective.name, config.schedule.difficulty) == ("mixdpo", "column")


def test_what_trains_on_the_labels_confidence_is_said(
    here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not what makes its own of the scores, as mmpo does."""
    proposed(byte_model, pairs(here, label_confidence=0.9))
    assert "the pairs carry label_confidence, which gdpo, cdpo-soft, sppo train on" in capsys.readouterr().out


def test_how_rows_are_read_is_said(here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = proposed(byte_model, pairs(here, 3, lang="en", chosen="one", rejected="two"))
    assert "  # rows are plain; not read: lang" in text
    assert "init: as read: asked 'Say 0.', chosen 'one', rejected 'two'" in capsys.readouterr().out
    odd: dict[str, Any] = {"a\x00b": 1, "\ud800": 2, **{f"x{number:02}": 3 for number in range(20)}}
    assert "not read: 'a\\x00b', x00, x01" in proposed(byte_model, pairs(here, 3, **odd), "--force")[1]


def test_rows_that_are_no_pairs_are_said(here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pairs(here, rejected=lambda number: "same" if number % 2 else "other", chosen="same")
    config, _ = proposed(byte_model, data)
    said = capsys.readouterr().out
    told = (
        "50 % of the rows looked at are no pairs, or too long: {'equal-completions': 30}, such as equal-completions in"
    )
    assert told in said
    assert "prepare refuses more than 5 % (data.max_dropped)" in said and config.data.max_dropped == 0.05
    proposed(byte_model, data, "--force", "data.max_dropped=0.6")
    assert "are no pairs" not in capsys.readouterr().out


# As those of families that write a system message of their own, and that have none.
TALKS = "{{ 'You are a machine. ' * 20 }}{% for message in messages %}{% if message['role'] == 'system' %}{{ "
TALKS += "raise_exception('no system') }}{% endif %}{{ '<s>' + message['content'] + '</s>' }}{% endfor %}"
TALKS += "{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"


def test_lengths_are_those_of_the_model_s_own_template(
    here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which may write more than the messages, or refuse some: of bytes 380, those of "Say 59." and 3 tokens."""
    (here / "talks.jinja").write_text(TALKS)
    template = "model.chat_template=talks.jinja"
    config, text = proposed(byte_model, pairs(here), template)
    assert config.data.max_prompt_tokens == 448 and "# the longest of those looked at has 390 tokens" in text
    mixed = pairs(here, system=lambda number: "Be brief." if number % 2 else None)
    proposed(byte_model, mixed, template, "--force")
    said = capsys.readouterr().out
    assert "50 % of the rows looked at are no pairs, or too long: {'template-refused': 30}, such as template-" in said
    with pytest.raises(SystemExit):
        proposed(byte_model, pairs(here, system="Be brief."), template, "--force")
    assert "this model can use none of 60 pairs: {'template-refused': 60}" in capsys.readouterr().err


def test_splits_that_rows_name(here: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fraction draws from rows without one alone."""
    config, text = proposed(byte_model, pairs(here, split=lambda number: "test" if number % 3 else "train"))
    assert config.data.dev_fraction == 0 and "# 5 steps of 20 pairs" in text
    assert "every row names its split, and none dev" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        proposed(byte_model, pairs(here, split="test"), "--force")
    assert "no pair is in split train, which alone is trained on: {'test': 60}" in capsys.readouterr().err
    one = next(each for each in (f"Say {n}." for n in range(999)) if split_of(asked(each), 0.1) == "dev")
    with pytest.raises(SystemExit):
        proposed(byte_model, pairs(here, prompt=one), "--force")  # of which all answers are held out
    assert "of so few prompts, which are held out whole, none is left" in capsys.readouterr().err


def asked(prompt: str) -> Preference:
    return Preference(({"role": "user", "content": prompt},), said("Blue."), said("A banana."))


def test_limits_share_the_model_s_positions() -> None:
    """Neither is cut to half of them where the other leaves room."""
    assert _within({"prompt": 60, "completion": 1500}, 2048) == {"prompt": 64, "completion": 1536}
    assert _within({"prompt": 60, "completion": 9000}, None) == {"prompt": 64, "completion": 9024}
    assert _within({"prompt": 36, "completion": 15}, 64) == {"prompt": 42, "completion": 21}
    assert _within({"prompt": 64, "completion": 3000}, 2048) == {"prompt": 64, "completion": 1984}
    assert _within({"prompt": 3008, "completion": 1500}, 2048) == {"prompt": 1024, "completion": 1024}


@pytest.mark.parametrize(("name", "called"), [("2024.jsonl", "2024"), ("null.jsonl", "null"), ("a.b.jsonl", "a")])
def test_a_file_s_name_is_the_run_s(here: Path, byte_model: Path, name: str, called: str) -> None:
    Path(pairs(here, 3)).rename(here / name)
    assert proposed(byte_model, name)[0].name == called
    assert given("m", "owner/prefs-2.0", [])["name"] == "prefs-2.0"


def test_what_the_user_gives_stays(here: Path, byte_model: Path) -> None:
    given = ("objective=dpo", "train.learning_rate=3e-6", "data.dev_fraction=0.2", "name=mine", "train.lora=8")
    config, text = proposed(byte_model, pairs(here, scored=True), *given)
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
    data = pairs(here, 20_000, scored=True)
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
        (["--gpu", "h100", "--gpus", "0"], "--gpus 0 is no number of GPUs"),
        (["--data", "sampled"], "there is nothing to look at"),
        (["data.max_completion_tokens=1"], "none of 60 pairs looked at fits into the limits"),
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
    named = [each for each in arguments if "=" not in each]
    options |= dict(zip(named[::2], named[1::2], strict=True))
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
