"""Where the time of some PyTorch code on a CPU goes, by kind of work, as torch.profiler has it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile

_KINDS = {  # by what an operator's name holds, the first that fits
    "products": ("_linear_pointwise", "::mm", "::addmm", "::bmm"),
    "attention": ("scaled_dot_product", "flex_attention"),
    "the head's softmax": ("softmax", "logsumexp", "::exp"),
    "the update": ("_fused_adamw", "zero_grad", "norm"),
    "copies, joins and zeros": ("::copy_", "::cat", "::fill_", "::zero_", "::empty", "::index", "::clone"),
    "element by element": ("::",),
}


@contextmanager
def by_kind(wanted: bool) -> Iterator[dict[str, float]]:
    """Seconds of each kind that what is inside spends, once it is through; nothing where it is not `wanted`.

    Times are an operator's own, without those that it calls. What is in none of them, Python above all, is `the rest`.
    """
    seconds: dict[str, float] = {}
    if not wanted:
        yield seconds
        return
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        yield seconds
    whole = time.perf_counter() - started
    for event in profiled.key_averages():
        kind = next((kind for kind, names in _KINDS.items() if any(name in event.key for name in names)), None)
        if kind:
            seconds[kind] = seconds.get(kind, 0.0) + event.self_cpu_time_total / 1e6
    seconds["the rest"] = whole - sum(seconds.values())
