"""How pairs are laid out for one forward: [prompt | chosen | rejected] one after another, no padding.

Shapes: T packed tokens, N scored positions (completion tokens), P pairs, S sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Tokens(NamedTuple):
    """The token ids of a pair. An absent side (a pair routed to SFT has no rejected one) is an empty list."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]

    @property
    def packed(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


class Segment(NamedTuple):
    """Where a pair lies in the pack: its first position and the lengths of its three parts."""

    start: int
    prompt: int
    chosen: int
    rejected: int


@dataclass(frozen=True, eq=False)
class Pack:
    """One forward's worth of pairs, as the decoder and the output head take it.

    It has no method `to`: where a model is laid over several devices, accelerate would call that in front of every
    layer, and each layer would make masks of its own from a pack of its own.
    """

    ids_T: torch.Tensor  # int64
    positions_T: torch.Tensor  # int64; the rejected side restarts after the prompt
    segments: tuple[Segment, ...]
    source_N: torch.Tensor  # int64: the position whose hidden state predicts each completion token
    target_N: torch.Tensor  # int64: that token
    side_N: torch.Tensor  # int64: 2 * pair for chosen, 2 * pair + 1 for rejected

    @property
    def pairs(self) -> int:
        return len(self.segments)


def lay_out(
    pairs: Sequence[Tokens], device: torch.device | str = "cpu", head: torch.device | str | None = None
) -> Pack:
    """Lay pairs out one after another. Raises ValueError for an empty prompt, which could predict no first token.

    What the decoder takes lies on `device`, what the output head takes on `head`, where a model is laid over several.
    Neither copy is waited for.
    """
    ids: list[int] = []
    positions: list[int] = []
    source: list[int] = []
    target: list[int] = []
    side: list[int] = []
    segments: list[Segment] = []
    for index, pair in enumerate(pairs):
        start, prompt = len(ids), len(pair.prompt)
        if not prompt:
            raise ValueError(f"pair {index} of the pack has an empty prompt")
        segments.append(Segment(start, prompt, len(pair.chosen), len(pair.rejected)))
        ids += pair.prompt
        positions += range(prompt)
        for which, completion in enumerate((pair.chosen, pair.rejected)):
            if completion:
                source += [start + prompt - 1, *range(len(ids), len(ids) + len(completion) - 1)]
                target += completion
                side += [2 * index + which] * len(completion)
                positions += range(prompt, prompt + len(completion))
                ids += completion

    def long(values: list[int], on: torch.device | str) -> torch.Tensor:
        return sent(torch.tensor(values, dtype=torch.int64), on)

    of_head = [long(values, head or device) for values in (source, target, side)]
    return Pack(long(ids, device), long(positions, device), tuple(segments), *of_head)


def sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on `device`, which the host does not wait for: from memory that is not pinned it would."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
