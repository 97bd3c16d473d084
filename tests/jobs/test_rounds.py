"""Rounds before anything is made: what their door and status say, and weights of other tokens, which are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import rounds, run, status
from jobs.common.account import refuse_losses
from pipeline.compute.kinship import require_same_tokens
from pipeline.errors import UserError
from pipeline.line.rounds import plan_rounds
from pipeline.onpolicy.selected import origins, selected_pairs, within_limit
from pipeline.prepare.preparation import DROPPED, Preparation, prepare_here
from pipeline.prepare.reader import Spec
from pipeline.results import tables
from pipeline.results.artifacts import Artifact
from pipeline.settings.config import load
from pipeline.settings.inputs import Data, Model
from tests.jobs.conftest import Place
from tests.pipeline.line.test_rounds import commit

SAMPLE = {"prompts": {"limit": 4}, "n": 2, "max_new_tokens": 8}


def given(place: Place, **changes: Any) -> list[str]:
    sections = {"data": {"source": "sampled"}, "sample": SAMPLE, "rounds": {"count": 2}, "name": "r"}
    return ["--config", place.config(**sections | changes), *place.given]


def test_what_can_be_planned_is_said(place: Place) -> None:
    asked = given(place)
    code, said = place.says(rounds.main, *asked, "--dry-run")
    assert code == 0 and not list(place.folder.glob("root/*/*")), said
    lines = said.splitlines()
    assert lines[0] == "round 1" and lines[1].startswith("make  sample")
    assert lines[-1] == "round 2: known once round 1 is trained"
    code, said = place.says(status.main, *asked)
    assert code == 0 and said.startswith("round 1 of 2\nresult") and said.count("missing") == 11
    assert said.splitlines()[-1] == "round 2: known once round 1 is trained"

    first = plan_rounds(asked[1], asked[2:]).planned[0]
    commit(first, "pair")
    commit(first, "train", place.model, "1")
    code, said = place.says(rounds.main, *asked, "--dry-run")
    assert code == 0 and "keep  train" in said.partition("round 2")[0], said
    assert "make  reference:start" in said.partition("round 2")[2] and "known once" not in said
    code, said = place.says(status.main, *asked)
    assert code == 0 and "round 2 of 2\n" in said and said.splitlines()[-1].startswith("rounds            missing")


def test_a_round_is_made_from_the_model_that_was_committed(place: Place) -> None:
    asked = given(place)
    first = plan_rounds(asked[1], asked[2:]).planned[0]
    commit(first, "train", place.model, "1")
    trained = first.steps["train"].address.path / "model" / "config.json"
    trained.write_text(trained.read_text().replace('"1"', '"2"'))
    with pytest.raises(UserError, match=r"model/config\.json has other bytes than were committed"):
        rounds.known(plan_rounds(asked[1], asked[2:]), 2)


def test_rounds_of_one_name_leave_files_of_their_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is said to be what runs a round alone, of which another's settings would make another."""
    monkeypatch.setattr(rounds, "walk", lambda *_: [])
    for beta in (0.1, 0.2):
        asked = given(place, objective={"name": "dpo", "beta": beta})
        rounds.run_round(plan_rounds(asked[1], asked[2:]), 1, ())
    files = sorted(place.folder.rglob("rounds/runs/r-round1-*.yaml"))
    assert sorted(load(str(file)).objective.parameters["beta"] for file in files) == [0.1, 0.2]


def test_a_fault_is_told_before_anything_is_sampled(place: Place) -> None:
    prompts = place.file("prompts.jsonl", *({"prompt": f"Name colour {number}."} for number in range(8)))
    sample = SAMPLE | {"prompts": {"source": prompts, "limit": 4}}
    for changes, says in (
        (
            {"sample": sample, "rounds": {"count": 3}, "rate": {"raters": []}, "pair": {"rule": "delta"}},
            "sample.against",
        ),
        ({"sample": sample, "rounds": {"count": 2}}, "no rule knows what the prompts"),
        ({"rounds": {"count": 2}, "train": {"lora": {"merge": False}}}, "train.lora.merge=false"),
    ):
        for more in ((), ("--dry-run",)):
            code, said = place.says(rounds.main, *given(place, **changes), *more)
            assert code == 2 and says in said and "\n  remedy: " in said, said
    against = {"sample": sample | {"against": str(place.model)}, "rate": {"raters": []}, "pair": {"rule": "delta"}}
    asked = given(place, **against, rounds={"count": 3})
    for sampled in (False, True):
        if sampled:  # by the first round, and those after it are yet to be known
            commit(plan_rounds(asked[1], asked[2:]).planned[0], "sample")
        code, said = place.says(rounds.main, *asked, "--dry-run")
        assert code == 2 and "has 8 prompts, which are none for the last of 3 rounds" in said, said


def other(model: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    change(shutil.copytree(model, folder))
    return folder


def edited(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def renumbered(folder: Path) -> None:
    """Two letters change places in the vocabulary: every file looks alike, every text is other ids."""
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    words = raw["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    path.write_text(json.dumps(raw))


def retemplated(folder: Path) -> None:
    for path in folder.glob("chat_template.jinja"):
        path.write_text(path.read_text().replace("> ", ">> "))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renumbered, "its tokenizer is another one (token 'a' is"),
        (retemplated, "its tokenizer or chat template makes other tokens of a conversation"),
        (edited("config.json", max_position_embeddings=64), "has 64 positions, and model.source 2,048"),
        (edited("config.json", vocab_size=200), "has 200 embeddings, and pairs may hold any of 259 tokens"),
    ],
    ids=["vocabulary", "template", "positions", "embeddings"],
)
def test_weights_of_other_tokens_are_refused(
    place: Place,
    change: Callable[[Path], None],
    says: str,
) -> None:
    """Log-probs of the same ids would be of another text, and step 0 would agree all the same."""
    folder = other(place.model, place.folder / "other", change)
    for setting in ("train.start", "reference.model"):
        assert says in place.dry(f"{setting}={folder}")
    require_same_tokens(place.model, place.model, Model(source="m"), "itself")


def test_other_weights_of_the_same_tokens_are_taken(place: Place) -> None:
    folder = other(place.model, place.folder / "other", edited("config.json", note="other"))
    code, said = place.says(run.main, "--config", place.config(), *place.given, f"train.start={folder}", "--dry-run")
    assert code == 0 and "make  reference:start" in said, said
    both = (f"train.start={folder}", f"reference.model={folder}", "--dry-run")
    code, said = place.says(run.main, "--config", place.config(), *place.given, *both)
    assert code == 0 and "reference:start" not in said, said


def selected(folder: Path, *pairs: tuple[str, str]) -> Artifact:
    """A result of stage pair."""
    folder.mkdir(parents=True)
    rows = [
        {
            **dict.fromkeys(tables.SELECTED.names),
            **{
                "prompt_id": prompt,
                "chosen_id": f"{prompt}{chosen}",
                "rejected_id": f"{prompt}-",
                "rule": "best-worst",
            },
            **{"prompt": tables.messages_json([{"role": "user", "content": prompt}]), "source": "mine"},
            **{"chosen": chosen, "rejected": "nothing", "chosen_tokens": 3, "rejected_tokens": 4},
            **{"shared_prefix_tokens": 0},
        }
        for prompt, chosen in pairs
    ]
    tables.write(rows, tables.SELECTED, folder / "part-00000.parquet")
    return Artifact(folder, {})


def test_pairs_of_earlier_rounds_join_and_each_is_accounted_for(place: Place) -> None:
    own = selected(place.folder / "pair" / "own", ("Q1", "Red."), ("Q2", "Blue."))
    before = selected(place.folder / "pair" / "before", ("Q1", "Red."), ("Q1", "Green."), ("Q3", ""))
    source = selected_pairs([own.path, before.path])
    assert [number for number, _ in source.rows] == [1, 2, 3, 4, 5]
    data, folder = Data(source="sampled"), place.folder / "prepared"
    folder.mkdir()
    reader = Spec.of(place.model, Model(source=str(place.model)), data).open()
    account = prepare_here(reader.make, source.rows, data, folder)
    ours, theirs = origins([own, before], folder / DROPPED)
    assert (ours.result, ours.first, ours.rows, ours.kept, ours.repeated, ours.dropped) == ("pair/own", 1, 2, 2, 0, 0)
    assert (theirs.first, theirs.rows, theirs.kept, theirs.repeated, theirs.dropped) == (3, 3, 1, 1, 1)
    assert account.kept == ours.kept + theirs.kept and account.read == ours.rows + theirs.rows
    with pytest.raises(UserError, match=r"2 of 5 rows were dropped .*data\.max_dropped allows 20"):
        refuse_losses(account, Data(source="sampled", max_dropped=0.2), folder / DROPPED)
    refuse_losses(account, Data(source="sampled", max_dropped=0.2), folder / DROPPED, repeated=theirs.repeated)


@pytest.mark.parametrize("limit", [None, 2])
def test_pairs_that_a_limit_leaves_out_are_of_no_round(place: Place, limit: int | None) -> None:
    """What a result is said to give is what is in the parts."""
    folder = place.folder / "prepared"
    folder.mkdir()
    results = [
        selected(place.folder / "pair" / "own", ("Q1", "Red."), ("Q2", "Blue."), ("Q4", "Four.")),
        selected(place.folder / "pair" / "before", ("Q1", "Red."), ("Q3", "Green."), ("Q5", "Five.")),
    ]
    data = Data(source="sampled", limit=limit, shard_pairs=1)
    preparation = Preparation(selected_pairs([each.path for each in results]).rows, data, folder)
    for _ in preparation.read(Spec.of(place.model, Model(source=str(place.model)), data).open().make):
        pass
    copies, _ = preparation.settle()
    before = origins(results, folder / DROPPED)
    written = [*preparation.write(copies, firsts=[each.first for each in before])]
    found = within_limit(before, [each.joined for each in written])
    prompts = tables.read(folder, tables.PAIRS, ["prompt"])["prompt"].to_pylist()
    of_the_first = [prompt for prompt in prompts if any(name in prompt for name in ("Q1", "Q2", "Q4"))]
    assert len(prompts) == (limit or 5)
    assert [each.kept for each in found] == [len(of_the_first), len(prompts) - len(of_the_first)]
    assert [each.kept + each.beyond_limit for each in found] == [3, 2]
    assert [each.rows for each in found] == [
        each.kept + each.beyond_limit + each.repeated + each.dropped for each in found
    ]


def test_a_file_of_rounds_is_sent_on_by_the_door_of_runs(place: Place) -> None:
    code, said = place.says(run.main, *given(place), "--dry-run")
    assert code == 2 and "python -m jobs.rounds with the same --config runs it" in said
    assert yaml.safe_load(Path(given(place)[1]).read_text())["rounds"] == {"count": 2}
