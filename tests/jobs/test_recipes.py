"""The recipes of published runs: each parses, plans and fits, on models of the exact shapes and data of their columns.

A model is a folder with a config.json and a tokenizer whose tokens are words, and to be planned with a tiny one with
weights; data are folders of one batch of pairs.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from jobs import fit
from pipeline.fit.shape import shape_of
from pipeline.line.plan import make_plan
from pipeline.settings.config import RunConfig, load
from pipeline.settings.file import RECIPES, recipes
from pipeline.settings.unused import unused
from tests.e2e.conftest import tiny_model

PAPERS = [name for name in recipes() if name.startswith("papers/")]
Config = dict[str, Any]


def shape(family: str, parameters: float, layers: int, sizes: tuple[int, ...], **more: Any) -> tuple[Config, float]:
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    config = {"model_type": family, "num_hidden_layers": layers, "tie_word_embeddings": False}
    return config | dict(zip(names, sizes, strict=True)) | more, parameters


# Widths, and billions of parameters as they are published.
LLAMA = shape("llama", 8.03, 32, (4096, 14336, 32, 8, 128256))
MISTRAL = shape("mistral", 7.24, 32, (4096, 14336, 32, 8, 32000))
GEMMA = shape("gemma2", 9.24, 42, (3584, 14336, 16, 8, 256000), head_dim=256, tie_word_embeddings=True)
QWEN = shape("qwen2", 7.62, 28, (3584, 18944, 28, 4, 152064))
OLMO3 = shape("olmo3", 7.30, 32, (4096, 11008, 32, 32, 100278))
MODELS = {
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA,
    "princeton-nlp/Llama-3-Base-8B-SFT": LLAMA,
    "mistralai/Mistral-7B-Instruct-v0.2": MISTRAL,
    "alignment-handbook/zephyr-7b-sft-full": MISTRAL,
    "HuggingFaceH4/mistral-7b-sft-beta": MISTRAL,
    "google/gemma-2-9b-it": GEMMA,
    "tanliboy/zephyr-gemma-2-9b-sft": GEMMA,
    "Qwen/Qwen2.5-7B-Instruct": QWEN,
    "AmberYifan/Qwen2.5-7B-sft-ultrachat": QWEN,
    "Qwen/Qwen3-4B": shape("qwen3", 4.02, 36, (2560, 9728, 32, 8, 151936), head_dim=128, tie_word_embeddings=True),
    "allenai/Llama-3.1-Tulu-3-8B-SFT": shape("llama", 8.03, 32, (4096, 14336, 32, 8, 128264)),
    "allenai/Llama-3.1-Tulu-3-70B-SFT": shape("llama", 70.55, 80, (8192, 28672, 64, 8, 128264)),
    "allenai/OLMo-2-1124-7B-SFT": shape("olmo2", 7.30, 32, (4096, 11008, 32, 32, 100352)),
    "allenai/Olmo-3-7B-Instruct-SFT": OLMO3,
    "allenai/Olmo-3-7B-Think-SFT": OLMO3,
    "allenai/Olmo-3.1-32B-Instruct-SFT": shape("olmo3", 32.23, 64, (5120, 27648, 40, 8, 100278)),
}


def columns_of(source: str, number: int) -> dict[str, Any]:
    """The columns of a data set beside the two conversations."""
    if "ultrafeedback_" in source and not source.endswith("_sp"):
        scores = {"score_chosen": 5.0 + number % 5, "score_rejected": 5.0}
        return scores | ({"difficulty": float(number)} if source.endswith("_difficulty") else {})
    if source.startswith("allenai/"):
        return {"id": str(number), "source": "made", "chosen_model": "a", "rejected_model": "b"}
    return {"prompt_id": str(number), "all_generated_responses": ["a", "b"], "all_rm_scores": [0.5, 0.25]}


def pairs(config: RunConfig) -> Iterator[dict[str, Any]]:
    """A batch of pairs of UltraFeedback's usual lengths, every eighth as long as is taken: theirs, both cut."""
    data = config.data
    for number in range(config.train.batch_size):
        asked, answered = 200, 320
        if number % 8 == 0:
            asked = answered = min(data.max_prompt_tokens, data.max_completion_tokens) // 2 - 50
        prompt = " ".join(["w"] * asked + [str(number)])
        sides = {
            side: [{"role": "user", "content": prompt}, {"role": "assistant", "content": " ".join([word] * answered)}]
            for side, word in (("chosen", "a"), ("rejected", "b"))
        }
        yield {"prompt": prompt, **sides, **columns_of(data.source, number)}


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Overrides that put a recipe on such a model and such data."""
    monkeypatch.setattr("pipeline.fit.fit.free_disk", lambda _: 1e15)

    def overrides(name: str) -> list[str]:
        config = load(name)
        model, data = tmp_path / "model", tmp_path / "data"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(MODELS[config.model.source][0]))
        words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        words.save(str(model / "tokenizer.json"))
        data.mkdir()
        lines = [json.dumps(row) for row in pairs(config)]
        split = str(config.data.split)
        for other in ("test_sft", "train_sft", "test_prefs") if split == "train_prefs" else ("test",):
            (data / f"{other}.jsonl").write_text(lines[0])
        (data / f"{split}.jsonl").write_text("\n".join(lines))
        return [f"model.source={model}", f"data.source={data}", f"resources.root={tmp_path / 'runs'}"]

    return overrides


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("Llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_parses_plans_and_fits(
    name: str, stand_ins: Callable[[str], list[str]], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(name)
    assert config.name == Path(name).name and not unused(config)
    changed = stand_ins(name)
    found = shape_of(tmp_path / "model", config.model.source)
    assert found.parameters / 1e9 == pytest.approx(MODELS[config.model.source][1], abs=0.006)
    plan = make_plan(load(name, [f"model.source={tiny}", *changed[1:]]))  # which wants weights, of whatever shape
    assert [*plan.steps][-1] == "report" and plan.steps["train"].identity["train"]["batch_size"] % 32 == 0

    head = (RECIPES / f"{name}.yaml").read_text().partition("\nname:")[0]
    for said in ("# Source: ", "# Departs: ", "# GPUs: ", f"--config {name}\n"):
        assert said in head
    told = re.search(r"# Fit: on (\d+) H100, (\S+) GB of each in training", head)
    assert told and int(told[1]) == config.resources.train_workers
    fit.main(["--config", name, "--gpu", "h100", "--gpus", told[1], "--json", *changed])  # would exit with 2
    figures = json.loads(capsys.readouterr().out)
    assert figures["fits"] and not figures["taken"]
    assert sum(figures["stages"]["train"]["gpu"].values()) / 1e9 == pytest.approx(float(told[2]), rel=0.05)


def test_the_table_is_of_the_recipes_that_are_there() -> None:
    rows = re.findall(r"^\| `(papers/[^`]+)` .*\|$", (RECIPES / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == PAPERS and len(PAPERS) == 24


@pytest.mark.parametrize("name", PAPERS)
def test_the_table_says_what_the_recipe_does(name: str) -> None:
    (row,) = (line for line in (RECIPES / "README.md").read_text().splitlines() if line.startswith(f"| `{name}` "))
    raw = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    said = [cell.strip() for cell in row.strip("|").split("|")]
    assert said[1:3] == [raw["model"]["source"].split("/")[-1], raw["data"]["source"].split("/")[-1]]
    letters = {"beta": "β", "gamma0": "γ₀", "tau": "τ", "label_smoothing": "ε"}
    values = [f"{letters[key]} {value:g}" for key, value in raw["objective"].items() if key in letters]
    assert said[3].split(", ")[1:] == values and said[3].split(", ")[0].split(" over ")[0] == raw["objective"]["name"]
    rate, schedule = said[4].split()
    assert float(rate) == raw["train"]["learning_rate"] and schedule == raw["train"]["lr_schedule"]
    assert [int(each) for each in said[5:7]] == [raw["train"]["batch_size"], raw["resources"]["train_workers"]]
    assert f"# Fit: on {said[6]} H100, {said[7]} of each" in (RECIPES / f"{name}.yaml").read_text()
