"""What a change moves: a result is made again when something it depends on changed, and only then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.line.steps import STAGES, Plan
from pipeline.objectives.presets import PRESETS
from pipeline.settings.config import validate
from pipeline.settings.resources import Resources
from pipeline.settings.unused import unused

FRONT = ["sample", "rate:rules", "pair"]
LINE = ["prepare", "reference", "schedule", "generate:base", "train", "generate:trained", "judge", "report"]


def moved(before: Plan, after: Plan) -> list[str]:
    return [n for n in LINE if before.steps[n].address.fingerprint != after.steps[n].address.fingerprint]


def test_the_line(plan: Callable[..., Plan]) -> None:
    made = plan()
    assert list(made.steps) == LINE and [step.stage for step in made.of("generate")] == ["generate", "generate"]
    others = {"sample", "rate", "pair", "bridge", "features", "weigh"}
    assert {step.stage for step in made.steps.values()} == set(STAGES) - others
    assert moved(made, plan()) == []


SAMPLED = {"data": {"source": "sampled"}}


def test_answers_of_the_models_own_stand_before_the_line(plan: Callable[..., Plan]) -> None:
    made = plan(**SAMPLED)
    assert list(made.steps) == FRONT + LINE
    inputs = {name: [step.name for step in made.steps[name].inputs.values()] for name in [*FRONT, "prepare"]}
    assert inputs == {
        "sample": [],
        "rate:rules": ["sample"],
        "pair": ["sample", "rate:rules"],
        "prepare": ["pair"],
    }


def test_sections_that_are_not_read_move_nothing(plan: Callable[..., Plan]) -> None:
    assert moved(plan(), plan(sample={"n": 9}, pair={"min_margin": 0.5}, rate={"combine": "mean"})) == []


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"sample": {"n": 8}}, "sample"),
        ({"sample": {"seed": 1}}, "sample"),
        ({"sample": {"shard_prompts": 16}}, "sample"),
        ({"sample": {"branch": {"cuts": 1}}}, "sample"),
        ({"sample": {"prompts": {"limit": 7}}}, "sample"),
        ({"pair": {"min_margin": 0.25}}, "pair"),
        ({"pair": {"rule": "all"}}, "pair"),
        ({"data": {"source": "sampled", "max_completion_tokens": 64}}, "prepare"),
        ({"data": {"source": "sampled", "max_prompt_tokens": 64}}, "sample"),
    ],
)
def test_a_setting_of_answers_moves_its_stage_and_what_comes_after(
    plan: Callable[..., Plan], change: dict[str, dict[str, Any]], first: str
) -> None:
    line = FRONT + LINE
    before, after = plan(**SAMPLED), plan(**SAMPLED | change)
    found = [n for n in line if before.steps[n].address.fingerprint != after.steps[n].address.fingerprint]
    assert found == [name for name in line[line.index(first) :] if name != "generate:base"]


def test_a_preset_is_the_values_that_it_stands_for(plan: Callable[..., Plan]) -> None:
    values = {"n": 5, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 2048}
    one, other = plan(**SAMPLED, sample={"preset": "sppo"}), plan(**SAMPLED, sample=values)
    assert moved(one, other) == []
    assert moved(one, plan(**SAMPLED, sample={"preset": "sppo", "n": 4})) == [n for n in LINE if n != "generate:base"]


def test_another_rater_adds_a_result_and_samples_nothing(
    plan: Callable[..., Plan], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    reward = shutil.copytree(tiny_model("Llama"), tmp_path / "reward")
    config = json.loads((reward / "config.json").read_text())
    (reward / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    one, both = plan(**SAMPLED), plan(**SAMPLED, rate={"raters": ["rules", str(reward)]})
    assert list(both.steps)[:4] == ["sample", "rate:rules", "rate:reward", "pair"]
    same = {name for name in FRONT if one.steps[name].address.fingerprint == both.steps[name].address.fingerprint}
    assert same == {"sample", "rate:rules"}
    with pytest.raises(UserError, match=r"is a language model \(LlamaForCausalLM\), and gives no score"):
        plan(**SAMPLED, rate={"raters": [str(tiny_model("Llama"))]})


def test_another_model_answers_and_the_pairs_are_of_the_trained_ones_tokens(
    plan: Callable[..., Plan], tiny_model: Callable[[str], Path]
) -> None:
    other = plan(**SAMPLED, sample={"model": {"source": str(tiny_model("Qwen3"))}})
    assert other.steps["sample"].identity["model"] != plan(**SAMPLED).steps["sample"].identity["model"]
    assert other.steps["prepare"].identity == plan(**SAMPLED).steps["prepare"].identity


def test_resources_move_nothing(plan: Callable[..., Plan], tmp_path: Path) -> None:
    base = plan()
    for name, value in Resources().model_dump().items():
        changed: Any
        if value is None:  # as the device likes
            changed = {"compile_layers": True, "whole_gradients": True, "shard_within": 1}.get(name, 8)
        elif isinstance(value, bool):
            changed = not value
        elif isinstance(value, dict):
            changed = {"url": "http://elsewhere/v1"}
        elif isinstance(value, str):
            changed = value + "-elsewhere"
        elif isinstance(value, tuple):
            changed = ("tensorboard",)
        else:
            changed = value / 2 if name.endswith("fraction") else (value or 0) + 1
        needed = {"checkpoint_activations": True} if name == "offload_activations" else {}
        after = plan(resources={name: changed, **needed})
        assert getattr(after.config.resources, name) != getattr(base.config.resources, name)
        assert moved(base, after) == [], name


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"judge": {"resamples": 500}}, "judge"),
        ({"generate": {"max_new_tokens": 8}}, "generate:base"),
        ({"train": {"learning_rate": 1e-4}}, "train"),
        ({"objective": {"tau": 2.0}}, "train"),
        ({"objective": {"queue": "step"}}, "train"),
        ({"objective": {"centred": False}}, "train"),
        ({"schedule": {"flip_fraction": 0.2}}, "schedule"),
        ({"schedule": {"seed": 1}}, "schedule"),
        ({"data": {"seed": 1}}, "prepare"),
        ({"data": {"pairs": 8}}, "prepare"),
    ],
)
def test_a_setting_moves_its_stage_and_what_comes_after(
    plan: Callable[..., Plan], change: dict[str, dict[str, Any]], first: str
) -> None:
    expected = LINE[LINE.index(first) :]
    apart = "train" if first == "generate:base" else "generate:base"  # the base model answers once
    assert moved(plan(), plan(**change)) == [name for name in expected if name != apart]


def test_another_objective_keeps_the_cached_reference(plan: Callable[..., Plan]) -> None:
    after = moved(plan(), plan(objective={"name": "mixdpo", "preference": "dpo"}))
    assert after == ["train", "generate:trained", "judge", "report"]


def test_what_changes_no_pair_moves_nothing(plan: Callable[..., Plan]) -> None:
    shares: list[dict[str, Any]] = [{"data": {"max_dropped": 0.5}}, {"data": {"max_suspect": 0.5}}]
    shares += [{"rate": {"max_missing": 0.5}}, {"bridge": {"max_lost": 0.5}}, {"judge": {"max_missing": 0.5}}]
    for change in shares:  # as README's table has it
        assert moved(plan(), plan(**change)) == []


def test_what_an_objective_can_be_told_since_is_no_part_of_what_was_made_before(plan: Callable[..., Plan]) -> None:
    said = {"queue": 2048, "centred": True}
    assert moved(plan(), plan(objective=said)) == []
    assert not said.keys() & plan().steps["train"].identity["objective"]["parameters"].keys()


def test_the_dtype_moves_the_reference_and_not_the_pairs(plan: Callable[..., Plan]) -> None:
    assert set(LINE) - set(moved(plan(), plan(model={"dtype": "bfloat16"}))) == {"prepare", "schedule"}


def test_a_model_is_its_content(plan: Callable[..., Plan], tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model("Llama"), tmp_path / "another-name")
    there = plan(model={"source": str(copy)})
    assert moved(plan(), there) == []
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert moved(there, plan(model={"source": str(copy)})) == LINE


@pytest.mark.parametrize(
    ("values", "anew"),
    [
        ({"do_sample": True, "temperature": 0.6}, True),
        ({"repetition_penalty": 1.1}, True),
        ({"pad_token_id": 7}, True),
        ({"do_sample": False, "temperature": 0.6, "top_k": 20, "length_penalty": 2.0}, False),  # which are left out
        ({"do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": None}, False),  # as without them
        ({"transformers_version": "4.0.0"}, False),
    ],
)
def test_what_the_export_takes_over_from_the_model_moves_the_training_alone(
    plan: Callable[..., Plan], tiny_model: Callable[[str], Path], tmp_path: Path, values: dict[str, Any], anew: bool
) -> None:
    copy = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    adapters = {"lora": {"rank": 4, "merge": False}}  # which are exported without it
    before = [plan(model={"source": str(copy)}, train=train) for train in ({}, adapters)]
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": 2} | values))
    after = [plan(model={"source": str(copy)}, train=train) for train in ({}, adapters)]
    assert moved(before[0], after[0]) == (["train", "generate:trained", "judge", "report"] if anew else [])
    assert moved(before[1], after[1]) == []


def test_a_data_file_is_its_content(plan: Callable[..., Plan], tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 2, "rejected_score": 1}
    file.write_text(json.dumps(row) + "\n")
    before = plan(data={"source": str(file)})
    renamed = shutil.copy(file, tmp_path / "same pairs.jsonl")
    assert moved(before, plan(data={"source": str(renamed)})) == []
    assert moved(before, plan(data={"source": str(file), "pairs": 8})) == []  # of the embedded source only
    file.write_text(json.dumps(row | {"rejected": "c"}) + "\n")
    after = moved(before, plan(data={"source": str(file)}))
    assert after == [name for name in LINE if name != "generate:base"]


def test_the_optimiser_enters_an_identity_only_where_it_is_given(plan: Callable[..., Plan]) -> None:
    before, named = plan(), plan(train={"optimizer": "adamw"})
    assert "optimizer" not in before.steps["train"].identity["train"] and moved(before, named) == []
    other = plan(train={"optimizer": "adamw-8bit"})
    assert moved(before, other) == ["train", "generate:trained", "judge", "report"]


def test_how_rows_are_read_enters_an_identity_only_where_it_is_given(plan: Callable[..., Plan], tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 2, "rejected_score": 1, "other": "q"}
    file.write_text(json.dumps(row) + "\n")
    before = plan(data={"source": str(file)})
    assert not {"columns", "pairing", "max_suspect"} & before.steps["prepare"].identity["data"].keys()
    same: tuple[dict[str, Any], ...] = ({"columns": {}}, {"pairing": "best-worst"}, {"max_suspect": 1})
    other: tuple[dict[str, Any], ...] = ({"columns": {"prompt": "other"}}, {"pairing": "all"})
    for data in same:
        assert moved(before, plan(data={"source": str(file), **data})) == []
    for data in other:
        after = plan(data={"source": str(file), **data})
        assert moved(before, after) == [name for name in LINE if name != "generate:base"]


@pytest.mark.parametrize(
    ("rows", "data", "said"),
    [
        (
            [{"question": "p", "good": "a", "bad": "b"}],
            {},
            "data.columns={prompt: question, chosen: good, rejected: bad}",
        ),
        ([{"prompt": "p", "images": ["x.png"], "chosen": "a", "rejected": "b"}], {}, "the column images holds"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], {"columns": {"chosen": "choosen"}}, "did you mean chosen?"),
        (
            [{"prompt": "p", "chosen": "a", "rejected": "b", "hardness": 1}],
            {"difficulty_column": "hardnes"},
            "did you mean hardness?",
        ),
    ],
)
def test_a_source_that_cannot_be_meant_is_told_before_any_work(
    plan: Callable[..., Plan], tmp_path: Path, rows: list[Any], data: dict[str, Any], said: str
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        plan(data={"source": str(file), **data})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({}, "schedule.difficulty=score-margin needs scores"),
        ({"objective": {"name": "mixdpo", "preference": "odpo"}}, "objective.name=mixdpo needs scores"),
        ({"objective": {"name": "mixdpo", "preference": "gdpo"}}, "objective.name=mixdpo needs label_confidence"),
        ({"objective": {"name": "mixdpo", "preference": "cw-po"}}, "objective.name=mixdpo needs scores"),
        ({"objective": {"name": "mixdpo", "preference": "scaled-dpo"}}, "objective.name=mixdpo needs scores"),
        ({"objective": {"name": "mixdpo", "preference": "sppo"}}, "objective.name=mixdpo needs label_confidence"),
        ({"schedule": {"difficulty": "column"}}, "schedule.difficulty=column needs difficulty"),
    ],
)
def test_data_without_a_column_that_is_needed_is_refused_before_any_work(
    plan: Callable[..., Plan], tmp_path: Path, sections: dict[str, Any], says: str
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("no row\n" + json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    with pytest.raises(UserError, match=f"{says}, which data.source="):
        plan(**sections, data={"source": str(file)})
    plan(schedule={"difficulty": "reference-gap"}, data={"source": str(file)})  # asks for nothing
    for name in ("re-po", "wpo"):  # nor do these: without a source all labels are of one, and the rest is the policy's
        objective = {"name": "mixdpo", "preference": name}
        plan(objective=objective, schedule={"difficulty": "reference-gap"}, data={"source": str(file)})


@pytest.mark.parametrize(
    ("name", "needed"),
    [(name, need) for name, row in PRESETS.items() for need in row.needs if need in ("scores", "label_confidence")],
)
def test_every_row_that_needs_a_column_says_so_before_any_work(
    plan: Callable[..., Plan], tmp_path: Path, name: str, needed: str
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    with pytest.raises(UserError, match=f"objective.name={name} needs {needed}, which data.source="):
        plan(objective={"name": name}, schedule={"difficulty": "reference-gap"}, data={"source": str(file)})


def test_the_embedded_tasks_have_scores_only(plan: Callable[..., Plan]) -> None:
    plan(objective={"name": "mixdpo", "preference": "odpo"})
    with pytest.raises(UserError, match=r"needs label_confidence, which data\.source=verifiable lacks"):
        plan(objective={"name": "mixdpo", "preference": "cdpo-soft"})


def test_a_label_is_a_folder_name(plan: Callable[..., Plan], tmp_path: Path) -> None:
    config = plan().config.model_copy(update={"name": "../../a b[1]"})
    path = make_plan(config).steps["report"].address.path
    assert path.parent == tmp_path / "runs" / "report" and path.name.startswith("a-b-1-")


def test_a_missing_input_names_the_command(plan: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match=r"train needs the result of stage reference.*\n.*python -m jobs.reference"):
        plan().steps["train"].input("reference")


def test_what_is_cut_of_pairs_is_in_an_identity_where_it_is_given(plan: Callable[..., Plan]) -> None:
    before = plan()
    assert not {"long_prompts", "equal_lengths"} & before.steps["prepare"].identity["data"].keys()
    for given in ({"equal_lengths": True}, {"long_prompts": "keep-end"}):
        assert moved(before, plan(data=given)) == [name for name in LINE if name != "generate:base"]


# --- features


def fpo(plan: Callable[..., Plan], **features: Any) -> Plan:
    return plan(objective={"name": "mixdpo", "preference": "fpo"}, features=features)


def test_features_are_results_of_their_own_beside_the_shared_reference(plan: Callable[..., Plan]) -> None:
    made = fpo(plan)
    assert list(made.steps)[:4] == ["prepare", "reference", "features", "reference:features"]
    assert [step.name for step in made.of("reference")] == ["reference", "reference:features"]
    inputs = {name: set(made.steps[name].inputs) for name in ("features", "reference:features", "train")}
    assert inputs == {
        "features": {"pairs"},
        "reference:features": {"pairs", "autoencoder"},
        "train": {"pairs", "reference", "schedule", "features", "autoencoder"},
    }
    assert moved(plan(), made) == ["train", "generate:trained", "judge", "report"]


def test_what_moves_features(plan: Callable[..., Plan], tmp_path: Path) -> None:
    def prints(made: Plan) -> dict[str, str]:
        return {name: made.steps[name].address.fingerprint for name in ("features", "reference:features", "train")}

    before = prints(fpo(plan))
    for change in ({"layer": 1}, {"latents": 64}, {"active": 8}, {"passes": 2}, {"states": 100}, {"seed": 1}):
        after = prints(fpo(plan, **change))
        assert all(after[name] != before[name] for name in before), change
    assert moved(plan(), plan(features={"layer": 1})) == []  # which dpo does not read
    given = sae(tmp_path / "sae", width=32)
    one = fpo(plan, source=str(given))
    assert "features" not in one.steps and set(one.steps["train"].inputs) >= {"features"}
    same, other = (
        fpo(plan, source=str(shutil.copytree(given, tmp_path / "copy"))),
        sae(tmp_path / "other", width=32, k=5),
    )
    names = ("reference:features", "train")
    assert [same.steps[n].address.fingerprint for n in names] == [one.steps[n].address.fingerprint for n in names]
    moved_on = fpo(plan, source=str(other))
    assert all(moved_on.steps[n].address.fingerprint != one.steps[n].address.fingerprint for n in names)
    with pytest.raises(UserError, match=r"features.layer=1, and features.source=.* was made for layer 0"):
        fpo(plan, source=str(given), layer=1)
    with pytest.raises(UserError, match="holds no sparse autoencoder"):
        fpo(plan, source=str(tmp_path))


def test_the_layer_that_a_folder_names_is_a_part_of_what_is_computed(plan: Callable[..., Plan], tmp_path: Path) -> None:
    """The same files under another layer's name are of other features; nobody's guess is taken."""

    def prints(name: str, **features: Any) -> list[str]:
        made = fpo(plan, source=str(tmp_path / name), **features)
        return [made.steps[step].address.fingerprint for step in ("reference:features", "train")]

    for name in ("layer_0", "layer_1", "plain"):
        (tmp_path / name).mkdir()
        arrays: dict[str, Any] = {"W_enc": np.ones((32, 16)), "b_enc": np.ones(16), "threshold": np.ones(16)}
        np.savez(tmp_path / name / "params.npz", **arrays)
    for one, other in zip(prints("layer_0"), prints("layer_1"), strict=True):
        assert one != other
    assert prints("layer_1") == prints("layer_1", layer=1) == prints("plain", layer=1)
    with pytest.raises(UserError, match=r"neither its settings nor its folder say which layer .*\n.*features.layer"):
        prints("plain")


def sae(folder: Path, width: int, k: int = 4) -> Path:
    """A small autoencoder of layer 0, as sparsify writes one."""
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"k": k, "d_in": width, "layer": 0}))
    shapes = {"encoder.weight": (16, width), "encoder.bias": (16,), "W_dec": (16, width), "b_dec": (width,)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "sae.safetensors")
    return folder


# --- streams


def test_a_stream_is_a_line_of_its_own_up_to_its_schedule(plan: Callable[..., Plan]) -> None:
    """The one that its configuration alone would have, so that runs share it; train reads all."""
    own = {"data": "sampled", "sample": {"n": 3}, "schedule": {"seed": 7}}
    made = plan(streams={"own": own})
    alone = plan(data={"source": "sampled"}, sample={"n": 3}, schedule={"seed": 7})
    line = [*FRONT, "prepare", "reference", "schedule"]
    assert [name for name in made.steps if "/" in name] == [f"own/{name}" for name in line]
    for name in line:
        step = made.steps[f"own/{name}"]
        assert (step.address.fingerprint, step.stream) == (alone.steps[name].address.fingerprint, "own")
        assert {each.stream for each in step.inputs.values()} <= {"own"}
        plan_of, there = made.line_of(step)
        assert plan_of is made.streams["own"] and there is plan_of.steps[name]
    inputs = {role: step.name for role, step in made.steps["train"].inputs.items()}
    assert inputs == {"pairs": "prepare", "reference": "reference", "schedule": "schedule"} | {
        f"{role}:own": f"own/{stage}"
        for role, stage in (("pairs", "prepare"), ("reference", "reference"), ("schedule", "schedule"))
    }
    assert moved(plan(), made) == ["train", "generate:trained", "judge", "report"]
    assert moved(plan(), plan(streams={})) == [] and "streams" not in plan().steps["train"].identity


def test_what_moves_a_stream_and_what_it_weighs(plan: Callable[..., Plan]) -> None:
    after = ["train", "generate:trained", "judge", "report"]
    two = {"more": {"data": {"seed": 3}, "weight": 0.5}}
    assert moved(plan(streams=two), plan(streams={"more": {"data": {"seed": 3}, "weight": 0.4}})) == after
    assert moved(plan(streams=two), plan(streams={"more": {"data": {"seed": 4}, "weight": 0.5}})) == after
    template = {"model": {"template_arguments": {"enable_thinking": False}}}
    other = plan(streams={"more": template})
    digest = other.steps["more/prepare"].identity["tokenizer"]
    assert digest != other.steps["prepare"].identity["tokenizer"] and other.streams["more"].model.digest == digest


def test_who_edits_is_said_of_each_stream(plan: Callable[..., Plan]) -> None:
    """As the configuration says, unless the stream says another, or nobody."""
    edited, dpo = {"judge": "editor"}, {"name": "dpo"}
    made = plan(objective=dpo, bridge=edited, streams={"same": {}, "plain": {"bridge": {"judge": None}}})
    assert {"bridge", "same/bridge"} == {name for name in made.steps if name.endswith("bridge")}
    assert made.steps["plain/prepare"].address == plan().steps["prepare"].address
    made = plan(objective=dpo, streams={"own": {"bridge": edited}})
    assert "bridge" not in made.steps and "own/bridge" in made.steps
    assert made.steps["own/prepare"].address == plan(objective=dpo, bridge=edited).steps["prepare"].address


def test_models_that_a_stream_converts_are_needed(plan: Callable[..., Plan], tmp_path: Path) -> None:
    """Or jobs.prune would remove them."""
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    other = {"data": "sampled", "sample": {"model": {"source": str(tmp_path / "other.gguf")}}}
    assert plan().conversions() == []
    made = plan(streams={"a": other, "b": other})
    (address,) = made.conversions()
    assert address.path.parent.name == "model" and address.label == "other"
    assert [each.path.name for each in made.models()] == [made.model.path.name, "other.gguf"]


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            {"streams": {"a": {"model": {"dtype": "bfloat16"}}}},
            r"model.dtype: all streams train one model",
        ),
        ({"streams": {"a": {"data": {"sorce": "x"}}}}, r"streams.a: data.sorce is not a key .*\n.*data.source"),
        ({"streams": {"data": {}}}, "streams.data: that is what the first stream is called"),
        ({"streams": {"a": {"weight": 0.5}, "b": {}}}, "streams.b has no weight, and others have"),
        ({"streams": {"a": {"weight": 0.5}, "b": {"weight": 0.5}}}, "add up to 1, which leaves none"),
        ({"streams": {"a": {"weight": 0.5}}, "objective": {"name": "bvpo"}}, "weighs its two streams itself"),
        ({"streams": {"a": {"schedule": {"epochs": 0}}}}, "streams.a: schedule.epochs=0"),
    ],
)
def test_a_stream_that_means_nothing_is_refused(sections: dict[str, Any], says: str) -> None:
    raw = {"model": {"source": "x"}, "objective": {"name": "dpo"}} | sections
    with pytest.raises(UserError, match=says):
        validate(raw)


def test_settings_of_streams_that_nobody_reads_are_named() -> None:
    raw = {"model": {"source": "x"}, "data": {"seed": 3}, "sample": {"n": 3}}
    said = {
        "data": {"source": "sampled"},
        "pair": {"rule": "all", "contrast": {"high": 1.0, "middle": 0.0, "low": 0.0}},
    }
    found = unused(validate(raw | {"streams": {"own": said}}))
    assert found == {"streams.own.pair.contrast": "with pair.rule=all"}  # and n is the stream's
    assert unused(validate(raw | {"streams": {}})) == {"sample.n": "without data.source=sampled"}
    both = validate(raw | {"streams": {"own": {"data": {"pairs": 9}, "schedule": {"difficulty": "column"}}}})
    assert "streams.own.schedule.difficulty" in unused(both)
