"""What the benchmarks of attention, output head and linear layers compare gives the same numbers."""

from typing import Any

import pytest
import torch

from benchmarks import attention, generate, linear, logprobs


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_packed_attention_equals_the_batch(share: float) -> None:
    comparison = attention.Comparison(share, pairs=2, tokens=61, heads=4, key_heads=2, width=8)
    assert comparison.place_BL.shape == (4, sum(comparison.layout.segments[0][1:3]))
    assert comparison.largest_difference() < 1e-5
    comparison.pull_THD[-1] += 1.0  # the rejected side's last token pulls harder in the pack alone
    assert comparison.largest_difference() > 1e-2


def test_chunks_equal_whole_logits() -> None:
    sizes: dict[str, Any] = {"hidden": 16, "vocabulary": 97, "pairs": 2, "tokens": 20, "share": 0.3, "chunk": 5}
    found = logprobs.speed({"threads": 1, "repeats": 1, "sizes": sizes})
    assert found["largest_logp_difference"] < 1e-5 and found["largest_gradient_difference"] < 1e-5
    comparison = logprobs.Comparison(**sizes)
    with torch.no_grad():
        whole_N = comparison.whole()
        comparison.pack.target_N[-1] += 1  # the last token of the last chunk
        assert (comparison.chunked() - whole_N).abs().gt(1e-4).nonzero().tolist() == [[len(whole_N) - 1]]


def test_linear_layers_agree() -> None:
    job = {"threads": 1, "rows": 16, "repeats": 1, "shapes": [(8, 12), (12, 8)]}
    found = linear.run(job)["layers"]
    assert [(row["in"], row["out"]) for row in found] == [(8, 12), (12, 8)]
    assert all(row["largest_relative_difference"] < 1e-5 for row in found)


def test_rates_of_the_generate_stage_by_hand() -> None:
    """Tokens over the time of answering, each against the bare engine's of the same turn; starts are in `seconds`."""

    def result(tokens: int, answering: float, answer: str) -> dict[str, Any]:
        return {"tokens": tokens, "answering": answering, "seconds": answering + 30, "answers": {"a": answer, "b": "x"}}

    bare = [result(100, 2.0, "yes"), result(100, 1.0, "yes"), result(100, 4.0, "yes")]
    stage = [result(80, 2.0, "no"), result(80, 1.0, "no"), result(80, 2.0, "no")]
    found = generate.figures(stage, bare)
    assert found["tokens_per_second"] == [40.0, 80.0, 40.0] and found["median_tokens_per_second"] == 40.0
    assert found["over_bare"] == 0.8  # of 0.8, 0.8 and 1.6
    assert found["seconds"] == [32.0, 31.0, 32.0] and found["answers_like_bare"] == 1
