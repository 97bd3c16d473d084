"""Whatever a configuration holds, it is a configuration and a plan, or one error that names what is wrong."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.line.study import plan_study
from pipeline.line.sweep import plan_sweep
from pipeline.objectives.presets import PRESETS
from pipeline.settings.config import RunConfig, load
from pipeline.settings.faults import paths
from pipeline.settings.unused import described, unused

SETTINGS = [*paths(RunConfig), "objective.beta", "objective.tau", "objective.preference", "objective.margin"]
STUDY = ["study", "study.methods", "study.methods.a", "study.methods.a.objective", "study.methods.a.train.lora"]
STUDY += ["study.flip_fractions", "study.seeds", "study.until"]
SWEEP = ["sweep", "sweep.methods", "sweep.methods.a", "sweep.methods.a.ranges", "sweep.ranges", "sweep.halving"]
SWEEP += ["sweep.ranges.train.learning_rate", "sweep.ranges.objective.tau.log", "sweep.seeds", "sweep.trials"]
WORDS = [
    *PRESETS,
    "sampled",
    "rules",
    "wsd",
    "gamma",
    "model",
    "train",
    "source",
    "alpaca_eval",
    "own",
    "name",
    "rank",
    "all-linear",
]

# No slash, tilde or colon: a drawn text must not be a path to somewhere else, nor an address.
text = st.text(st.characters(exclude_characters="/~:\\", codec="utf-8"), max_size=8) | st.sampled_from(
    [*WORDS, "\0", "a\0b", "\ud800", ".", "..", " ", "x" * 300, "1e-5", "${HOME}", "%s{}"]
)
number = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2**63, 10**400, -(10**400), 5e-324, 1e308])
moment = st.dates() | st.datetimes() | st.datetimes(timezones=st.just(datetime.UTC))
scalar = st.none() | st.booleans() | number | text | moment | st.binary(max_size=4)
key = text | st.integers() | st.none() | st.booleans() | st.dates() | st.floats()
value = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=3) | st.sets(key, max_size=2) | st.dictionaries(key, inner, max_size=3),
    max_leaves=6,
)
path = st.sampled_from(SETTINGS) | st.builds("{}.{}".format, st.sampled_from(SETTINGS), st.sampled_from(WORDS))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A configuration whose model is there as far as a plan looks; nothing is asked of the network."""
    import huggingface_hub.constants

    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.chdir(folder)
        yield {"model": {"source": str(folder / "model")}, "resources": {"root": str(folder / "runs")}}


def put(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        if not isinstance(raw.get(section), dict):
            raw[section] = {}
        raw = raw[section]
    raw[leaf] = value


def written(base: dict[str, Any], drawn: dict[str, Any]) -> str:
    """The drawn values at their keys, in a file."""
    raw = {name: dict(section) for name, section in base.items()}
    for dotted, value in drawn.items():
        put(raw, dotted, value)
    Path("drawn.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return "drawn.yaml"


@settings(max_examples=2000)
@given(st.dictionaries(path, value, min_size=1, max_size=3))
def test_any_values_at_any_keys(base: dict[str, Any], drawn: dict[str, Any]) -> None:
    try:
        config = make_plan(load(written(base, drawn))).config
        assert isinstance(described(unused(config)), str)
    except UserError as error:
        assert error.problem and error.remedy


PATHS = ["model", "model.chat_template", "data", "generate.benchmarks.mine", "judge.wording.verifiable"]
PATHS += ["judge.baselines.verifiable", "judge.local", "resources.root"]
ODD_PATHS = [
    "x" * 300,
    "x/" * 3000,
    "~nobody-of-this-name/x",
    "model/config.json/x",
    "package://",
    "package://x/y",
    " ",
]


@pytest.mark.parametrize("setting", PATHS)
def test_a_path_that_cannot_be_followed(base: dict[str, Any], setting: str) -> None:
    for odd in ODD_PATHS[:3] if setting == "resources.root" else ODD_PATHS:  # the others could be made, or a store's
        judged = {"judge": {} if setting == "judge.local" else {"model": "m"}}
        with pytest.raises(UserError) as caught:
            make_plan(load(written(base | judged, {setting: odd})))
        assert caught.value.problem and caught.value.remedy


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(STUDY) | path, value, min_size=1, max_size=3))
def test_any_study(base: dict[str, Any], drawn: dict[str, Any]) -> None:
    try:
        plan_study(written(base | {"study": {"methods": {"a": {}}}}, drawn), [])
    except UserError as error:
        assert error.problem and error.remedy


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(SWEEP) | path, value, min_size=1, max_size=3))
def test_any_sweep(base: dict[str, Any], drawn: dict[str, Any]) -> None:
    try:
        plan_sweep(written(base | {"sweep": {"methods": {"a": {}}}}, drawn), [])
    except UserError as error:
        assert error.problem and error.remedy


@settings(max_examples=300)
@given(st.lists(st.builds("{}={}".format, path, text | number | st.sampled_from(["{", "[1", "{a: 1, a: 2}", "*a"]))))
def test_any_overrides(base: dict[str, Any], overrides: list[str]) -> None:
    try:
        make_plan(load(written(base, {}), overrides))
    except UserError as error:
        assert error.problem and error.remedy


@given(st.binary(max_size=40) | st.text(alphabet="&*!{}[]:,-? \n\"'|>%@a1", max_size=30).map(str.encode))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(raw)
    try:
        load(str(file))
    except UserError as error:
        assert error.problem and error.remedy


@pytest.mark.parametrize(
    "text",
    [
        "model: &a {source: *a}",  # a cycle
        "model: &a [*a]",
        "train: &t {<<: *t}",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nmodel: *c",
        "model: !!python/object/apply:os.system ['true']",
        f"model: x\ntrain: {{batch_size: 0x{'f' * 9999}}}",  # more digits than Python writes out
        f"model: x\ntrain: {{learning_rate: 0x{'f' * 9999}}}",
        f"model: x\nobjective: {{beta: 0x{'f' * 9999}}}",
        f"model: x\nstudy: 3\nseed: 0x{'f' * 9999}",
        "model: x\nobjective: {? [a] : b}",
    ],
)
def test_cycles_objects_and_giants(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UserError):
        load(str(tmp_path / "odd.yaml"))
