"""The one compute path against transformers' own forward, one side at a time, with eager attention."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from pipeline.compute.attention import is_packed
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import score, side_sums, token_logps
from pipeline.compute.models import load_model

# The windows of Mistral, Gemma and GPT-OSS, 5, are shorter than most prompts below.
PACKED = ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma2", "Gemma3Text"]
PACKED += ["Olmo2", "Phi", "Phi3", "SmolLM3", "Granite", "Cohere"]
ONE_BY_ONE = ["Bloom", "Mamba", "GptOss", "Phi3-longrope"]
FAMILIES = PACKED + ONE_BY_ONE

Lengths = tuple[int, int, int]


class Models(dict[str, tuple[Any, Any]]):
    """By family: the loaded model, and the same weights with eager attention; opened when first asked for."""

    def __init__(self, folder: Callable[[str], Path]):
        self.folder = folder

    def __missing__(self, family: str) -> tuple[Any, Any]:
        folder = self.folder(family)
        plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        self[family] = load_model(folder, "float32"), plain
        return self[family]


@pytest.fixture(scope="module")
def models(tiny_model: Callable[[str], Path]) -> Models:
    return Models(tiny_model)


def make(lengths: Sequence[Lengths], seed: int = 0) -> list[Tokens]:
    generator = torch.Generator().manual_seed(seed)
    draw = [[torch.randint(3, 97, (n,), generator=generator).tolist() for n in pair] for pair in lengths]
    return [Tokens(*pair) for pair in draw]


def plain_sum(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """Log-prob sum of a completion by an ordinary forward over prompt and completion, differentiable."""
    if not completion:
        return torch.zeros((), dtype=torch.float64)
    ids = torch.tensor([[*prompt, *completion]])
    logps = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(1)
    return logps.gather(1, ids[0, len(prompt) :, None]).double().sum()


def plain(model: Any, pairs: Sequence[Tokens]) -> torch.Tensor:
    sides = [[plain_sum(model, p.prompt, p.chosen), plain_sum(model, p.prompt, p.rejected)] for p in pairs]
    return torch.stack([torch.stack(side) for side in sides])


def packed(model: Any, pairs: Sequence[Tokens], chunk: int = 256) -> torch.Tensor:
    pack = lay_out(pairs)
    return side_sums(token_logps(model, pack, chunk), pack)


MIXED: list[Lengths] = [(9, 4, 6), (1, 1, 1), (12, 7, 0), (3, 1, 9), (6, 8, 1)]
lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=5)


@pytest.mark.parametrize("family", FAMILIES)
def test_is_packed_where_it_can_be(models: Models, family: str) -> None:
    assert is_packed(models[family][0]) == (family in PACKED)


@pytest.mark.parametrize("family", FAMILIES)
@given(lengths=lengths, seed=st.integers(0, 2**16))
@settings(max_examples=15)
def test_equals_plain_forward(models: Models, family: str, lengths: list[Lengths], seed: int) -> None:
    ours, theirs = models[family]
    pairs = make(lengths, seed)
    with torch.no_grad():
        torch.testing.assert_close(packed(ours, pairs), plain(theirs, pairs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_plain_forward(models: Models, family: str) -> None:
    ours, theirs = models[family]
    pairs = make(MIXED)
    pull = torch.tensor([[1.0, -2.0], [0.5, 1.0], [-1.0, 3.0], [2.0, 0.25], [1.5, -1.0]], dtype=torch.float64)
    for model, sums in ((ours, packed(ours, pairs, chunk=7)), (theirs, plain(theirs, pairs))):
        model.zero_grad()
        (sums * pull).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = float(expected[name].grad.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
def test_chunk_size_does_not_matter(models: Models, chunk: int) -> None:
    pairs = make(MIXED)
    with torch.no_grad():
        a, b = packed(models["Llama"][0], pairs, chunk), packed(models["Llama"][0], pairs)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@given(order=st.permutations(range(5)), cut=st.integers(0, 5))
@settings(max_examples=10)
def test_packing_does_not_matter(models: Models, order: list[int], cut: int) -> None:
    model, pairs = models["Llama"][0], make(MIXED)
    packs = [part for part in (order[:cut], order[cut:]) if part]
    with torch.no_grad():
        together = packed(model, pairs)
        split = torch.cat([packed(model, [pairs[i] for i in part]) for part in packs])
    torch.testing.assert_close(split, together[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Granite", "Bloom"])
def test_the_log_of_the_sum_of_squares(models: Models, family: str) -> None:
    """By the whole softmax of transformers' own forward; a constant to the gradient, and log-probs are as without."""
    (ours, theirs), pairs = models[family], make(MIXED)
    pack, found = lay_out(pairs), []
    for squares in (False, True):
        ours.zero_grad()
        logps = token_logps(ours, pack, 7, squares)
        (logps * torch.arange(1.0, 1 + logps.shape[-1])).sum().backward()
        found.append((logps, {name: p.grad for name, p in ours.named_parameters()}))
    (alone_N, gradients), (both_2N, others) = found
    assert torch.equal(both_2N[0], alone_N)
    assert all(torch.equal(others[name], gradient) for name, gradient in gradients.items())
    expected = []
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            ids = torch.tensor([[*pair.prompt, *side]])
            p_TV = theirs(input_ids=ids, use_cache=False).logits[0].double().softmax(1)
            expected.append(p_TV[len(pair.prompt) - 1 : -1].square().sum(1).log()[: len(side)])
    torch.testing.assert_close(both_2N[1].double(), torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_absent_rejected_side_costs_nothing_and_scores_zero(models: Models) -> None:
    full, sft = make([(5, 4, 3)])[0], make([(5, 4, 3)])[0]._replace(rejected=[])
    assert lay_out([sft]).ids_T.numel() == 9 == sft.packed
    with torch.no_grad():
        sums = packed(models["Llama"][0], [full, sft])
    assert sums[1, 1] == 0 and sums[1, 0] == pytest.approx(float(sums[0, 0]), rel=1e-6)


def test_score_runs_without_gradients_and_gives_the_mode_back(models: Models) -> None:
    model, pairs = models["Llama"][0], make(MIXED)
    scores = score(model, lay_out(pairs[:2]), 256)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    scores = torch.cat((scores, score(model, lay_out(pairs[2:]), 256)))
    with torch.no_grad():
        expected = packed(model, pairs)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


def test_bfloat16_sums_are_float64(tiny_model: Callable[[str], Path], models: Models) -> None:
    model, pairs = load_model(tiny_model("Llama"), "bfloat16"), make([(6, 40, 40)])
    with torch.no_grad():
        pack = lay_out(pairs)
        logps = token_logps(model, pack, 256)
        sums = side_sums(logps, pack)
        exact = packed(models["Llama"][0], pairs)
    assert logps.dtype == torch.float32 and sums.dtype == torch.float64
    assert float(sums[0, 0]) == sum(logps[:40].tolist())  # no rounding on the way to the sum
    torch.testing.assert_close(sums, exact, rtol=0.02, atol=0)


def test_layout_by_hand() -> None:
    pack = lay_out([Tokens([10, 11], [12, 13], [14]), Tokens([20], [21], [])])
    assert pack.ids_T.tolist() == [10, 11, 12, 13, 14, 20, 21]
    assert pack.positions_T.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert pack.source_N.tolist() == [1, 2, 1, 5]
    assert pack.target_N.tolist() == [12, 13, 14, 21]
    assert pack.side_N.tolist() == [0, 0, 1, 2]
    with pytest.raises(ValueError, match="pair 0 of the pack has an empty prompt"):
        lay_out([Tokens([], [1], [2])])
