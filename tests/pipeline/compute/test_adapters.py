"""Unmerged adapters put back onto a base model, from the folder that a training leaves, and merged for scoring."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.compute.adapters import add_adapters, merge_adapters
from pipeline.settings.inputs import Model
from pipeline.settings.training import Lora
from pipeline.training.saving import save_adapter

IDS = torch.arange(3, 40)[None]


@pytest.mark.parametrize("layers", ["all-linear", ("q_proj", "lm_head")])
def test_merged_as_they_were_trained(
    tiny_model: Callable[[str], Path], tmp_path: Path, layers: str | tuple[str, ...]
) -> None:
    """Also where the head is adapted, whose weights the embeddings share, and these stay as they are."""
    base, lora = tiny_model("Llama"), Lora(rank=4, layers=layers, merge=False)
    trained = add_adapters(opened(base), lora)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
        expected = trained(IDS).logits
    save_adapter(trained, Model(source=str(base)), tmp_path)
    model = merge_adapters(opened(base), tmp_path, lora)
    assert not [name for name, _ in model.named_parameters() if "lora_" in name]
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, expected, atol=1e-3)
        assert not torch.allclose(opened(base)(IDS).logits, expected, atol=1e-2)


def opened(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model.eval()
