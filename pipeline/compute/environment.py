"""What a process that computes on a CPU is started with: both are read once, when it begins."""

ENVIRONMENT = {
    # oneDNN keeps the code it makes for each shape, 1,024 of them by default, and every pack has shapes of its own.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # Tensors come and go with every pack, and a page at a time is a fifth of the time of a step: ask for huge ones.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
