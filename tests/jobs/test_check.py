"""Every fault is told before work begins: each row of the table in docs/reliability.md, through --dry-run."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs import run, study
from jobs.common import stage
from tests.e2e.doors import REPOSITORY
from tests.jobs.conftest import TEMPLATE, Place
from tests.pipeline.line.test_plan import sae

ROWS = [{"prompt": f"Name colour {i}.", "chosen": "Red.", "rejected": "Seven."} for i in range(8)]
SCORED = [row | {"chosen_score": 2, "rejected_score": 1, "hardness": i} for i, row in enumerate(ROWS)]


def gguf(path: Path, **texts: str) -> str:
    """The head of a .gguf file: a list of words, as a vocabulary is, and the given texts."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    words = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    keys = [words, text("general.file_type") + struct.pack("<II", 4, 3)]
    keys += [text(key.replace("__", ".")) + struct.pack("<I", 8) + text(value) for key, value in texts.items()]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys))
    return str(path)


def without_template(place: Place) -> str:
    folder = shutil.copytree(place.model, place.folder / "plain", ignore=shutil.ignore_patterns("chat_template*"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


def unparsable(place: Place) -> str:
    file = place.folder / "cut.jinja"
    file.write_text("{% for m in messages %}\n{{ m.content }{% endfor %}")
    return str(file)


def without_tokenizer(place: Place) -> str:
    ignored = shutil.ignore_patterns("tokenizer*", "chat_template*", "special*")
    return str(shutil.copytree(place.model, place.folder / "bare", ignore=ignored))


def edited(place: Place, name: str, file: str = "config.json", **changes: Any) -> tuple[str]:
    """The model with other values in one of its files; None takes a key away."""
    folder = shutil.copytree(place.model, place.folder / name)
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return (f"model.source={folder}",)


SAMPLED = "data=sampled"


def rewarding(place: Place, name: str, labels: int, template: bool = True) -> str:
    """A rater: the model as one of so many labels, with or without a chat template."""
    (given,) = edited(place, name, architectures=["LlamaForSequenceClassification"], num_labels=labels)
    folder = Path(given.removeprefix("model.source="))
    if not template:
        content = json.loads((folder / "tokenizer_config.json").read_text())
        content.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    return f"rate.raters={folder}"


def cut(place: Place) -> tuple[str]:
    (given,) = edited(place, "cut")
    file = Path(given.partition("=")[2]) / "config.json"
    file.write_text(file.read_text()[:40])
    return (given,)


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **parameters}}


def own_questions(place: Place, **row: Any) -> str:
    return f"generate.benchmarks={{mine: {place.file('q.jsonl', row or {'prompt': 'Q?'})}}}"


JUDGE = ("judge.model=j", "resources.judge_endpoint.url=http://127.0.0.1:9/v1")
TOLD: dict[str, Callable[[Place], list[tuple[tuple[str, ...], str]]]] = {
    "a key that is none, a value of the wrong kind or out of range": lambda p: [
        (("trian.seed=1",), "trian is not a key"),
        (("train.batch_size=0",), "train.batch_size=0"),
        (("resources.gpus_per_actor=1.5",), "set 1 or 2; a part alone, such as 0.5"),
        (("resources.train_workers=0",), "resources.train_workers=0"),
        (("resources.train_workers=[2, 1]",), "resources.train_workers=[2, 1] is no number of workers"),
        (("resources.train_workers=[1, 2, 3]",), "train_workers=[1, 2, 3] is no number of workers, and no [least"),
    ],
    "a key, a setting or a configuration given twice": lambda p: [
        (("train.seed=1", "train.seed=2"), "'train.seed=1' would be lost"),
    ],
    "a model, a data set, or a file that is named, which is not there": lambda p: [
        (("data=/nowhere.jsonl",), "/nowhere.jsonl"),
        (("model.chat_template=/nowhere.jinja",), "/nowhere.jinja"),
        (("generate.benchmarks={mine: /nowhere.json}",), "/nowhere.json"),
        (("data=sampled", "sample.model=/nowhere"), "sample.model.source=/nowhere"),
        (("data=sampled", "rate.raters=/nowhere"), "rate.raters.source=/nowhere"),
        (("train.start=/nowhere",), "train.start.source=/nowhere"),
        (("reference.model=/nowhere",), "reference.model.source=/nowhere"),
        (("data=sampled", "data.earlier=/nowhere"), "data.earlier=/nowhere: is no result of stage pair"),
    ],
    "a rater without a head, of several labels, without a chat template, or whose code is not pinned": lambda p: [
        ((SAMPLED, f"rate.raters={p.model}"), "is a language model (LlamaForCausalLM), and gives no score"),
        ((SAMPLED, rewarding(p, "labels", 2)), "has 2 labels by its config.json, and a reward is one number"),
        ((SAMPLED, rewarding(p, "bare", 1, template=False)), "has no chat template"),
        ((SAMPLED, "rate.raters={model: o/n, trust_remote_code: true, kind: armo}"), "of revision that is the newest"),
    ],
    "rules for prompts that are not the embedded tasks'": lambda p: [
        ((SAMPLED, f"sample.prompts={p.file('asked.jsonl', *ROWS)}"), "rate.raters=rules: no rule knows what"),
    ],
    "answers of the model's own of which no two can make a pair": lambda p: [
        (("data=sampled", "sample.n=1"), "sample.n=1 gives every prompt one answer, and a pair takes two"),
        (("data=sampled", "sample.preset=spin"), "sample.n=1 gives every prompt one answer, and a pair takes two"),
        (
            ("data=sampled", "sample.branch={cuts: 1, children: 1}", "pair.among=siblings"),
            "pair.among=siblings pairs answers that go on from one cut",
        ),
        (("data=sampled", "pair.min_margin=2", "pair.max_margin=1"), "pair.min_margin=2 is above pair.max_margin=1"),
    ],
    "prompts to answer that are not there, or of which the first rows hold none": lambda p: [
        (("data=sampled", "sample.prompts=/nowhere.jsonl"), "sample.prompts.source '/nowhere.jsonl'"),
        (
            ("data=sampled", f"sample.prompts={p.file('texts.jsonl', {'text': 'x'})}"),
            "holds a prompt: {'missing-prompt'",
        ),
        (
            ("data=sampled", f"sample.prompts={{source: {p.file('asked.jsonl', *ROWS)}, columns: {{prompt: q}}}}"),
            "sample.prompts.columns.prompt=q",
        ),
    ],
    "a setting of answers of the model's own, without them; a stage that the line has not": lambda p: [
        (("sample.n=3",), "sample.n has no effect without data.source=sampled"),
        (("data=sampled", "pair.rule=delta"), "sample.against names none"),
        (("--until", "pair"), "there is no stage pair with data.source=verifiable"),
    ],
    "a judge without a URL": lambda p: [
        (("judge.model=j",), "resources.judge_endpoint.url"),
        (("objective=dpo", "schedule={}", "streams={own: {bridge: {judge: j}}}"), "resources.judge_endpoint.url"),
        (("streams={own: {data: sampled, rate: {raters: [{judge: j}]}}}",), "resources.judge_endpoint.url"),
    ],
    "a judge whose key is not in the environment": lambda p: [
        ((*JUDGE, "resources.judge_endpoint.key_env=NO_SUCH_KEY"), "export NO_SUCH_KEY"),
    ],
    "words, baselines or an endpoint of a judge, without a judge": lambda p: [
        (("judge.wording={verifiable: own}",), "judge.wording has no effect without judge.model or judge.local"),
        (("judge.max_tokens=4",), "judge.max_tokens has no effect"),
        (JUDGE[1:], "resources.judge_endpoint.url has no effect without judge.model"),
        (("resources.judges=2", *JUDGE), "resources.judges has no effect without judge.local"),
    ],
    "a setting on the command line that has no effect": lambda p: [
        (("train.decay_fraction=0.3",), "no effect with train.lr_schedule=cosine"),
        (("data.dev_fraction=0.3",), "no effect with data.source=verifiable"),
        ((f"data={p.file('pairs.jsonl', *ROWS)}", "data.pairs=3"), "data.pairs has no effect with data.source="),
        ((own_questions(p), "generate.split=dev"), "generate.split has no effect without the benchmark verifiable"),
        (("schedule.drop=easiest",), "without schedule.drop_percentile"),
        (("resources.mirror=/elsewhere",), "with a folder as resources.root"),
        (("resources.collective_timeout_seconds=60",), "no effect with one train worker"),
        (("train={decay_fraction: 0.3}",), "train.decay_fraction has no effect"),
    ],
    "more actors than the cluster has room for, of any stage": lambda p: [
        (("resources.train_workers=999",), "resources.train_workers=999 actors, but the cluster has"),
        (("resources.train_workers=[998, 999]",), "resources.train_workers=998 actors, but the cluster has"),
        (
            ("resources.scorers=999", "resources.wait_for_cluster=60"),
            "resources.scorers=999",
        ),  # of a cluster of its own
        (("resources.scorers=999",), "resources.scorers=999"),
        (("resources.generators=999",), "resources.generators=999"),
        (("resources.judges=999", f"judge.local={p.model}"), "resources.judges=999"),
        (("resources.gpus_per_actor=999",), "of 999 GPUs each"),
    ],
    "several train workers on a part of a GPU each": lambda p: [
        (("resources.train_workers=2", "resources.gpus_per_actor=0.5"), "each train worker needs a GPU of its own"),
    ],
    "an optimiser whose package is not installed": lambda p: [
        (("train.optimizer=adamw-8bit",), "takes torchao or bitsandbytes, and there is none here"),
        (
            ("train.optimizer=adamw-8bit", "model.dtype=bfloat16"),
            "takes torchao, which is the one that shards it, and there is none here",
        ),
    ],
    "groups of train workers of several sizes": lambda p: [
        (("resources.train_workers=4", "resources.shard_within=3"), "resources.shard_within=3 does not divide"),
        (("resources.train_workers=[2, 4]", "resources.shard_within=4"), "(resources.train_workers=2..4)"),
    ],
    "an objective that weighs two streams, without a second": lambda p: [
        (("objective=bvpo",), "objective.name=bvpo weighs two streams of pairs, and there are 1"),
        (("objective=bvpo", "streams={a: {}, b: {}}"), "and there are 3"),
    ],
    "a stream whose own line has any of these faults": lambda p: [
        (("streams={own: {data: nowhere.jsonl}}",), "nowhere.jsonl"),
        (("objective=odpo", f"streams={{own: {{data: {p.file('bare.jsonl', *ROWS)}}}}}"), "objective.name=odpo needs"),
        (("streams={own: {model: {template_arguments: {enable_thinking: false}}}}",), "ignores it"),
        (("streams={own: {data: sampled, rate: {raters: [nobody]}}}",), "nobody"),
        (
            ("streams={own: {data: sampled, pair: {rule: all, among: siblings}}}",),
            "streams.own.pair.among has no effect",
        ),
    ],
    "a layer of features that the model has not got, or an autoencoder that is none or another model's": lambda p: [
        (("objective=fpo", "features.layer=1"), "features are to be read of layer 1, and model.source="),
        (("objective=fpo", f"features={p.folder}"), "holds no sparse autoencoder"),
        (
            ("objective=fpo", f"features={sae(p.folder / 'wide', 16)}"),
            "is of states of 16 channels",
        ),
        (
            ("objective=fpo", f"features={sae(p.folder / 'own', 8)}", "features.passes=2"),
            "features.passes has no effect",
        ),
        (("objective=dpo", "features.layer=0"), "has no effect without an objective that looks at features"),
        (("objective=fpo", "streams={own: {}}"), "each would have features of its own training"),
    ],
    "layers to adapt that the model has not got": lambda p: [
        (("train.lora.layers=q_prj",), "the model has no q_prj"),
        (("train.lora={layers: [q_proj, v_prj]}",), "the model has no v_prj"),
        (("train.lora.layers=.*q_prj",), "the model has no .*q_prj"),
        (("train.lora.layers=.*",), "train.lora.layers=.* means model, model.layers, model.layers.0, too"),
        (("train.lora.layers=.*(q_proj|norm)",), "means model.layers.0.input_layernorm, model.layers.0.post_attention"),
    ],
    "no tokenizer, or no chat template that parses": lambda p: [
        ((f"model.chat_template={unparsable(p)}",), "does not parse: line 2: "),
        ((f"model.source={without_template(p)}",), "chat template"),
        ((f"model.source={without_tokenizer(p)}",), "has no tokenizer"),
        ((f"model.source={gguf(p.folder / 'plain.gguf')}",), "has no chat template (tokenizer.chat_template)"),
        ((f"judge.local={gguf(p.folder / 'judge.gguf')}",), "judge.local.chat_template"),
    ],
    "a config.json that is no JSON, or makes no sense": lambda p: [
        (cut(p), "its config.json is no JSON"),
        (edited(p, "untyped", model_type=None), "names no model_type"),
        (edited(p, "typo", model_type="lama"), "no model can be made by its config.json, with model_type='lama'"),
        (edited(p, "number", model_type=5), "with model_type=5"),
        (edited(p, "kind", **rope("lineer")), "with rope_type='lineer'"),
        (edited(p, "factor", **rope("linear")), "with rope_type='linear' without factor"),
        (edited(p, "text", **rope("dynamic", factor="two")), "with factor='two'"),
        (edited(p, "less", **rope("linear", factor=-2.0)), "rotary embeddings of factor=-2.0"),
        (edited(p, "theta", **rope("default", rope_theta=0)), "rotary embeddings of rope_theta=0"),
        (edited(p, "size", hidden_size="8"), "with hidden_size='8'"),
        (
            edited(p, "heads", num_attention_heads=3, num_key_value_heads=3),
            "with hidden_size=8, which num_attention_heads=3 does not divide",
        ),
        (edited(p, "shared", num_key_value_heads=3), "=2, which num_key_value_heads=3 does not divide"),
        (edited(p, "negative", vocab_size=-1), "its config.json has vocab_size=-1"),
        (
            (edited(p, "judge", hidden_size="8")[0].replace("model.", "judge.local."),),
            f"judge.local.source={p.folder / 'judge'}: no model can be made by its config.json, with hidden_size='8'",
        ),
    ],
    "an end, or tokens of the tokenizer, that the model has no embedding for": lambda p: [
        (edited(p, "end", eos_token_id=259), "by its config.json answers end at token 259"),
        (edited(p, "ends", eos_token_id=[2, 999]), "answers end at token 999 (eos_token_id), of 259 embeddings"),
        (edited(p, "other", "generation_config.json", eos_token_id=999), "by its generation_config.json answers end"),
        (edited(p, "few", vocab_size=258), "has tokens up to 258, its config.json 258 embeddings (vocab_size)"),
    ],
    "an argument that the chat template does not read": lambda p: [
        (("model.template_arguments={enable_thinking: false}",), "ignores it"),
        (("model.template_arguments.messages=1",), "template_arguments.messages"),
    ],
    "a .gguf file that is none": lambda p: [((f"model.source={p.file('broken.gguf', 'GGUX')}",), "is no .gguf file")],
    "a file of questions that is empty, cannot be read or holds none": lambda p: [
        ((f"generate.benchmarks={{mine: {p.file('empty.jsonl')}}}",), "holds no questions"),
        ((f"generate.benchmarks={{mine: {p.file('none.jsonl', {'x': 1})}}}",), "row 1 holds no question"),
        ((f"generate.benchmarks={{mine: {p.file('text.jsonl', 'hello')}}}",), "text.jsonl"),
    ],
    "a sampling preset of another family, or an end of answers that is no token": lambda p: [
        ((own_questions(p), "generate.preset=llama-3-instruct"), "ends answers at token 128001"),
        (("generate.stop_token_ids=[2, 259]",), "no answer ends at token 259, as the model has 259 embeddings"),
        (("generate.stop=['']",), "generate.stop.0=''"),
    ],
    "answers longer than the model takes": lambda p: [
        (("generate.max_new_tokens=5000",), "may take 5000 tokens, the model takes"),
        ((own_questions(p, turns=["Q?", "And?"]), "generate.max_new_tokens=1024"), "may take 2048 tokens"),
    ],
    "words to the judge that are none, or baselines that answer no question": lambda p: [
        ((*JUDGE, f"judge.wording={{verifiable: {p.file('w.json', {'system': 'x'})}}}"), "judge.wording.verifiable"),
        ((*JUDGE, f"judge.baselines={{verifiable: {p.file('b.jsonl', {'x': 1})}}}"), "none of its rows answers"),
    ],
    "a column that the data lack": lambda p: [
        ((f"data={p.file('pairs.jsonl', *ROWS)}", "objective=mixdpo"), "schedule.difficulty=score-margin needs scores"),
        ((f"data={p.file('pairs.jsonl', *ROWS)}", "objective=gdpo"), "objective.name=gdpo needs label_confidence"),
    ],
    "rows of which none is a pair": lambda p: [
        ((f"data={p.file('alike.jsonl', *[row | {'chosen': 'Seven.'} for row in ROWS])}",), "8 of 8 rows are none"),
        ((f"data={p.file('late.jsonl', *[row | {'rejected': ''} for row in ROWS * 20])}",), "empty-completion: row 1"),
    ],
    "data.difficulty_column that is no column": lambda p: [
        ((f"data={p.file('scored.jsonl', *SCORED)}", "data.difficulty_column=hardnes"), "did you mean hardness?"),
        (
            (f"data={p.file('scored.jsonl', *SCORED)}", "data.difficulty_column=x"),
            "they have 'chosen', 'chosen_score', 'hardness'",
        ),
    ],
    "a result that the first stage reads, which is not there": lambda p: [
        (("--from", "train"), "stage train needs the result of stage prepare"),
    ],
}


def table() -> dict[str, str]:
    """What docs/reliability.md says: when each fault is told."""
    text = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    _, _, rows = text.partition("| fault | told |\n|---|---|\n")
    return dict(re.findall(r"^\| (.*?) \| (.*?) \|$", rows.partition("\n\n")[0], flags=re.MULTILINE))


def test_the_table_is_complete() -> None:
    told = table()
    by_stage = {fault for fault, when in told.items() if when.startswith("by the stage")}  # see tests/e2e
    here = ("RAY_ADDRESS where no cluster answers", "a resources.root that is no folder, or may not be written")
    rounds = "prompts that do not last for all rounds, adapters that the next round could not start from"
    apart = dict.fromkeys((*here, rounds), "before anything")
    other = "a start or a reference of another tokenizer or chat template, or of fewer positions or embeddings"
    apart[other] = "before anything; beside a .gguf file by the stage that opens it"
    later = ("a column that some rows lack", "pairs of which none is to be trained")
    apart |= dict.fromkeys((*later, "a weighted stream that some steps would lack"), "after prepare")
    assert by_stage and {*TOLD, *apart} == set(told) - by_stage
    assert {told[fault].partition(";")[0] for fault in TOLD} == {"before anything"}
    assert {fault: told[fault] for fault in apart} == apart  # by tests of their own


@pytest.mark.parametrize("fault", TOLD)
def test_a_fault_is_told_before_anything(place: Place, fault: str) -> None:
    for arguments, says in TOLD[fault](place):
        own_model = any(each.startswith("model.source=") for each in arguments)
        config = place.config(model={}) if own_model else None
        assert says in place.dry(*arguments, config=config)


def test_what_looks_odd_but_can_be_opened_is_left_to_be_opened(place: Place) -> None:
    """An end of -1 is none; added tokens may be more than embeddings, as nothing need use them."""
    for name, file, changes in (
        ("end", "config.json", {"eos_token_id": -1}),
        ("stretched", "config.json", rope("yarn", factor=2.0)),
        ("halved", "config.json", rope("linear", factor=0.5)),
        ("width", "config.json", {"head_dim": 4, "hidden_size": 8, "num_attention_heads": 2}),
        ("added", "tokenizer.json", {"added_tokens": [{"id": 259, "content": "<pad>", "special": True}]}),
    ):
        given = edited(place, name, file, **changes)
        status, said = place.says(run.main, "--config", place.config(model={}), *place.given, *given, "--dry-run")
        assert status == 0, said


def test_two_configurations_are_refused_by_name(place: Place) -> None:
    assert "configs/study-noise.yaml" in place.says(study.main, "--help")[1]  # and none that it would refuse
    for main in (run.main, study.main, partial(stage.main, "prepare")):
        status, said = place.says(main, "--config", "a.yaml", "--config", "b.yaml")
        assert status == 2 and "--config a.yaml and --config b.yaml: give one" in said


def test_all_faults_are_told_at_once(place: Place) -> None:
    said = place.dry("judge.model=j", "train.lora.layers=q_prj", "resources.scorers=999")
    assert said.count("error: ") == said.count("\n  remedy: ") == 3


def test_an_address_where_nobody_listens(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert "RAY_ADDRESS=127.0.0.1:9: no cluster answers there" in place.dry("resources.scorers=2")


def test_a_column_that_some_rows_lack_is_told_once_prepare_has_seen_them(place: Place) -> None:
    bare = [ROWS[3] | {"prompt": "Bare."}, ROWS[4] | {"prompt": "Bare, too."}]
    held = ROWS[0] | {"prompt": "Held out.", "split": "dev"}  # which nothing lives on
    data = place.file("partial.jsonl", *SCORED, held, *bare)
    config = place.config(data={"source": data}, objective="mixdpo")
    assert place.says(run.main, "--config", config, *place.given, "--dry-run")[0] == 0
    status, said = place.says(run.main, "--config", config, *place.given)
    problem = "difficulty=score-margin needs scores of every pair, which 2 of 10 train pairs lack (such as row 10 of"
    assert status == 2 and problem in said and "reference: making" not in said and "prepare: done" in said
    assert problem in place.says(run.main, "--config", config, *place.given, "--dry-run")[1]
    door = partial(stage.main, "schedule")
    assert problem in place.says(door, "--config", config, *place.given)[1]
    plain = ("--config", config, *place.given, "objective=dpo", "--dry-run")
    assert place.says(run.main, *plain)[0] == 0  # an objective that asks for nothing trains the same pairs
    status, said = place.says(run.main, *plain[:-2], "objective=odpo", "--dry-run")
    assert status == 2 and "objective.name=odpo needs scores of every pair, which 2 of 10" in said


@pytest.mark.parametrize("root", ["file.txt", "file.txt/below"])
def test_a_root_that_is_no_folder_is_told(place: Place, root: str) -> None:
    file = place.file("file.txt", "x")
    for last in ((), ("--dry-run",)):
        asked = ("--config", place.config(), f"resources.root={place.folder / root}", *last)
        status, said = place.says(run.main, *asked)
        assert status == 2 and f"{file} is no folder\n  remedy: give a folder" in said and "making" not in said


def test_pairs_of_which_none_is_trained_are_told_before_they_are_scored(place: Place) -> None:
    held = place.file("held.jsonl", *[row | {"split": "test" if i % 2 else "dev"} for i, row in enumerate(ROWS)])
    asked = ("--config", place.config(data={"source": held}), *place.given)
    status, said = place.says(run.main, *asked)
    problem = f"data.source={held} holds no pair to train: 4 of split dev, 4 of split test"
    assert status == 2 and problem in said and "prepare: done" in said and "reference: making" not in said
    assert problem in place.says(run.main, *asked, "--dry-run")[1]


def test_a_weighted_stream_that_some_steps_would_lack_is_told_before_anything_is_scored(place: Place) -> None:
    few = place.file("few.jsonl", *ROWS[:2])
    streams = {"few": {"data": few, "weight": 0.5}}
    config = place.config(data={"source": place.file("many.jsonl", *ROWS)}, streams=streams, train={"batch_size": 4})
    asked = ("--config", config, *place.given, "objective=dpo")
    status, said = place.says(run.main, *asked)
    problem = (
        "stream few has 2 of 10 pairs, so that not every step of 4 holds one\n  remedy: give train.batch_size=5 or"
    )
    assert status == 2 and problem in said and "few/prepare: done" in said and "reference: making" not in said
    assert problem in place.says(run.main, *asked, "--dry-run")[1]
    assert place.says(run.main, *asked, "train.batch_size=5", "--dry-run")[0] == 0
    four_times = "streams.few.schedule={epochs: 4}"  # which makes eight positions of two pairs
    assert place.says(run.main, *asked, four_times, "--dry-run")[0] == 0


def test_a_stream_of_own_answers_beside_given_pairs_is_no_fault(place: Place) -> None:
    """Each line is looked at for what it makes itself: the first samples nothing."""
    config = place.config(streams={"own": {"data": "sampled", "bridge": {"judge": None}}}, bridge={"judge": "j"})
    asked = ("objective=dpo", "resources.judge_endpoint.url=http://127.0.0.1:1/v1", "--dry-run")
    status, said = place.says(run.main, "--config", config, *place.given, *asked)
    assert status == 0 and "make  own/sample" in said and "make  bridge" in said and "own/bridge" not in said, said


def test_what_a_file_says_for_another_variant_is_said_once_and_kept_in_the_manifest(place: Place) -> None:
    config = place.config(data={"source": place.file("p.jsonl", *ROWS), "pairs": 4}, train={"decay_fraction": 0.2})
    status, said = place.says(run.main, "--config", config, *place.given, "--until", "prepare")
    assert status == 0, said
    line = f"not used: data.pairs (with data.source={place.folder / 'p.jsonl'}); train.decay_fraction (with"
    assert said.count("not used: ") == 1 and line in said
    (manifest,) = place.folder.glob("root/prepare/*/manifest.json")
    assert set(json.loads(manifest.read_text())["not_used"]) == {"data.pairs", "train.decay_fraction"}


@pytest.mark.parametrize("layers", ["q_proj", "[q_proj, v_proj]", "all-linear", "[self_attn.q_proj]", ".*q_proj"])
def test_layers_that_the_model_has(place: Place, layers: str) -> None:
    asked = ("--config", place.config(), *place.given, f"train.lora.layers={layers}", "--dry-run")
    assert place.says(run.main, *asked)[0] == 0


def test_a_study_is_checked_as_a_whole(place: Place) -> None:
    methods = {"plain": {"objective": "dpo"}, "wsd": {"objective": "dpo", "train": {"lr_schedule": "wsd"}}}
    config = place.config(study={"methods": methods, "until": "train"}, train={"decay_fraction": 0.3})
    asked = ("--config", config, *place.given, "--dry-run")
    status, said = place.says(study.main, *asked, "train.decay_fraction=0.2")  # one of its cells uses it
    assert status == 0 and "not used" not in said, said
    status, said = place.says(study.main, *asked, "resources.train_workers=999", "train.lora.layers=q_prj")
    assert status == 2 and said.count("error: ") == 2, said


def test_a_gguf_of_ones_own_template_is_taken(place: Place) -> None:
    (place.folder / "t.jinja").write_text(TEMPLATE)
    for source in (gguf(place.folder / "a.gguf", tokenizer__chat_template=TEMPLATE), gguf(place.folder / "b.gguf")):
        given = [f"model.source={source}"] + ([] if source.endswith("a.gguf") else ["model.chat_template=t.jinja"])
        status, said = place.says(run.main, "--config", place.config(model={}), *place.given, *given, "--dry-run")
        assert status == 0, said


def test_prepare_alone_checks_what_it_needs(place: Place) -> None:
    """Nothing of the stages that others will run, elsewhere perhaps."""
    asked = ("--config", place.config(), *place.given, "judge.model=j", "resources.train_workers=999")
    status, said = place.says(partial(stage.main, "prepare"), *asked)
    assert status == 0, said
