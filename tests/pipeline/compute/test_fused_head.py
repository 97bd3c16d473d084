"""The fused output head's real kernel, run on a CPU by Triton's interpreter, against the model's own head."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECK = """
import sys, torch
from pipeline.compute import fused_head
from pipeline.compute.attention import NAME
from pipeline.compute.comparison import SHORT, Comparison
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import token_logps
from pipeline.compute.models import load_model

model = load_model(sys.argv[1], "float32")
pack = lay_out([Tokens([5, 6, 7], [8, 9], [10]), Tokens([11], [12, 13, 14], [])])
pull_N = torch.arange(1.0, 7.0)  # a loss of its own for each token

def found():
    model.zero_grad()
    logps_N = token_logps(model, pack, 2)
    (logps_N * pull_N).sum().backward()
    return logps_N.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

own = found()
fused_head.fuse(model, True)
model.get_output_embeddings().__class__ = torch.nn.Linear  # as on a GPU; on a CPU it is compute/cpu.py's
assert fused_head.is_fused(model)
fused = found()
with torch.no_grad():  # as the reference pass is: it keeps the chunks
    torch.testing.assert_close(token_logps(model, pack, 2), own[0], rtol=0, atol=1e-5)
check = Comparison(model, SHORT)
faults = []
for attention in (NAME, "eager"):  # what is not packed is checked in eval mode alone, where the fused head is not run
    model.set_attn_implementation(attention)
    faults.append(check.fault_of_fused_head())
assert all(faults) == any(faults), faults
off = max(float((a - b).abs().max()) for a, b in [(own[0], fused[0]), *((own[1][n], fused[1][n]) for n in own[1])])
print(off, faults[0] is None)
"""


@pytest.mark.parametrize(("family", "fits"), [("Llama", True), ("Phi", True), ("Cohere", False)])
def test_log_probs_and_gradients(tiny_model: Callable[[str], Path], family: str, fits: bool) -> None:
    """A head with and without a bias; one that scales its logits the kernel does not know, and the self-check refuses.

    Soft-capped logits are beyond the interpreter; on a GPU the self-check compares them before they are trusted.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tiny_model(family))],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    off, found_fit = done.stdout.split()
    assert (float(off) < 2e-5) is fits is (found_fit == "True")
