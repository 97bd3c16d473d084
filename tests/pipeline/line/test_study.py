"""A study's file: which cells it means, what they share, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.line.study import load_study, plan_study
from pipeline.settings.config import load

REPOSITORY = Path(__file__).parents[3]
STUDY: dict[str, Any] = {
    "methods": {
        "plain": {"objective": {"name": "dpo", "beta": 0.2}},
        "mixed": {"objective": {"name": "mixdpo"}, "schedule": {"sft_percentile": 50}, "train": {"batch_size": 2}},
    },
    "flip_fractions": [0, 0.4],
    "seeds": [3, 5],
}


@pytest.fixture
def file(tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The path of a study's file, with some of its keys changed."""
    monkeypatch.chdir(tmp_path)

    def write(**changes: Any) -> str:
        model = {"source": str(tiny_model("Llama"))}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"name": "s", "model": model, "study": STUDY | changes}, sort_keys=False))
        return str(path)

    return write


def test_the_grid(file: Callable[..., str]) -> None:
    _, base, cells = load_study(file(), ["train.batch_size=8"])
    assert base.name == "s"
    assert [(cell.method, cell.flip_fraction, cell.seed) for cell in cells] == [
        (method, flip, seed) for method in ("plain", "mixed") for flip in (0, 0.4) for seed in (3, 5)
    ]
    for cell in cells:
        config = cell.config
        assert (config.schedule.flip_fraction, config.schedule.seed, config.train.seed) == (
            cell.flip_fraction,
            cell.seed,
            cell.seed,
        )
        assert config.train.batch_size == (8 if cell.method == "plain" else 2)
        assert config.schedule.sft_percentile == (None if cell.method == "plain" else 50)
        assert config.objective.parameters == ({"beta": 0.2} if cell.method == "plain" else {})


def test_shares_of_flips_that_are_near_are_different_cells(file: Callable[..., str]) -> None:
    _, _, cells = load_study(file(flip_fractions=[0, 0.4, 0.33333331, 0.33333334], seeds=[0]))
    names = [cell.name.partition("-")[2] for cell in cells[:4]]
    assert names == ["flip0-seed0", "flip0.4-seed0", "flip0.33333331-seed0", "flip0.33333334-seed0"]


def test_cells_share_pairs_reference_and_the_base_models_answers(file: Callable[..., str]) -> None:
    plans = [make_plan(cell.config) for cell in load_study(file())[2]]
    for name, different in (("prepare", 1), ("reference", 1), ("generate:base", 1), ("schedule", 8), ("train", 8)):
        assert len({plan.steps[name].address.path for plan in plans}) == different, name


def test_a_cell_written_out_is_the_same_cell(file: Callable[..., str], tmp_path: Path) -> None:
    for cell in load_study(file())[2]:
        alone = tmp_path / f"{cell.name}.yaml"
        alone.write_text(yaml.safe_dump(cell.config.model_dump(mode="json")))
        again, first = (make_plan(config) for config in (load(str(alone)), cell.config))
        assert [step.address.path for step in again.steps.values()] == [s.address.path for s in first.steps.values()]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": {}}, "study.methods"),
        ({"methods": {"a": {"objective": {"name": "dop"}}}}, "study.methods.a: objective.name='dop'.*did you mean dpo"),
        ({"methods": {"a": {"data": {}}}}, "study.methods.a.data"),
        (
            {"methods": {"a": {"pair": {}, "sample": {}}}},
            "study.methods.a changes sample and pair, without data.source",
        ),
        ({"methods": {"a b": {}, "a/b": {}}}, "both called 'a-b'"),
        ({"methods": {"/": {}}}, "study.methods./: the method's name is none for a file"),
        ({"flip_fractions": [0, 0.0]}, "names a value twice"),
        ({"flip_fractions": [1.5]}, "less than or equal to 1"),
        ({"seeds": []}, "study.seeds"),
        ({"until": "report"}, "choose one of train, judge"),
        ({"flips": 3}, "study.flips is not a key"),
        ({"methods": {"a": {"train": {"lr": 1}}}}, "study.methods.a: train.lr is not a key.*train.learning_rate"),
    ],
)
def test_a_bad_study_is_one_error(file: Callable[..., str], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_study(file(**changes))
    assert re.search(says, str(caught.value), flags=re.DOTALL)


def test_methods_pair_shared_answers_in_their_own_ways(file: Callable[..., str]) -> None:
    """Cells share what was sampled and rated, and those of one method its pairs and reference."""
    methods = {"wide": {"pair": {"min_margin": 0.5}}, "any": {}, "more": {"sample": {"n": 9}}}
    given = ["data.source=sampled", "sample.n=4", "pair.rule=all"]
    _, _, cells = load_study(file(methods=methods, flip_fractions=[0]), given)
    assert [(cell.config.pair.rule, cell.config.pair.min_margin) for cell in cells[::2]] == [
        ("all", 0.5),
        ("all", 0.0),
        ("all", 0.0),
    ]
    plans = [make_plan(cell.config) for cell in cells]
    different = {"sample": 2, "rate:rules": 2, "pair": 3, "prepare": 3, "reference": 3, "schedule": 6, "train": 6}
    for name, count in (different | {"generate:base": 1}).items():
        assert len({plan.steps[name].address.path for plan in plans}) == count, name
    assert plans[0].steps["sample"].address.path == plans[2].steps["sample"].address.path
    grid, page = plan_study(file(methods=methods, flip_fractions=[0]), given)
    assert len(grid.prepared) == 3 and len(page.inputs) == 12


def test_short_forms(file: Callable[..., str]) -> None:
    study, _, cells = load_study(
        file(methods={"a": {"objective": "dpo", "train": {"lora": 4}}}, seeds=3, flip_fractions=0.3)
    )
    assert (study.flip_fractions, study.seeds) == ([0.3], [3])
    assert cells[0].config.objective.name == "dpo"
    assert cells[0].config.train.lora and cells[0].config.train.lora.rank == 4


@pytest.mark.parametrize("change", [{"objective": "dop"}, {"schedule": 3}, {"train": "x"}])
def test_a_bad_base_is_one_error(file: Callable[..., str], change: dict[str, Any]) -> None:
    path = Path(file())
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(UserError):
        load_study(str(path))


def test_the_two_doors_send_each_others_files_on(file: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"python -m jobs.study"):
        load(file())
    with pytest.raises(UserError, match="has no section study"):
        load_study(str(REPOSITORY / "configs" / "smoke.yaml"))


@pytest.mark.parametrize(
    ("name", "cells"), [("study-noise", 16), ("study-grid", 36), ("study-contrast", 8), ("study-family", 100)]
)
def test_the_studies_that_are_shipped(name: str, cells: int) -> None:
    assert len(load_study(str(REPOSITORY / "configs" / f"{name}.yaml"))[2]) == cells
