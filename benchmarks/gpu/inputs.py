"""Models of random weights and pairs of random tokens, as stages have them: folders, tables, a trainer.

No file of weights and no tokenizer is needed. Shapes are those of public models; families are what a kernel may not
know: a window, a cap, a head width or a number of heads that is no power of two.
"""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.part import Part
from benchmarks.pairs import Row
from benchmarks.tables import PART, write_pairs, write_reference, write_schedule

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from pipeline.compute.layout import Tokens
    from pipeline.compute.loading import EmptyModel
    from pipeline.training.loop import Trainer

_SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 65536,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Gemma2": {
        "head_dim": 64,
        "sliding_window": 200,
        "attn_logit_softcapping": 20.0,
        "final_logit_softcapping": 10.0,
    },
    "Llama-9-heads": {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3},
    "Phi3": {"hidden_size": 384, "sliding_window": None},  # heads of 96
    "Gemma3Text": {"head_dim": 256, "sliding_window": 200},
    "Qwen3": {"head_dim": 64},
    "Mistral": {"sliding_window": 200},
    "Qwen2": {},
    "Olmo2": {},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0, "attention_multiplier": 0.125},
    "StableLm": {},
    "Phi": {},
    "Mixtral": {"num_local_experts": 4},
    "Bloom": {},  # cannot be packed
}
# Llama 3.2 1B and Llama 3.1 8B (their config.json), for contexts that no pack here exceeds.
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 65536,
        "tie_word_embeddings": True,
    },
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 65536,
        "tie_word_embeddings": False,
    },
}


def shape(part: Part, name: str, layers: int | None = None) -> Any:
    """The LlamaConfig of a shape, or in a rehearsal of a small one; `layers` of it."""
    from transformers import LlamaConfig

    sizes = _SMALL if part.small else SHAPES[name]
    return LlamaConfig(**sizes | ({"num_hidden_layers": layers} if layers else {}))


def family(name: str) -> Any:
    """A small config of a family of FAMILIES."""
    import transformers

    return getattr(transformers, f"{name.split('-')[0]}Config")(**_SMALL | FAMILIES[name])


def random_model(config: Any, dtype: "torch.dtype", device: str) -> "PreTrainedModel":
    """Weights are made where they will lie, the same each time; how the model runs is not chosen yet."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


def chosen_model(config: Any, dtype: "torch.dtype", device: str, to_train: bool = True) -> "PreTrainedModel":
    """A random model with the attention, head and layers that loading would have given it."""
    from pipeline.compute.selfcheck import choose
    from pipeline.settings.resources import Resources

    model = random_model(config, dtype, device)
    choose(model, Resources(allow_slow_path=True), to_train)
    return model


def choose_as_trained(trainer: "Trainer") -> None:
    """As a worker settles how a model is run, once it is sharded: what is compiled is then what training runs."""
    from pipeline.compute.models import make_ready
    from pipeline.settings.resources import Resources

    trainer.policy.within(partial(make_ready, to_train=True), Resources(allow_slow_path=True))
    trainer.policy.train()


def pairs_of(tokens: int, mean: int, vocabulary: int, seed: int = 0) -> "list[Tokens]":
    """Pairs of about `mean` packed tokens, a third of them the prompt's, lengths spread as real ones are.

    `tokens` in all, at most; one pair of them where even the first has more.
    """
    from pipeline.compute.layout import Tokens

    draw, total = random.Random(seed), 0
    found: list[Tokens] = []
    while True:
        parts = [max(2, int(mean / 3 * draw.lognormvariate(-0.18, 0.6))) for _ in range(3)]
        if total + sum(parts) > tokens:
            return found or [Tokens(*([1 + k] * (tokens // 3) for k in range(3)))]
        found.append(Tokens(*([draw.randrange(3, vocabulary) for _ in range(n)] for n in parts)))
        total += sum(parts)


def reference(model: "PreTrainedModel", pairs: "Sequence[Tokens]", budget: int) -> list[tuple[float, float]]:
    """Log-prob sums of each pair, as the reference stage takes them, in packs of `budget` tokens."""
    from pipeline.compute.layout import lay_out
    from pipeline.compute.logprobs import score
    from pipeline.compute.packing import plan

    sizes = [pair.packed for pair in pairs]
    sums: dict[int, tuple[float, float]] = {}
    for index in plan(sizes, max(budget, *sizes), "budget")[0]:
        found = score(model, lay_out([pairs[i] for i in index], model.device), 1024).tolist()
        sums.update(zip(index, found, strict=True))
    return [sums[i] for i in range(len(pairs))]


def _let_stagers_be_used_again() -> None:
    """torch before 2.13, which machines with nothing of ours may have, empties a checkpoint's stager after each use."""
    import torch
    from torch.distributed.checkpoint._state_dict_stager import StateDictStager

    if torch.__version__ < "2.13":
        StateDictStager.close = lambda self: None  # type: ignore[method-assign]


def trainer_of(
    model: "PreTrainedModel | EmptyModel",
    pairs: "Sequence[Tokens]",
    sums: Sequence[Sequence[float]],
    folder: Path,
    *,
    steps: int,
    objective: str = "dpo",
    train: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    journal: Path | None = None,
) -> "Trainer":
    """The trainer of these pairs, `steps` optimiser steps of them, from tables in `folder`, which is new.

    Its journal is there, too, or that of a trainer whose checkpoint it goes on from.
    Every eighth pair is routed to SFT where the objective routes pairs.
    """
    from pipeline.objectives.objective import build
    from pipeline.objectives.presets import PRESETS
    from pipeline.settings.resources import Resources
    from pipeline.settings.training import Train
    from pipeline.training.epoch import Epoch
    from pipeline.training.join import join
    from pipeline.training.journal import Journal
    from pipeline.training.loop import Trainer

    _let_stagers_be_used_again()
    routes = PRESETS[objective].routes
    rows: list[Row] = [
        {"pair_id": f"{i:032d}", "prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
        for i, pair in enumerate(pairs)
    ]
    batch = -(-len(pairs) // steps)
    write_pairs(rows, folder / "pairs" / PART)
    write_reference(rows, sums, folder / "reference" / PART)
    write_schedule(rows, folder / "schedule" / PART, sft=range(7, len(rows), 8) if routes else ())
    plain: dict[str, Any] = {
        "lr_schedule": "constant",
        "warmup_fraction": 0.0,
        "learning_rate": 1e-5,
        "batch_size": batch,
    }
    return Trainer(
        model,
        build(objective, **({"preference": "gamma-dpo"} if routes else {})),
        Epoch(join(folder / "pairs", folder / "reference", folder / "schedule", folder / "epoch"), batch),
        Train(**plain | (train or {})),
        Resources(**resources or {}),
        journal=Journal(journal or folder / "journal"),
    )
