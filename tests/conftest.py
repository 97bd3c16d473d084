"""What several test files share: tiny random models, made here and never downloaded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Tests run beside each other: see actors/environment.py. Read when torch is imported, here and in every door.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long a draw takes is the machine's affair, which may be busy with other tests.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("busy")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code of a peer needs, and nobody else is to find (see the Makefile)."""
    monkeypatch.syspath_prepend(Path(sys.prefix) / "peers")


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers' own packages, in this process and in the doors that it opens; which are as if they were not there."""
    folder = str(Path(sys.prefix) / "trackers")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder, prepend=os.pathsep)


VOCABULARY = 97

# Weights are drawn wide, so that a token seen or not seen moves a log-prob by far more than rounding.
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# A name is that of a configuration class; what follows a hyphen is a variety of it.
_FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": 5},
    "Gemma2": {
        "head_dim": 8,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "Gemma3Text": {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "Olmo2": {},
    "Phi": {},  # a head with a bias; its norms stay in float64 where the others pass through float32
    "Phi3": {},
    "SmolLM3": {},
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
    "Bloom": {},
    "Mamba": {"state_size": 4},
    "GptOss": {"head_dim": 8, "sliding_window": 5, "num_local_experts": 4, "num_experts_per_tok": 2}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "Qwen3Moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "Phi3-longrope": {
        "original_max_position_embeddings": 8,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 16.0}
        | {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4},
    },
    "Phimoe": {"num_local_experts": 2, "sliding_window": None},
    "Phimoe-window": {"num_local_experts": 2, "sliding_window": 64},
    "StableLm": {},
    "RecurrentGemma": {"lru_width": 32},
    "Llama4Text": {"head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2},
}


def family_config(family: str, **changes: Any) -> Any:
    """The configuration of a tiny model of a family."""
    import transformers

    return getattr(transformers, f"{family.split('-')[0]}Config")(**(_COMMON | _FAMILIES[family] | changes))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model of a family, as save_pretrained writes it; made once a session."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            import torch
            import transformers

            torch.set_num_threads(1)
            config = family_config(family)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = transformers.AutoModelForCausalLM.from_config(config)
                for parameter in model.parameters():
                    if not parameter.any():  # biases and the like, which as zeros would test nothing
                        torch.nn.init.normal_(parameter, std=0.3)
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
        return made[family]

    return folder


def pairs_file(file: Path, pairs: Sequence[dict[str, Any]]) -> Path:
    """Written with rows of tables.PAIRS of which only the token ids are given, and perhaps a pair_id."""
    from pipeline.results import tables

    empty = {
        **dict.fromkeys(("prompt", "chosen", "rejected", "source"), ""),
        **dict.fromkeys(("chosen_score", "rejected_score", "label_confidence", "difficulty")),
        "split": "train",
    }
    tables.write([empty | {"pair_id": str(n)} | pair for n, pair in enumerate(pairs)], tables.PAIRS, file)
    return file


def with_code(model: Path, folder: Path, code: str) -> Path:
    """A copy of `model` in `folder` that brings code of its own, with the classes OwnConfig and OwnForCausalLM."""
    shutil.copytree(model, folder)
    (folder / "own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# Of a Llama on a GPU whose memory runs out as soon as it is given more tokens than this.
SMALL_MEMORY = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_pre_hook(self.allocate, with_kwargs=True)

    @staticmethod
    def allocate(decoder, args, kwargs):
        if kwargs["input_ids"].numel() > {tokens}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
