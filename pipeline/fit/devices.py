"""The devices that are planned for: memory, dense bfloat16 peak, memory bandwidth; and this machine.

Peaks and bandwidths are those of NVIDIA's data sheets, without sparsity: A10, A100 SXM, B200, H100 SXM and PCIe, H200
SXM, L4, L40S, GeForce RTX 4090 (bfloat16 with float32 sums). Memory is what is left to programs, a little less than the
name says.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    name: str
    memory: float  # bytes of one GPU, or of the whole machine
    flops: float  # a second, dense; bfloat16 of a GPU, float32 of all cores
    bandwidth: float  # bytes a second
    is_gpu: bool = True


_GPUS = {  # GiB, TFLOP/s, TB/s
    "a10": (22, 125, 0.6),
    "a100-40": (39, 312, 1.555),
    "a100": (79, 312, 2.039),
    "b200": (178, 2250, 8.0),
    "h100-pcie": (79, 756, 2.0),
    "h100": (79, 989, 3.35),
    "h200": (139, 989, 4.8),
    "l4": (22, 121, 0.3),
    "l40s": (44, 362, 0.864),
    "rtx-4090": (23, 165, 1.008),
}
NAMES = (*_GPUS, "cpu")
PER_NODE = 8  # GPUs of one node, where more are told of

# What two machines of two cores reached in float32 products of a model's own sizes: 330 and 196 GFLOP/s
# (docs/performance.md); and the bandwidth of two channels of memory.
_CORE_FLOPS, _CPU_BANDWIDTH = 130e9, 20e9


def device(name: str) -> Device:
    """A GPU by its name, or this machine for `cpu`. Raises UserError for one that is not known."""
    name = name.lower()
    if name == "cpu":
        return this_machine()
    if name not in _GPUS:
        raise UserError(f"--gpu {name}: is none that is known here", f"give one of {', '.join(NAMES)}")
    memory, flops, bandwidth = _GPUS[name]
    return Device(name, memory * GIB, flops * 1e12, bandwidth * 1e12)


def this_machine() -> Device:
    cores = len(os.sched_getaffinity(0))
    return Device(f"this machine ({cores} cores)", machine_memory(), cores * _CORE_FLOPS, _CPU_BANDWIDTH, is_gpu=False)


def machine_memory() -> float:
    """Bytes that processes of this machine, or of this container, may have together."""
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(file).is_file() and re.fullmatch(r"\d+", limit := Path(file).read_text().strip()):
            whole = min(whole, float(limit))
    return whole
