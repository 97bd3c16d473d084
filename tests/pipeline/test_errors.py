"""Out of memory, as torch, CUDA's libraries, Python and the system say it, is told from all other errors."""

import errno
from collections.abc import Callable

import pytest
import torch

from pipeline.errors import UserError, memory_for, out_of_memory


def raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("NCCL Error 1: unhandled cuda error: Failed to CUDA malloc: Cuda failure 2 'out of memory'"),
        raised(lambda: torch.empty(2**50)),  # DefaultCPUAllocator
        raised(lambda: bytearray(2**60)),  # MemoryError
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_memory_that_ran_out(error: BaseException) -> None:
    def fail() -> None:
        with memory_for("with resources.score_tokens=9 a scorer", "lower it"):
            raise error

    told = raised(fail)
    assert isinstance(told, UserError) and told.remedy == "lower it"
    assert told.problem.startswith(f"with resources.score_tokens=9 a scorer ran out of memory ({type(error).__name__}:")
    assert "\n" not in told.problem and len(told.problem) < 320


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),  # of a kernel
        ValueError("the answer says: out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        UserError("out of memory", "said already"),
    ],
    ids=str,
)
def test_what_is_none_of_it_comes_through(error: BaseException) -> None:
    assert out_of_memory(error) is None
    with pytest.raises(type(error)) as through, memory_for("a scorer", "lower it"):
        raise error
    assert through.value is error
