"""FPO's margin: how far features moved, through which the rejected side alone is pulled back."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.objective import build
from tests.pipeline.objectives.pairs import MILD, batch_of, run

NAMES = ("policy_chosen_features", "policy_rejected_features")


def with_leaves(batch: PairBatch) -> tuple[PairBatch, list[torch.Tensor]]:
    chosen, rejected = batch.need(*NAMES)
    leaves = [chosen.clone().requires_grad_(), rejected.clone().requires_grad_()]
    return replace(batch, policy_chosen_features=leaves[0], policy_rejected_features=leaves[1]), leaves


def test_gradcheck_of_the_rejected_features() -> None:
    objective, base = build("fpo", beta=0.7, alpha=0.9), batch_of(MILD)

    def losses(rejected: torch.Tensor) -> torch.Tensor:
        return objective(replace(base, policy_rejected_features=rejected), objective.initial_state()).losses_B

    assert torch.autograd.gradcheck(losses, with_leaves(base)[1][1:])


def test_no_gradient_into_the_chosen_features() -> None:
    objective, (batch, (chosen, rejected)) = build("fpo", beta=0.7), with_leaves(batch_of(MILD))
    objective(batch, objective.initial_state()).losses_B.sum().backward()
    assert chosen.grad is None and rejected.grad is not None and bool((rejected.grad != 0).all(1).any())


def test_the_slope_pulls_moved_features_of_the_rejected_side_back() -> None:
    """Down the gradient each comes nearer to what it was."""
    objective, (batch, (_, rejected)) = build("fpo"), with_leaves(batch_of(MILD))
    objective(batch, objective.initial_state()).losses_B.sum().backward()
    (was,) = batch.need("reference_rejected_features")
    assert rejected.grad is not None
    assert bool((rejected.grad.sign() == (rejected - was).detach().sign()).all())


def test_where_nothing_moved_the_margin_is_0() -> None:
    base = batch_of(MILD)
    still = replace(
        base,
        reference_chosen_features=base.policy_chosen_features,
        reference_rejected_features=base.policy_rejected_features,
    )
    assert not run("fpo", still).margins_B.any() and run("fpo", base).margins_B.any()
    torch.testing.assert_close(run("fpo", still).losses_B, run("sigmoid-norm", base, beta=0.1).losses_B, rtol=0, atol=0)


@pytest.mark.parametrize("widths", [1, 7])
def test_the_mean_is_over_the_features_that_are_given(widths: int) -> None:
    """All of them twice, or with zeros under both: the square sum over their number."""
    base = batch_of(MILD)
    names = (*NAMES, "reference_chosen_features", "reference_rejected_features")
    given = dict(zip(names, base.need(*names), strict=True))
    wider: dict[str, Any] = {
        name: torch.cat((each, each.new_zeros(len(MILD), widths)), dim=1) for name, each in given.items()
    }
    narrow, wide = run("fpo", base).margins_B, run("fpo", replace(base, **wider)).margins_B
    torch.testing.assert_close(wide, narrow * 3 / (3 + widths))
