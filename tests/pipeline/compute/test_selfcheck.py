"""How a model is run: what a check as long as on a GPU finds, what is chosen then, and what is said of it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.compute import attention, selfcheck
from pipeline.compute.comparison import LONG, SCORED
from pipeline.compute.layers import compile_layers
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import score, token_logps
from pipeline.compute.selfcheck import Chosen, choose, chosen, require_fast
from pipeline.errors import UserError
from pipeline.settings.resources import Resources
from tests import gloo

PACKED = "packed, a side at a time"


pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture
def opened(tiny_model: Callable[[str], Path]) -> Callable[..., PreTrainedModel]:
    def of(family: str, **changes: Any) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(tiny_model(family), **changes).eval()

    return of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "found"),
    [("Llama", PACKED), ("Gemma2", PACKED), ("Phimoe", PACKED), ("Bloom", "eager over padded sides")],
)
def test_the_long_check_knows_what_is_right(opened: Any, family: str, found: str, dtype: torch.dtype) -> None:
    """Hundreds of tokens of uneven parts, and gradients, as on a GPU; rounding is told from a fault in both dtypes."""
    model = opened(family, dtype=dtype)
    how = choose(model, Resources(), size=LONG)
    assert (how.attention, how.head, how.layers) == (found, "in chunks", "as they are")
    assert chosen(model) == how
    assert bool(how.why) == (found != PACKED)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: torch.Tensor) -> torch.Tensor:
        return found.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return 2 * gradient


def how_it_is_run(rank: int, world: int, folder: Path) -> str:
    if rank:  # its kernel is wrong here, and right at the other worker
        right = attention._by_side
        attention._by_side = lambda *given, **more: 2 * right(*given, **more)
    return choose(AutoModelForCausalLM.from_pretrained(folder).eval(), Resources()).attention


def test_workers_run_a_model_alike(tiny_model: Callable[[str], Path]) -> None:
    assert gloo.run(2, how_it_is_run, tiny_model("Llama")) == ["sdpa over padded sides"] * 2


def test_gradients_that_are_wrong_are_found(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention._by_side
    monkeypatch.setattr(attention, "_by_side", lambda *given, **more: WrongBackward.apply(right(*given, **more)))
    how = choose(opened("Llama"), Resources(), size=LONG)
    assert how.attention == "sdpa over padded sides"
    assert how.why[0].startswith(f"not {PACKED}: the model has gradients ")


def test_what_a_kernel_does_not_know_of_training_is_found(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention has no dropout, which a check in eval mode would not see; and on a CPU no backward."""
    for module in (attention, selfcheck):
        monkeypatch.setattr(module, "flexes", lambda _: True)
    monkeypatch.setattr(attention, "compiled", lambda function: function)
    for changes, reason in (
        ({"attention_dropout": 0.1}, "FlexAttention has no dropout, and the model's attention asks for 0.1"),
        ({}, "FlexAttention does not support backward on CPU"),
    ):
        how = choose(opened("Llama", **changes), Resources(), size=LONG)
        assert how.attention == "sdpa over padded sides"
        assert how.why[0].startswith("not packed, by FlexAttention: ") and reason in how.why[0]


def test_a_slow_path_on_a_gpu_is_refused_with_its_reason(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(attention, "_by_side", fails)
    how = choose(opened("Llama"), Resources())
    assert how.why == (f"not {PACKED}: the model cannot be scored (RuntimeError: no C compiler)",)
    with pytest.raises(UserError, match=r"(?s)sdpa over padded sides.*no C compiler.*resources.allow_slow_path=true"):
        require_fast(how, "LlamaForCausalLM", "cuda", Resources())
    require_fast(how, "LlamaForCausalLM", "cuda", Resources(allow_slow_path=True))
    require_fast(how, "LlamaForCausalLM", "cpu", Resources())
    require_fast(Chosen("packed, by FlexAttention", "fused, by Liger-Kernel", "compiled"), "", "cuda", Resources())


def test_layers_that_do_not_compile_are_left_as_they_are(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("Llama")
    kinds = [type(layer) for layer in model.model.layers]

    def broken(*_: Any) -> None:
        raise OSError("no C compiler")

    monkeypatch.setattr(selfcheck, "compile_layers", partial(compile_layers, backend=broken))
    how = choose(model, Resources(compile_layers=True))
    assert how.layers == "as they are"
    assert how.why[0].startswith("not compiled layers: ") and "OSError: no C compiler" in how.why[0]
    assert [type(layer) for layer in model.model.layers] == kinds


@pytest.mark.parametrize("to_train", [False, True])
def test_what_the_check_compiles_is_what_is_run(opened: Any, monkeypatch: pytest.MonkeyPatch, to_train: bool) -> None:
    """Compiling takes a GPU tens of seconds: a scorer compiles no training, and a trainer nothing twice."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(selfcheck, "compile_layers", partial(compile_layers, backend="eager"))
    model = opened("Llama", dtype=torch.bfloat16)
    assert choose(model, Resources(compile_layers=True), to_train, LONG if to_train else SCORED).layers == "compiled"
    assert (graphs := counters["stats"]["unique_graphs"]) == 4  # before and after attention, of the layer and of it
    for pairs in (3, 5):  # layers see neither how many pairs a pack has nor how long they are
        pack = lay_out([Tokens([7] * (9 + pairs), [8] * pairs, [9])] * pairs)
        if to_train:
            model.train()
            token_logps(model, pack, 1000).sum().backward()
        else:
            score(model, pack, 1000)
    assert counters["stats"]["unique_graphs"] == graphs


def test_what_a_stage_says() -> None:
    how = Chosen("eager over padded sides", "in chunks", "as they are", ("not packed: it cannot",))
    assert how.words("cpu", "float32") == (
        "float32 on cpu; attention eager over padded sides; head in chunks; layers as they are; not packed: it cannot"
    )
    assert "model.dtype=bfloat16" in how.words("cuda", "float32")
    assert "model.dtype" not in how.words("cuda", "bfloat16")
