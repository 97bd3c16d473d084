"""Loading: what the compute path cannot score rightly is refused before anything is computed with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.compute.attention import is_packed
from pipeline.compute.models import load_model, locate
from pipeline.errors import UserError
from pipeline.results.files import DigestMemory
from pipeline.settings.config import Model


@pytest.mark.parametrize(
    ("family", "packed"),
    [
        ("Mistral", True),
        ("Phimoe", True),
        ("Phimoe-window", False),  # a window, longer than what is checked, that attention is not told of
        ("StableLm", False),  # does not hand the layout on to attention
    ],
)
def test_a_model_is_packed_only_where_it_honours_the_layout(
    tiny_model: Callable[[str], Path], family: str, packed: bool
) -> None:
    """More families in test_logprobs.py. The check must leave windows as they were."""
    folder = tiny_model(family)
    model = load_model(folder, "float32")
    assert is_packed(model) == packed
    assert model.config.to_dict() == AutoConfig.from_pretrained(folder).to_dict() | {"dtype": "float32"}


def test_a_faint_trace_of_other_pairs_is_told_from_rounding(tiny_model: Callable[[str], Path]) -> None:
    """In bfloat16 it moves log-probs by less than rounding does, but rounding is the same whatever the others are."""
    assert not is_packed(load_model(tiny_model("RecurrentGemma"), "bfloat16"))
    assert is_packed(load_model(tiny_model("Mistral"), "bfloat16"))


def test_a_model_that_scores_wrongly_either_way_is_refused(tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="Llama4ForCausalLM cannot be scored"):  # does not say where its decoder is
        load_model(tiny_model("Llama4Text"), "float32")


def test_missing_weights_are_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"lacks weights: model\.layers\.2\."):
        load_model(folder, "float32")


def test_a_broken_model_is_one_error(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be opened"):
        load_model(folder, "float32")


def test_weights_in_a_pickle_are_not_loaded(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Sound ones, that transformers opens by itself."""
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(UserError, match="cannot be opened"):
        load_model(folder, "float32")
    with pytest.raises(UserError, match="safetensors"):
        locate(Model(source=str(folder)), DigestMemory(tmp_path))


OWN = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({marker!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_models_code_is_run_only_where_it_is_trusted(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder, marker = shutil.copytree(tiny_model("Llama"), tmp_path / "model"), tmp_path / "ran"
    (folder / "own.py").write_text(OWN.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model\.trust_remote_code=true"):
        load_model(folder, "float32")
    assert not marker.exists()

    model = load_model(folder, "float32", trust_remote_code=True)
    assert marker.exists() and type(model).__name__ == "OwnForCausalLM"
    model.save_pretrained(tmp_path / "saved")  # the export brings the code along
    again = load_model(tmp_path / "saved", "float32", trust_remote_code=True)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))

    memory, trusted = DigestMemory(tmp_path), Model(source=str(folder), trust_remote_code=True)
    before = [locate(each, memory).digest for each in (trusted, Model(source=str(folder)))]
    (folder / "own.py").write_text("# another")
    after = [locate(each, memory).digest for each in (trusted, Model(source=str(folder)))]
    assert before[0] != after[0] and before[1] == after[1]


def test_a_model_is_its_content(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    first = shutil.copytree(tiny_model("Llama"), tmp_path / "Tiny-1.5B")
    second = shutil.copytree(first, tmp_path / "elsewhere")
    memory = DigestMemory(tmp_path / "root")
    found = locate(Model(source=str(first)), memory)
    assert found.label == "tiny-1-5b" and not found.is_gguf
    assert locate(Model(source=str(second)), memory).digest == found.digest
    (second / "notes.bin").write_text("not part of a model")
    assert locate(Model(source=str(second)), memory).digest == found.digest
    (second / "config.json").write_text((second / "config.json").read_text() + " ")
    assert locate(Model(source=str(second)), memory).digest != found.digest


def test_a_chat_template_is_part_of_the_model(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    source, memory = str(tiny_model("Llama")), DigestMemory(tmp_path)
    plain = locate(Model(source=source), memory).digest
    assert locate(Model(source=source, chat_template=str(template)), memory).digest != plain


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("./nowhere", "there is nothing at nowhere"),
        ("package://no_such_package/a.gguf", "package no_such_package is not installed"),
        ("package://no.such.package/a.gguf", "package no.such.package is not installed"),
        ("package:///a.gguf", "is not installed"),
        ("package://json/a.gguf", "there is nothing at"),
        ("{here}", "has no config.json with"),
        ("{here}/weights.bin", "neither a directory nor a .gguf file"),
    ],
)
def test_a_model_that_is_not_there_is_one_error(tmp_path: Path, source: str, problem: str) -> None:
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UserError, match=problem):
        locate(Model(source=source.format(here=tmp_path)), DigestMemory(tmp_path))
