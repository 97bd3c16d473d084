"""Questions that are not ours, through the doors: answered in turns, judged by a model, shown, exported, scored."""

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.evaluation.judging.games import GO_ON
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, made, only, refused, rows
from tests.e2e.running import actors, finish, settings, start, until
from tests.judge_server import Answer, JudgeServer, judge_server

pytestmark = pytest.mark.e2e

STAGES = ("prepare", "reference", "schedule", "train")
# Together more than an engine takes at a time, and each is sampled with a seed.
ALPACA = [{"instruction": f"{word} " * 1400, "dataset": "koala"} for word in ("long", "wide", "deep", "tall")]
ALPACA.append({"instruction": "Name two colours.", "dataset": "koala"})
ALPACA.append({"instruction": "more than the model takes " * 1000, "dataset": "koala"})
ARENA = [{"uid": f"u{n}", "prompt": f"Say {n}.", "category": "hard_prompt", "subcategory": "math"} for n in range(2)]
FIRST_ARENA = [
    {"question_id": f"v{n}", "category": "arena-hard-v0.1", "turns": [{"content": f"Is {n} so?"}]} for n in range(4)
]
TALKS = [
    {"question_id": 101, "category": "reasoning", "turns": ["Is it wet?", "Why?"], "reference_gpt4": ["Yes.", "Rain."]},
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Another."]},
]


def judge(question: str, before: int) -> Answer:
    """Rates with 6 what it has no reference for; between two answers the longer one is likelier the better.

    Of Arena-Hard v0.1 it has to be asked twice.
    """
    if question == GO_ON:
        return Answer("[[A>>B]]")
    if re.search(r"Is \d so\?", question):
        return Answer("Let me think.")
    if "to be rated" in question:
        return Answer("No. [[3]]" if "reference answer" in question else "Well. [[6]]")
    first, second = (
        len(part.split("End of answer")[0]) for part in re.split(r"Answer of assistant \w \w+\n", question)[1:]
    )
    if question.endswith("m or M:"):
        chances = (0.5, 0.5) if first == second else (0.8, 0.2) if first > second else (0.2, 0.8)
        return Answer("m", first=dict(zip("mM", map(math.log, chances), strict=True)))
    return Answer("[[A>B]]" if first > second else "[[B>A]]" if first < second else "[[A=B]]")


def test_other_benchmarks_are_answered_judged_shown_and_exported(line: Line, head: Head, tmp_path: Path) -> None:
    files = {}
    asked: dict[str, list[dict[str, Any]]] = {
        "alpaca_eval": ALPACA,
        "arena_hard_v0.1": FIRST_ARENA,
        "arena_hard_v2.0": ARENA,
        "mt_bench": TALKS,
    }
    for name, questions in asked.items():
        files[name] = str(tmp_path / f"{name}.jsonl")
        Path(files[name]).write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps([{**row, "output": "x" * 20, "generator": "gpt"} for row in ALPACA]))
    with judge_server(judge) as server:
        given = (
            *settings(line, tmp_path / "root", *STAGES),
            f"generate.benchmarks={json.dumps({'verifiable': None, **files})}",
            *("generate.shard_prompts=12", "generate.samples=2", "generate.preset=mistral-instruct"),
            "judge.model=judge",
            f"judge.baselines={json.dumps({'alpaca_eval': str(theirs)})}",
            f"judge.wording={json.dumps(dict.fromkeys(files, 'own'))}",
            f"resources.judge_endpoint.url={server.url}",
            "resources.judge_endpoint.dollars_per_million=[1000000, 0]",
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
    assert list(figures) == ["verifiable", *asked]
    rated = figures["mt_bench"]["judged"]
    assert rated["method"] == "ratings" and rated["ratings"]["models"]["base"]["categories"] == {
        "reasoning": 3.0,
        "writing": 6.0,
    }
    assert [each["value"] for each in rated["figures"] if "overall" in each["label"]] == [4.5, 4.5]
    assert rated["paired"]["difference"]["value"] == 0 and rated["dollars"] == rated["prompt_tokens"]
    compared = figures["alpaca_eval"]["judged"]
    assert compared["method"] == "preference" and [each["against"] for each in compared["matches"]] == ["gpt", "gpt"]
    for match, label in zip(compared["matches"], ("tiny-*", "gamma-dpo-*"), strict=True):
        assert match["summary"]["rate"]["value"] == pytest.approx(likes_long(rows(only(root, "generate", label))))
        assert [each["label"] for each in match["figures"]] == ["standard error", "discrete win rate"]
    assert len(pq.read_table(only(root, "judge") / "ratings.parquet")) == 8

    # The first shown wins either game, three times: half of the points. A judge without a label was asked to go on.
    played = pq.read_table(only(root, "judge") / "games.parquet").to_pylist()
    met = [row for row in played if row["benchmark"] == "arena_hard_v0.1" and row["outcome"] != "alike"]
    assert met and all((row["judgment"], row["times"]) == ("Let me think.\n[[A>>B]]", 3) for row in met)
    went_on = [body["messages"] for body in server.bodies if body["messages"][-1]["content"] == GO_ON]
    said = [[message["role"] for message in messages[-3:]] for messages in went_on]
    assert said == [["user", "assistant", "user"]] * len(met)
    assert figures["arena_hard_v0.1"]["judged"]["matches"][0]["summary"]["rate"]["value"] == 50

    page = (only(root, "report") / "report.html").read_text()
    assert "Other benchmarks" in page and "CC BY-NC 4.0" in page and "Of 2 answers to each question" in page
    assert "alpaca_eval: 1 turn did not fit into the base model or its template: not asked or judged." in page
    exported(given, tmp_path / "exports", answers, compared["matches"][1]["summary"]["rate"]["value"])
    judged_by_one_that_thinks(given, root, head)


THOUGHT = "<think>A weak answer would get [[2]], or [[A>>B]].</think>"
NOISE = {"<think>": -0.01, "M": -9.0}
FIRST = {"m": math.log(0.8), "M": math.log(0.2)}


def thinking(question: str, body: dict[str, Any]) -> Answer:
    """Takes neither max_tokens nor a temperature. What it thinks says otherwise than its words."""
    for name in ("max_tokens", "temperature"):
        if name in body:
            told = {"message": f"Unsupported: '{name}' with this model.", "param": name}
            return Answer(status=400, raw=json.dumps({"error": told}).encode())
    if "to be rated" in question:
        return Answer(f"{THOUGHT} Good. [[9]]")
    if question.endswith("m or M:"):
        if body["max_completion_tokens"] == 1:
            return Answer("<think>", first=NOISE)
        return Answer("<think>M</think>m", tokens=(("<think>", NOISE), ("M", {}), ("</think>", {}), ("m", FIRST)))
    return Answer(f"{THOUGHT.removeprefix('<think>')} [[B>A]]")  # the prompt opened its thoughts


def judged_by_one_that_thinks(given: tuple[str, ...], root: Path, head: Head) -> None:
    """The same answers, on every benchmark: its words count, and it is asked as it can be."""
    with judge_server(lambda question, _: thinking(question, last(server, question))) as server:
        kept = [each for each in given if not each.startswith(("judge.model=", "resources.judge_endpoint.url="))]
        asked = (*kept, "judge.model=thinker", f"resources.judge_endpoint.url={server.url}")
        said = made("judge", *asked, environment=head.environment)
    assert said.count("max_tokens is not taken") == said.count("temperature is not taken") == 1
    (folder,) = (file.parent for file in (root / "judge").glob("*/manifest.json") if "thinker" in file.read_text())
    assert {row["rating"] for row in pq.read_table(folder / "ratings.parquet").to_pylist()} == {9}
    games = [row for row in pq.read_table(folder / "games.parquet").to_pylist() if row["outcome"] != "alike"]
    assert {row["outcome"] for row in games} == {"read"}
    for name, first in (("arena_hard_v0.1", 0.0), ("arena_hard_v2.0", 0.0), ("alpaca_eval", 0.8)):
        points = {
            round(p if row["model_first"] else 1 - p, 9)
            for row in games
            if row["benchmark"] == name
            for p in [row["points"]]
        }
        assert points == {first}
    assert not any(body["messages"][-1]["content"] == GO_ON for body in server.bodies)
    figures = json.loads((folder / "manifest.json").read_text())["metrics"]["benchmarks"]
    for name in ("alpaca_eval", "mt_bench"):
        assert any("are at the judge's own temperature" in note for note in figures[name]["judged"]["notes"])


def last(server: JudgeServer, question: str) -> dict[str, Any]:
    return next(body for body in reversed(server.bodies) if body["messages"][-1]["content"] == question)


def likes_long(answers: list[dict[str, Any]]) -> float:
    """The points against twenty characters, in percent: the longer answer has 80, answers of one length 50."""
    points = []
    for row in answers:
        if row["benchmark"] == "alpaca_eval" and row["sample"] == 0 and row["finish_reason"] != "no-room":
            length = len(row["response"])
            points.append(50.0 if length == 20 else 80.0 if length > 20 else 20.0)
    return sum(points) / len(points)


def exported(given: tuple[str, ...], folder: Path, answers: list[dict[str, Any]], rate: float) -> None:
    """Every file is there, once and not in place of another run's, and scores elsewhere as it does here."""
    for _ in range(2):
        made("export", *given, "--to", str(folder))
    (outputs,) = folder.glob("alpaca_eval/tiny*/model_outputs.json")
    wanted = [row["response"] for row in answers if row["benchmark"] == "alpaca_eval" and row["sample"] == 0]
    assert [row["output"] for row in json.loads(outputs.read_text())] == wanted
    (annotations,) = folder.glob("alpaca_eval/gamma-dpo-*/judge/annotations.json")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json*"))
    assert len(names) == 8 + 2 + 2 + 1, (
        names
    )  # answers; alpaca_eval of both models, a match of either arena, one of ratings
    theirs = folder / "mt_bench/model_judgment/judge_single.jsonl"
    ours = theirs.read_text()
    theirs.write_text("{}\n")
    annotations.unlink()
    told = refused("export", *given, "--to", str(folder))
    assert f"{theirs} is there already, with other content" in told and not annotations.exists()
    theirs.write_text(ours)
    made("export", *given, "--to", str(folder))
    score = [sys.executable, "-m", "jobs.score", "--json", "--resamples", "100"]
    for benchmark, file, value in (
        ("alpaca_eval", annotations, lambda one: one["win_rate"]["value"]),
        ("mt_bench", folder / "mt_bench/model_judgment/judge_single.jsonl", lambda one: one["overall"]["value"]),
    ):
        ended = subprocess.run(
            [*score, "--benchmark", benchmark, "--annotations", str(file)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        found = [value(one) for one in json.loads(ended.stdout)["scores"]]
        assert found == ([pytest.approx(rate)] if benchmark == "alpaca_eval" else [4.5, 4.5])


def killed_at_its_first_shard(root: Path, head: Head, driver: "subprocess.Popen[str]") -> None:
    until(lambda: list(root.glob("judge/*.partial/replies-*.parquet")), driver, pause=0.002)
    for actor in actors(head.pid, "MapBatches(Judge)"):
        actor.kill()


def test_a_judge_that_runs_here_and_is_killed_in_mid_shard(line: Line, head: Head, tmp_path: Path) -> None:
    """It is replaced, and every reply is that of one that was left alone."""
    model = line.settings[0].partition("=")[2]
    local = (
        f"judge.local.source={model}",
        "judge.max_tokens=4",
        "judge.shard_prompts=2",
        "judge.methods.verifiable=games",
    )
    for name in ("calm", "troubled"):
        driver = start(head, "judge", *settings(line, tmp_path / name, *STAGES, "generate"), *local)
        if name == "troubled":
            killed_at_its_first_shard(tmp_path / name, head, driver)
        finish(driver)
    calm, troubled = (only(tmp_path / name, "judge") for name in ("calm", "troubled"))
    replies = [pq.read_table(sorted(folder.glob("replies-*.parquet"))).to_pylist() for folder in (calm, troubled)]
    assert replies[0] == replies[1] and len(replies[0]) > 4 and all(row["completion_tokens"] for row in replies[0])
    assert pq.read_table(calm / "games.parquet").equals(pq.read_table(troubled / "games.parquet"))
    figures = json.loads((calm / "manifest.json").read_text())["metrics"]["benchmarks"]["verifiable"]["judged"]
    assert figures["judge"] == "tiny" and figures["matches"][0]["summary"]["missing"] == 0
    cut = sum(row["cut"] for row in replies[0])
    assert cut and figures["notes"] == [f"{cut} of the {len(replies[0])} replies were cut short"]


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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("judge.methods.mt_bench=games",), "mt_bench is not asked"),
        (("judge.methods.verifiable=guess",), "judge.methods.verifiable"),
        (("judge.model=a", "judge.local.source=b"), "are two judges"),
        (("judge.local.source=/nowhere",), "judge.local.source=/nowhere"),
        (("judge.model=a", "judge.wording.verifiable=/nowhere.json"), "judge.wording.verifiable"),
        (("judge.model=a", "judge.baselines.verifiable=null"), "names no file of answers"),
    ],
)
def test_judges_that_cannot_be_asked_are_refused(line: Line, tmp_path: Path, given: tuple[str, ...], says: str) -> None:
    assert says in refused("judge", *settings(line, tmp_path, *STAGES, "generate"), *given)


def thinking_model(tiny: Path, folder: Path) -> Path:
    """Whatever it is asked it says `<think>M</think>m`: each token follows from the one before, by embedding and head
    alone. Its marks are control tokens, as some models' are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.tie_word_embeddings = False
    embedded = torch.nn.functional.normalize(
        torch.randn(len(tokenizer), 64, generator=torch.Generator().manual_seed(0))
    )
    model.model.embed_tokens.weight = torch.nn.Parameter(embedded)
    head = torch.zeros_like(embedded)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], add_generation_prompt=True, tokenize=False
    )
    words = [tokenizer.convert_tokens_to_ids(each) for each in ("<think>", "M", "</think>", "m")]
    chain = [tokenizer(str(asked))["input_ids"][-1], *words, tokenizer.eos_token_id]
    for before, after in itertools.pairwise(chain):
        head[after] = 8 * embedded[before]
    model.lm_head.weight = torch.nn.Parameter(head)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_judge_that_thinks_and_runs_here(line: Line, head: Head, tiny: Path, tmp_path: Path) -> None:
    """Its first token is a thought: it is asked again, and its preference is that of its first word."""
    judge = thinking_model(tiny, tmp_path / "judge")
    local = (f"judge.local.source={judge}", "judge.max_tokens=8", "judge.methods.verifiable=preference")
    made("judge", *settings(line, tmp_path, *STAGES, "generate"), *local, environment=head.environment)
    folder = only(tmp_path, "judge")
    games = [row for row in pq.read_table(folder / "games.parquet").to_pylist() if row["outcome"] != "alike"]
    assert games and {row["outcome"] for row in games} == {"read"}
    assert all(row["points"] == pytest.approx(1.0 if row["model_first"] else 0.0, abs=1e-6) for row in games)
    assert {row["judgment"] for row in games} == {"<think>M</think>m"}
