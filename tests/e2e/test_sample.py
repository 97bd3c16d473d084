"""Answers through the sample door: what a candidate says of itself, and what a kill or a larger n changes."""

import json
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.onpolicy.candidates import candidate_id, seed_of
from pipeline.preferences.normalise import prompt_id_of
from pipeline.preferences.tokenise import open_tokeniser
from tests.e2e.conftest import Head
from tests.e2e.doors import made, only, rows
from tests.e2e.running import Calm, actors, beside, same_parts, start, until

pytestmark = pytest.mark.e2e

QUESTIONS = [f"Name the colour of thing {number}." for number in range(5)]
ROWS: list[dict[str, Any]] = [{"prompt": text, "chosen": "Red. I am sure.", "rejected": "7"} for text in QUESTIONS]
ROWS += [{"prompt": QUESTIONS[0]}, {"prompt": QUESTIONS[1], "source": "again"}, {"prompt": "word " * 600}]
GIVEN = (
    *("data=sampled", "data.max_dropped=0.2", "sample.shard_prompts=2", "sample.max_new_tokens=48"),
    *("sample.reference_answers=true", "sample.branch={cuts: 1, children: 2}"),
)


@pytest.fixture(scope="module")
def talker(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a liking for ends of sentences, and of turns."""
    folder = tmp_path_factory.mktemp("talker") / "talker"
    shutil.copytree(tiny, folder)
    model, tokeniser = AutoModelForCausalLM.from_pretrained(tiny), open_tokeniser(tiny, 1, 1)
    stops: Any = tokeniser.tokenizer.convert_tokens_to_ids([".", "!", "?"])
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[stops] *= 6
        weight[tokeniser.end_id] = 0.9 * weight[stops[0]]
    model.save_pretrained(folder)
    return folder


def settings(model: Path, folder: Path, *more: str, given: list[dict[str, Any]] = ROWS) -> tuple[str, ...]:
    """A source that holds the rows, under `folder`, and a root beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    here = (f"model={model}", f"resources.root={folder / 'root'}", f"sample.prompts={folder / 'rows.jsonl'}")
    return (*here, *GIVEN, "sample.n=2", *more)


@pytest.fixture(scope="module")
def calm(talker: Path, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A sampling without a fault."""
    given = settings(talker, tmp_path_factory.mktemp("sampled"))
    made("sample", *given, environment=head.environment)
    return Calm(Path(given[1].partition("=")[2]), given)


def test_candidates_are_what_they_say(calm: Calm, talker: Path) -> None:
    folder = only(calm.root, "sample")
    found, manifest = rows(folder), json.loads((folder / "manifest.json").read_text())
    ledger = {"rows": 8, "kept": 5, "repeated": 2, "beyond_limit": 0, "dropped": {"prompt-too-long": 1}}
    assert manifest["ledger"] == ledger and manifest["metrics"]["candidates"] == len(found)
    trunks = [row for row in found if row["answered_by"] == "model" and row["parent"] is None]
    branches = [row for row in found if row["parent"] is not None]
    ids = [prompt_id_of([{"role": "user", "content": text}]) for text in QUESTIONS]
    assert sorted((row["prompt_id"], row["sample"]) for row in trunks) == sorted((i, k) for i in ids for k in (0, 1))
    assert {row["seed"] for row in trunks} == {seed_of("model", 0, i, k) for i in ids for k in (0, 1)}
    data = [row["response"] for row in found if row["answered_by"] == "chosen"]
    assert data == ["Red. I am sure."] * 5 and {row["finish_reason"] for row in trunks} == {"stop", "length"}
    tokeniser = open_tokeniser(talker, 1, 1)
    model = AutoModelForCausalLM.from_pretrained(talker)
    by_id = {row["candidate_id"]: row for row in trunks}
    for row in (*trunks, *branches):
        said = row["response_ids"]
        assert row["candidate_id"] == candidate_id(row["prompt_id"], said) and row["tokens"] == len(said) <= 48
        ended = said[-1] == tokeniser.end_id
        assert row["finish_reason"] == ("stop" if ended else "length") and (ended or len(said) == 48)
        assert row["response"] == tokeniser.text(said[:-1] if ended else said)
        assert row["logp"] == pytest.approx(logp(model, tokeniser.prompt(json.loads(row["prompt"])), said), abs=2e-3)
    assert branches and manifest["metrics"]["branches"] == len(branches)
    for row in branches:
        trunk, shared = by_id[row["parent"]], row["prefix_tokens"]
        assert row["prompt_id"] == trunk["prompt_id"] and 0 < shared < row["tokens"]
        assert row["response_ids"][:shared] == trunk["response_ids"][:shared]
        assert tokeniser.text(row["response_ids"][:shared]).rstrip()[-1] in ".!?" or "\n" in row["response"]
    places = [(row["parent"], row["prefix_tokens"], row["sample"]) for row in branches]
    assert len(set(places)) == len(places) and {row["sample"] for row in branches} == {0, 1}


def logp(model: Any, prompt: Any, said: list[int]) -> float:
    """The sum of an answer's log-probs, by transformers."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1].double()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None]).sum())


def test_a_killed_sampler_goes_on_whatever_the_order_of_rows(
    calm: Calm, talker: Path, head: Head, tmp_path: Path
) -> None:
    """The same parts, byte by byte: shuffled rows are the same prompts in the same shards. The actor is killed at its
    second shard, the driver once another actor has made that."""
    shuffled = random.Random(1).sample(ROWS[:5], 5) + ROWS[5:]
    given = settings(talker, tmp_path / "killed", given=shuffled)
    driver = start(head, "sample", *given)
    until(lambda: done(tmp_path), driver, pause=0.002)
    killed = [sampler.kill() for sampler in actors(head.pid, "Sampler")]
    before = done(tmp_path)
    assert killed and before < 3
    until(lambda: done(tmp_path) > before, driver, pause=0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    said = made("sample", *given, environment=head.environment)
    assert re.search(r"sample: [123] of 3 parts are finished already and kept", said), said
    assert same_parts(only(calm.root, "sample"), only(tmp_path / "killed" / "root", "sample"))


def done(folder: Path) -> int:
    return len(list(folder.glob("killed/root/sample/*.partial/part-model-*.parquet")))


def test_more_answers_keep_those_that_are_there(calm: Calm, head: Head, tmp_path: Path) -> None:
    given = beside(calm, tmp_path, "sample")
    before = only(tmp_path, "sample")
    said = made("sample", *given, "sample.n=3", environment=head.environment)
    assert f"sample: 2 answers a prompt are there already, in sample/{before.name}" in said
    (after,) = {path.parent for path in tmp_path.glob("sample/*/manifest.json")} - {before}
    manifest = json.loads((after / "manifest.json").read_text())
    assert manifest["metrics"]["taken_over"] == {"samples": 2, "from": f"sample/{before.name}"}
    for part in before.glob("part-*.parquet"):
        assert part.read_bytes() == (after / part.name).read_bytes()
    trunks = [row for row in rows(after) if row["answered_by"] == "model" and row["parent"] is None]
    assert len({(row["prompt_id"], row["sample"]) for row in trunks}) == len(trunks) == 15
    assert sorted(manifest["outputs"]) == sorted(file.name for file in after.iterdir() if file.name != "manifest.json")
