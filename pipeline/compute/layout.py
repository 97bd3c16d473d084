"""How pairs are laid out for one forward: [prompt | chosen | rejected] one after another, no padding.

Shapes: T packed tokens, N scored positions (completion tokens), P pairs, S sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch


class Tokens(NamedTuple):
    """The token ids of a pair. An absent side (a pair routed to SFT has no rejected one) is empty."""

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


@dataclass(eq=False)  # not frozen: torch.compile would look into it, and compile a layer anew for each number of pairs
class Pack:
    """One forward's worth of pairs, as the decoder and the output head take it; nobody changes it.

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

    def pinned(self) -> "Pack":
        """A copy that a GPU can fetch while the host goes on."""
        return self._with(torch.Tensor.pin_memory)

    def on(self, device: torch.device) -> "Pack":
        """On that device; from a pinned pack nothing is waited for."""
        if self.ids_T.device == device:
            return self
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Pack":
        changed: dict[str, Any] = {}
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), torch.Tensor):
                changed[each.name] = change(value)
        return replace(self, **changed)


def lay_out(
    pairs: Sequence[Tokens], device: torch.device | str = "cpu", head: torch.device | str | None = None
) -> Pack:
    """Lay pairs out one after another. Raises ValueError for an empty prompt, which could predict no first token.

    What the decoder takes lies on `device`, what the output head takes on `head`, where a model is laid over several.
    Neither copy is waited for.
    """
    lengths_P3 = np.array([[len(part) for part in pair] for pair in pairs], dtype=np.int64)
    if not lengths_P3[:, 0].all():
        raise ValueError(f"pair {int(lengths_P3[:, 0].argmin())} of the pack has an empty prompt")
    ids_T = np.concatenate([np.asarray(part, dtype=np.int64) for pair in pairs for part in pair])
    lengths = lengths_P3.ravel()  # of the parts, three a pair
    starts = lengths.cumsum() - lengths
    part_T = np.arange(len(lengths)).repeat(lengths)
    first_P3 = lengths_P3[:, :1] * (0, 1, 1)  # a part's first position: both sides go on after the prompt
    positions_T = np.arange(len(ids_T)) - (starts - first_P3.ravel())[part_T]
    scored_N = np.flatnonzero(part_T % 3)  # where the completion tokens are
    part_N = part_T[scored_N]
    # A token is predicted by the one before it, a side's first by the prompt's last.
    begins_N = scored_N == starts[part_N]
    source_N = np.where(begins_N, starts[part_N // 3 * 3 + 1], scored_N) - 1
    side_N = part_N // 3 * 2 + part_N % 3 - 1
    segments = tuple(Segment(*row) for row in np.column_stack((starts[::3], lengths_P3)).tolist())
    ids, positions = (sent(torch.from_numpy(each), device) for each in (ids_T, positions_T))
    of_head = (sent(torch.from_numpy(each), head or device) for each in (source_N, ids_T[scored_N], side_N))
    return Pack(ids, positions, segments, *of_head)


def sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on `device`, which the host does not wait for: from memory that is not pinned it would."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
