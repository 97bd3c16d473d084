"""Memory of processes that compute on a CPU, as environment variables that glibc reads when a process starts.

By default glibc maps tensors afresh and gives them back soon after, and the kernel clears their pages each time. What
is larger than the threshold still goes back: it is few (a whole head's gradient), and kept it would only break the rest
apart. One arena, as only the first may grow beyond 64 MiB.
"""

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
