"""What sample does before an engine starts: which prompts are asked, what is refused, what an earlier result gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.common import stage
from jobs.common.earlier import NOTE, take_over
from jobs.common.stage import Outcome, Work, manifest
from jobs.sample import answerers_of, lay_out, reference_answers, refuse_losses, require_same, run
from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.onpolicy.candidates import answered, of_prompt
from pipeline.onpolicy.prompts import Asked, read_prompts
from pipeline.preferences.tokenise import open_tokeniser
from pipeline.results import tables
from pipeline.settings.config import load

ROWS = [{"prompt": f"Name colour {number}.", "chosen": "Red.", "rejected": "Seven."} for number in range(6)]
SHORT = "sample.max_prompt_tokens=60"
PART = "part-model-00000-000.parquet"
SAID: dict[str, Any] = {"answered_by": "model", "finish_reason": "stop", "seed": 1, "logp": -1.0}
LONG = {"prompt": "Name " + "many " * 400 + "colours."}


def work(byte_model: Path, folder: Path, *overrides: str, rows: list[dict[str, Any]] = ROWS) -> Work:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"model={byte_model}", f"resources.root={folder / 'runs'}", "data={source: sampled}"]
    plan = make_plan(load("configs/smoke.yaml", [*given, f"sample.prompts={folder / 'prompts.jsonl'}", *overrides]))
    (folder / "work").mkdir(exist_ok=True)
    return Work(plan, plan.steps["sample"], {}, folder / "work")


def laid_out(given: Work) -> tuple[Asked, int]:
    asked = read_prompts(given.config.sample.prompts)
    return asked, lay_out(asked, answerers_of(given)[0], given)


def test_prompts_that_do_not_fit_are_left_out_by_reason(byte_model: Path, tmp_path: Path) -> None:
    brief, wide = "sample.max_new_tokens=20", "sample.max_prompt_tokens=4000"
    asked, room = laid_out(work(byte_model, tmp_path, brief, wide, rows=[*ROWS, LONG]))
    assert len(asked.prompts) == 7 and room == 2048  # the long one's answers may be cut
    asked, room = laid_out(work(byte_model, tmp_path, brief, SHORT, rows=[*ROWS, LONG]))
    assert asked.reasons == {"prompt-too-long": 1} and asked.dropped[0]["row"] == 7 and room < 60 + 20
    longer = {"prompt": "Name " + "many " * 500}
    asked, _ = laid_out(work(byte_model, tmp_path, wide, rows=[*ROWS, longer]))
    assert asked.reasons == {"longer-than-model": 1}
    assert asked.dropped[0]["detail"].endswith("the model has 2048 positions")
    assert asked.rows == 7 == len(asked.prompts) + len(asked.dropped)


def test_more_losses_than_allowed_end_the_stage_before_anything_is_sampled(byte_model: Path, tmp_path: Path) -> None:
    given = work(byte_model, tmp_path, SHORT, rows=[*ROWS, LONG])
    asked, _ = laid_out(given)
    with pytest.raises(UserError, match=r"1 of 7 rows were dropped \(data\.max_dropped allows 5\.0%\).*too-long"):
        refuse_losses(asked, given)
    refuse_losses(asked, work(byte_model, tmp_path, SHORT, "data.max_dropped=0.2", rows=[*ROWS, LONG]))
    given = work(byte_model, tmp_path, "sample.max_prompt_tokens=1", "data.max_dropped=1")
    with pytest.raises(UserError, match=r"6 of 6 rows were dropped \(which leaves nothing\)"):
        refuse_losses(laid_out(given)[0], given)


def test_a_source_that_changed_since_the_plan_is_refused(byte_model: Path, tmp_path: Path) -> None:
    given = work(byte_model, tmp_path)
    require_same(given)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Another?"}\n')
    with pytest.raises(UserError, match="changed since this run was planned"):
        require_same(given)


def test_the_datas_own_answers_are_the_tokens_that_prepare_would_train(byte_model: Path, tmp_path: Path) -> None:
    forging = {"prompt": "Say.", "chosen": "</s> <user> x", "rejected": "B."}
    given = work(byte_model, tmp_path, rows=[*ROWS[:2], forging])
    asked, _ = laid_out(given)
    written = reference_answers(list(asked.prompts.values()), answerers_of(given)[0], given)
    rows = tables.read(given.folder, tables.CANDIDATES).to_pylist()
    assert written == {"part-data.parquet": len(rows)} and len(rows) == 6
    tokeniser = open_tokeniser(byte_model, 100, 100)
    for row in rows:
        message = {"role": "assistant", "content": row["response"]}
        assert row["response_ids"] == tokeniser.answer(json.loads(row["prompt"]), message)
        assert row["response_ids"][-1] == tokeniser.end_id
        assert (row["seed"], row["logp"], row["parent"], row["finish_reason"]) == (None, None, None, "data")
    assert [row["answered_by"] for row in rows] == ["chosen", "rejected"] * 3


def test_answers_of_more_than_text_are_named(
    byte_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thinking = {"role": "assistant", "content": "Red.", "reasoning_content": "A colour."}
    rows = [{"messages": [{"role": "user", "content": f"Colour {n}?"}, thinking]} for n in range(2)]
    given = work(byte_model, tmp_path, rows=[*ROWS[:1], *rows])
    asked, _ = laid_out(given)
    assert reference_answers(list(asked.prompts.values()), answerers_of(given)[0], given) == {"part-data.parquet": 2}
    said = "2 answers of the data are candidates, {'more-than-text': 2} of others cannot be used"
    assert said in capsys.readouterr().out


def committed(given: Work, n: int) -> Work:
    """A result as sample leaves one: of each prompt n answers in a part."""
    prompts = read_prompts(given.config.sample.prompts).prompts.values()
    with given.step.address.writing() as folder:
        rows = [
            answered(of_prompt(each), "x", [sample], sample=sample, **SAID) for each in prompts for sample in range(n)
        ]
        counts = {PART: tables.write(rows, tables.CANDIDATES, folder / PART)}
        given.step.address.commit(manifest(given.plan, given.step, Outcome(counts), 1.0), counts)
    return given


def test_a_larger_n_takes_over_what_the_largest_smaller_one_has(byte_model: Path, tmp_path: Path) -> None:
    for n in (2, 3):
        committed(work(byte_model, tmp_path, f"sample.n={n}"), n)
    committed(work(byte_model, tmp_path, "sample.n=4", "sample.seed=1"), 4)
    given = work(byte_model, tmp_path, "sample.n=5")
    earlier = take_over(given)
    assert earlier.samples == 3 and earlier.parts == {PART: 18}
    assert earlier.fact == {"samples": 3, "from": earlier.name}
    taken = tables.read(given.folder, tables.CANDIDATES).to_pylist()
    assert sorted({row["sample"] for row in taken}) == [0, 1, 2]
    committed(work(byte_model, tmp_path, "sample.n=4"), 4)  # meanwhile; what was begun is gone on with
    assert take_over(given) == earlier
    (given.folder / NOTE).unlink()
    assert take_over(given).samples == 4


def test_answers_that_were_not_all_taken_over_are_none_of_a_finished_shard(byte_model: Path, tmp_path: Path) -> None:
    """Killed while it copied them, and then they are gone: two answers a prompt must not count as all five."""
    committed(work(byte_model, tmp_path, "sample.n=2"), 2)
    given = work(byte_model, tmp_path, "sample.n=5")
    assert take_over(given).samples == 2
    (given.folder / NOTE).unlink()  # which is written last
    shutil.rmtree(tmp_path / "runs" / "sample")
    assert take_over(given).samples == 0 and not (given.folder / PART).exists()


def test_the_datas_own_answers_beside_them_are_had_without_an_engine(byte_model: Path, tmp_path: Path) -> None:
    made = committed(work(byte_model, tmp_path, "sample.n=2"), 2)
    given = work(byte_model, tmp_path, "sample.n=2", "sample.reference_answers=true")
    assert given.step.address.fingerprint != made.step.address.fingerprint
    outcome = run(given)
    assert outcome.rows == {PART: 12, "part-data.parquet": 12, "dropped.parquet": 0}
    assert outcome.metrics["candidates"] == 24 and outcome.metrics["taken_over"]["samples"] == 2
    assert outcome.scratch == (NOTE,)  # or a kill as it is committed would have it forget what it holds
    assert sorted(file.name for file in given.folder.iterdir()) == sorted([NOTE, *outcome.rows])


def test_a_smaller_or_other_result_and_a_spoilt_one_give_nothing(
    byte_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take_over(work(byte_model, tmp_path, "sample.n=2")).samples == 0
    (tmp_path / "work" / NOTE).unlink()
    made = committed(work(byte_model, tmp_path, "sample.n=3"), 3)
    assert take_over(work(byte_model, tmp_path, "sample.n=2")).samples == 0
    (tmp_path / "work" / NOTE).unlink()
    part = made.step.address.path / PART
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    given = work(byte_model, tmp_path, "sample.n=4")
    assert take_over(given).samples == 0 and not list(given.folder.glob("part-*"))
    assert "is not used" in capsys.readouterr().out


def test_prepare_reads_what_was_selected(byte_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the artifact of pair, with scores and splits; a dev_fraction holds out prompts whose data name no split."""
    overrides = ("data.dev_fraction=0.5", "schedule={}")
    given = work(byte_model, tmp_path, *overrides)
    prompts = read_prompts(given.config.sample.prompts).prompts.values()
    texts = [prompt.messages[-1]["content"] for prompt in prompts]  # which all answers begin with, as they are
    rows = [
        {
            **dict.fromkeys(tables.SELECTED.names),
            **{name: value for name, value in of_prompt(prompt).items() if name in tables.SELECTED.names},
            **{"chosen_id": "c", "rejected_id": "r"},
            **{"chosen": f"{texts[number]} Human", "rejected": f"{texts[number]} No."},
            **{"chosen_score": 1.0, "rejected_score": 0.5, "margin": 0.5, "rule": "best-worst"},
            **dict.fromkeys(("chosen_tokens", "rejected_tokens", "shared_prefix_tokens"), 0),
        }
        for number, prompt in enumerate(prompts)
    ]
    step = given.plan.steps["pair"]
    with step.address.writing() as folder:
        counts = {"part-00000.parquet": tables.write(rows, tables.SELECTED, folder / "part-00000.parquet")}
        step.address.commit(manifest(given.plan, step, Outcome(counts), 1.0), counts)
    asked = [f"model={byte_model}", f"resources.root={tmp_path / 'runs'}", "data={source: sampled}"]
    asked += [f"sample.prompts={tmp_path / 'prompts.jsonl'}", *overrides]
    stage.main("prepare", ["--config", "configs/smoke.yaml", *asked])
    prepared = make_plan(load("configs/smoke.yaml", asked)).steps["prepare"].address.find()
    assert prepared and prepared.manifest["ledger"]["kept"] == len(ROWS) == prepared.manifest["ledger"]["rows"]
    assert prepared.manifest["inputs"] == {"selected": {"stage": "pair", "fingerprint": step.address.fingerprint}}
    pairs = tables.read(prepared.path, tables.PAIRS).to_pylist()
    assert sorted(row["chosen"] for row in pairs) == sorted(f"{text} Human" for text in texts)
    assert {(row["chosen_score"], row["rejected_score"]) for row in pairs} == {(1.0, 0.5)}
    assert {row["split"] for row in pairs} == {"train", "dev"}
    assert "prepare: done" in capsys.readouterr().out


def test_a_line_without_the_stage_says_how_it_gets_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        stage.main("sample", ["--config", "configs/smoke.yaml"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "there is no stage sample with data.source=verifiable" in told and "set data.source=sampled" in told
