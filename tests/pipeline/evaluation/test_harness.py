"""What lm-evaluation-harness writes, read back and compared; and its command for a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.evaluation import harness
from pipeline.evaluation.harness import Asked, Score


def results(folder: Path, accuracy: float, name: str = "results_2026-11-27T10-00-00.json", **changes: Any) -> Path:
    """A file as version 0.4 of the harness writes it: a group with its parts, and two tasks, one of two filters."""
    found: dict[str, Any] = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": accuracy,
                "exact_match_stderr,strict-match": 0.01,
                "exact_match,flexible-extract": 0.5,
                "exact_match_stderr,flexible-extract": "N/A",
            },
            "mmlu": {"alias": "mmlu", "acc,none": 0.25, "acc_stderr,none": 0.004},
            "mmlu_law": {"alias": " - law", "acc,none": 0.2, "acc_stderr,none": 0.03},
            "wikitext": {
                "alias": "wikitext",
                "word_perplexity,none": 20.0 - accuracy,
                "word_perplexity_stderr,none": 0.1,
            },
        },
        "group_subtasks": {"mmlu": ["mmlu_law"], "gsm8k": []},
        "higher_is_better": {
            "gsm8k": {"exact_match": True},
            "mmlu": {"acc": True},
            "wikitext": {"word_perplexity": False},
        },
        "versions": {"gsm8k": 3.0, "mmlu": 2},
        "model_name": "a/model",
    }
    file = folder / "a__model" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found | changes))
    return file


def test_what_is_read(tmp_path: Path) -> None:
    found = harness.read(results(tmp_path, 0.3))
    assert list(found.scores) == [
        ("gsm8k", "exact_match,strict-match"),
        ("gsm8k", "exact_match,flexible-extract"),
        ("mmlu", "acc,none"),
        ("wikitext", "word_perplexity,none"),
    ]  # a group stands for its parts
    assert found.scores["gsm8k", "exact_match,strict-match"] == Score(0.3, 0.01)
    assert found.scores["gsm8k", "exact_match,flexible-extract"] == Score(0.5, None)
    assert found.higher["wikitext", "word_perplexity,none"] is False and found.model == "a/model"


def test_what_training_cost(tmp_path: Path) -> None:
    base, trained = (
        harness.read(results(tmp_path / name, value)) for name, value in (("base", 0.3), ("trained", 0.26))
    )
    rows = {(row.task, row.metric): row for row in harness.compare(base, trained)}
    strict = rows["gsm8k", "exact_match,strict-match"]
    assert strict.change == pytest.approx(-0.04) and strict.error == pytest.approx(0.01 * 2**0.5) and strict.worse
    assert not rows["gsm8k", "exact_match,flexible-extract"].worse and rows["mmlu", "acc"].change == 0
    perplexity = rows["wikitext", "word_perplexity"]  # lower is better: 0.04 more, with 0.14 of doubt
    assert perplexity.change == pytest.approx(0.04) and not perplexity.worse
    assert not harness.compare(trained, base)[0].worse


def test_the_newest(tmp_path: Path) -> None:
    results(tmp_path, 0.1, "results_2026-11-27T09-00-00.json")
    last = results(tmp_path, 0.2, "results_2026-11-28T08-00-00.json")
    assert harness.newest(tmp_path) == last
    with pytest.raises(UserError, match="holds no results"):
        harness.newest(tmp_path / "elsewhere")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": 3}', '{"results": {"a": 3}}'])
def test_what_is_no_result(tmp_path: Path, content: str) -> None:
    file = tmp_path / "results_x.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"no results of lm-evaluation-harness"):
        harness.read(file)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    base = harness.read(results(tmp_path / "base", 0.3))
    other = harness.read(results(tmp_path / "other", 0.3, results={"arc": {"acc,none": 0.5}}))
    with pytest.raises(UserError, match="no task in common"):
        harness.compare(base, other)
    other = harness.read(results(tmp_path / "version", 0.3, versions={"gsm8k": 4.0}))
    with pytest.raises(UserError, match=r"version 3\.0 and 4\.0"):
        harness.compare(base, other)


def test_commands(tmp_path: Path) -> None:
    gpu = harness.command(Asked(Path("/m"), "bfloat16", 2, Path("/a"), 64), ["ifeval", "mmlu"], Path("/o"))
    arguments = "pretrained=/m,dtype=bfloat16,tensor_parallel_size=2,gpu_memory_utilization=0.8"
    assert gpu[:5] == ["run", "--model", "vllm", "--model_args", f"{arguments},lora_local_path=/a,max_lora_rank=64"]
    assert "--apply_chat_template" in gpu and gpu[gpu.index("--tasks") + 1] == "ifeval,mmlu"
    cpu = harness.command(Asked(Path("/m"), "float32", 0, Path("/a"), 64, True), ["ifeval"], Path("/o"))
    assert cpu[:4] == ["run", "--model", "hf", "--device"]
    assert "pretrained=/m,dtype=float32,peft=/a,trust_remote_code=True" in cpu
