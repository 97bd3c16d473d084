"""What a GPU is given for attention: who sees whom in a pack, and what FlexAttention makes of it."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention

from pipeline.compute import attention
from pipeline.compute.attention import block_mask, compiled, packed_attention
from pipeline.compute.layout import Pack, Tokens, lay_out
from pipeline.compute.logprobs import token_logps
from pipeline.compute.models import load_model

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask as the function says, without a compiler's half minute."""
    monkeypatch.setattr(attention, "compiled", lambda function: function)


def make(*lengths: tuple[int, int, int]) -> Pack:
    return lay_out([Tokens(*([0] * length for length in pair)) for pair in lengths])


def seen(pack: Pack, window: int | None) -> list[str]:
    """A line for each query, with x where it sees the key."""
    at = torch.arange(len(pack.ids_T))
    none = torch.zeros((), dtype=torch.int64)
    mask = block_mask(pack, window, len(at), at.device).mask_mod(none, none, at[:, None], at[None, :])
    return ["".join(".x"[bool(sees)] for sees in row) for row in mask]


def test_who_sees_whom_by_hand() -> None:
    assert seen(make((2, 2, 1), (1, 0, 2)), None) == [
        "x.......",
        "xx......",
        "xxx.....",
        "xxxx....",
        "xx..x...",  # rejected: the prompt and itself
        ".....x..",
        ".....xx.",
        ".....xxx",
    ]


def test_a_window_counts_positions_not_places_in_the_pack() -> None:
    assert seen(make((2, 2, 2)), 2) == [
        "x.....",
        "xx....",
        ".xx...",
        "..xx..",
        ".x..x.",  # the first rejected token follows the prompt's last
        "....xx",
    ]


@pytest.mark.parametrize("window", [None, 7])
def test_flex_attention_over_the_mask_is_attention_by_side(window: int | None) -> None:
    pack = make((70, 40, 90), (3, 1, 0), (150, 9, 30))
    size, generator = len(pack.ids_T), torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, size, 16, generator=generator) for heads in (4, 2, 2))
    by_side, _ = packed_attention(torch.nn.Identity(), query, key, value, None, pack=pack, sliding_window=window)
    with torch.no_grad():
        flex = flex_attention(
            query, key, value, block_mask=block_mask(pack, window, size, query.device), enable_gqa=True
        )
    torch.testing.assert_close(flex.transpose(1, 2), by_side, atol=2e-6, rtol=0)


def test_a_pack_is_scored_by_flex_attention_whatever_its_size_in_one_compilation(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, but for the kernel itself: padding, masks, windows and caps, over two windows and many sizes."""
    model = load_model(tiny_model("Gemma2"), "float32")
    rng = random.Random(0)
    sizes = [[[rng.randint(1, 60) for _ in range(3)] for _ in range(rng.randint(1, 9))] for _ in range(4)]
    packs = [
        lay_out([Tokens(*([rng.randrange(97) for _ in range(n)] for n in pair)) for pair in pack]) for pack in sizes
    ]
    assert len({attention.room(len(pack.ids_T), torch.device("cuda")) for pack in packs}) > 2
    with torch.no_grad():
        right = [token_logps(model, pack, 1000) for pack in packs]
        monkeypatch.setattr(attention, "flexes", lambda _: True)
        monkeypatch.setattr(attention, "compiled", partial(compiled, backend="eager"))
        torch._dynamo.reset()
        counters.clear()
        for pack, expected in zip(packs, right, strict=True):
            torch.testing.assert_close(token_logps(model, pack, 1000), expected, rtol=1e-5, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2  # of the mask and of the attention
