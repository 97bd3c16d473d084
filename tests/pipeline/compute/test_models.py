"""Loading: what the compute path cannot score rightly is refused before anything is computed with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.compute.attention import is_packed
from pipeline.compute.models import load_model, locate
from pipeline.errors import UserError
from pipeline.preferences.template import DATE
from pipeline.results.files import DigestMemory
from pipeline.settings.inputs import Model
from tests.conftest import SMALL_MEMORY, with_code


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


def test_a_config_of_fewer_layers_than_the_weights_have_is_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """It would open as a smaller model."""
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(UserError, match=r"weights of layers that its config\.json does not: model\.layers\.1\."):
        load_model(folder, "float32")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "whole.gguf"])
def test_a_pointer_of_git_lfs_is_no_model(tiny_model: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    given = folder / name if name.endswith(".gguf") else folder
    with pytest.raises(UserError, match=f"{name}' is a Git LFS pointer") as caught:
        locate(Model(source=str(given)), DigestMemory(tmp_path))
    assert "lfs pull" in caught.value.remedy


def test_memory_that_runs_out_is_no_fault_of_the_model(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """While weights are loaded, and while the model is tried: whoever loads it says what to lower."""
    tried = with_code(tiny_model("Llama"), tmp_path / "tried", SMALL_MEMORY.format(tokens=8))
    at_once = SMALL_MEMORY.replace("super().__init__(config)", "torch.empty(2**50, device='cpu')")
    loaded = with_code(tiny_model("Llama"), tmp_path / "loaded", at_once)
    for folder, error in ((tried, torch.OutOfMemoryError), (loaded, RuntimeError)):
        with pytest.raises(error, match=r"CUDA out of memory|can't allocate memory"):
            load_model(folder, "float32", trust_remote_code=True)


def test_a_model_that_its_gpus_cannot_hold_is_refused(tiny_model: Callable[[str], Path]) -> None:
    """Where none is in sight all of it would be elsewhere."""
    with pytest.raises(UserError, match=r"GPUs of one actor cannot hold the model in .*\n.*resources\.gpus_per_actor"):
        load_model(tiny_model("Llama"), "float32", "auto")


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
    marker = tmp_path / "ran"
    folder = with_code(tiny_model("Llama"), tmp_path / "model", OWN.format(marker=str(marker)))
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


def changed(folder: Path, name: str, content: str) -> bool:
    """Whether the model in `folder`, its code trusted, becomes another one by a file of this content."""
    memory, model = DigestMemory(folder.parent), Model(source=str(folder), trust_remote_code=True)
    before = locate(model, memory).digest
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    return locate(model, memory).digest != before


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("tokenizer.json", True),
        ("tokenizer_config.json", True),
        ("special_tokens_map.json", True),
        ("merges.txt", True),
        ("vocab.txt", True),
        ("tokenizer.model", True),
        ("chat_template.jinja", True),
        ("additional_chat_templates/tool_use.jinja", True),
        ("model.safetensors.index.json", True),
        ("training_utils.py", True),
        ("README.md", False),
        ("LICENSE.txt", False),
        ("USE_POLICY.txt", False),
        ("Notice.txt", False),
        ("trainer_state.json", False),
        ("training_args.json", False),
        ("all_results.json", False),
        ("eval_results.json", False),
        ("requirements.txt", False),
        ("optimizer.pt", False),
        ("training_args.bin", False),
        ("original/consolidated.json", False),
    ],
)
def test_a_model_is_the_files_that_are_computed_with(
    tiny_model: Callable[[str], Path], tmp_path: Path, name: str, counts: bool
) -> None:
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    assert changed(folder, name, "{}") == counts


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        ('{"eos_token_id": 2}', False),
        ('{"eos_token_id": [2], "do_sample": false, "temperature": 0.9, "pad_token_id": 7}', False),
        ('{"eos_token_id": [2, 5]}', True),
        ('{"eos_token_id": 5}', True),
        ("{}", True),  # transformers then knows no end, whatever config.json says
        ("not json", True),  # and here goes by config.json
    ],
)
def test_of_a_generation_config_the_ends_alone_are_used(
    tiny_model: Callable[[str], Path], tmp_path: Path, content: str, counts: bool
) -> None:
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    known = json.loads((folder / "generation_config.json").read_text())
    assert known["eos_token_id"] == 2
    assert changed(folder, "generation_config.json", content) == counts


def test_a_broken_generation_config_is_as_none(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Which is what transformers and vLLM make of it."""
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    memory, file = DigestMemory(tmp_path), folder / "generation_config.json"
    file.write_text("not json")
    broken = locate(Model(source=str(folder)), memory).digest
    found = AutoModelForCausalLM.from_pretrained(folder).generation_config
    file.unlink()
    assert locate(Model(source=str(folder)), memory).digest == broken
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == found.eos_token_id == 2


@pytest.mark.parametrize("given", [{"template_arguments": {"enable_thinking": False}}, {"template_date": "2026-02-03"}])
def test_what_every_rendering_gets_is_part_of_the_model(
    tiny_model: Callable[[str], Path], tmp_path: Path, given: dict[str, Any]
) -> None:
    """Only where it is given, so that what was made before it could be given is still found."""
    source, memory = str(tiny_model("Llama")), DigestMemory(tmp_path)
    plain = locate(Model(source=source), memory).digest
    assert locate(Model(source=source, template_arguments={}, template_date=DATE), memory).digest == plain
    assert locate(Model(source=source, **given), memory).digest != plain


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
        ("{here}", r"has no config.json \(found: weights.bin\)"),
        ("{here}/weights.bin", "neither a directory nor a .gguf file"),
    ],
)
def test_a_model_that_is_not_there_is_one_error(tmp_path: Path, source: str, problem: str) -> None:
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UserError, match=problem):
        locate(Model(source=source.format(here=tmp_path)), DigestMemory(tmp_path))
