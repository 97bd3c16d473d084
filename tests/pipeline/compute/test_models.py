"""Loading: what the compute path cannot score rightly is refused before anything is computed with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import DigestMemory
from pipeline.compute.models import load_model, locate
from pipeline.config import Model
from pipeline.errors import UserError


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("Gemma2", "caps its attention logits"),
        ("Granite", "GraniteForCausalLM scores a completion"),  # divides its logits after the output head
        ("Cohere", "CohereForCausalLM scores a completion"),  # multiplies them
        ("Mamba", "MambaForCausalLM scores a completion"),  # ignores where one pair ends
    ],
)
def test_a_model_that_would_score_wrongly_is_refused(
    tiny_model: Callable[[str], Path], family: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        load_model(tiny_model(family), "float32")


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
