"""What several test files share: tiny random models, made here and never downloaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
_FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": 5},
    "Phi": {},  # its norms stay in float64 where the others pass through float32
    "Gemma2": {"head_dim": 8},
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
    "Mamba": {"state_size": 4},
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model of a family, as save_pretrained writes it; made once a session."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            import torch
            import transformers

            torch.set_num_threads(1)
            config = getattr(transformers, f"{family}Config")(**_COMMON, **_FAMILIES[family])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = transformers.AutoModelForCausalLM.from_config(config)
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
        return made[family]

    return folder
