"""The margin problem of gamma-PO (arXiv 2506.03690), solved exactly.

For N gaps r_i, base margin g > 0 and strength tau >= 0 the target margins are g * q_i, where q solves

    min over q > 0 with mean(q) = 1 of   mean( softplus(g q_i - r_i) + tau q_i log q_i )

It is strictly convex. At the optimum one scalar c is shared by all pairs: with x_i = log q_i,

    f_i(x_i) = tau x_i + g sigmoid(g e^{x_i} - r_i) = c,      log mean(e^{x_i}) = 0,      0 < c < g

so that a margin depends on its own gap and on c alone: x_i(c) is one increasing scalar root, and log mean(e^{x(c)})
increases in c. For tau = 0 the limit is water-filling: margin_i = max(0, r_i + b), and b is the scalar.

f_i is convex up to one bend and concave after it. Newton's method that stops at the bend on the first attempt to cross
it therefore runs to x_i(c) from one side, from wherever it starts: no bracket, no line search. c moves by Newton too,
but inside a bracket.

On CUDA the number of steps is fixed and nothing waits for the device; on a CPU the loops end as soon as they are done.
Shapes: N gaps.
"""

import math

import torch

_COLD = 32  # steps from the bend to x_i(c); 13 is the most that was needed for tau >= 0.01
_STEPS = 128  # steps of the whole problem; 3 to 8 at the authors' settings, 57 the most that was needed for tau >= 0.01
_JOINT = 8  # of these, the first move c whether or not x_i(c) has been reached


def margins_at(gaps_N: torch.Tensor, scalar: torch.Tensor | float, gamma0: float, tau: float) -> torch.Tensor:
    """The target margin of every gap given the shared scalar, [N] float64.

    Each is computed from its own gap and the scalar. What else is in the call changes it by less than 1e-12 of itself
    for tau >= 0.01: torch's functions round by an element's position, and a step after arriving moves by rounding only.
    A gap that is NaN has a margin that is NaN.
    """
    r_N = gaps_N.detach().double()
    c = scalar.to(r_N) if isinstance(scalar, torch.Tensor) else r_N.new_full((), scalar)
    if tau == 0:
        return torch.clamp(r_N + c, min=0)
    return gamma0 * torch.exp(_log_q(r_N, c, gamma0, tau, early=not r_N.is_cuda))


def solve_scalar(gaps_N: torch.Tensor, gamma0: float, tau: float) -> torch.Tensor:
    """The scalar at which the margins of these gaps average to gamma0, 0-dim float64 on the gaps' device.

    Raises ValueError where there are no gaps or one is not finite. On CUDA the latter would have to wait for the
    device and is left out: a NaN then passes through to the scalar, and is the caller's to notice.
    """
    r_N = gaps_N.detach().double()
    if not len(r_N):
        raise ValueError("no gaps to solve for")
    if not r_N.is_cuda and not bool(torch.isfinite(r_N).all()):
        raise ValueError(f"gap {int((~torch.isfinite(r_N)).nonzero()[0])} of {len(r_N)} is not finite")
    return _water_level(r_N, gamma0) if tau == 0 else _multiplier(r_N, gamma0, tau, early=not r_N.is_cuda)


def _log_q(r_N: torch.Tensor, c: torch.Tensor, gamma0: float, tau: float, early: bool) -> torch.Tensor:
    """x_i(c), [N]. From the bend Newton's method cannot cross it."""
    x_N = _pivot(_bend(r_N, gamma0), c, gamma0, tau)
    for _ in range(_COLD):
        step_N = _newton(x_N, r_N, c, gamma0, tau)[0]
        x_N = x_N + step_N
        if early and not bool((step_N.abs() > _tolerance(gamma0, tau)).any()):
            break
    return x_N


def _multiplier(r_N: torch.Tensor, gamma0: float, tau: float, early: bool) -> torch.Tensor:
    """c. All x_i take a step at a time towards x_i(c), and c moves along where that is safe.

    Once every x_i is there, the sign of log mean q tells on which side of c the solution lies, and c takes a Newton
    step, at most nine tenths of the way to where it cannot lie. The first few steps move c at once, all N + 1 unknowns
    jointly, which is all that the authors' settings need; they narrow no bracket, so that none of them can do harm.
    """
    bend_N, x_N, log_N = _bend(r_N, gamma0), torch.zeros_like(r_N), math.log(len(r_N))
    c = gamma0 * torch.sigmoid(gamma0 - r_N).mean()  # exact where all gaps are equal
    low, high = torch.zeros_like(c), torch.full_like(c, gamma0)
    for k in range(_STEPS):
        step_N, slope_N, q_N = _newton(x_N, r_N, c, gamma0, tau)
        arrived = _largest(step_N) <= _tolerance(gamma0, tau)
        total = q_N.sum()
        excess = torch.log(total) - log_N + (q_N * step_N).sum() / total  # log mean q after the step
        low = torch.where(arrived & (excess <= 0), c, low)
        high = torch.where(arrived & (excess > 0), c, high)
        target = c - excess * total / (q_N / slope_N).sum()
        target = torch.clamp(target, c + 0.9 * (low - c), c + 0.9 * (high - c))
        moves = arrived | (k < _JOINT)
        change = torch.where(moves, target - c, 0.0)
        c, step_N = c + change, step_N + change / slope_N  # the same Newton step, aimed at the new c
        if early and bool(moves & (_largest(step_N) <= _tolerance(gamma0, tau))):
            break
        x_N = _advance(x_N, step_N, _pivot(bend_N, c, gamma0, tau))
    return c


def _newton(
    x_N: torch.Tensor, r_N: torch.Tensor, c: torch.Tensor, gamma0: float, tau: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Newton's step from x_i towards x_i(c), the slope of f_i, and q_i; each [N]."""
    q_N = torch.exp(x_N)
    margin_N = gamma0 * q_N
    s_N = torch.sigmoid(margin_N - r_N)
    slope_N = tau + gamma0 * margin_N * torch.addcmul(s_N, s_N, s_N, value=-1)  # s - s^2
    return (c - torch.add(tau * x_N, s_N, alpha=gamma0)) / slope_N, slope_N, q_N


def _bend(r_N: torch.Tensor, gamma0: float) -> torch.Tensor:
    """About where f_i turns from convex to concave, [N]: margin * tanh((margin - r) / 2) = 1, with tanh(u) taken as u.

    tanh(u) < 1 gives margin > 1. An error here is a short way on which the bend of f_i is too slight to matter.
    """
    return torch.log(torch.clamp(0.5 * (r_N + torch.sqrt(r_N * r_N + 8)), min=1) / gamma0)


def _pivot(bend_N: torch.Tensor, c: torch.Tensor, gamma0: float, tau: float) -> torch.Tensor:
    """The bend, or the nearest point to it at which x_i(c) can lie."""
    return torch.clamp(bend_N, (c - gamma0) / tau, c / tau)


def _advance(x_N: torch.Tensor, step_N: torch.Tensor, pivot_N: torch.Tensor) -> torch.Tensor:
    """x + step, but no further than the pivot where it lies between."""
    to_N = x_N + step_N
    return torch.where((x_N - pivot_N) * (to_N - pivot_N) < 0, pivot_N, to_N)


def _largest(step_N: torch.Tensor) -> torch.Tensor:
    return step_N.abs().max()


def _tolerance(gamma0: float, tau: float) -> float:
    """For the last step, which Newton's method leaves with about (1 + margin) / 2 times its square: below rounding.

    The second part is what rounding in f_i does to a step where f_i is flattest.
    """
    return 1e-10 + 4e-15 * gamma0 / tau


def _water_level(r_N: torch.Tensor, gamma0: float) -> torch.Tensor:
    """b with mean(max(0, r + b)) = gamma0: the least of the levels at which the k largest gaps alone would be filled.

    (A k + 1st gap lowers the level exactly where it is above water.) Measured from the largest gap, so that large gaps
    cost no digits in the sums.
    """
    top = r_N.max()
    below_N = r_N.sort(descending=True).values - top
    counts_N = torch.arange(1, len(r_N) + 1, dtype=r_N.dtype, device=r_N.device)
    return ((gamma0 * len(r_N) - below_N.cumsum(0)) / counts_N).min() - top
