"""A plain DPO micro-batch by transformers alone against ours: the same bfloat16 weights, pairs and loss.

The peer pads both sides of each pair to the longest, runs SDPA, and makes all logits; activations are computed again in
both. Shapes: B pairs at once, R = 2B rows of L tokens.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from benchmarks.gpu.inputs import chosen_model, pairs_of, shape
from benchmarks.gpu.part import Part
from pipeline.compute.layers import restore_layers
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import side_sums, token_logps


def run(part: Part) -> None:
    model = chosen_model(shape(part, "1b"), torch.bfloat16, part.device).train()
    ours = model.config._attn_implementation
    model.gradient_checkpointing_enable({"use_reentrant": False})
    size, mean = (400, 60) if part.small else (16384, 1000)
    pairs = pairs_of(size, mean, model.config.vocab_size, seed=5)
    sides = {
        "ours": (ours, lambda: _packed(model, pairs)),
        "padded, 2 pairs at once": ("sdpa", lambda: _padded(model, pairs, 2)),
        "padded, 8 pairs at once": ("sdpa", lambda: _padded(model, pairs, 8)),
    }
    for name, (attention, call) in sides.items():
        with part.trying(side=name):
            model.set_attn_implementation(attention)
            if name != "ours":
                restore_layers(model)
            model.zero_grad(set_to_none=True)
            loss = call()
            part.free()
            took = part.seconds(call, repeats=3, warm=1)
            speed = {"seconds": took, "pairs_a_second": len(pairs) / took}
            part.note(side=name, attention=attention, loss=loss, **speed, peak_gib=part.peak_gib())


def _loss(sums_B2: torch.Tensor, pairs: int) -> torch.Tensor:
    return -torch.nn.functional.logsigmoid(0.1 * (sums_B2[:, 0] - sums_B2[:, 1])).sum() / pairs


def _packed(model: PreTrainedModel, pairs: Sequence[Tokens]) -> float:
    pack = lay_out(pairs, model.device)
    loss = _loss(side_sums(token_logps(model, pack, 1024), pack), len(pairs))
    loss.backward()
    return float(loss.detach())


def _padded(model: PreTrainedModel, pairs: Sequence[Tokens], at_once: int) -> float:
    total = 0.0
    for start in range(0, len(pairs), at_once):
        some = pairs[start : start + at_once]
        rows = [(pair.prompt, side) for pair in some for side in (pair.chosen, pair.rejected)]
        longest = max(len(prompt) + len(side) for prompt, side in rows)
        ids_RL = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask_RL, scored_RL = torch.zeros_like(ids_RL), torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, (prompt, side) in enumerate(rows):
            ids_RL[row, : len(prompt) + len(side)] = torch.tensor([*prompt, *side])
            mask_RL[row, : len(prompt) + len(side)] = 1
            scored_RL[row, len(prompt) : len(prompt) + len(side)] = True
        ids_RL, mask_RL, scored_RL = (each.to(model.device) for each in (ids_RL, mask_RL, scored_RL))
        logits = model(input_ids=ids_RL, attention_mask=mask_RL, use_cache=False).logits[:, :-1]
        logps = [
            row.float().log_softmax(-1).gather(1, target[:, None])[:, 0]
            for row, target in zip(logits, ids_RL[:, 1:], strict=True)
        ]
        loss = _loss((torch.stack(logps) * scored_RL[:, 1:]).sum(1).view(-1, 2), len(pairs))
        loss.backward()
        total += float(loss.detach())
    return total
