"""Questions that are not ours, through the doors: answered in turns, judged by a model, shown, exported, scored."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, command, made, only, refused, rows
from tests.e2e.running import settings
from tests.judge_server import Answer, judge_server

pytestmark = pytest.mark.e2e

STAGES = ("prepare", "reference", "schedule", "train")
ALPACA = [{"instruction": f"Name {count} colours.", "dataset": "koala"} for count in ("two", "three", "four")]
ALPACA.append({"instruction": "more than the model takes " * 1000, "dataset": "koala"})
ARENA = [{"uid": f"u{n}", "prompt": f"Say {n}.", "category": "hard_prompt", "subcategory": "math"} for n in range(2)]
TALKS = [
    {"question_id": 101, "category": "reasoning", "turns": ["Is it wet?", "Why?"], "reference_gpt4": ["Yes.", "Rain."]},
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Another."]},
]


def judge(question: str, before: int) -> Answer:
    """Rates with 6 what it has no reference for; between two answers the longer one wins."""
    if "to be rated" in question:
        return Answer("No. [[3]]" if "reference answer" in question else "Well. [[6]]")
    a, b = (len(question.split(f"Answer of assistant {name}", 1)[1].split("End of answer")[0]) for name in "AB")
    return Answer("[[A>B]]" if a > b else "[[B>A]]")


def test_other_benchmarks_are_answered_judged_shown_and_exported(line: Line, head: Head, tmp_path: Path) -> None:
    files = {}
    for name, questions in (("alpaca_eval", ALPACA), ("arena_hard_v2.0", ARENA), ("mt_bench", TALKS)):
        files[name] = str(tmp_path / f"{name}.jsonl")
        Path(files[name]).write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    with judge_server(judge) as server:
        given = (
            *settings(line, tmp_path / "root", *STAGES),
            f"generate.benchmarks={json.dumps({'verifiable': None, **files})}",
            *("generate.shard_prompts=4", "generate.samples=2", "generate.preset=mistral-instruct"),
            "judge.model=judge",
            f"resources.judge_endpoint.url={server.url}",
        )
        made("run", *given, environment=head.environment)
    root = tmp_path / "root"

    answers = rows(only(root, "generate", "tiny-*"))
    assert [row["benchmark"] for row in answers].count("mt_bench") == 8  # questions, turns, samples
    talk = [row for row in answers if row["question_id"] == "81" and row["sample"] == 1]
    first, second = sorted(talk, key=lambda row: row["turn"])
    before = json.loads(second["prompt"])
    assert [message["role"] for message in before] == ["user", "assistant", "user"]
    assert before[1]["content"] == first["response"] and before[2]["content"] == "Another."
    assert {row["seed"] for row in talk} != {row["seed"] for row in answers if row["question_id"] == "81"}

    samples: dict[tuple[str, int], list[str]] = {}
    for row in answers:
        samples.setdefault((row["benchmark"], row["sample"]), []).append(row["response"])
    assert samples["arena_hard_v2.0", 0] == samples["arena_hard_v2.0", 1]  # greedy, says the preset
    assert samples["alpaca_eval", 0] != samples["alpaca_eval", 1]  # at 0.5

    assert [row["finish_reason"] for row in answers if len(row["prompt"]) > 10_000] == ["no-room"] * 2

    figures = json.loads((only(root, "judge") / "manifest.json").read_text())["metrics"]["benchmarks"]
    assert list(figures) == ["verifiable", "alpaca_eval", "arena_hard_v2.0", "mt_bench"]
    rated = figures["mt_bench"]["ratings"]
    assert rated["models"]["base"]["categories"] == {"reasoning": 3.0, "writing": 6.0}
    assert rated["models"]["base"]["overall"]["value"] == 4.5 and rated["difference"]["value"] == 0
    longer = longer_wins(answers, rows(only(root, "generate", "gamma-dpo-*")))
    assert figures["alpaca_eval"]["games"]["rate"]["value"] == pytest.approx(longer)
    assert len(pq.read_table(only(root, "judge") / "ratings.parquet")) == 8

    page = (only(root, "report") / "report.html").read_text()
    assert "Other benchmarks" in page and "CC BY-NC 4.0" in page and "Of 2 answers to each question" in page
    assert "alpaca_eval: 1 turn did not fit into the base model: not asked, and not judged." in page
    assert "rated each answer from 1 to 10" in page and "What the judge said" in page
    exported(given, tmp_path / "exports", answers)


def longer_wins(base: list[dict[str, Any]], trained: list[dict[str, Any]]) -> float:
    """The trained model's points in percent, where the judge likes the longer answer, and of two alike the second."""
    points = []
    for a, b in zip(base, trained, strict=True):
        if a["benchmark"] == "alpaca_eval" and a["sample"] == 0 and a["finish_reason"] != "no-room":
            one, other = len(a["response"]), len(b["response"])
            points.append(50.0 if one == other else 100.0 * (other > one))
    return sum(points) / len(points)


def exported(given: tuple[str, ...], folder: Path, answers: list[dict[str, Any]]) -> None:
    done = subprocess.run(
        command("export", *given, "--to", str(folder)), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (outputs,) = folder.glob("alpaca_eval/tiny*/model_outputs.json")
    wanted = [row["response"] for row in answers if row["benchmark"] == "alpaca_eval" and row["sample"] == 0]
    assert [row["output"] for row in json.loads(outputs.read_text())] == wanted
    assert len(list(folder.glob("*/*/*.json*"))) == 6


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ('{"mine": null}', "names no file of questions"),
        ('{"mine": "/nowhere.jsonl"}', "there is no such file"),
        ('{"no name": null}', "generate.benchmarks"),
        ("{}", "generate.benchmarks"),
        ('{"verifiable": "x.jsonl"}', "verifiable"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(line: Line, tmp_path: Path, asked: str, says: str) -> None:
    assert says in refused("generate", *settings(line, tmp_path, *STAGES), f"generate.benchmarks={asked}")
