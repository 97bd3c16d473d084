"""The reference pass, without Ray: a part of pairs in, a part of log-prob sums out."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from pipeline.compute.features import Reader, reading
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import hidden_states, score, score_tokens
from pipeline.compute.packing import plan
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables


@dataclass(frozen=True)
class Scored:
    """What was computed for a part."""

    rows: int
    tokens: int
    packs: int


class Lanes:
    """Where the packs of a part are computed in turn: each lane has a stream of its own on every GPU of the model.

    A model laid over N GPUs, layer after layer, works on N packs at once: one pack's layers run on a GPU while the next
    pack's run on the GPU before. The host only launches. It takes streams of their own, because a copy from one GPU to
    another holds up the streams of both: in one stream the next pack would wait at the first GPU until this one has
    left the last. Packs in different lanes share weights and nothing else, so that sizes may differ; there are no
    collectives. One lane more than GPUs is at work, each with the activations of one pack.
    """

    def __init__(self, model: PreTrainedModel):
        gpus = sorted({weight.device.index for weight in model.parameters() if weight.is_cuda})
        count = len(gpus) + 1 if len(gpus) > 1 else 1
        self.streams = [[torch.cuda.Stream(gpu) for gpu in gpus] for _ in range(count)] if count > 1 else [[]]
        for gpu in gpus:
            torch.cuda.synchronize(gpu)  # what loaded the model went to other streams

    @contextmanager
    def lane(self, number: int) -> Iterator[None]:
        """What is launched inside goes to a lane, the same for the same pack."""
        with ExitStack() as stack:
            for stream in reversed(self.streams[number % len(self.streams)]):  # the first GPU's last: it stays current
                stack.enter_context(torch.cuda.stream(stream))
            yield

    def wait(self) -> None:
        for stream in (stream for lane in self.streams for stream in lane):
            stream.synchronize()


def score_part(
    model: PreTrainedModel,
    pairs: Path,
    reference: Path,
    budget: int,
    chunk: int,
    lanes: Lanes | None = None,
    by_token: bool = False,
) -> Scored:
    """Score the file `pairs` and write the file `reference`, whole or not at all.

    It holds sums or, with `by_token`, the log-prob of each token. `budget` tokens are packed for a forward, and logits
    of `chunk` positions exist at a time. Give the same `lanes` for all parts of a model. Raises UserError where a pair
    exceeds the budget, or its log-probs are no finite numbers.
    """
    rows = pq.read_table(pairs, columns=["pair_id", "prompt_ids", "chosen_ids", "rejected_ids"]).to_pylist()
    tokens = [Tokens(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]
    (packs,) = plan([pair.packed for pair in tokens], budget, "resources.score_tokens")
    found = _scored(model, [[tokens[i] for i in index] for index in packs], chunk, lanes or Lanes(model), by_token)
    placed = dict(zip([i for index in packs for i in index], found, strict=True))
    row, schema = (_token_row, tables.TOKEN_VALUES) if by_token else (_row, tables.REFERENCE)
    tables.write([row(each["pair_id"], tokens[i], placed[i]) for i, each in enumerate(rows)], schema, reference)
    return Scored(len(rows), sum(pair.packed for pair in tokens), len(packs))


def read_part(
    model: PreTrainedModel, reader: Reader, pairs: Path, features: Path, budget: int, lanes: Lanes | None = None
) -> Scored:
    """The same of the pairs' features, into the file `features`: rows of tables.FEATURES."""
    rows = pq.read_table(pairs, columns=["pair_id", "prompt_ids", "chosen_ids", "rejected_ids"]).to_pylist()
    tokens = [Tokens(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]
    (packs,) = plan([pair.packed for pair in tokens], budget, "resources.score_tokens")
    read: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for number, index in enumerate(packs):
        with torch.no_grad(), (lanes or Lanes(model)).lane(number):
            pack = lay_out([tokens[i] for i in index], model.device)
            with reading(reader.layer) as seen:
                hidden_states(model, pack)
            pooled = reader.pooled(seen[0], pack).cpu().view(len(index), 2, -1)
        read |= {i: (chosen, rejected) for i, (chosen, rejected) in zip(index, pooled, strict=True)}
    found = [_features(row["pair_id"], tokens[i], read[i]) for i, row in enumerate(rows)]
    tables.write(found, tables.FEATURES, features)
    return Scored(len(rows), sum(pair.packed for pair in tokens), len(packs))


def _features(pair_id: str, pair: Tokens, sides: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    row: dict[str, Any] = {"pair_id": pair_id, "tokens_digest": tokens_digest(*pair)}
    for name, values_M in zip(("chosen", "rejected"), sides, strict=True):
        if not bool(values_M.isfinite().all()):
            raise UserError(
                f"pair {pair_id}: a feature of its {name} side is no finite number",
                "the model or the autoencoder gives none: try model.dtype=float32, or another features.source",
            )
        latents = values_M.nonzero().flatten()
        row |= {f"{name}_latents": latents.tolist(), f"{name}_values": values_M[latents].tolist()}
    return row


def _scored(
    model: PreTrainedModel, packs: Sequence[Sequence[Tokens]], chunk: int, lanes: Lanes, by_token: bool
) -> list[Any]:
    """(chosen, rejected) of every pair: sums, or lists of tokens'. They are read at the end: between packs nothing
    waits for a device.
    """
    head: Any = model.get_output_embeddings()
    on = model.device if head is None else head.weight.device
    found = []
    for number, pack in enumerate(packs):
        with lanes.lane(number):
            found.append((score_tokens if by_token else score)(model, lay_out(pack, model.device, on), chunk))
    lanes.wait()
    if not by_token:
        return [(chosen, rejected) for chosen, rejected in torch.cat(found).tolist()]
    lengths = [len(side) for pack in packs for pair in pack for side in (pair.chosen, pair.rejected)]
    sides = [side.numpy() for side in torch.cat(found).float().cpu().split(lengths)]
    return list(zip(sides[::2], sides[1::2], strict=True))


def _row(pair_id: str, pair: Tokens, sums: tuple[float, float]) -> dict[str, Any]:
    _require_finite(pair_id, *sums)
    return {
        "pair_id": pair_id,
        "tokens_digest": tokens_digest(*pair),
        "chosen_logps": sums[0],
        "rejected_logps": sums[1],
        "chosen_tokens": len(pair.chosen),
        "rejected_tokens": len(pair.rejected),
    }


def _token_row(pair_id: str, pair: Tokens, sides: tuple[Any, Any]) -> dict[str, Any]:
    _require_finite(pair_id, *(side.sum() for side in sides))
    return {"pair_id": pair_id, "tokens_digest": tokens_digest(*pair), "chosen": sides[0], "rejected": sides[1]}


def _require_finite(pair_id: str, *sums: float) -> None:
    if not np.isfinite(sums).all():
        raise UserError(
            f"pair {pair_id}: the reference log-probs are {tuple(map(float, sums))}",
            "the model gives no finite numbers: try model.dtype=float32",
        )
