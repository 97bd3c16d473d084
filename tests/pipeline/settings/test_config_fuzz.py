"""Whatever a configuration holds, it is a configuration or one error that names what is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.settings.config import RunConfig, load

SECTIONS = list(RunConfig.model_fields)
KEYS = sorted(
    {name for field in RunConfig.model_fields.values() for name in getattr(field.annotation, "model_fields", {})}
)

value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["dpo", "mixdpo"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
content = st.dictionaries(st.sampled_from(SECTIONS) | st.text(max_size=4), value, max_size=5)


@given(content)
def test_any_mapping(tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_text(yaml.safe_dump({"model": {"source": "x"}} | raw, allow_unicode=False), encoding="utf-8")
    try:
        assert isinstance(load(str(file)), RunConfig)
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
    ],
)
def test_cycles_and_objects(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UserError):
        load(str(tmp_path / "odd.yaml"))
