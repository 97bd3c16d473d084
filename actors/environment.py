"""What processes that compute are to find in their environment when they start. Answers without torch."""

import os

CPU = {
    # For how long OpenMP's threads spin at a barrier before they sleep, some 0.1 ms in place of 6. Where other
    # processes want the cores, too, those that spin keep the ones away that are waited for (docs/performance.md).
    "GOMP_SPINCOUNT": "5000",
    # oneDNN keeps the code it makes for each shape, 1,024 of them by default, and every pack has shapes of its own.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
GPU = {
    "TORCHINDUCTOR_COMPILE_THREADS": "4",  # else 32 processes each, however many workers a node has
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # packs of many sizes leave no holes
}
# A user who sets the latter has decided on the former, too.
_SETTLED_BY = {"GOMP_SPINCOUNT": "OMP_WAIT_POLICY", "PYTORCH_ALLOC_CONF": "PYTORCH_CUDA_ALLOC_CONF"}


def environment(gpus: float) -> dict[str, str]:
    """What scorers and train workers of so many GPUs find there, where this process has nothing of its own.

    Not engines: vLLM compiles in one thread as it is, and some of its parts do not take such memory.
    """
    ours = GPU if gpus else CPU
    return {name: value for name, value in ours.items() if not os.environ.keys() & {name, _SETTLED_BY.get(name, name)}}
