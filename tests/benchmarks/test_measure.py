"""The measures themselves: FLOPs counted by hand, alternation, memory of a process, errors that cross processes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measure import EXACT_MEMORY, alternate, forward_flops, linear_shapes, median_ratio, run_child
from pipeline.compute.layout import Tokens
from pipeline.compute.models import load_model
from pipeline.errors import UserError


def test_flops_are_those_counted_by_hand(tiny_model: Callable[[str], Path]) -> None:
    model = load_model(tiny_model("Llama"), "float32")
    # A layer: queries and output 32 x 32, keys and values 32 x 16, three of 32 x 64 in the MLP. The head: 32 x 97.
    layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    # 6 packed tokens of which 3 are completion; the prompt sees 1 + 2 + 3 positions, the sides 4 + 5 and 4; for each
    # a score and a weighted value of 8 numbers, 2 FLOPs a number, 4 heads, 2 layers.
    expected = 2 * 6 * layers + 2 * 3 * (32 * 97) + (6 + 9 + 4) * 2 * (2 * 8) * 4 * 2
    pair = Tokens([5, 6, 7], [8, 9], [10])
    assert forward_flops(model, [pair]) == expected == 244_672
    assert forward_flops(model, [pair, pair]) == 2 * expected
    assert linear_shapes(model) == [(32, 16), (32, 32), (32, 64), (32, 97), (64, 32)]


def test_sides_take_turns_and_ratios_are_of_each_turn(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def side(name: str, *seconds: float) -> Callable[[], dict[str, float]]:
        left = iter(seconds)

        def run() -> dict[str, float]:
            order.append(name)
            return {"seconds": next(left)}

        return run

    runs = alternate({"a": side("a", 2, 9, 4), "b": side("b", 1, 3, 4)}, 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    seconds = {name: [result["seconds"] for result in results] for name, results in runs.items()}
    assert median_ratio(seconds["a"], seconds["b"]) == 2  # of 2, 3 and 1
    assert capsys.readouterr().out == ""  # which is for JSON


def test_memory_is_what_the_logits_take() -> None:
    """512 positions of which 256 are completion, times 8192 words: 16 MiB of logits, whole, and 1 MiB a chunk of 32."""
    sizes = {"hidden": 16, "vocabulary": 8192, "pairs": 4, "tokens": 128, "share": 0.5, "chunk": 32}
    job = {"threads": 1, "sizes": sizes}
    found = run_child("benchmarks.logprobs", "memory", job, environment=EXACT_MEMORY)
    assert 32 <= found["whole_mib"] <= 64  # logits and log-probs, and while it lasts a gradient of each
    assert 16 <= found["at_once_mib"] <= 32
    assert 2 <= found["chunked_mib"] <= 12


def test_a_childs_error_is_the_users(tmp_path: Path) -> None:
    pair = {"pair_id": "a", "prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}
    job = {"model": str(tmp_path), "pairs": [pair], "batch": 1, "threads": 1, "phase": "reference"}
    with pytest.raises(UserError, match="cannot be opened"):
        run_child("benchmarks.side_ours", "run", job)
    with pytest.raises(RuntimeError, match="KeyError: 'model'"):
        run_child("benchmarks.side_ours", "run", {"pairs": [pair], "batch": 1, "threads": 1, "phase": "reference"})
