"""Training a sparse autoencoder on a model's states: TopK, after EleutherAI's sparsify (its recipe, restated).

    features = TopK(ReLU((x - b_dec) W_enc + b_enc))
    x' = features W_dec + b_dec,  loss = sum |x - x'|^2 / sum |x - mean x|^2

Rows of W_dec have norm 1, b_dec begins as the mean of the states. Latents that as many states as there are have not
used are dead: the largest of these alone are let explain what is left, with weight 1/32, which brings some back.
Shapes: N states of a batch, C hidden size, M latents.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from pipeline.compute.features import layer_of, reading, sides
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import hidden_states
from pipeline.compute.packing import plan
from pipeline.errors import UserError
from pipeline.randomness import uniforms
from pipeline.results.files import aside, write_aside
from pipeline.settings.features import Features

ROWS = 50  # of what is written down of a training
HELD_OUT = 16  # of so many pairs the states of one are held out
_DEAD = 1 / 32  # weight of the dead latents' loss


def collect(
    model: PreTrainedModel, pairs: Path, settings: Features, budget: int
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """States at completion tokens of the pairs in a folder, [N, C] float32 on the CPU: to train on, and held out.

    Before them the layer whose output they are.

    Of the pairs of the lowest hashes of seed and id, until there are `settings.states`. Raises UserError where all are
    too few.
    """
    module, layer = layer_of(model, settings.layer)
    drawn, states = _drawn(pairs, settings), dict[int, list[torch.Tensor]]()
    (packs,) = plan([pair.packed for pair in drawn], budget, "resources.score_tokens")
    for index in packs:
        with torch.no_grad(), reading(module) as seen:
            pack = lay_out([drawn[i] for i in index], model.device)
            hidden_states(model, pack)
        each = [side.float().cpu() for side in sides(seen[0], pack)]
        states |= {i: each[2 * place : 2 * place + 2] for place, i in enumerate(index)}
    found = list[list[torch.Tensor]]([[], []])
    for i in range(len(drawn)):  # whatever the packs, which are a matter of memory
        found[i % HELD_OUT == HELD_OUT - 1] += states[i]
    if not all(found):
        problem = f"{len(drawn)} pairs are too few to train an autoencoder on"
        raise UserError(problem, f"give {HELD_OUT} or more, or a features.source")
    trained, held_out = map(torch.cat, found)
    return layer, trained, held_out


def _drawn(pairs: Path, settings: Features) -> list[Tokens]:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    parts = (pq.read_table(part, columns=["pair_id", "split", *names]) for part in sorted(pairs.glob("part-*.parquet")))
    table = pa.concat_tables(part.filter(pc.equal(part["split"], "train")) for part in parts)
    ids = table["pair_id"].cast(pa.large_string()).combine_chunks()
    drawn = zip(uniforms(ids, np.arange(len(ids)), "features", settings.seed).tolist(), ids.to_pylist(), strict=True)
    order = [row for row, _ in sorted(enumerate(drawn), key=lambda each: each[1])]
    lengths = pc.add(*(pc.list_value_length(table[name]) for name in names[1:])).to_numpy()[order]
    count = int(np.searchsorted(lengths.cumsum(), settings.states)) + 1  # with the pair that reaches it
    kept = table.take(pa.array(order[:count], pa.int64())).to_pylist()
    return [Tokens(*(row[name] for name in names)) for row in kept]


class Training:
    """An autoencoder as it is trained: what a step moves on and a checkpoint holds."""

    def __init__(self, states_NC: torch.Tensor, held_out_NC: torch.Tensor, settings: Features, device: torch.device):
        self.states, self.settings, self.device = states_NC, settings, device
        self.held_out = held_out_NC.to(device)
        channels, latents = states_NC.shape[1], settings.latents
        generator = torch.Generator().manual_seed(settings.seed)
        decoder_MC = torch.randn(latents, channels, generator=generator)
        decoder_MC /= decoder_MC.norm(dim=1, keepdim=True)
        weights = {
            "encoder.weight": decoder_MC.clone(),
            "encoder.bias": torch.zeros(latents),
            "W_dec": decoder_MC,
            "b_dec": states_NC.mean(0),
        }
        self.weights = {name: each.to(device).requires_grad_() for name, each in weights.items()}
        rate = settings.learning_rate or 2e-4 / (latents / 2**14) ** 0.5
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=rate)
        self.unused = torch.zeros(latents, dtype=torch.long, device=device)  # states since each was last used
        self.step, self.loss = 0, 0.0

    @property
    def batch(self) -> int:
        """States of a step."""
        return min(self.settings.batch_states, len(self.states))

    @property
    def steps_a_pass(self) -> int:
        """Of whole batches: some few states have next to no variance to hold their loss against. What a pass leaves out
        is in the next, which has another order.
        """
        return len(self.states) // self.batch

    @property
    def steps(self) -> int:
        return self.steps_a_pass * self.settings.passes

    def advance(self) -> None:
        """One step."""
        number, place = divmod(self.step, self.steps_a_pass)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + number)
        order = torch.randperm(len(self.states), generator=generator)
        states_NC = self.states[order[place * self.batch : (place + 1) * self.batch]].to(self.device)
        loss, used_M = self._loss(states_NC)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            decoder_MC = self.weights["W_dec"]
            decoder_MC /= decoder_MC.norm(dim=1, keepdim=True).clamp(min=torch.finfo(decoder_MC.dtype).tiny)
            self.unused += len(states_NC)
            self.unused[used_M] = 0
        self.step += 1

    def _loss(self, states_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a batch, and which latents it used."""
        weights = self.weights
        pre_NM = torch.relu((states_NC - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"])
        found_NC, used_M = self._decoded(pre_NM, self.settings.active)
        left_NC = states_NC - found_NC
        variance = (states_NC - states_NC.mean(0)).square().sum().clamp(min=torch.finfo(states_NC.dtype).tiny)
        loss = left_NC.square().sum() / variance
        self.loss = float(loss.detach())
        dead_M = self.unused >= len(self.states)
        dead = int(dead_M.sum())
        if dead:
            most = min(states_NC.shape[1] // 2, dead)
            again_NC, _ = self._decoded(torch.where(dead_M, pre_NM, 0.0), most, bias=False)
            share = min(1.0, dead / max(1, states_NC.shape[1] // 2))
            loss = loss + _DEAD * share * (left_NC.detach() - again_NC).square().sum() / variance
        return loss, used_M

    def _decoded(self, pre_NM: torch.Tensor, active: int, bias: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        largest = pre_NM.topk(min(active, pre_NM.shape[1]), dim=1)
        features_NM = torch.zeros_like(pre_NM).scatter(1, largest.indices, largest.values)
        found_NC = features_NM @ self.weights["W_dec"]
        return found_NC + self.weights["b_dec"] if bias else found_NC, (features_NM > 0).any(0)

    @torch.no_grad()
    def row(self) -> dict[str, Any]:
        """A row of tables.DICTIONARY."""
        left = variance = 0.0
        mean_C = self.held_out.mean(0)
        for states_NC in self.held_out.split(self.settings.batch_states):
            weights = self.weights
            pre_NM = torch.relu((states_NC - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"])
            left += float((states_NC - self._decoded(pre_NM, self.settings.active)[0]).square().sum())
            variance += float((states_NC - mean_C).square().sum())
        dead = float((self.unused >= len(self.states)).double().mean())
        seen = self.step * self.batch
        return {"step": self.step, "states": seen, "loss": self.loss, "explained": 1 - left / variance, "dead": dead}

    def run(self, file: Path, every: int) -> Iterator[dict[str, Any]]:
        """Rows of tables.DICTIONARY while it is trained to its end, from the checkpoint in `file` where there is one.

        One is written every so many steps, with the rows so far: a resumed training gives them again.
        """
        rows = self._load(file) if file.exists() else []
        yield from rows
        between = max(1, self.steps // ROWS)
        while self.step < self.steps:
            self.advance()
            if self.step % between == 0 or self.step == self.steps:
                rows.append(self.row())
                yield rows[-1]
            if self.step % every == 0 or self.step == self.steps:
                self._save(file, rows)

    def _save(self, file: Path, rows: Sequence[dict[str, Any]]) -> None:
        known = {"step": self.step, "loss": self.loss, "unused": self.unused, "rows": list(rows)}
        weights = {name: each.detach() for name, each in self.weights.items()}
        with aside(file) as beside:
            torch.save(known | {"weights": weights, "optimizer": self.optimizer.state_dict()}, beside)

    def _load(self, file: Path) -> list[dict[str, Any]]:
        known = torch.load(file, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for name, each in self.weights.items():
                each.copy_(known["weights"][name])
        self.optimizer.load_state_dict(known["optimizer"])
        self.step, self.loss, self.unused = known["step"], known["loss"], known["unused"]
        rows: list[dict[str, Any]] = known["rows"]
        return rows

    def export(self, folder: Path, layer: int) -> None:
        """In sparsify's format, with the layer."""
        tensors = {name: each.detach().cpu().contiguous() for name, each in self.weights.items()}
        with aside(folder / "sae.safetensors") as beside:
            save_file(tensors, beside)
        known = {"activation": "topk", "d_in": self.states.shape[1], "num_latents": self.settings.latents}
        known |= {"k": self.settings.active, "layer": layer, "normalize_decoder": True, "transcode": False}
        write_aside(folder / "cfg.json", json.dumps(known, indent=2))
